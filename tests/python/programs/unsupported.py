"""Calls functions of the driver that zerogpu does not have, each twice: unsupported.py NAME..."""

import ctypes
import sys

import driver

driver.start()
# as many arguments as any function has, each a pointer to bytes that must stay
memory = ctypes.create_string_buffer(b"\xa5" * 4096, 4096)
arguments = [ctypes.c_void_p(ctypes.addressof(memory))] * 16
for name in sys.argv[1:]:
    for _ in range(2):
        code = driver.answer(name, *arguments)
        assert code == 801, (name, code)
    assert memory.raw == b"\xa5" * 4096, f"{name} wrote something"
