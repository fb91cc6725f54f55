"""The decorator `GPU`: which of its forms was used, and whether there is anything to do."""

import datetime
import functools
import numbers
import typing
import warnings

from . import _shim

F = typing.TypeVar("F", bound=typing.Callable[..., object])
Time = typing.Union[None, float, datetime.timedelta, str]

_warned: typing.Set[str] = set()


@typing.overload
def GPU(task: F, *, duration: object = None, size: object = None, **unknown: object) -> F: ...
@typing.overload
def GPU(
    task: Time = None, *, duration: object = None, size: object = None, **unknown: object
) -> typing.Callable[[F], F]: ...
def GPU(task=None, *, duration=None, size=None, **unknown):
    """Marks a function that needs a GPU: `@GPU`, `@GPU()`, `@GPU(45)` or `@GPU(duration=45)`.

    duration: seconds that one call may take (int, float or timedelta), or a function of the call's own arguments that
        returns them. Default 60. A call that takes longer raises `GPU task aborted`.
    size: accepted for compatibility ('large', 'xlarge'); the size of the card is a setting of the shim.

    Takes functions, methods, class methods and static methods (in either order), generator functions, `async def`,
    async generators, partials, lambdas and callable objects. A generator holds the GPU from its first item until it is
    exhausted, fails, is closed or dropped. Without the shim the function itself is returned.
    """
    if isinstance(task, str):
        task = None  # GPU('xlarge')
    elif isinstance(task, (numbers.Number, datetime.timedelta)):
        task, duration = None, task  # GPU(45)
    if _shim.find() is not None:
        _warn_once(unknown)
    mark = functools.partial(_mark, duration=duration)
    return mark if task is None else mark(task)


def _mark(task, duration):
    shim = _shim.find()
    if shim is None:
        return task
    from ._wrapper import wrap  # here, so that a process without the shim imports next to nothing

    return wrap(shim, task, duration)


def _warn_once(unknown):
    # `enable_queue` was an option of early versions of the original package.
    names = sorted(set(unknown) - _warned - {"enable_queue"})
    if names:
        _warned.update(names)
        warnings.warn(f"spaces.GPU: ignored unknown option: {', '.join(names)}", stacklevel=3)
