"""Work that is late: queued while parked behind a host function, or behind a value that is waited for, and still there at
the claim. What comes after it in the order of the streams runs after it. By the driver API alone."""

import sys

import pytest
from world import PROGRAMS

pytestmark = pytest.mark.once

START = """
import ctypes, os, threading
import checks, driver, shim, spaces._shim
from driver import answer, call, made
interface = spaces._shim.find()
context = driver.start()
empty = made("cuModuleGetFunction", driver.image(), b"empty")
BLOCKING, NON_BLOCKING, PER_THREAD, NOT_READY = 0, 1, 2, 600
SIZE = 4 << 20
one, other, free = made("cuStreamCreate", BLOCKING), made("cuStreamCreate", BLOCKING), made("cuStreamCreate", NON_BLOCKING)
memory, copied = made("cuMemAlloc_v2", SIZE), made("cuMemAlloc_v2", SIZE)
driver.upload(memory, b"old!" * 16)
pinned = made("cuMemHostAlloc", 4096, 0)
ctypes.memmove(pinned, b"new!" * 16, 64)
gate = threading.Event()
wait = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: gate.wait() and None)
def late(stream, to=memory):
    "New bytes, behind a host function that returns when the gate opens."
    call("cuLaunchHostFunc", stream, wait, 0)
    call("cuMemcpyHtoDAsync_v2", to, pinned, 64, stream)
def soon():
    "Opens the gate while the main thread is in a call that may wait for it."
    threading.Timer(0.3, gate.set).start()
def claim():
    region = interface.begin(60.0)
    driver.launch(empty, free)
    assert shim.state()["level"] == "claimed"
    return region
"""


def run(world, script, timeout=60, **environment):
    """A script of driver calls."""
    return world.run([sys.executable, "-c", START + script], PYTHONPATH=PROGRAMS, timeout=timeout, **environment)


@pytest.mark.parametrize("legacy", [0, 1])
def test_the_legacy_stream_waits_for_late_work_of_blocking_streams(world, legacy):
    script = f"""
late(one)
region = claim()
driver.launch(empty, other)
call("cuStreamSynchronize", other)  # has nothing to do with the late work
assert answer("cuStreamQuery", {legacy}) == NOT_READY
call("cuMemcpyDtoDAsync_v2", copied, memory, 64, {legacy})
gate.set()
call("cuStreamSynchronize", {legacy})
assert driver.download(copied, 4) == b"new!"
interface.end(region)
"""
    run(world, script).require_end()


def test_memory_freed_in_the_order_of_the_legacy_stream_is_not_written_late(world):
    script = """
freed = made("cuMemAllocAsync", 8 << 20, one)
late(one, freed)
region = claim()
soon()
call("cuMemFreeAsync", freed, 0)
again = made("cuMemAllocAsync", 8 << 20, 0)
driver.upload(again, b"mine" * 16)
gate.set()
call("cuCtxSynchronize")
assert again == freed and driver.download(again, 4) == b"mine"
interface.end(region)
"""
    run(world, script).require_end()


def test_nothing_is_deferred_behind_a_wait_for_a_value(world):
    """Who replays it could not tell what comes first."""
    script = """
driver.launch(empty)
value, source = made("cuMemAlloc_v2", SIZE), made("cuMemAlloc_v2", SIZE)
call("cuMemsetD32_v2", value, 0, 1)
driver.upload(source, b"its!" * 16)
call("cuStreamWaitValue32_v2", free, value, 1, 1)
call("cuMemcpyHtoDAsync_v2", source, b"new!" * 16, 64, free)  # both are late, and no recorded kernel can know this memory
call("cuMemcpyDtoDAsync_v2", memory, source, 64, other)  # one may know this memory
state = shim.state()
assert (state["level"], state["deferred"], state["claims"]) == ("claimed", 0, 1), state
call("cuStreamWriteValue32_v2", other, value, 1, 0)
call("cuCtxSynchronize")
assert driver.download(memory, 4) == b"its!" and driver.download(source, 4) == b"new!"
"""
    run(world, script).require_end()


