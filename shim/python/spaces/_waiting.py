"""Tells the visitor of a Gradio app that a call waits for a GPU, with its place in the queue, and that it has got one.

A claim waits inside a driver call, on whatever thread makes it: so a thread of our own looks at the shim's state. It
is made for the first call that Gradio's queue makes, and sleeps while there is none.
"""

import contextvars
import os
import sys
import threading

# Seconds between two looks. A wait that is shorter is not worth a word.
EVERY = 0.25

_calls = {}
_changed = threading.Condition()
_thread = None


class _Visitor:
    """Who has made a call: what is told in its context appears in that visitor's page."""

    def __init__(self, gradio):
        self._info = gradio.Info
        self._context = contextvars.copy_context()
        self._told = None

    def tell(self, state):
        """Says what is new."""
        waiting = state.get("waiting")
        if waiting:
            self._say(_sentence(**waiting))
        elif self._told and state["level"] == "claimed":
            self._say("Successfully acquired a GPU")
            self._told = None

    def _say(self, text):
        if text != self._told:
            self._told = text
            self._context.run(self._info, text)


def _sentence(place, of, **_more):
    text = "Waiting for a GPU to become available"
    return text if place is None else f"{text}: place {place} of {of} in the queue"


def visitor():
    """Whoever waits in front of a page for this call; None if it was not made by Gradio's queue."""
    gradio = sys.modules.get("gradio")
    context = getattr(sys.modules.get("gradio.context"), "LocalContext", None)
    if context is None or not hasattr(gradio, "Info") or context.event_id.get(None) is None:
        return None
    return _Visitor(gradio)


def watch(shim, region, someone):
    """From now on `someone` is told of the waits of a region."""
    global _thread
    with _changed:
        _calls[region] = someone
        if _thread is None:
            _thread = threading.Thread(target=_look, args=(shim,), name="spaces-waiting", daemon=True)
            _thread.start()
        _changed.notify()


# Without the lock, which `watch` may hold when the garbage collector ends a region; bound at definition, as in Region.
def unwatch(region, pop=_calls.pop):
    """The region has ended."""
    pop(region, None)


def _look(shim):
    while True:
        with _changed:
            _changed.wait_for(lambda: _calls)
        state = shim.state()
        for region, someone in _calls.copy().items():
            try:
                someone.tell(state)
            except Exception:
                # Gradio may have dropped the page of one; the others are told on
                unwatch(region)
        with _changed:
            _changed.wait(EVERY)


def _forked():
    """In a child the thread is gone, and whoever held the lock, too."""
    global _changed, _thread
    _calls.clear()
    _changed, _thread = threading.Condition(), None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forked)
