"""Streams, events, generators, pinned memory, memory statistics, out of memory and recovery."""

import pytest
from world import each_check

WAYS = {"no driver": "none", "softcuda": "soft"}


@pytest.fixture(scope="module", params=WAYS)
def outcome(request, worlds):
    return worlds("device").run("device.py", driver=WAYS[request.param], options=["--vram", "2GiB"])


@each_check("device.py")
def test_device(outcome, check):
    outcome.require(check)
