"""The programs. `ALL` lists them in the order in which they run, `by_name` finds one."""

import importlib

from .registry import ALL, Program

for _theme in ("layers", "mathematics", "training", "streams", "allocators", "compiled", "serving", "limits", "libraries"):
    importlib.import_module("." + _theme, __name__)


def by_name(name):
    """The program of this name."""
    return next(program for program in ALL if program.name == name)


__all__ = ["ALL", "Program", "by_name"]
