"""What a machine must have, each with the way to get it."""

import re
import shutil
import subprocess

from . import environments
from .places import LOCKS, ROOT

RUST = "install it with rustup (https://rustup.rs; no root needed)"
# Commands that building takes, and what testing takes beside them, with their packages in Debian.
BUILDING = {"cc": "gcc"}
TESTING = {**BUILDING, "c++": "g++", "git": "git", "readelf": "binutils"}
# Parts of Rust that testing takes, by their names in rustup.
COMPONENTS = {"fmt": "rustfmt", "clippy": "clippy"}


def missing(commands, components=()):
    """What it lacks: Rust, a Python, these commands, these parts of Rust."""
    lacks = list(rust_missing())
    for command, package in commands.items():
        if not shutil.which(command):
            what = "a C compiler" if command == "cc" else command
            lacks.append(f"{what} is missing: apt-get install {package}")
    for command in components:
        if rust() and not environments.answers(["cargo", command, "--version"]):
            lacks.append(f"cargo {command} is missing: rustup component add {COMPONENTS[command]}")
    try:
        environments.find_python()
    except environments.Missing as error:
        lacks.append(str(error))
    if not (ROOT / "Cargo.lock").exists() or not LOCKS.is_dir():
        lacks.append(f"{ROOT} is no complete clone of zerogpu")
    return lacks


def rust_missing():
    """The same for Rust alone."""
    least = re.search(r'rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text())
    least = tuple(map(int, least.groups()))
    found = rust()
    if found is None:
        yield f"Rust is missing: {RUST}"
    elif found < least:
        yield f"Rust {least[0]}.{least[1]} is needed, and cargo is of {found[0]}.{found[1]}: {RUST}"


def rust():
    """The version of Rust, as (major, minor); None if there is none."""
    try:
        told = subprocess.run(["cargo", "--version"], capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    version = re.match(r"cargo (\d+)\.(\d+)", told.stdout)
    return tuple(map(int, version.groups())) if version else None
