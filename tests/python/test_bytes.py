"""Bytes: what is put on the device comes back bit for bit, with each allocator, with and without a driver."""

import pytest
from world import each_check, torch_version

pytestmark = pytest.mark.core

WAYS = {
    "no driver": dict(driver="none", BYTES_MODE="default"),
    "softcuda": dict(driver="soft", BYTES_MODE="default"),
    "expandable segments": dict(
        driver="none", BYTES_MODE="expandable", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True"
    ),
    "cudaMallocAsync": dict(driver="none", BYTES_MODE="async", PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync"),
}


@pytest.fixture(scope="module", params=WAYS)
def outcome(request, worlds, quick):
    if request.param == "expandable segments" and torch_version() < (2, 1):
        pytest.skip("torch 2.0 has no expandable segments")
    # with softcuda as well the bytes stay in the shim: nothing here needs a card
    big = (128 << 20) if quick or request.param == "softcuda" else (2 << 30)
    return worlds("bytes").run("bytes.py", BYTES_BIG=big, **WAYS[request.param])


@each_check("bytes.py")
def test_bytes(outcome, check):
    outcome.require(check)
