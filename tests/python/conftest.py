"""Options and fixtures of the matrix: the tests of this folder, which run inside a PyTorch environment.

scripts/test makes the environments and runs the tests there, after scripts/build.
"""

import os
import subprocess

import pytest
from fixtures import world, worlds  # noqa: F401 (pytest finds them here)
from world import ROOT, torch_version
from testing import lacking  # world has set the path

# What scripts/check-genuine ends with where NVIDIA's library can't be had.
NOT_RUN = 3


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="short loops")


def pytest_configure(config):
    config.addinivalue_line("markers", "core: identity, bytes and the canonical program: run on each PyTorch version")
    config.addinivalue_line("markers", "once: not about PyTorch: run once, whatever its version")


@pytest.fixture(scope="session")
def quick(request):
    """Whether loops are to be short."""
    return request.config.getoption("--quick")


@pytest.fixture(scope="session")
def genuine():
    """NVIDIA's libcuda.so.1, as Debian packages it."""
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a card")
    if torch_version() >= (2, 11):
        pytest.skip("its CUDA 13 refuses drivers before 580, and Debian's is older")
    done = subprocess.run([ROOT / "scripts" / "check-genuine", "--path"], capture_output=True, text=True)
    if done.returncode == NOT_RUN:
        lacking.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return os.path.join(done.stdout.strip(), "libcuda.so.1")


@pytest.fixture(scope="module", params=["none", "soft", "genuine"])
def driver(request):
    """Each driver below the shim: none at all, softcuda, and NVIDIA's on a machine without a card."""
    return request.getfixturevalue("genuine") if request.param == "genuine" else request.param
