"""What happens to a call whose deadline passes: `GPU task aborted`, what the call raised chained, the region ended."""

import os

import pytest

OPEN = ["begin 1 60", "movable 1"]

ABORTED = """
def check(error, cause=None):
    assert isinstance(error, RuntimeError) and type(error).__name__ == "GPUError", repr(error)
    assert str(error) == "GPU task aborted", error
    assert type(error.__cause__) is (type(None) if cause is None else cause), repr(error.__cause__)
"""


def test_a_call_that_returns_late(calls):
    script = """
@spaces.GPU
def task():
    expire(1)
    return "half a result"
check(raised(task))
"""
    assert calls(ABORTED + script) == ["begin 1 60", "end 1"]


def test_a_call_that_fails_late(calls):
    script = """
@spaces.GPU
def task():
    expire(1)
    raise RuntimeError("CUDA error: the launch timed out and was terminated")
error = raised(task)
check(error, RuntimeError)
assert "launch timed out" in str(error.__cause__)
"""
    assert calls(ABORTED + script) == ["begin 1 60", "end 1"]


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "GeneratorExit"])
def test_what_ends_the_program_passes(calls, error):
    script = """
@spaces.GPU
def task():
    expire(1)
    raise {0}("own")
error = raised(task)
assert type(error) is {0} and error.args == ("own",), repr(error)
"""
    assert calls(script.format(error)) == ["begin 1 60", "end 1"]


def test_the_next_call_works(calls):
    script = """
@spaces.GPU
def task(late):
    if late:
        expire(1)
    return 5
check(raised(task, True))
assert task(False) == 5
"""
    assert calls(ABORTED + script) == ["begin 1 60", "end 1", "begin 2 60", "end 2"]


def test_only_the_region_that_is_over(calls):
    script = """
import threading
@spaces.GPU(5)
def inner():
    expire(2)
@spaces.GPU(90)
def outer():
    other = threading.Thread(target=lambda: check(raised(inner)))
    other.start()
    other.join()
    return "whole"
assert outer() == "whole"
"""
    assert calls(ABORTED + script) == ["begin 1 90", "begin 2 5", "end 2", "end 1"]


def test_a_generator_rests_between_its_steps(calls):
    script = """
seen = []
@spaces.GPU
def stream():
    seen.append(_world.hook_rests(1))
    got = yield 1
    seen.append(_world.hook_rests(1))
    yield 2
items = stream()
next(items)
seen.append(_world.hook_rests(1))
items.send("on")
seen.append(_world.hook_rests(1))
assert seen == [0, 1, 0, 1], seen
"""
    assert calls(script) == OPEN + ["end 1"]


def test_an_async_generator_rests_between_its_steps(calls):
    script = """
import asyncio
seen = []
@spaces.GPU
async def stream():
    await asyncio.sleep(0)
    seen.append(_world.hook_rests(1))
    yield 1
async def main():
    async for item in stream():
        seen.append(_world.hook_rests(1))
asyncio.run(main())
assert seen == [0, 1], seen
"""
    assert calls(script) == OPEN + ["end 1"]


def test_what_never_rests(calls):
    script = """
@spaces.GPU
def task():
    return _world.hook_rests(1)
assert task() == 0
"""
    assert calls(script) == ["begin 1 60", "end 1"]


def test_a_generator_whose_step_is_late(calls):
    script = """
@spaces.GPU
def stream():
    try:
        yield 1
        expire(1)
        yield 2
    finally:
        note("cleanup")
items = stream()
assert next(items) == 1
check(raised(next, items))
assert list(items) == []
"""
    assert calls(ABORTED + script) == OPEN + ["note cleanup", "end 1"]


def test_a_generator_that_waited_too_long_does_not_run_on(calls):
    script = """
@spaces.GPU
def stream():
    try:
        yield 1
        note("ran on")
    finally:
        note("cleanup")
items = stream()
assert next(items) == 1
expire(1)
check(raised(next, items))
"""
    assert calls(ABORTED + script) == OPEN + ["note cleanup", "end 1"]


