"""What programs call that do not start by Gradio. There is nothing to start: the shim is there from the first driver call on."""

from . import client

__all__ = ["client", "startup"]


def startup():
    """Does nothing."""
