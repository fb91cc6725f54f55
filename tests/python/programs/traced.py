"""A known number of driver calls, and an end of any kind: traced.py END [FOLDER TO GO TO FIRST]."""

import os
import signal
import sys

import driver

if len(sys.argv) > 2:
    os.chdir(sys.argv[2])
driver.start()
for size in range(1, 51):
    address = driver.made("cuMemAlloc_v2", size << 20)
    driver.upload(address, bytes(1000))
    assert driver.download(address, 1000) == bytes(1000)
    driver.call("cuMemFree_v2", address)
assert driver.answer("cuMemFree_v2", 12345) == 1

end = sys.argv[1]
if end == "os._exit":
    os._exit(3)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "abort":
    os.abort()
