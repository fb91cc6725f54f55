"""Automatic marking of Gradio's event handlers; it is off at first. Gradio calls `gradio_auto_wrap` for each where it finds that it
runs in a Space, by SYSTEM=spaces and SPACE_ID."""

import os

from ._decorator import GPU

_enabled = os.environ.get("SPACES_GRADIO_AUTO_WRAP", "").lower() in ("1", "t", "true")


def enable_gradio_auto_wrap():
    """From now on each handler given to Gradio is marked as if by `@spaces.GPU`."""
    global _enabled
    _enabled = True


def disable_gradio_auto_wrap():
    """From now on handlers given to Gradio are left as they are."""
    global _enabled
    _enabled = False


def is_enabled():
    """Whether automatic marking is on."""
    return _enabled


def gradio_auto_wrap(task):
    """`task` marked if automatic marking is on, else `task` itself; None stays None."""
    return GPU(task) if _enabled and callable(task) else task
