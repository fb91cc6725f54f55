"""The CUDA driver API by ctypes: what this part of gpu-check needs of it."""

import ctypes

NOT_SUPPORTED = 801

# A kernel that does nothing: to launch it is what needs a GPU.
_PTX = b""".version 7.0
.target sm_80
.address_size 64
.visible .entry nothing() { ret; }
"""


class CudaError(Exception):
    """A driver call failed."""

    def __init__(self, name, code):
        super().__init__(f"{name} answered CUDA error {code}")
        self.code = code


class Driver:
    """A driver library. Integers are passed as 64 bits."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)

    def call(self, name, *arguments):
        values = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
        try:
            function = getattr(self.library, name)
        except AttributeError:
            raise CudaError(name, NOT_SUPPORTED) from None
        code = function(*values)
        if code:
            raise CudaError(name, code)

    def made(self, name, *arguments):
        """Calls a function that writes a handle or address through its first argument; gives that."""
        out = ctypes.c_uint64()
        self.call(name, ctypes.byref(out), *arguments)
        return out.value

    def start(self):
        """Makes the primary context of the first card current."""
        self.call("cuInit", 0)
        self.call("cuCtxSetCurrent", self.made("cuDevicePrimaryCtxRetain", 0))

    def kernel(self):
        return self.made("cuModuleGetFunction", self.made("cuModuleLoadData", _PTX), b"nothing")

    def run(self, kernel):
        """Launches the kernel and waits for it."""
        self.call("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None)
        self.call("cuCtxSynchronize")
