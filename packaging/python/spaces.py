"""`import spaces` where zerogpu is installed, outside `zerogpu run`: the original package if it is installed anywhere,
else zerogpu's, whose decorator does nothing there.

A module, since a package of the same name in the same folder goes before it: the original may be installed and removed
before and after zerogpu, and no file of either is the other's. `zerogpu run` puts the folder of its own package first.
"""

import importlib.machinery
import os
import sys


def _original():
    """The original in another folder of the path, or from a finder of its own (an editable installation)."""
    here = os.path.dirname(os.path.realpath(__file__))
    elsewhere = [folder for folder in sys.path if os.path.realpath(folder) != here]
    for finder in sys.meta_path:
        path = elsewhere if finder is importlib.machinery.PathFinder else None
        found = getattr(finder, "find_spec", lambda *_: None)(__name__, path)
        # a module is this one again, installed twice; a package without a loader is a mere folder
        if found and found.loader and found.submodule_search_locations:
            return found
    return None


def _ours():
    folder = os.path.join(os.path.dirname(os.path.realpath(__file__)), "zerogpu", "lib", "python")
    return importlib.machinery.PathFinder.find_spec(__name__, [folder])


def _become(spec):
    """This module becomes the package: the same object, so that whoever imports it meanwhile waits for the whole."""
    __spec__.loader, __spec__.origin = spec.loader, spec.origin
    __spec__.submodule_search_locations = spec.submodule_search_locations
    module = sys.modules[__name__]
    module.__loader__, module.__file__, module.__path__ = spec.loader, spec.origin, spec.submodule_search_locations
    module.__package__, module.__doc__ = __name__, None
    spec.loader.exec_module(module)


_become(_original() or _ours())
