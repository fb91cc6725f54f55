"""Calls slots of the undocumented export tables that zerogpu does not know: slots.py before|after UUID:SLOT...

Each is called twice, before or after cuInit; its argument points to bytes that must stay.
"""

import ctypes
import sys

import driver

CODES = {"before": 3, "after": 801}


def slot(table, number):
    """The function in a slot of the table of that UUID."""
    words = ctypes.c_void_p()
    driver.call("cuGetExportTable", ctypes.byref(words), bytes.fromhex(table))
    size, address = (ctypes.c_uint64.from_address(words.value + 8 * word).value for word in (0, number))
    assert number * 8 < size and address, (table, number, size)
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address)


if sys.argv[1] == "after":
    driver.start()
memory = ctypes.create_string_buffer(b"\xa5" * 4096, 4096)
for word in sys.argv[2:]:
    table, number = word.split(":")
    for _ in range(2):
        code = slot(table, int(number))(ctypes.addressof(memory))
        assert code == CODES[sys.argv[1]], (word, code)
    assert memory.raw == b"\xa5" * 4096, f"{word} wrote something"
