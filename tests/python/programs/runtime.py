"""The CUDA runtime that torch has loaded, by ctypes: calls that torch itself does not make."""

import ctypes
import re

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


def _library():
    with open("/proc/self/maps") as maps:
        path = re.search(r"/\S*/libcudart\S*\.so\S*", maps.read())
    return ctypes.CDLL(path[0])


def call(name, *arguments):
    """Calls a function of the runtime, which must answer 0. Integers are passed as 64 bits."""
    values = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
    code = getattr(_library(), name)(*values)
    assert code == 0, f"{name} answered {code}"


Handle = ctypes.c_uint64
address = ctypes.byref


class Extent(ctypes.Structure):
    """cudaExtent, cudaPos: bytes, rows, planes."""

    _fields_ = [("width", ctypes.c_size_t), ("height", ctypes.c_size_t), ("depth", ctypes.c_size_t)]


class Pitched(ctypes.Structure):
    """cudaPitchedPtr."""

    _fields_ = [
        ("ptr", ctypes.c_uint64),
        ("pitch", ctypes.c_size_t),
        ("xsize", ctypes.c_size_t),
        ("ysize", ctypes.c_size_t),
    ]


class Copy3D(ctypes.Structure):
    """cudaMemcpy3DParms."""

    _fields_ = [
        ("src_array", ctypes.c_uint64),
        ("src_pos", Extent),
        ("src", Pitched),
        ("dst_array", ctypes.c_uint64),
        ("dst_pos", Extent),
        ("dst", Pitched),
        ("extent", Extent),
        ("kind", ctypes.c_int),
    ]
