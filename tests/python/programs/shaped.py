"""Memory with a pitch, and a copy of ten rows of 100 bytes into it."""

import ctypes

import driver

driver.start()
pitch, address = ctypes.c_size_t(), ctypes.c_uint64()
driver.call("cuMemAllocPitch_v2", ctypes.byref(address), ctypes.byref(pitch), 100, 10, 4)
rows = ctypes.create_string_buffer(bytes(range(100)) * 10)
HOST, DEVICE = 1, 2
source = (0, 0, HOST, ctypes.addressof(rows), 0, 0, 100)
target = (0, 0, DEVICE, 0, address.value, 0, pitch.value)
driver.call("cuMemcpy2D_v2", (ctypes.c_size_t * 16)(*source, *target, 100, 10))
