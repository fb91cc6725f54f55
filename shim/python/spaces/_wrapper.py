"""The marked function: the task inside a region, as the kind of function that the task is (plain, generator, ...)."""

import datetime
import functools
import inspect
import types
import weakref

from ._region import Region, Within

DEFAULT_SECONDS = 60.0

# Functions made here, so that marking one again opens no second region.
_marked: "weakref.WeakSet[types.FunctionType]" = weakref.WeakSet()


def wrap(shim, task, duration):
    """`task` as a function that holds a region while it runs; a task that is marked already is returned as it is."""
    if isinstance(task, (classmethod, staticmethod)):
        return type(task)(wrap(shim, task.__func__, duration))
    if not callable(task):
        raise TypeError(f"spaces.GPU marks functions, not {task!r}")
    function = getattr(task, "__func__", task)
    if isinstance(function, types.FunctionType) and function in _marked:
        return task

    def region(args, kwargs, movable=False):
        # a marked call within a marked call is a plain one: it has the outer one's GPU, for the outer one's time
        return Within() if Region.is_inside() else Region(shim, _seconds(duration, args, kwargs), movable)

    marked = functools.update_wrapper(_kind(task)(task, region), task)
    marked.zerogpu = True  # Gradio looks for it
    _marked.add(marked)
    return marked


def _seconds(duration, args, kwargs):
    if callable(duration):
        duration = duration(*args, **kwargs)
    if duration is None:
        return DEFAULT_SECONDS
    if isinstance(duration, datetime.timedelta):
        return duration.total_seconds()
    return float(duration)


def _kind(task):
    """Which of the makers below fits `task`."""
    function = task
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    for test, maker in (
        (inspect.isasyncgenfunction, _async_generator),
        (inspect.iscoroutinefunction, _coroutine),
        (inspect.isgeneratorfunction, _generator),
    ):
        if test(task) or test(function):
            return maker
    return _plain


def _plain(task, region):
    def marked(*args, **kwargs):
        with region(args, kwargs) as held, held.step():
            return task(*args, **kwargs)

    return marked


def _coroutine(task, region):
    async def marked(*args, **kwargs):
        with region(args, kwargs, movable=True) as held:
            await held.ready()
            with held.step():
                return await task(*args, **kwargs)

    return marked


def _generator(task, region):
    def marked(*args, **kwargs):
        with region(args, kwargs, movable=True) as held:
            return (yield from _Steps(task(*args, **kwargs), held))

    return marked


class _Steps:
    """The steps of a generator, up to its region's deadline: past it the iteration ends, and the region then raises.

    A step is not begun after the deadline (it could wait for ever for work that the deadline has stopped), except one
    that delivers an exception; what a step gives after it is dropped, as a plain function's result is.
    """

    def __init__(self, generator, region):
        self._generator = generator
        self._region = region

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        self._stop_if_expired()
        return self._step(self._generator.send, value)

    def throw(self, *error):
        return self._step(self._generator.throw, *error)

    def close(self):
        with self._region.step():
            self._generator.close()

    def _step(self, step, *arguments):
        with self._region.step():
            item = step(*arguments)
        self._stop_if_expired()
        return item

    def _stop_if_expired(self):
        if self._region.expired():
            self.close()
            raise StopIteration


def _async_generator(task, region):
    # `_Steps` written out: there is no `async yield from`.
    async def marked(*args, **kwargs):
        with region(args, kwargs, movable=True) as held:
            await held.ready()
            generator = task(*args, **kwargs)
            advance, value = generator.asend, None
            try:
                while True:
                    with held.step():
                        item = await advance(value)
                    if held.expired():
                        break
                    try:
                        advance, value = generator.asend, (yield item)
                        if held.expired():
                            break
                    except BaseException as error:
                        advance, value = generator.athrow, error
            except StopAsyncIteration:
                pass
            finally:
                with held.step():
                    await generator.aclose()

    return marked
