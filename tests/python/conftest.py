"""Options and fixtures of the matrix: the tests of this folder, which run inside a PyTorch environment.

scripts/test makes the environments and runs the tests there, after scripts/build.
"""

import pytest


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="short loops")


def pytest_configure(config):
    config.addinivalue_line("markers", "core: identity, bytes and the canonical program: run on each PyTorch version")
    config.addinivalue_line("markers", "once: not about PyTorch: run once, whatever its version")


@pytest.fixture
def world(tmp_path):
    """Software cards for one test."""
    from world import World  # here, so that the tests in folders below need nothing of it

    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Makes software cards for programs whose outcome several tests look at."""
    from world import World

    def make(name):
        return World(tmp_path_factory.mktemp(name))

    return make


@pytest.fixture(scope="session")
def quick(request):
    """Whether loops are to be short."""
    return request.config.getoption("--quick")
