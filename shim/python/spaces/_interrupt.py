"""Ctrl-C ends the main thread's wait for a GPU.

A claim waits inside a driver call, and Python acts on a signal between two steps of the program: it would come to that when
there is a GPU at last. So during marked calls of the main thread a thread of our own hears of signals as asyncio does, by
Python's wakeup descriptor, and has the shim give the wait up: the call fails, and KeyboardInterrupt follows. A program
that has set that descriptor, or does something else at SIGINT, is left alone. Without a broker there is no wait.
"""

import os
import signal
import threading

from ._shim import BROKER

# Where Python writes the signals that it gets, and the marked calls of the main thread that run.
_ours = None
_calls = set()


def _is_main():
    return threading.get_ident() == threading.main_thread().ident


def listen(shim, call):
    """A marked call begins or goes on, until `rest`."""
    global _ours
    if not BROKER or not _is_main():
        return
    if not _calls:
        if _ours is None:
            theirs, _ours = os.pipe()
            os.set_blocking(_ours, False)
            threading.Thread(target=_hear, args=(shim, theirs), name="spaces-interrupt", daemon=True).start()
        try:
            before = signal.set_wakeup_fd(_ours, warn_on_full_buffer=False)
        except ValueError:  # an interpreter in which no signal is heard
            return
        if before not in (-1, _ours):
            signal.set_wakeup_fd(before)
            return
    _calls.add(call)


def rest(call):
    """That call is over, or rests."""
    if call not in _calls:
        return
    _calls.discard(call)
    # a coroutine may be dropped by another thread, which can't set the descriptor: the next call does
    if not _calls and _is_main():
        now = signal.set_wakeup_fd(-1)
        # the program has set its own meanwhile
        if now not in (-1, _ours):
            signal.set_wakeup_fd(now)


def _hear(shim, theirs):
    while True:
        if signal.SIGINT in os.read(theirs, 64) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            shim.stop_waiting()


def _forked():
    """In a child the thread is gone, and what Python wrote would be heard by the parent."""
    global _ours
    if _calls:
        signal.set_wakeup_fd(-1)
    _calls.clear()
    _ours = None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forked)
