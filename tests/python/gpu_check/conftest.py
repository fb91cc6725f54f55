"""Paths and libraries for the tests of scripts/gpu-check."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "lib")]


@pytest.fixture(scope="session")
def compiled():
    """Makes a shared library from a C file or from C text."""
    return _compiled


def _compiled(source, path):
    command = ["cc", "-std=gnu11", "-shared", "-fPIC", "-I", str(ROOT / "shim" / "include"), "-o", str(path), "-x", "c"]
    if isinstance(source, pathlib.Path):
        subprocess.run([*command, str(source), "-ldl", "-lpthread"], check=True)
    else:
        subprocess.run([*command, "-"], input=source.encode(), check=True)
    return path


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A folder like that of the shim, in which the recorder of the hook's tests stands in for it."""
    folder = tmp_path_factory.mktemp("lib")
    _compiled(ROOT / "tests" / "python" / "hook" / "recorder.c", folder / "libcuda.so.1")
    for name in ("libcuda.so", "libnvidia-ml.so.1", "libsoftcuda.so"):
        _compiled("int nothing_here;", folder / name)
    return folder


@pytest.fixture
def gpu_check(tmp_path, library):
    """Runs scripts/gpu-check with this Python; gives its exit status, output and errors."""

    def run(*arguments, **environment):
        values = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        values.update(environment, HOOK_LOG=str(tmp_path / "log"))
        command = [sys.executable, str(ROOT / "scripts" / "gpu-check"), *map(str, arguments)]
        done = subprocess.run(command, env=values, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=200)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run
