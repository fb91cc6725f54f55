"""Refusals, exceptions, threads, forks: no region is left open and nothing is said wrongly."""

import pytest

TASK = """
@spaces.GPU
def task(x=1):
    note("runs")
    return x
"""


@pytest.mark.parametrize("text", ["No GPU was available after 60s", "You have exceeded your GPU quota (60s requested)"])
def test_a_refused_call_says_why_and_does_not_run(calls, text):
    script = f"""
refuse({text!r})
error = raised(task)
assert isinstance(error, RuntimeError) and str(error) == {text!r}, error
"""
    assert calls(TASK + script) == ["begin refused"]


def test_a_refused_generator_and_coroutine(calls):
    script = """
import asyncio
@spaces.GPU
def stream():
    yield 1
@spaces.GPU
async def coroutine():
    pass
@spaces.GPU
async def async_stream():
    yield 1
refuse("no")
items = stream()
assert str(raised(next, items)) == "no"
assert list(items) == []
assert str(raised(asyncio.run, coroutine())) == "no"
async def main():
    return [item async for item in async_stream()]
assert str(raised(asyncio.run, main())) == "no"
"""
    assert calls(script) == ["begin refused"] * 3


@pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "StopIteration"])
def test_own_errors_pass_unchanged(calls, error):
    script = f"""
own = {error}("own")
@spaces.GPU
def task():
    raise own
error = raised(task)
assert error is own and error.__cause__ is None and error.__context__ is None
"""
    assert calls(script) == ["begin 1 60", "end 1"]


def test_sys_exit_in_a_region(calls):
    assert calls("spaces.GPU(sys.exit)()") == ["begin 1 60", "end 1"]


@pytest.mark.parametrize(
    "duration, error", [("lambda x: 1 / 0", "ZeroDivisionError"), ("lambda: 5", "TypeError"), ("'soon'", "ValueError")]
)
def test_errors_of_the_duration_propagate_and_open_nothing(calls, duration, error):
    script = "error = raised(spaces.GPU(duration={})(lambda x: note('runs')), 1)\nassert type(error) is {}, error"
    assert calls(script.format(duration, error)) == []


def test_a_wrong_call_is_the_functions_own_error(calls):
    script = "error = raised(task, 1, 2)\nassert type(error) is TypeError and 'task()' in str(error), error"
    assert calls(TASK + script) == ["begin 1 60", "end 1"]


def test_a_region_that_ended_behind_the_hooks_back_is_told(calls):
    script = """
import warnings
_world.hook_region.restype = ctypes.c_uint64
_world.zerogpu_region_end.argtypes = [ctypes.c_uint64]
@spaces.GPU
def task():
    _world.zerogpu_region_end(_world.hook_region(1))
    return 5
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert task() == 5
text, = [str(warning.message) for warning in seen]
assert text.startswith("spaces.GPU: the GPU was given up during the call: no such region"), text
"""
    assert calls(script) == ["begin 1 60", "end 1", "end 1 unknown"]


def test_the_interpreters_lock_is_released_while_a_region_opens(calls):
    script = """
import threading
_world.hook_block()
results = []
thread = threading.Thread(target=lambda: results.append(task(7)))
thread.start()
note("other threads run")
_world.hook_unblock()
thread.join()
assert results == [7]
"""
    assert calls(TASK + script) == ["note other threads run", "begin 1 60", "note runs", "end 1"]


def test_many_threads(calls):
    script = """
import threading
def work():
    for i in range(10):
        assert quiet(i) == i
quiet = spaces.GPU(lambda x: x)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    made = calls(script)
    assert len(made) == 160
    assert sorted(c for c in made if c.startswith("end")) == sorted(f"end {i + 1}" for i in range(80))


def test_a_fork_inside_a_region_leaves_it_to_the_parent(calls):
    script = """
@spaces.GPU
def task():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        note("child has ended")
    return child
if not task():
    note("child")
    os._exit(0)
"""
    assert calls(script) == ["begin 1 60", "child note child", "note child has ended", "end 1"]


def test_a_fork_while_a_generator_is_open(calls):
    script = """
@spaces.GPU
def stream():
    yield 1
items = stream()
next(items)
child = os.fork()
items.close()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""
    assert calls(script) == ["begin 1 60", "movable 1", "end 1"]


@pytest.mark.parametrize("call", ["begin", "end"])
@pytest.mark.parametrize("kind", ["function", "generator", "coroutine"])
def test_an_exception_of_a_signal_handler_leaves_no_region_open(calls, call, kind):
    """Ctrl-C, a time-out by SIGALRM: Python raises it as soon as the call into the shim is over."""
    script = f"""
import asyncio, signal
class Late(BaseException):
    pass
def late(*_):
    raise Late
signal.signal(signal.SIGUSR1, late)
@spaces.GPU
def function():
    return 1
@spaces.GPU
def generator():
    yield 1
@spaces.GPU
async def coroutine():
    return 1
def run():
    made = {kind}()
    return asyncio.run(made) if {kind} is coroutine else list(made) if {kind} is generator else made
_world.hook_signal(b"{call}")
error = raised(run)
assert isinstance(error, Late), error
del error
note("between")
run()
"""
    expected = ["begin 1 60", "movable 1", "end 1", "note between", "begin 2 60", "movable 2", "end 2"]
    movable = kind != "function" and call == "end"
    seen = [line for line in calls(script) if movable or not line.startswith("movable")]
    assert seen == [line for line in expected if movable or not line.startswith("movable")]
