"""A rival for the card, without torch, so that it starts at once. HOLDER, as JSON:

seconds   that its region may last
mib       of device memory that it has
keep      afterwards it stays, parked, until its input ends
fork      it has a child that outlives it

It takes the card, says "held", and gives it back at the next line of its input.
"""

import json
import os
import sys
import time

import driver
import spaces._shim

HOLDER = dict(dict(seconds=60, mib=1, keep=False, fork=False), **json.loads(os.environ["HOLDER"]))
SIZE = HOLDER["mib"] << 20

driver.start()
data = driver.made("cuMemAlloc_v2", SIZE)
pattern = os.urandom(1 << 20) * HOLDER["mib"]
driver.upload(data, pattern)
kernel = driver.made("cuModuleGetFunction", driver.image(), b"empty")
interface = spaces._shim.find()


def say(word):
    print(word, flush=True)


region = interface.begin(float(HOLDER["seconds"]))
driver.launch(kernel)
if HOLDER["fork"] and os.fork() == 0:
    time.sleep(10)
    os._exit(0)
say("held")
sys.stdin.readline()
assert interface.end(region) == 0
say("free")
if HOLDER["keep"]:
    sys.stdin.readline()
assert driver.download(data, SIZE) == pattern
say("right")
