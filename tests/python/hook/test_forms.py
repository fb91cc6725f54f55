"""Each form of the decorator: with the shim the exact region calls, without it no effect at all."""

import forms
import pytest

each_form = pytest.mark.parametrize("form", forms.ALL, ids=lambda form: form.name)

SCRIPT = """
{form.task}
marked = {form.mark}
assert ({form.use}) == {form.gives}, ({form.use})
"""


@each_form
def test_with_the_shim_the_call_is_inside_one_region(calls, form):
    assert calls(SCRIPT.format(form=form)) == list(form.calls)


@each_form
def test_without_the_shim_the_function_itself_is_returned(bare, form):
    script = SCRIPT.format(form=form) + "assert marked is task\n"
    assert bare(script + "assert not {'torch', 'gradio'} & set(sys.modules)\nprint('done')") == "done\n"


def test_exports_are_those_of_the_original_package(bare):
    bare(
        """
assert set(spaces.__all__) == {
    "GPU", "config", "zero", "gradio_auto_wrap", "disable_gradio_auto_wrap", "enable_gradio_auto_wrap", "aoti_capture", "aoti_compile",
    "aoti_compile_and_save", "aoti_apply", "aoti_patch", "aoti_load", "aoti_load_call_source",
    "aoti_load_from_package_dir", "aoti_blocks_load",
}
for name in set(spaces.__all__) - {"config", "zero"}:
    assert callable(getattr(spaces, name)) and getattr(spaces, name).__name__ == name
"""
    )


def test_aoti_helpers_say_that_they_are_not_supported(bare):
    bare(
        """
for name in spaces.__all__:
    if name.startswith("aoti_"):
        error = raised(getattr(spaces, name), object(), call_method="forward")
        assert type(error) is NotImplementedError
        assert str(error).startswith("spaces." + name + ": "), error
"""
    )


def test_without_the_shim_unknown_options_are_silent(bare):
    bare("f = lambda: 1\nassert spaces.GPU(gpus=2, hello='x')(f) is f")  # run with -W error


def test_unknown_options_warn_once_with_the_shim(calls):
    script = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        marked = spaces.GPU(gpus=2, hello="x")(lambda: 1)
        spaces.GPU(lambda: 1, gpus=3)
    spaces.GPU(other=1)
assert [str(w.message) for w in seen] == [
    "spaces.GPU: ignored unknown option: gpus, hello", "spaces.GPU: ignored unknown option: other"], seen
assert seen[0].filename == "<string>" or seen[0].filename == "<stdin>", seen[0].filename
assert marked() == 1
"""
    assert calls(script) == ["begin 1 60", "end 1"]


def test_what_is_no_function_is_refused(calls):
    script = """
error = raised(spaces.GPU, property(lambda self: 1))
assert type(error) is TypeError and "spaces.GPU marks functions" in str(error), error
"""
    assert calls(script) == []


def test_marked_functions_keep_their_face(calls):
    script = """
import inspect

def task(x: int, *, y: str = "a") -> float:
    "what it does"
task.tag = 7
marked = spaces.GPU(task)
assert marked is not task and marked.__wrapped__ is task
for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "tag"):
    assert getattr(marked, name) == getattr(task, name), name
assert inspect.signature(marked) == inspect.signature(task)
assert inspect.isfunction(marked)

def generator():
    yield
async def coroutine():
    pass
async def async_generator():
    yield
for kind in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction):
    for function in (task, generator, coroutine, async_generator):
        assert kind(spaces.GPU(function)) == kind(function), (kind, function)

assert inspect.isgenerator(spaces.GPU(generator)())
"""
    assert calls(script) == []


def test_marks_are_not_inherited_through_functools_wraps(calls):
    script = """
import functools

def again(function):
    @functools.wraps(function)
    def call():
        function()
        function()
    return call

@spaces.GPU(30)
@again
@spaces.GPU(10)
def task():
    pass

