"""With Gradio in the program (here a module of that name): its errors, its toasts, and the handlers it hands over."""

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
# A page behind each call: what is told to it, by event.
PAGE = (
    LOADED
    + """
import contextvars, json, threading
event_id = contextvars.ContextVar("event_id")
told, news = [], threading.Condition()
def Info(text):
    with news:
        told.append((event_id.get(None), text))
        news.notify_all()
gradio.Info = Info
gradio.context = types.ModuleType("gradio.context")
gradio.context.LocalContext = types.SimpleNamespace(event_id=event_id)
sys.modules["gradio.context"] = gradio.context

def state(level, waiting=None):
    _world.hook_state(json.dumps({"level": level, "waiting": waiting}).encode())

def expect(count):
    with news:
        assert news.wait_for(lambda: len(told) >= count, 20), told

def place(place, of):
    return {"place": place, "of": of, "seconds": None}

def event(name, task, *arguments):
    event_id.set(name)
    return task(*arguments)
WAITING = "Waiting for a GPU to become available"
ACQUIRED = "Successfully acquired a GPU"
"""
)


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


def test_a_call_that_waits_tells_its_visitor_where_it_is_in_the_queue(calls):
    script = """
@spaces.GPU
def task():
    state("parked", place(2, 3))
    expect(1)
    state("parked", place(1, 2))
    expect(2)
    state("claimed")
    expect(3)
state("parked")
event("a", task)
expected = [WAITING + ": place 2 of 3 in the queue", WAITING + ": place 1 of 2 in the queue", ACQUIRED]
assert told == [("a", text) for text in expected], told
"""
    assert calls(PAGE + script) == ["begin 1 60", "end 1"]


def test_each_visitor_is_told_and_only_while_the_call_lasts(calls):
    script = """
@spaces.GPU
def task(begun, done):
    begun.set()
    done.wait()
threads = []
for name in "ab":
    begun, done = threading.Event(), threading.Event()
    threads.append((threading.Thread(target=event, args=(name, task, begun, done)), done))
    threads[-1][0].start()
    begun.wait()
state("parked", place(None, None))
expect(2)
assert sorted(told) == [("a", WAITING), ("b", WAITING)], told
threads[0][1].set()
threads[0][0].join()
state("claimed")
expect(3)
threads[1][1].set()
threads[1][0].join()
assert told[2:] == [("b", ACQUIRED)], told
"""
    assert calls(PAGE + script) == ["begin 1 60", "begin 2 60", "end 1", "end 2"]


def test_a_visitor_that_cannot_be_told_keeps_nobody_from_being_told(calls):
    script = """
tried = threading.Event()
def gone(text):
    if event_id.get(None) == "gone":
        tried.set()
        raise KeyError("its page is closed")
    Info(text)
gradio.Info = gone
@spaces.GPU
def task():
    state("parked", place(1, 1))
    if event_id.get() == "gone":
        assert tried.wait(20)
    else:
        expect(1)
    state("parked")
event("gone", task)
event("b", task)
assert told == [("b", WAITING + ": place 1 of 1 in the queue")], told
"""
    assert calls(PAGE + script) == ["begin 1 60", "end 1", "begin 2 60", "end 2"]


def test_a_generators_visitor_is_the_one_of_its_first_step(calls):
    script = """
@spaces.GPU
def items():
    state("parked", place(1, 1))
    expect(1)
    yield 1
    state("claimed")
    expect(2)
made = items()
contextvars.copy_context().run(event, "a", next, made)
assert contextvars.copy_context().run(event, "b", list, made) == []
assert [who for who, _ in told] == ["a", "a"], told
"""
    assert calls(PAGE + script) == ["begin 1 60", "movable 1", "end 1"]


def test_a_wait_in_vain_is_no_success(calls):
    script = """
@spaces.GPU
def task(*places):
    for where in places:
        before = len(told)
        state("parked", where)
        expect(before + 1)
        state("parked")
event("a", task, place(1, 1))
event("b", task, place(3, 3), place(2, 2))
assert [who for who, _ in told] == ["a", "b", "b"] and ACQUIRED not in dict(told).values(), told
"""
    assert calls(PAGE + script) == ["begin 1 60", "end 1", "begin 2 60", "end 2"]


def test_a_call_without_a_page_tells_nobody_and_makes_no_thread(calls):
    script = """
state("parked", place(1, 1))
spaces.GPU(lambda: None)()
assert not told and threading.active_count() == 1
"""
    assert calls(PAGE + script) == ["begin 1 60", "end 1"]


def test_a_child_of_a_program_that_has_told_tells_too(calls):
    script = """
@spaces.GPU
def task():
    state("parked", place(1, 1))
    expect(1)
event("a", task)
child = os.fork()
if not child:
    told.clear()
    event("b", task)
    os._exit([who for who, _ in told] != ["b"])
assert os.waitpid(child, 0)[1] == 0
"""
    begun = ["begin 1 60", "end 1"]
    assert calls(PAGE + script) == begun + ["child begin 2 60", "child end 2"]


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
