"""A program with device memory, and what it should hold: `python -m gpu_check.broker.child LIBRARY`.

It obeys lines of JSON on standard input, one answer each. Bytes are written and read by copies alone, so that it does the
same on a software card, whose kernels do nothing.
"""

import ctypes
import json
import os
import random
import sys
import time

from .cuda import CudaError, Driver

CHUNK = 2 << 20
POOL = 64 << 20
BLOCK = 64 << 20


class Contents:
    """The right bytes: each chunk is a piece of one pool of random bytes, and another piece in each version."""

    def __init__(self, size):
        self._pool = (ctypes.c_char * POOL).from_buffer(bytearray(os.urandom(POOL)))
        self._versions = [0] * (size // CHUNK)

    def address(self, chunk):
        return ctypes.addressof(self._pool) + (chunk * 4160 + self._versions[chunk] * 7919 * 64) % (POOL - CHUNK)

    def renew(self, share):
        """Gives some chunks another version; names them."""
        count = len(self._versions)
        chunks = sorted(random.sample(range(count), max(1, int(count * share))))
        for chunk in chunks:
            self._versions[chunk] += 1
        return chunks

    def all(self):
        return range(len(self._versions))


class Program:
    def __init__(self, path):
        self._driver = Driver(path)
        self._driver.start()
        self._libc = ctypes.CDLL(None)
        self._libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._kernel = self._region = self._contents = self._memory = None
        self._size = 0

    def open(self, size):
        self._size = size
        self._memory = self._driver.made("cuMemAlloc_v2", size)
        self._contents = Contents(size)
        self._write(self._contents.all())
        self._kernel = self._driver.kernel()
        return {}

    def claim(self):
        library = self._driver.library
        library.zerogpu_region_begin.restype = ctypes.c_uint64
        started = time.monotonic()
        self._region = library.zerogpu_region_begin(ctypes.c_double(100))
        self._driver.run(self._kernel)
        return {"ms": (time.monotonic() - started) * 1e3, "state": self._state()}

    def change(self, share):
        chunks = self._contents.renew(share)
        self._write(chunks)
        self._driver.call("cuCtxSynchronize")
        return {"bytes": len(chunks) * CHUNK}

    def park(self):
        started = time.monotonic()
        self._driver.library.zerogpu_region_end(ctypes.c_uint64(self._region))
        return {"ms": (time.monotonic() - started) * 1e3, "state": self._state()}

    def check(self):
        """Compares each byte; how many chunks are wrong."""
        block = ctypes.create_string_buffer(BLOCK)
        wrong = 0
        for start in range(0, self._size, BLOCK):
            length = min(BLOCK, self._size - start)
            self._driver.call("cuMemcpyDtoH_v2", block, self._memory + start, length)
            for at in range(0, length, CHUNK):
                right = self._contents.address((start + at) // CHUNK)
                wrong += self._libc.memcmp(ctypes.addressof(block) + at, right, CHUNK) != 0
        return {"wrong": wrong, "chunks": self._size // CHUNK}

    def rates(self, size):
        """GB/s of one plain copy of page-locked memory, to the card and back: the best of three."""
        host = self._driver.made("cuMemHostAlloc", size, 0)
        card = self._driver.made("cuMemAlloc_v2", size)
        ctypes.memset(host, 1, size)
        rates = {}
        for way, name, to, source in (("in", "cuMemcpyHtoD_v2", card, host), ("out", "cuMemcpyDtoH_v2", host, card)):
            seconds = []
            for _ in range(3):
                started = time.monotonic()
                self._driver.call(name, to, source, size)
                self._driver.call("cuCtxSynchronize")
                seconds.append(time.monotonic() - started)
            rates[way] = size / min(seconds) / 1e9
        self._driver.call("cuMemFree_v2", card)
        self._driver.call("cuMemFreeHost", host)
        return rates

    def _write(self, chunks):
        for chunk in chunks:
            self._driver.call("cuMemcpyHtoD_v2", self._memory + chunk * CHUNK, self._contents.address(chunk), CHUNK)

    def _state(self):
        text = ctypes.create_string_buffer(65536)
        self._driver.library.zerogpu_state(text, ctypes.c_size_t(len(text)))
        return json.loads(text.value.decode())


def main():
    program = Program(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(program, order.pop("do"))(**order)
        except CudaError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
