"""With Gradio in the program (here a module of that name): its errors, and the handlers it hands over."""

import pytest

GRADIO = """
import types
gradio = types.ModuleType("gradio")
class Error(Exception):
    def __init__(self, message="Error raised.", duration=10, visible=True):
        super().__init__(message)
        self.message = message
gradio.Error = Error
"""
LOADED = GRADIO + "sys.modules['gradio'] = gradio\n"


def test_an_aborted_call_raises_gradios_error(calls):
    script = """
@spaces.GPU
def task():
    expire(1)
    raise ValueError("CUDA error")
error = raised(task)
assert type(error) is Error and error.message == "GPU task aborted" and type(error.__cause__) is ValueError
"""
    assert calls(LOADED + script) == ["begin 1 60", "end 1"]


def test_a_refused_call_raises_gradios_error(calls):
    script = "refuse('No GPU was available after 60s')\nerror = raised(spaces.GPU(lambda: 1))\n"
    script += "assert type(error) is Error and error.message == 'No GPU was available after 60s'"
    assert calls(LOADED + script) == ["begin refused"]


def test_gradio_may_be_loaded_after_the_function_was_marked(calls):
    script = "marked = spaces.GPU(lambda: 1)\nsys.modules['gradio'] = gradio\nrefuse('no')\n"
    assert calls(GRADIO + script + "assert type(raised(marked)) is Error") == ["begin refused"]


def test_half_imported_gradio_is_no_gradio(calls):
    script = "del gradio.Error\nsys.modules['gradio'] = gradio\nrefuse('no')\n"
    assert calls(GRADIO + script + "assert isinstance(raised(spaces.GPU(lambda: 1)), RuntimeError)") == [
        "begin refused"
    ]


def test_handlers_are_left_alone_at_first(calls):
    assert (
        calls("f = lambda: 1\nassert spaces.gradio_auto_wrap(f) is f and spaces.gradio_auto_wrap(None) is None") == []
    )


@pytest.mark.parametrize("value, wraps", [("1", True), ("true", True), ("T", True), ("0", False), ("", False)])
def test_handlers_are_marked_by_the_variable(calls, value, wraps):
    script = "f = lambda: 1\nassert (spaces.gradio_auto_wrap(f) is not f) == {}\n"
    script += "assert spaces.gradio_auto_wrap(None) is None"
    assert calls(script.format(wraps), SPACES_GRADIO_AUTO_WRAP=value) == []


def test_handlers_are_marked_when_enabled(calls):
    script = """
f = lambda: 1
spaces.enable_gradio_auto_wrap()
marked = spaces.gradio_auto_wrap(f)
assert spaces.gradio_auto_wrap(marked) is marked
marked()
spaces.disable_gradio_auto_wrap()
assert spaces.gradio_auto_wrap(f) is f
"""
    assert calls(script) == ["begin 1 60", "end 1"]


def test_without_the_shim_enabled_marking_is_without_effect(bare):
    bare("f = lambda: 1\nspaces.enable_gradio_auto_wrap()\nassert spaces.gradio_auto_wrap(f) is f")
