"""Ctrl-C in a marked call of the main thread: the shim hears of it, and nothing of that is left."""

import pytest

BROKER = {"ZEROGPU_SOCKET": "/nowhere"}

# `hears()`: whether the shim is told of a Ctrl-C that comes now; the marked call that it comes in ends by it.
PRELUDE = """
import asyncio, signal, socket, threading, time

# whoever runs the tests may ignore it, as a shell does for what it starts in the background
signal.signal(signal.SIGINT, signal.default_int_handler)

def hears(kind=KeyboardInterrupt):
    before = _world.hook_stops()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except kind:
        pass
    give_up = time.monotonic() + (5 if kind is KeyboardInterrupt else 0.3)
    while _world.hook_stops() == before and time.monotonic() < give_up:
        time.sleep(0.01)
    return _world.hook_stops() > before

def is_unset():
    return signal.set_wakeup_fd(-1) == -1
"""

CALLS = {
    "plain": "assert spaces.GPU(hears)()",
    "raised as the call ends": """
import spaces._region
def late(*_error, step=spaces._region._Step.__exit__):
    spaces._region._Step.__exit__ = step
    raise KeyboardInterrupt
spaces._region._Step.__exit__ = late
assert type(raised(spaces.GPU(lambda: None))) is KeyboardInterrupt
""",
    "nested": "assert spaces.GPU(lambda: spaces.GPU(hears)() and hears())()",
    "twice": "assert spaces.GPU(hears)() and spaces.GPU(hears)()",
    "a step": """
@spaces.GPU
def steps():
    yield hears()
    yield hears()
for heard in steps():
    assert heard and is_unset()
""",
    "two coroutines": """
@spaces.GPU
async def one(ends):
    await asyncio.sleep(ends)
    return hears()
async def both():
    return await asyncio.gather(one(0.1), one(0.2))
# its own handler is not Python's: set back, as older versions of asyncio leave it
handler = signal.default_int_handler
async def main():
    signal.signal(signal.SIGINT, handler)
    return await both()
assert asyncio.run(main()) == [True, True]
""",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_main_thread_hears_it(calls, call):
    calls(PRELUDE + CALLS[call] + "\nassert is_unset()", **BROKER)


def test_one_of_another_thread_does_not(calls):
    script = """
thread = threading.Thread(target=spaces.GPU(lambda: None))
thread.start()
thread.join()
assert is_unset() and threading.active_count() == 1
"""
    calls(PRELUDE + script, **BROKER)


def test_where_no_broker_is_nothing_is_heard(calls):
    calls(PRELUDE + "spaces.GPU(lambda: None)()\nassert is_unset() and threading.active_count() == 1")


def test_a_program_with_a_handler_of_its_own_is_left_alone(calls):
    script = """
def own(*_):
    raise ValueError
signal.signal(signal.SIGINT, own)
assert not spaces.GPU(hears)(ValueError)
"""
    calls(PRELUDE + script, **BROKER)


def test_a_program_with_a_wakeup_descriptor_of_its_own_keeps_it(calls):
    script = """
ours, theirs = socket.socketpair()
ours.setblocking(False)
signal.set_wakeup_fd(ours.fileno())
spaces.GPU(lambda: None)()
assert signal.set_wakeup_fd(-1) == ours.fileno()
spaces.GPU(lambda: signal.set_wakeup_fd(ours.fileno()))()
assert signal.set_wakeup_fd(-1) == ours.fileno()
assert spaces.GPU(hears)()
"""
    calls(PRELUDE + script, **BROKER)


def test_a_child_of_fork_hears_for_itself(calls):
    script = """
@spaces.GPU
def call():
    child = os.fork()
    if not child:
        assert is_unset()
        # of this one the parent must hear nothing
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            os._exit(3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    time.sleep(0.1)
    assert _world.hook_stops() == 0
    return hears()
assert call()
"""
    calls(PRELUDE + script, **BROKER)
