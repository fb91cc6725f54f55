"""One region: opened, watched and ended around one marked call."""

import contextlib
import contextvars
import os
import sys
import warnings
import weakref

from . import _interrupt, _queue, _waiting


class GPUError(RuntimeError):
    """No GPU could be had for a marked call, or the call overran its duration. Raised where Gradio is not loaded."""


# The region whose call this context is in, as a weak reference: a step that is dropped in its middle never says that it is over.
_current = contextvars.ContextVar("spaces_region", default=lambda: None)


class Region:
    """Holds a region from `__enter__` to `__exit__`; one that is dropped in between (an abandoned generator) ends then.

    `movable`: the call is resumed on other threads, so its region must outlive the thread that opened it.

    Deadline: a call that comes back after its deadline raises `GPU task aborted`, whether it raised or returned. What
    it raised is chained: most often the CUDA error (702) that the deadline caused. What it returned is dropped: GPU
    work after the deadline was refused, so a program that caught that error would pass off half a result as whole.
    A call that ends with a RuntimeError (as CUDA's are) after no GPU could be claimed raises why, chained to that error.
    What is no `Exception` (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError) always passes as it is.
    """

    def __init__(self, shim, seconds, movable=False):
        self._shim = shim
        self._seconds = seconds
        self._movable = movable
        # The number of the open region, if there is one: in a list, so that both calls below are one step of the interpreter each.
        # A signal handler that raises (Ctrl-C, a time-out) comes before such a step or after it, and no region is forgotten.
        self._open = []
        self._process = None

    def __enter__(self):
        self._process = os.getpid()
        try:
            self._open.extend(map(self._shim.begin, (self._seconds,)))
            number = self._open[0]
            if not number:
                raise _error(self._shim.reason() or "No GPU was available")
            if self._movable and self._shim.movable(number):
                raise _error(self._shim.reason() or "The GPU region was lost")
            someone = _waiting.visitor()
            if someone:
                _waiting.watch(self._shim, number, someone)
            return self
        except BaseException:
            self._end()
            raise

    def __exit__(self, kind, error, trace):
        try:
            expired = self.expired()
        finally:
            refusal = self._end()
        if expired and (error is None or isinstance(error, Exception)):
            raise _error("GPU task aborted") from error
        # what CUDA says of it is a number; a caught one, or another error, stays what it is
        if refusal and isinstance(error, RuntimeError) and not isinstance(error, type(_error(refusal))):
            raise _error(refusal) from error

    async def ready(self):
        """Waits beside the event loop for a GPU, where there is a queue: a kernel would wait in the loop's own thread."""
        refusal = await _queue.claimed(self._shim, self._open[0])
        if refusal:
            raise _error(refusal)

    def expired(self):
        """Whether the deadline has passed."""
        return any(map(self._shim.expired, self._open))

    def step(self):
        """While its context is entered the call runs; a movable one rests from there to its next step."""
        return _Step(self)

    # Bound at definition, as for `_end`.
    def rests(self, whether, getpid=os.getpid):
        """Tells that nothing runs here, or that it goes on: what rests at its deadline ends there."""
        if self._movable and getpid() == self._process:
            any(map(self._shim.rests, self._open, (whether,)))

    # Bound at definition, as for `_end`.
    def listens(self, whether, listen=_interrupt.listen, rest=_interrupt.rest):
        """Lets Ctrl-C end a wait of this thread, if it can, or no longer."""
        if whether:
            listen(self._shim, id(self))
        else:
            rest(id(self))

    @staticmethod
    def is_inside():
        """Whether this context is in a marked call that has its region."""
        region = _current.get()()
        return region is not None and any(region._open) and region._process == os.getpid()

    # Bound at definition: at interpreter exit a dropped generator may end its region after `os` has been torn down.
    def _end(self, getpid=os.getpid, unwatch=_waiting.unwatch):
        """Ends the region, if it is open; why it had no GPU, "" if it had one or needed none."""
        # A fork of the process inherits this object, but not the region. None was opened where the number is 0.
        if not any(self._open) or getpid() != self._process:
            return ""
        self.listens(False)
        unwatch(self._open[0])
        if any(map(self._shim.end, map(self._open.pop, [0] * len(self._open)))):
            reason = self._shim.reason()
            warnings.warn(f"spaces.GPU: the GPU was given up during the call: {reason}", RuntimeWarning)
            return ""
        return self._shim.reason()

    __del__ = _end


class _Step:
    """One step of a call."""

    __slots__ = ("_region", "_outer")

    def __init__(self, region):
        self._region = region

    # No token: a generator may be closed in another context than it was begun in.
    def __enter__(self, current=_current):
        self._outer = current.get()
        current.set(weakref.ref(self._region))
        self._region.rests(0)
        self._region.listens(True)

    # A Ctrl-C that has ended a wait is often raised right here: the region's end does what is left out then.
    def __exit__(self, kind, error, trace, current=_current):
        self._region.listens(False)
        self._region.rests(1)
        current.set(self._outer)


class Within:
    """What a marked call within a marked call holds: nothing of its own."""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    async def ready(self):
        pass

    def expired(self):
        return False

    def step(self):
        return contextlib.nullcontext()


def _error(text):
    """The exception that shows `text` to the user: Gradio's own in a program that has loaded Gradio."""
    return getattr(sys.modules.get("gradio"), "Error", GPUError)(text)
