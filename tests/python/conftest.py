"""Options and fixtures of the matrix: the tests of this folder, which run inside a PyTorch environment.

scripts/test makes the environments and runs the tests there, after scripts/build.
"""

import pytest
from fixtures import world, worlds  # noqa: F401 (pytest finds them here)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="short loops")


def pytest_configure(config):
    config.addinivalue_line("markers", "core: identity, bytes and the canonical program: run on each PyTorch version")
    config.addinivalue_line("markers", "once: not about PyTorch: run once, whatever its version")


@pytest.fixture(scope="session")
def quick(request):
    """Whether loops are to be short."""
    return request.config.getoption("--quick")