task()
"""
    assert calls(script) == ["begin 1 30", "end 1"]


def test_marked_functions_are_freed(calls):
    script = """
import gc, weakref
gc.disable()
class Tensor:
    pass
def handler():
    tensor = Tensor()
    return spaces.GPU(lambda: tensor), weakref.ref(tensor)
marked, tensor = handler()
marked()
del marked
assert tensor() is None
"""
    assert calls(script) == ["begin 1 60", "end 1"]


def test_the_shim_is_found_when_a_function_is_marked(calls):
    assert calls("import spaces._shim\nassert spaces._shim._found is None\nspaces.GPU(lambda: 1)()") == [
        "begin 1 60",
        "end 1",
    ]


def test_state_is_read_whole(calls):
    calls(
        """
import spaces._shim
spaces.GPU(lambda: 1)()  # the shim starts at the first region
state = spaces._shim.find().state()
assert state["level"] == "parked" and state["regions"] == 0 and isinstance(state["bound_by"], list), state
"""
    )


NESTED = """
import asyncio
asked = []
def seconds(*args):
    asked.append(args)
    return 5
@spaces.GPU(duration=seconds)
def plain():
    return 1
@spaces.GPU(duration=seconds)
def items():
    got = yield 1
    return got
@spaces.GPU(duration=seconds)
async def later():
    return 1
@spaces.GPU(duration=seconds)
async def stream():
    yield 1
"""


def test_a_marked_call_within_a_marked_call_is_a_plain_one(calls):
    script = """
@spaces.GPU(90)
def outer():
    steps = items()
    next(steps)
    try:
        steps.send("sent")
    except StopIteration as end:
        assert end.value == "sent"
    return plain()
assert outer() == 1
@spaces.GPU(90)
async def outer_later():
    assert [item async for item in stream()] == [1]
    return plain() + await later()
assert asyncio.run(outer_later()) == 2
@spaces.GPU(90)
def outer_items():
    yield plain()
    yield plain()
assert list(outer_items()) == [1, 1]
assert not asked
plain()
assert asked == [()]
"""
    opened = ["begin 2 90", "movable 2", "end 2", "begin 3 90", "movable 3", "end 3"]
    assert calls(NESTED + script) == ["begin 1 90", "end 1"] + opened + ["begin 4 5", "end 4"]


def test_between_two_steps_of_a_generator_nothing_is_within_it(calls):
    script = """
steps = items()
next(steps)
assert plain() == 1
steps.close()
"""
    assert calls(NESTED + script) == ["begin 1 5", "movable 1", "begin 2 5", "end 2", "end 1"]


def test_what_outlives_the_call_that_began_it_has_a_region_of_its_own(calls):
    script = """
@spaces.GPU(90)
async def outer():
    async def after():
        await asyncio.sleep(0.01)
        return plain()
    return asyncio.ensure_future(after())
async def main():
    assert await (await outer()) == 1
asyncio.run(main())
"""
    assert calls(NESTED + script) == ["begin 1 90", "movable 1", "end 1", "begin 2 5", "end 2"]


ASKED_FOR = """
from spaces.config import Config
from spaces.zero import startup
startup()
spaces.zero.client.startup_report()
assert spaces.config.Config is Config
assert Config.gradio_auto_wrap is False
"""


def test_what_programs_ask_of_the_original(calls):
    script = "assert Config.zero_gpu is True\nassert spaces.GPU(lambda: 1).zerogpu"
    assert calls(ASKED_FOR + script) == []


def test_what_programs_ask_of_the_original_without_the_shim(bare):
    bare(ASKED_FOR + "assert Config.zero_gpu is False")


def test_a_system_without_fork_has_the_decorator_too(bare):
    script = """
for name in [name for name in sys.modules if name.split(".")[0] == "spaces"]:
    del sys.modules[name]
del os.register_at_fork
sys.platform = "win32"
import spaces
assert spaces.GPU(duration=5)(lambda: 5)() == 5
"""
    bare(script)
