"""A marked generator holds its region from the first item to its end, however that comes about."""

STREAM = """
@spaces.GPU
def stream(n=3):
    try:
        for i in range(n):
            got = yield i
            if got is not None:
                note("got {}".format(got))
        return "result"
    finally:
        note("cleanup")
"""
OPEN = ["begin 1 60", "movable 1"]
CLOSED = OPEN + ["note cleanup", "end 1"]


def test_nothing_is_held_before_the_first_item(calls):
    assert calls(STREAM + "items = stream()\nnote('made')\ndel items\nstream().close()") == ["note made"]


def test_held_between_items(calls):
    script = STREAM + "items = stream(2)\nnext(items)\nnote('between')\nassert list(items) == [1]\nnote('after')"
    assert calls(script) == OPEN + ["note between", "note cleanup", "end 1", "note after"]


def test_no_items(calls):
    assert calls(STREAM + "assert list(stream(0)) == []") == CLOSED


def test_close(calls):
    assert calls(STREAM + "items = stream()\nnext(items)\nitems.close()\nnote('after')") == CLOSED + ["note after"]


def test_close_again_and_exhausted_again(calls):
    script = STREAM + "items = stream()\nnext(items)\nitems.close()\nitems.close()\nassert list(items) == []"
    assert calls(script) == CLOSED


def test_break_and_drop(calls):
    script = STREAM + "for item in stream():\n    break\nnote('dropped')"
    assert calls(script) == CLOSED + ["note dropped"]


def test_dropped_in_a_cycle_ends_at_collection(calls):
    script = """
import gc
gc.disable()
items = stream()
next(items)
cycle = [items]
cycle.append(cycle)
del items, cycle
note("dropped")
gc.collect()
note("collected")
"""
    assert calls(STREAM + script) == OPEN + ["note dropped", "note cleanup", "end 1", "note collected"]


def test_left_open_at_exit(calls):
    assert calls(STREAM + "items = stream()\nnext(items)\nnote('exit')") == OPEN + [
        "note exit",
        "note cleanup",
        "end 1",
    ]


def test_return_value(calls):
    script = """
def outer():
    return (yield from stream(1))
items = outer()
next(items)
error = raised(next, items)
assert type(error) is StopIteration and error.value == "result", repr(error)
"""
    assert calls(STREAM + script) == CLOSED


def test_send(calls):
    script = "items = stream()\nnext(items)\nassert items.send('a') == 1\nassert items.send(None) == 2\nitems.close()"
    assert calls(STREAM + script) == OPEN + ["note got a", "note cleanup", "end 1"]


def test_throw_is_delivered(calls):
    script = """
@spaces.GPU
def stubborn():
    while True:
        try:
            yield "item"
        except KeyError as error:
            note("caught {}".format(error.args[0]))

items = stubborn()
next(items)
assert items.throw(KeyError("a")) == "item"
error = raised(items.throw, ValueError("b"))
assert type(error) is ValueError and error.args == ("b",)
assert list(items) == []
"""
    assert calls(script) == OPEN + ["note caught a", "end 1"]


def test_an_error_of_the_generator(calls):
    script = """
@spaces.GPU
def failing():
    yield 1
    raise ZeroDivisionError("own")

items = failing()
next(items)
error = raised(next, items)
assert type(error) is ZeroDivisionError and error.args == ("own",) and error.__cause__ is None
"""
    assert calls(script) == OPEN + ["end 1"]


def test_a_generator_that_refuses_to_close(calls):
    script = """
@spaces.GPU
def stubborn():
    try:
        yield 1
    except GeneratorExit:
        yield 2

items = stubborn()
next(items)
error = raised(items.close)
assert type(error) is RuntimeError and "GeneratorExit" in str(error), error
"""
    assert calls(script) == OPEN + ["end 1"]


def test_each_step_on_another_thread(calls):
    script = """
import threading

def on_a_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]

items = stream(2)
assert [on_a_thread(lambda: next(items, "end")) for _ in range(3)] == [0, 1, "end"]
"""
    assert calls(STREAM + script) == CLOSED


def test_two_streams_overlap(calls):
    script = "a, b = stream(1), stream(1)\nnext(a), next(b)\nlist(a), list(b)"
    assert calls(STREAM + script) == [
        "begin 1 60",
        "movable 1",
        "begin 2 60",
        "movable 2",
        "note cleanup",
        "end 1",
        "note cleanup",
        "end 2",
    ]


def test_as_context_manager(calls):
    script = """
import contextlib

@contextlib.contextmanager
@spaces.GPU
def session():
    yield "session"

with session() as name:
    note(name)
"""
    assert calls(script) == OPEN + ["note session", "end 1"]


def test_in_an_executor_as_gradio_steps_it(calls):
    script = """
import asyncio, contextvars

async def steps(items):
    loop = asyncio.get_running_loop()
    while True:
        item = await loop.run_in_executor(None, contextvars.copy_context().run, next, items, "end")
        if item == "end":
            return
        note(item)

asyncio.run(steps(stream(2)))
"""
    assert calls(STREAM + script) == OPEN + ["note 0", "note 1", "note cleanup", "end 1"]
