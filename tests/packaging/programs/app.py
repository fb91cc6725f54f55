"""A user's program: it uses `spaces` and the CUDA driver if there is one, and says what it found as one line of JSON."""

import ctypes
import json

import spaces


def plain(value):
    return value + 1


marked = spaces.GPU(duration=5)(plain)


def device():
    """The device's name and ten bytes that have been there; None without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    context, address, data = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.create_string_buffer(10)
    name = ctypes.create_string_buffer(100)
    for code in (
        cuda.cuInit(0),
        cuda.cuDeviceGetName(name, 100, 0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(10)),
        cuda.cuMemcpyHtoD_v2(address, b"0123456789", ctypes.c_size_t(10)),
        cuda.cuMemcpyDtoH_v2(data, address, ctypes.c_size_t(10)),
    ):
        assert code == 0, code
    return [name.value.decode(), data.raw.decode()]


called = marked(1)
found = {"file": spaces.__file__, "name": spaces.__name__, "called": called, "marked": marked is not plain}
found["submodule"] = __import__("spaces._decorator" if hasattr(spaces, "_decorator") else "spaces.config").__name__
print(json.dumps(dict(found, device=device())))
