"""Which symbol a library gets that asks for a function: called.py NAME:VERSION...

VERSION is the CUDA version that it asks of cuGetProcAddress, 0 for dlsym.
"""

import ctypes
import sys

import checks
import driver


class Found(ctypes.Structure):
    """Dl_info."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def address(name, version):
    """Where the function is, as the library finds it."""
    if version == 0:
        return ctypes.cast(getattr(driver._library, name), ctypes.c_void_p).value
    found, status = ctypes.c_void_p(), ctypes.c_int(9)
    driver.call(
        "cuGetProcAddress_v2", name.encode(), ctypes.byref(found), ctypes.c_int(version), 0, ctypes.byref(status)
    )
    assert status.value == 0, (name, version, status.value)
    return found.value


symbols = {}
for word in sys.argv[1:]:
    name, version = word.split(":")
    at, found = address(name, int(version)), Found()
    assert ctypes.CDLL(None).dladdr(ctypes.c_void_p(at), ctypes.byref(found)) and found.address == at, word
    symbols[word] = found.symbol.decode()
checks.tell("symbols", value=symbols)
