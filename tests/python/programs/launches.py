"""The kernels that softcuda recorded: they are launched, and do nothing."""

import json
import os
import re

import shim
import spaces

LOG = os.environ["SOFTCUDA_LAUNCH_LOG"]
# The shim's own, by which a park knows what has changed.
HASH = "zerogpu_hash_chunks"


def recorded():
    """All launches of the program so far, in order."""
    if not os.path.exists(LOG):
        return []
    with open(LOG) as file:
        return [launch for launch in map(json.loads, file) if launch["kernel"] != HASH]


def during(function, pattern):
    """Calls the function, marked: (its result, the launches that it made).

    Asserts that one of them is of a kernel whose name has the pattern, and that nothing stays on the card.
    """
    before = len(recorded())
    result = spaces.GPU(function)()
    made = recorded()[before:]
    names = sorted({launch["kernel"] for launch in made})
    assert any(re.search(pattern, name) for name in names), names
    assert shim.parked()
    shim.require_empty()
    return result, made


def of(function, pattern):
    """As `during`, for who needs the result only."""
    return during(function, pattern)[0]
