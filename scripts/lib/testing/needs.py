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


# Says how the headers of the Python that runs it are to be had, if they are not there.
HEADERS = """
import os, sys, sysconfig
folder = sysconfig.get_paths()["include"]
version = "python%d.%d" % sys.version_info[:2]
if not os.path.exists(os.path.join(folder, "Python.h")):
    print(f"apt-get install {version}-dev" if sys.base_prefix == "/usr" else f"install the headers of that Python in {folder}")
"""


def missing(commands, components=(), headers=False):
    """What it lacks: Rust, a Python, these commands, these parts of Rust; the headers of that Python, if they are wanted."""
    lacks = list(rust_missing())
    for command, package in commands.items():
        if not shutil.which(command):
            what = "a C compiler" if command == "cc" else command
            lacks.append(f"{what} is missing: apt-get install {package}")
    for command in components:
        if rust() and not environments.answers(["cargo", command, "--version"]):
            lacks.append(f"cargo {command} is missing: rustup component add {COMPONENTS[command]}")
    try:
        python = environments.find_python()
        lacks += headers_missing(python) if headers else []
    except environments.Missing as error:
        lacks.append(str(error))
    if not (ROOT / "Cargo.lock").exists() or not LOCKS.is_dir():
        lacks.append(f"{ROOT} is no complete clone of zerogpu")
    return lacks


def headers_missing(python):
    """The same for the headers of a Python: Triton compiles C files with them."""
    told = subprocess.run([python, "-c", HEADERS], capture_output=True, text=True, check=True).stdout.strip()
    return [f"Python.h of {python} is missing: {told}"] if told else []


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