LATE = """
call("cuLaunchHostFunc", one, wait, 0)
call("cuMemsetD32Async", memory, 7, 16, one)
region = claim()
"""


def test_a_late_command_that_fails_is_tried_again(world):
    script = """
gate.set()
call("cuStreamSynchronize", one)
assert driver.download(memory, 64) == (7).to_bytes(4, "little") * 16
interface.end(region)
"""
    run(world, LATE + script, SOFTCUDA_FAULT="cuMemsetD32Async:1=999").require_end()


@pytest.mark.parametrize("wait", ['"cuStreamSynchronize", one', '"cuStreamSynchronize", 0', '"cuCtxSynchronize"'])
def test_a_late_command_that_fails_again_is_the_next_waits_error(world, wait):
    script = f"""
gate.set()
assert answer({wait}) == 999 and answer({wait}) == 0
interface.end(region)
assert "failed when its turn came" in shim.state()["last_error"]
"""
    outcome = run(world, LATE + script, SOFTCUDA_FAULT="cuMemsetD32Async=999")
    outcome.require_end(messages=True)
    (message,) = outcome.messages()
    assert "a command behind a host function failed" in message


def test_a_late_command_that_fails_is_heard_after_the_call_too(world):
    script = """
gate.set()
interface.end(region)
assert answer("cuCtxSynchronize") == 999 and answer("cuCtxSynchronize") == 0
"""
    run(world, LATE + script, SOFTCUDA_FAULT="cuMemsetD32Async=999").require_end(messages=True)


@pytest.mark.parametrize("attribute", [7, 12])
def test_an_event_of_a_launch_attribute_is_recorded(world, attribute):
    """CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT and _LAUNCH_COMPLETION_EVENT."""
    script = f"""
event = made("cuEventCreate", 2)
region = claim()
attributes = (ctypes.c_uint64 * 9)({attribute}, event)
# CUlaunchConfig: grid, block, shared memory, stream, attributes and how many
config = (ctypes.c_uint32 * 14)(1, 1, 1, 1, 1, 1)
words = ctypes.cast(config, ctypes.POINTER(ctypes.c_uint64))
words[4], words[5], config[12] = one, ctypes.addressof(attributes), 1
call("cuLaunchKernelEx", config, empty, None, None)
def waits():
    with open(os.environ["SOFTCUDA_CALL_LOG"]) as log:
        return log.read().split().count("cuStreamWaitEvent")
before = waits()
call("cuStreamWaitEvent", free, event, 0)
assert waits() == before + 1, "the event counts as recorded before the claim"
interface.end(region)
call("cuStreamWaitEvent", free, event, 0)
"""
    run(world, script, SOFTCUDA_CALL_LOG=world.folder / "calls").require_end()


def test_memory_is_freed_in_stream_order_while_another_stream_is_held_back(world):
    script = """
freed = made("cuMemAllocAsync", 8 << 20, free)
event = made("cuEventCreate", 2)
late(one)
region = claim()
call("cuEventRecord", event, one)  # holds the stream back on the card
soon()
call("cuMemFreeAsync", freed, free)
call("cuCtxSynchronize")
assert driver.download(memory, 4) == b"new!"
interface.end(region)
"""
    run(world, script, timeout=20).require_end()


def test_pools_are_trimmed_and_ended_while_a_stream_is_held_back(world):
    """Both give back numbers only, and wait for nothing."""
    script = """
props = (ctypes.c_uint32 * 22)(1, 0, 1, 0)
pool, default = made("cuMemPoolCreate", props), made("cuDeviceGetDefaultMemPool", 0)
freed = made("cuMemAllocFromPoolAsync", 8 << 20, pool, free)
event = made("cuEventCreate", 2)
late(one)
call("cuMemPoolTrimTo", pool, 0)
region = claim()
call("cuEventRecord", event, one)  # holds the stream back on the card
for each in (pool, default):
    call("cuMemPoolTrimTo", each, 0)
call("cuMemPoolDestroy", pool)
assert answer("cuEventQuery", event) == NOT_READY
soon()
call("cuMemFreeAsync", freed, free)
call("cuCtxSynchronize")
assert driver.download(memory, 4) == b"new!"
interface.end(region)
"""
    run(world, script, timeout=20).require_end()


