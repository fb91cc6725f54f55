"""Fixtures of the packaging tests, which run after scripts/build in the environment `packaging`."""

import subprocess
import sys

import pytest
from places import DIST, ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of the release build."""
    to = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, ROOT / "scripts" / "wheel", "--dist", DIST, "--to", to]
    subprocess.run(command, check=True)
    (made,) = to.iterdir()
    return made
