"""Fixtures for tests that run programs on software cards."""

import pytest
from world import World


@pytest.fixture
def world(tmp_path):
    """Software cards for one test."""
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Makes software cards for programs whose outcome several tests look at."""

    def make(name):
        return World(tmp_path_factory.mktemp(name))

    return make