HELD = """
late(0)
region = interface.begin(60.0)
def launch(stream=free):
    return answer("cuLaunchKernel", empty, 1, 1, 1, 1, 1, 1, 0, stream, None, None)
"""


@pytest.mark.parametrize("refusals, failures", [(1, 0), (2, 0), (4, 1)])
def test_a_stream_that_can_not_be_held_back_at_once(world, refusals, failures):
    """It is tried twice, and so again at each command, which fails if it is refused still."""
    script = f"""
assert [launch() for _ in range({failures} + 1)] == [999] * {failures} + [0]
call("cuMemcpyDtoDAsync_v2", copied, memory, 64, other)
gate.set()
call("cuCtxSynchronize")
assert driver.download(copied, 4) == b"new!"
interface.end(region)
"""
    faults = ",".join(f"cuLaunchHostFunc:{nth}=999" for nth in range(1, refusals + 1))
    outcome = run(world, HELD + script, SOFTCUDA_FAULT=faults)
    outcome.require_end(messages=True)
    assert len(outcome.messages()) == (refusals > 1)


def test_a_stream_that_can_not_be_held_back_runs_nothing_early(world):
    script = """
assert launch() == 999 and shim.state()["level"] == "claimed"
copies = [answer("cuMemcpyDtoDAsync_v2", copied, memory, 64, stream) for stream in (0, 1, one, other, free, PER_THREAD)]
assert copies == [999] * 6, copies
gate.set()
call("cuCtxSynchronize")
call("cuMemcpyDtoDAsync_v2", copied, memory, 64, other)
call("cuCtxSynchronize")
assert driver.download(copied, 4) == b"new!"
interface.end(region)
"""
    outcome = run(world, HELD + script, SOFTCUDA_FAULT="cuLaunchHostFunc=999")
    outcome.require_end(messages=True)
    (message,) = outcome.messages()
    assert "can't be held back" in message


def test_the_legacy_stream_waits_for_late_work_of_a_stream_that_was_destroyed(world):
    script = """
late(one)
call("cuStreamDestroy_v2", one)
soon()
assert driver.download(memory, 4) == b"new!"
"""
    run(world, script).require_end()


def test_the_legacy_stream_waits_for_late_work_of_a_thread_that_has_ended(world):
    script = """
def work():
    call("cuCtxSetCurrent", context)
    late(PER_THREAD)
thread = threading.Thread(target=work)
thread.start()
task = f"/proc/self/task/{thread.native_id}"
checks.until(lambda: not os.path.exists(task), "the thread has ended")
call("cuMemcpyDtoDAsync_v2", copied, memory, 64, 0)
region = claim()
call("cuMemcpyDtoDAsync_v2", copied + 64, memory, 64, 0)
gate.set()
call("cuCtxSynchronize")
assert driver.download(copied, 4) == driver.download(copied + 64, 4) == b"new!"
interface.end(region)
"""
    run(world, script).require_end()


MET = {
    "host": "ctypes.c_uint32.from_address(flag).value = 1",
    "device": 'call("cuCtxSetCurrent", context); call("cuStreamWriteValue32_v2", free, flag, 1, 0)',
}


@pytest.mark.parametrize("where", MET)
def test_a_value_that_is_late_is_met_while_its_stream_is_held_back(world, where):
    """By another thread of the program, which writes it there."""
    script = f"""
flag = made("cuMemHostAlloc", 4096, 0) if {where!r} == "host" else memory + 64
call("cuMemsetD32_v2", flag, 0, 1)
call("cuStreamWaitValue32_v2", one, flag, 1, 1)
call("cuMemcpyHtoDAsync_v2", memory, pinned, 64, one)
event = made("cuEventCreate", 2)
region = claim()
call("cuEventRecord", event, one)
driver.launch(empty, one)
def meet():
    {MET[where]}
threading.Timer(0.3, meet).start()
call("cuCtxSynchronize")
assert driver.download(memory, 4) == b"new!"
interface.end(region)
"""
    run(world, script, timeout=30).require_end()
