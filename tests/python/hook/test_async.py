"""Coroutines and async generators: the region is held from the first step on, across awaits and threads."""

import pytest

OPEN = ["begin 1 60", "movable 1"]

STREAM = """
import asyncio

@spaces.GPU
async def stream(n=3):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            try:
                got = yield i
            except KeyError as error:
                got = "caught " + error.args[0]
            if got is not None:
                note(got)
    finally:
        await asyncio.sleep(0)
        note("cleanup")
"""
CLOSED = OPEN + ["note cleanup", "end 1"]


def test_nothing_is_held_before_the_first_await(calls):
    script = """
import asyncio

@spaces.GPU
async def task():
    note("runs")

async def main():
    coroutine = task()
    note("made")
    await coroutine
    note("after")

asyncio.run(main())
"""
    assert calls(script) == ["note made"] + OPEN + ["note runs", "end 1", "note after"]


def test_coroutines_interleave(calls):
    script = """
import asyncio

@spaces.GPU
async def task(here, there):
    here.set()
    await there.wait()

async def main():
    a, b = asyncio.Event(), asyncio.Event()
    await asyncio.gather(task(a, b), task(b, a))

asyncio.run(main())
"""
    assert sorted(calls(script)) == sorted(OPEN + ["end 1", "begin 2 60", "movable 2", "end 2"])


def test_an_error_passes_unchanged(calls):
    script = """
import asyncio

@spaces.GPU
async def task():
    await asyncio.sleep(0)
    raise ZeroDivisionError("own")

error = raised(asyncio.run, task())
assert type(error) is ZeroDivisionError and error.args == ("own",) and error.__cause__ is None
"""
    assert calls(script) == OPEN + ["end 1"]


def test_cancelled(calls):
    script = """
import asyncio

@spaces.GPU
async def task(started):
    started.set()
    await asyncio.Event().wait()

async def main():
    started = asyncio.Event()
    running = asyncio.ensure_future(task(started))
    await started.wait()
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        note("cancelled")

asyncio.run(main())
"""
    assert calls(script) == OPEN + ["end 1", "note cancelled"]


def test_a_coroutine_that_is_dropped_half_way(calls):
    script = """
import types

@types.coroutine
def pause():
    yield

@spaces.GPU
async def task():
    await pause()

coroutine = task()
coroutine.send(None)
del coroutine
note("dropped")
"""
    assert calls(script) == OPEN + ["end 1", "note dropped"]


def test_async_generator_held_between_items(calls):
    script = """
async def main():
    items = stream(2)
    note("made")
    await items.__anext__()
    note("between")
    assert [item async for item in items] == [1]
    note("after")

asyncio.run(main())
"""
    assert calls(STREAM + script) == ["note made"] + OPEN + ["note between", "note cleanup", "end 1", "note after"]


def test_async_generator_closed(calls):
    script = """
async def main():
    items = stream()
    await items.__anext__()
    await items.aclose()
    note("after")

asyncio.run(main())
"""
    assert calls(STREAM + script) == CLOSED + ["note after"]


def test_async_generator_dropped_in_a_loop(calls):
    script = """
async def main():
    async for item in stream():
        break
    # rounds of the loop, whatever time they take
    for _ in range(20):
        await asyncio.sleep(0)
    note("loop still runs")

asyncio.run(main())
"""
    assert calls(STREAM + script) == CLOSED + ["note loop still runs"]


def test_async_generator_dropped_without_a_loop(calls):
    script = """
def first(step):
    try:
        step.send(None)
    except StopIteration as item:
        return item.value

@spaces.GPU
async def plain():
    yield 1
    yield 2

items = plain()
assert first(items.__anext__()) == 1
del items
note("dropped")
"""
    assert calls(STREAM + script) == OPEN + ["end 1", "note dropped"]


