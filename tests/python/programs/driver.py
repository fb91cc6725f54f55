"""The CUDA driver API as this process sees it, without torch, by ctypes."""

import ctypes
import os

_library = ctypes.CDLL("libcuda.so.1")


class CudaError(RuntimeError):
    """A driver call failed."""

    def __init__(self, name, code):
        super().__init__(f"{name} answered {code}")
        self.code = code


def answer(name, *arguments):
    """What a function of the driver answers. Integers are passed as 64 bits."""
    values = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
    return getattr(_library, name)(*values)


def call(name, *arguments):
    """Calls a function of the driver, which must answer 0."""
    code = answer(name, *arguments)
    if code:
        raise CudaError(name, code)


def made(name, *arguments, kind=ctypes.c_uint64):
    """Calls a function that writes what it makes through its first argument; gives that."""
    out = kind()
    call(name, ctypes.byref(out), *arguments)
    return out.value


def start():
    """Begins to use the device: gives the primary context, made current."""
    call("cuInit", 0)
    context = made("cuDevicePrimaryCtxRetain", 0)
    call("cuCtxSetCurrent", context)
    return context


def image():
    """The module of the test image (crates/image/tests/data/kernels.cu), loaded anew."""
    with open(os.environ["CHECKS_CUBIN"], "rb") as file:
        return made("cuModuleLoadData", file.read())


def launch(function, stream=0):
    """Launches a kernel without parameters, one thread of it."""
    call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, stream, None, None)


def upload(address, data):
    """Bytes to the device."""
    call("cuMemcpyHtoD_v2", address, data, len(data))


def download(address, size):
    """Bytes from the device."""
    data = ctypes.create_string_buffer(size)
    call("cuMemcpyDtoH_v2", data, address, size)
    return data.raw