def test_a_late_generator_whose_cleanup_fails(calls):
    script = """
@spaces.GPU
def stream():
    try:
        yield 1
    finally:
        raise ValueError("cleanup")
items = stream()
next(items)
expire(1)
check(raised(next, items), ValueError)
"""
    assert calls(ABORTED + script) == OPEN + ["end 1"]


def test_a_generator_that_fails_late(calls):
    script = """
@spaces.GPU
def stream():
    yield 1
    expire(1)
    raise RuntimeError("CUDA error")
items = stream()
next(items)
check(raised(next, items), RuntimeError)
"""
    assert calls(ABORTED + script) == OPEN + ["end 1"]


def test_a_generator_that_returns_late(calls):
    script = """
@spaces.GPU
def stream():
    yield 1
    expire(1)
    return "half a result"
items = stream()
next(items)
check(raised(next, items))
"""
    assert calls(ABORTED + script) == OPEN + ["end 1"]


def test_a_late_generator_may_be_closed(calls):
    script = """
@spaces.GPU
def stream():
    yield 1
items = stream()
next(items)
expire(1)
items.close()
"""
    assert calls(script) == OPEN + ["end 1"]


def test_an_error_in_a_late_session_is_chained(calls):
    script = """
import contextlib
@contextlib.contextmanager
@spaces.GPU
def session():
    yield
def work():
    with session():
        expire(1)
        raise ValueError("CUDA error")
check(raised(work), ValueError)
"""
    assert calls(ABORTED + script) == OPEN + ["end 1"]


def test_a_generator_that_swallows_the_error(calls):
    script = """
@spaces.GPU
def stream():
    while True:
        try:
            yield 1
        except ValueError:
            note("swallowed")
items = stream()
next(items)
expire(1)
check(raised(items.throw, ValueError()))
"""
    assert calls(ABORTED + script) == OPEN + ["note swallowed", "end 1"]


def test_coroutine(calls):
    script = """
import asyncio
@spaces.GPU
async def task(fails):
    await asyncio.sleep(0)
    expire(1 + fails)
    if fails:
        raise ValueError("CUDA error")
check(raised(asyncio.run, task(False)))
check(raised(asyncio.run, task(True)), ValueError)
"""
    assert calls(ABORTED + script) == OPEN + ["end 1", "begin 2 60", "movable 2", "end 2"]


@pytest.mark.parametrize(
    "step, items",
    [("expire(1); yield 2", []), ("expire(1)", []), ("yield 2; expire(1)", ["note 2"])],
)
def test_async_generator(calls, step, items):
    script = """
import asyncio
@spaces.GPU
async def stream():
    try:
        yield 1
        {}
    finally:
        await asyncio.sleep(0)
        note("cleanup")
async def main():
    items = stream()
    assert await items.__anext__() == 1
    async for item in items:
        note(item)
check(raised(asyncio.run, main()))
"""
    assert calls(ABORTED + script.format(step)) == OPEN + items + ["note cleanup", "end 1"]


def test_an_async_generator_that_waited_too_long_does_not_run_on(calls):
    script = """
import asyncio
@spaces.GPU
async def stream():
    yield 1
    note("ran on")
async def main():
    items = stream()
    await items.__anext__()
    expire(1)
    await items.__anext__()
check(raised(asyncio.run, main()))
"""
    assert calls(ABORTED + script) == OPEN + ["end 1"]


# nothing that a machine lacks: scripts/test runs these tests with the recorder, and once more with the shim
@pytest.mark.skipif(
    not os.environ.get("ZEROGPU_TEST_PRELOAD"), reason="the recorder keeps no time: needs the real shim"
)
def test_the_shim_keeps_time(calls):
    script = """
import time
@spaces.GPU(0.2)
def task():
    started = time.monotonic()
    while time.monotonic() - started < 0.5:
        pass
    return "late"
check(raised(task))
@spaces.GPU(30)
def quick():
    return "in time"
assert quick() == "in time"
"""
    assert calls(ABORTED + script) == ["begin 1 0.2", "end 1", "begin 2 30", "end 2"]
