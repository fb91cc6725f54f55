"""Tests that this machine can't make, for want of something."""

import importlib
import os

# Set by scripts/test --strict.
STRICT = "ZEROGPU_TEST_STRICT"


def skip(why):
    """Skips the test; under scripts/test --strict it fails."""
    import pytest  # not where scripts/test itself runs

    if os.environ.get(STRICT) == "1":
        pytest.fail(f"{why}, and --strict wants every test", pytrace=False)
    pytest.skip(why, allow_module_level=True)


def module(name):
    """A module that tests use; without it they are skipped, or the whole file that asks for it at its head."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        skip(f"{name} can't be imported ({error})")
