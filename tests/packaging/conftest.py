"""Fixtures of the packaging tests, which run after scripts/build in the environment `packaging`."""

import subprocess
import sys

import pytest
from places import DIST, ROOT  # sets the path for the others
import containers
import node as nodes
from testing import lacking


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of the release build."""
    to = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, ROOT / "scripts" / "wheel", "--dist", DIST, "--to", to]
    subprocess.run(command, check=True)
    (made,) = to.iterdir()
    return made


@pytest.fixture(scope="session")
def containers_can_be_had():
    if containers.missing():
        lacking.skip(containers.missing())


@pytest.fixture(scope="session")
def image(containers_can_be_had, wheel, tmp_path_factory):
    """The root of the containers."""
    root = tmp_path_factory.mktemp("image") / "root"
    nodes.build(root, wheel)
    return root


@pytest.fixture
def node(image, tmp_path):
    made = nodes.Node(tmp_path, image)
    yield made
    made.close()
