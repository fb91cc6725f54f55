"""The C interface of the shim (shim/include/zerogpu.h), looked up in the running process."""

import ctypes
import json
import os
import sys

# Whether GPUs come from a broker: then a claim may wait in a queue.
BROKER = bool(os.environ.get("ZEROGPU_SOCKET"))

_found = None


def find():
    """The shim of this process, or None if it was not preloaded."""
    global _found
    if _found is None and sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "zerogpu_region_begin"):
            _found = Shim(library)
    return _found


class Shim:
    """The functions with their C types. ctypes.CDLL releases the interpreter's lock during each call."""

    def __init__(self, library):
        self.begin = _function(library.zerogpu_region_begin, ctypes.c_uint64, ctypes.c_double)
        self.claim = _function(library.zerogpu_region_claim, ctypes.c_int, ctypes.c_uint64)
        self.end = _function(library.zerogpu_region_end, ctypes.c_int, ctypes.c_uint64)
        self.movable = _function(library.zerogpu_region_movable, ctypes.c_int, ctypes.c_uint64)
        self.rests = _function(library.zerogpu_region_rests, ctypes.c_int, ctypes.c_uint64, ctypes.c_int)
        self.expired = _function(library.zerogpu_region_expired, ctypes.c_int, ctypes.c_uint64)
        self.stop_waiting = _function(library.zerogpu_stop_waiting, ctypes.c_int)
        self._state = _function(library.zerogpu_state, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
        self._reason = _function(library.zerogpu_reason, ctypes.c_char_p)

    def reason(self):
        """Why this thread's last begin, claim or end failed, or why the region that it ended had no GPU; '' if neither."""
        return (self._reason() or b"").decode("utf-8", "replace")

    def state(self):
        """The state of the virtual device, as a dictionary."""
        size = 1024
        while True:
            text = ctypes.create_string_buffer(size)
            length = self._state(text, size)
            if length < size:
                return json.loads(text.value.decode("utf-8"))
            size = length + 1


def _function(symbol, result, *arguments):
    symbol.restype = result
    symbol.argtypes = arguments
    return symbol
