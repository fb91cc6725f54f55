"""Python environments made from lock files, one folder for each version of a lock file."""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess

from .places import CACHE, LOCKS

# Which uv is fetched where none is installed.
UV = "uv==0.13.9"
# Versions of Python that the lock files are good for, the first one first.
PYTHONS = ("3.10", "3.11")
# Written when an environment is complete.
MARK = ".complete"


class Missing(Exception):
    """Something that this machine lacks, and how to get it."""


def answers(command):
    """Whether a program runs at all: a pyenv shim of a version that is not chosen is there, and fails."""
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def find_python():
    """A Python that the environments can be made with: of the first of the versions that is here."""
    # Debian's lacks the second half of venv unless python3.x-venv is installed; uv needs none of it
    modules = "ssl, ctypes" if shutil.which("uv") else "ssl, ctypes, venv, ensurepip"
    for version in PYTHONS:
        found = [shutil.which(f"python{version}")]
        for place in managed():
            found += sorted(map(str, place.glob(f"*{version}*/bin/python{version}")))
        test = f"import sys, {modules}; sys.exit('.'.join(map(str, sys.version_info[:2])) != '{version}')"
        for python in filter(None, found):
            if answers([python, "-c", test]):
                return python
    last = PYTHONS[-1]
    raise Missing(
        f"Python {' or '.join(PYTHONS)} with venv is missing: apt-get install python{last} python{last}-venv; "
        f"where the system has only others, uv python install {last}, or pyenv install {last}"
    )


def managed():
    """Where pyenv and uv keep the Pythons that they install, on PATH or not."""
    home = pathlib.Path.home()
    data = pathlib.Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return home / ".pyenv" / "versions", pathlib.Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")


def folder(name):
    """Where the environment of tests/envs/NAME.txt lies."""
    lock = (LOCKS / f"{name}.txt").read_bytes()
    return CACHE / "envs" / f"{name}-{hashlib.sha256(lock).hexdigest()[:12]}"


def packages(name):
    """Where its packages are, or will be once it is made."""
    made = sorted((folder(name) / "lib").glob("python3.*"))
    try:
        version = made[0].name if made else pathlib.Path(find_python()).name
    except Missing:
        version = f"python{PYTHONS[0]}"
    return folder(name) / "lib" / version / "site-packages"


def interpreter(name):
    """Its Python."""
    return folder(name) / "bin" / "python"


def make(name):
    """Makes the environment if it is not there."""
    complete(folder(name), LOCKS / f"{name}.txt")


def fetch(name, lines):
    """The packages that a script needs, as lines of a lock file: an environment in the cache, made if it is not there."""
    place = CACHE / "tools" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = pathlib.Path(f"{place}.txt")
    lock.write_text(lines)
    complete(place, lock)
    return place


def complete(place, lock):
    """Makes an environment of what a lock file lists, or leaves the one that is there. Several processes may ask for one at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if (place / MARK).exists() and answers([place / "bin" / "python", "-c", ""]):
            return
        shutil.rmtree(place, ignore_errors=True)
        print(f"making {place}", flush=True)
        fill(place, find_python(), lock)
        (place / MARK).touch()


def fill(place, python, lock):
    """Puts what a lock file lists into a new environment."""
    uv = find_uv()
    if uv:
        call([uv, "venv", "--quiet", "--python", python, place], uv)
        # compiled once, as pip does, and not by each program that the tests start
        sync = [uv, "pip", "sync", "--require-hashes", "--compile-bytecode"]
        call([*sync, "--python", place / "bin" / "python", lock], uv)
    else:
        call([python, "-m", "venv", place])
        call([place / "bin" / "python", "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", lock])


def find_uv():
    """uv: installed, kept in the cache, or fetched there now; None if it can't be had, and pip must do."""
    own = CACHE / "tools" / "uv" / "bin" / "uv"
    for uv in filter(None, [shutil.which("uv"), own]):
        if answers([uv, "--version"]):
            return str(uv)
    home = own.parents[1]
    try:
        call([find_python(), "-m", "venv", "--clear", home])
        call([home / "bin" / "python", "-m", "pip", "install", "--quiet", UV])
    except subprocess.CalledProcessError as error:
        print(f"uv can't be had ({error}); installing with pip, which takes longer", flush=True)
        return None
    return str(own)


def call(command, uv=None):
    """Runs a command; what uv downloads is kept beside the environments, so that files are shared by linking."""
    values = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "PYTHONPATH", "VIRTUAL_ENV")}
    if uv:
        values["UV_CACHE_DIR"] = str(CACHE / "uv")
    subprocess.run([str(word) for word in command], env=values, check=True)
