"""A Space without PyTorch: fills memory of the device, changes it in each call, and checks every byte of it.

    space.py NAME MEBIBYTES TURNS

It prints what it does as lines of JSON. After its turns it reads a line: "hold" begins a call that lasts until the next
line comes, "turns" takes as many turns again, anything else ends it.
"""

import hashlib
import json
import os
import sys
import time

import driver
import spaces

MIB = 1 << 20
name, size, turns = sys.argv[1], int(sys.argv[2]) * MIB, int(sys.argv[3])
taken = 0


def say(what, **more):
    print(json.dumps(dict(more, what=what, at=time.monotonic())), flush=True)


def random(*seed):
    return hashlib.shake_128(repr((name, seed)).encode()).digest(MIB)


def exact():
    """Every byte is what it was left at, wherever it has been meanwhile."""
    assert driver.download(address, size) == host, f"{name}: bytes have changed"


@spaces.GPU(duration=60)
def call(inside=lambda: None):
    global taken
    driver.launch(kernel)
    say("in", pid=os.getpid())
    exact()
    at = taken % (size // MIB) * MIB
    taken += 1
    host[at : at + MIB] = random("turn", taken)
    driver.upload(address + at, bytes(host[at : at + MIB]))
    # from there on the card: the host does not see what is copied
    other = (at + size // 2) % size
    host[other : other + MIB // 2] = host[at : at + MIB // 2]
    driver.call("cuMemcpyDtoD_v2", address + other, address + at, MIB // 2)
    inside()
    driver.launch(kernel)
    driver.call("cuCtxSynchronize")
    exact()
    say("out")


driver.start()
kernel = driver.made("cuModuleGetFunction", driver.image(), b"empty")
host = bytearray().join(random("start", chunk) for chunk in range(size // MIB))
address = driver.made("cuMemAlloc_v2", size)
driver.upload(address, bytes(host))
say("ready", spaces=spaces.__file__, uid=os.getuid(), process=os.getpid())
while True:
    for _ in range(turns):
        call()
        exact()
    say("done", taken=taken)
    line = sys.stdin.readline().strip()
    if line == "hold":
        call(lambda: (say("held"), sys.stdin.readline()))
    elif line != "turns":
        break
