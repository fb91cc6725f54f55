"""What this machine must have, each with the way to get it."""

import re
import shutil
import subprocess

from testing import environments
from testing.places import LOCKS, ROOT

RUST = "install it with rustup (https://rustup.rs; no root needed)"


def missing(environment):
    """What it lacks."""
    lacks = []
    least = re.search(r'rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text())
    least = tuple(map(int, least.groups()))
    found = rust()
    if found is None:
        lacks.append(f"Rust is missing: {RUST}")
    elif found < least:
        lacks.append(f"Rust {least[0]}.{least[1]} is needed, and cargo is of {found[0]}.{found[1]}: {RUST}")
    if not shutil.which("cc"):
        lacks.append("a C compiler is missing: apt-get install gcc")
    try:
        environments.python_for(environment)
    except environments.Missing as error:
        lacks.append(str(error))
    if not (ROOT / "Cargo.lock").exists() or not (LOCKS / f"{environment}.txt").exists():
        lacks.append(f"{ROOT} is no complete clone of zerogpu")
    return lacks


def rust():
    """The version of Rust, as (major, minor); None if there is none."""
    try:
        told = subprocess.run(["cargo", "--version"], capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    version = re.match(r"cargo (\d+)\.(\d+)", told.stdout)
    return tuple(map(int, version.groups())) if version else None