def test_async_generator_whose_cleanup_cannot_finish(calls):
    # Python drops such a frame without running the rest of it: the region must end all the same.
    script = """
import gc, types

@types.coroutine
def pause():
    yield

@spaces.GPU
async def stuck():
    try:
        yield 1
    finally:
        await pause()

def unraisable(event):
    note(type(event.exc_value).__name__)

sys.unraisablehook = unraisable
items = stuck()
error = raised(items.__anext__().send, None)
assert type(error) is StopIteration and error.value == 1
del error, items
gc.collect()
note("collected")
"""
    assert calls(script) == OPEN + ["note RuntimeError", "end 1", "note collected"]


def test_async_generator_send_and_throw(calls):
    script = """
async def main():
    items = stream()
    assert await items.asend(None) == 0
    assert await items.asend("got") == 1
    assert await items.athrow(KeyError("a")) == 2
    try:
        await items.athrow(ValueError("b"))
    except ValueError as error:
        note("raised {}".format(error))
    assert [item async for item in items] == []

asyncio.run(main())
"""
    assert calls(STREAM + script) == OPEN + [
        "note got",
        "note caught a",
        "note cleanup",
        "end 1",
        "note raised b",
    ]


def test_async_generator_error(calls):
    script = """
@spaces.GPU
async def failing():
    yield 1
    raise ZeroDivisionError("own")

async def main():
    return [item async for item in failing()]

error = raised(asyncio.run, main())
assert type(error) is ZeroDivisionError and error.args == ("own",) and error.__cause__ is None
"""
    assert calls(STREAM + script) == OPEN + ["end 1"]


def test_as_async_context_manager(calls):
    script = """
import contextlib

@contextlib.asynccontextmanager
@spaces.GPU
async def session():
    yield "session"

async def main():
    async with session() as name:
        note(name)

asyncio.run(main())
"""
    assert calls(STREAM + script) == OPEN + ["note session", "end 1"]


NODE = {"ZEROGPU_SOCKET": "/nowhere/broker.sock"}
BESIDE = """
import asyncio

@spaces.GPU
async def task():
    note("runs")

@spaces.GPU
async def stream():
    note("runs")
    yield 1

async def steps():
    return [item async for item in stream()]
"""


@pytest.mark.parametrize("form", ["task", "steps"])
def test_a_call_waits_for_its_gpu_beside_the_loop(calls, form):
    script = f"""
async def main():
    _world.hook_hold_claims(1)
    call = asyncio.create_task({form}())
    while not _world.hook_claims():
        await asyncio.sleep(0.001)
    note("the loop runs")
    _world.hook_hold_claims(0)
    await call

asyncio.run(main())
"""
    assert calls(BESIDE + script, **NODE) == OPEN + ["claim 1", "note the loop runs", "note runs", "end 1"]


@pytest.mark.parametrize("form", ["task", "steps"])
def test_a_call_that_gets_no_gpu_does_not_begin(calls, form):
    script = f"""
_world.hook_refuse_claims(b"No GPU was available")
error = raised(asyncio.run, {form}())
note(f"{{type(error).__name__}}: {{error}}")
"""
    assert calls(BESIDE + script, **NODE) == OPEN + ["claim 1", "end 1", "note GPUError: No GPU was available"]


def test_a_call_that_is_cancelled_while_it_waits_ends_its_region(calls):
    script = """
async def main():
    _world.hook_hold_claims(1)
    call = asyncio.create_task(task())
    while not _world.hook_claims():
        await asyncio.sleep(0.001)
    call.cancel()
    note(type((await asyncio.gather(call, return_exceptions=True))[0]).__name__)
    _world.hook_hold_claims(0)

asyncio.run(main())
"""
    assert calls(BESIDE + script, **NODE) == OPEN + ["claim 1", "end 1", "note CancelledError"]


def test_a_call_within_a_call_claims_nothing(calls):
    script = """
@spaces.GPU
async def outer():
    await task()

asyncio.run(outer())
"""
    assert calls(BESIDE + script, **NODE) == OPEN + ["claim 1", "note runs", "end 1"]


def test_without_an_event_loop_a_call_claims_when_it_needs_to(calls):
    script = """
try:
    task().send(None)
except StopIteration:
    note("done")
"""
    assert calls(BESIDE + script, **NODE) == OPEN + ["note runs", "end 1", "note done"]
