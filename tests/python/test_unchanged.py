"""A park without a broker copies what changed, and only that; no byte is ever taken for what it was. By the driver API alone."""

import re
import sys

import pytest
from world import PROGRAMS

pytestmark = pytest.mark.once

START = """
import ctypes
import checks, driver, shim, spaces._shim
from driver import answer, call, made
interface = spaces._shim.find()
context = driver.start()
empty = made("cuModuleGetFunction", driver.image(), b"empty")
MIB = 1 << 20
SIZE = 16 * MIB
old = bytes(range(1, 252)) * (SIZE // 251 + 1)
old = old[:SIZE]
memory = made("cuMemAlloc_v2", SIZE)
driver.upload(memory, old)
def claim():
    region = interface.begin(60.0)
    driver.launch(empty)
    assert shim.state()["level"] == "claimed"
    return region
def fill(at, value, bytes):
    "On the card."
    call("cuMemsetD8_v2", at, value, bytes)
"""
HOME = re.compile(r"(\d+) bytes came home; (\d+) had not changed")


def run(world, script, hash=0, messages=False, **environment):
    """A script of driver calls; for each park the bytes that came home and those that had not changed."""
    trace = world.folder / "trace.txt"
    environment.update(ZEROGPU_HASH=hash, ZEROGPU_TRACE=f"text,file={trace}")
    outcome = world.run([sys.executable, "-c", START + script], PYTHONPATH=PROGRAMS, timeout=60, **environment)
    outcome.require_end(messages=messages)
    return [tuple(map(int, found)) for found in HOME.findall(trace.read_text())]


def test_what_did_not_change_stays(world):
    script = """
kernel = claim()
interface.end(kernel)
region = claim()
fill(memory + 5 * MIB, 7, 10)          # one chunk
fill(memory + 11 * MIB, 7, 2 * MIB)    # two
interface.end(region)
new = bytearray(old)
new[5 * MIB : 5 * MIB + 10] = b"\\7" * 10
new[11 * MIB : 13 * MIB] = b"\\7" * (2 * MIB)
assert driver.download(memory, SIZE) == new
driver.upload(memory, old)             # while parked
region = claim()
assert driver.download(memory, SIZE) == old
interface.end(region)
assert driver.download(memory, SIZE) == old
"""
    nothing, some, again = run(world, script)
    whole = sum(nothing)
    assert whole >= 16 << 20 and nothing[0] == 0
    assert some == (6 << 20, whole - (6 << 20))
    assert again == (0, whole)


@pytest.mark.parametrize("hash", ["off", "1GiB"])
def test_without_hashes_everything_comes_home(world, hash):
    script = """
region = claim()
fill(memory, 7, 1)
interface.end(region)
assert driver.download(memory, SIZE) == b"\\7" + old[1:]
"""
    assert run(world, script, hash) == []


def test_memory_that_is_freed_and_filled_with_the_bytes_it_had_comes_home(world):
    script = """
region = claim()
call("cuMemFree_v2", memory)
again = made("cuMemAlloc_v2", SIZE)
assert again == memory
driver.upload(memory, old)
interface.end(region)
assert driver.download(memory, SIZE) == old
"""
    ((home, _),) = run(world, script)
    assert home >= 16 << 20


def test_memory_of_the_apps_own_handles(world):
    script = """
at = made("cuMemAddressReserve", SIZE, 0, 0, 0)
call("cuMemMap", at, SIZE, 0, made("cuMemCreate", SIZE, (ctypes.c_uint32 * 12)(1, 0, 1, 0), 0), 0)
call("cuMemSetAccess", at, SIZE, (ctypes.c_uint32 * 3)(1, 0, 3), 1)
driver.upload(at, old)
region = claim()
fill(at + 3 * MIB, 9, 1)
interface.end(region)
assert driver.download(at, SIZE) == old[: 3 * MIB] + b"\\t" + old[3 * MIB + 1 :]
assert driver.download(memory, SIZE) == old
"""
    ((home, rest),) = run(world, script)
    assert home == 2 << 20 and rest >= 30 << 20


def test_a_park_that_failed_makes_nobody_sure(world):
    """It brought home bytes that are taken back on the card before the next."""
    script = """
other = made("cuMemAlloc_v2", SIZE)
driver.upload(other, old)
region = claim()
fill(memory, 7, 4 * MIB)
fill(other, 7, 4 * MIB)
interface.end(region)                       # the second copy home is refused
assert shim.state()["level"] == "claimed", shim.state()
region = interface.begin(60.0)
driver.upload(memory, old[: 4 * MIB])       # as it was
interface.end(region)
assert shim.state()["level"] == "parked", shim.state()
assert driver.download(memory, SIZE) == old
assert driver.download(other, SIZE) == b"\\7" * (4 * MIB) + old[4 * MIB :]
"""
    # a park that failed is tried again after that time, and the script is to be faster
    run(world, script, messages=True, SOFTCUDA_FAULT="cuMemcpyDtoHAsync_v2:2=999", ZEROGPU_IDLE="5s")


# the hasher's own calls: each may be refused, and then everything is copied. The first launch in a claim is a hash's
REFUSED = [
    "cuModuleLoadData:1=209",
    "cuModuleGetFunction:1=500",
    "cuLaunchKernel:1=999",
    "cuLaunchKernel:3=999",
    "cuMemcpyDtoH_v2:1=999",
]


@pytest.mark.parametrize("fault", REFUSED)
def test_a_card_that_can_not_hash(world, fault):
    script = """
region = claim()
fill(memory + 2 * MIB, 7, 1)
interface.end(region)
state = shim.state()
assert state["level"] == "parked" and not state["left"], state
assert driver.download(memory, SIZE) == old[: 2 * MIB] + b"\\7" + old[2 * MIB + 1 :]
"""
    run(world, script, SOFTCUDA_FAULT=fault)
