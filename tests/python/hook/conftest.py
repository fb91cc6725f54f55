"""How the tests of the hook run: each in a Python of its own, with a recorder of region calls preloaded.

The recorder (recorder.c) stands in for the shim. Set ZEROGPU_TEST_PRELOAD to a list of objects, separated by colons,
to put the real shim behind it: the same tests then see the same calls, answered by the shim.
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOOK = ROOT / "shim" / "python"
HERE = pathlib.Path(__file__).resolve().parent

PRELUDE = """
import ctypes, os, sys
import spaces

_world = ctypes.CDLL(None)

def note(text):
    log = os.open(os.environ["HOOK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, "{} note 0 {}\\n".format(os.getpid(), text).encode())
    os.close(log)

def expire(nth):
    _world.hook_expire(nth)

def refuse(text):
    _world.hook_refuse(text.encode())

def raised(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")
"""


@pytest.fixture(scope="session")
def headers():
    """The folder of zerogpu.h."""
    return str(ROOT / "shim" / "include")


@pytest.fixture(scope="session")
def recorder(tmp_path_factory, headers):
    """The recorder, compiled."""
    path = tmp_path_factory.mktemp("recorder") / "recorder.so"
    command = ["cc", "-std=gnu11", "-Wall", "-Werror", "-shared", "-fPIC", "-I", headers, "-o", str(path)]
    subprocess.run(command + [str(HERE / "recorder.c"), "-ldl", "-lpthread"], check=True)
    return str(path)


def _python(script, environment, options=()):
    environment = dict(environment, PYTHONPATH=str(HOOK), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, *options, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def bare(tmp_path):
    """Runs a script in a Python without the shim; gives what it printed."""

    def run(script):
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        environment["HOOK_LOG"] = str(tmp_path / "log")
        return _python(PRELUDE + script, environment, ["-W", "error"]).stdout.decode()

    return run


@pytest.fixture
def calls(recorder, tmp_path):
    """Runs a script under the recorder; gives the region calls that it made, in order, with its own notes between.

    Regions are numbered by their begin: ["begin 1 60", "movable 1", "note hello", "end 1"]. A refused begin is
    "begin refused", the end of a region that is not open "end 1 unknown"; calls of a forked child start with "child".
    """

    def run(script, **environment):
        log = tmp_path / "log"
        log.write_text("")
        preload = [recorder] + [path for path in os.environ.get("ZEROGPU_TEST_PRELOAD", "").split(":") if path]
        environment = dict(os.environ, LD_PRELOAD=":".join(preload), HOOK_LOG=str(log), **environment)
        done = _python(PRELUDE + "note('pid')\n" + script, environment)
        assert done.stderr == b"", done.stderr.decode()
        return _readable(log.read_text().splitlines())

    return run


def _readable(lines):
    parent = lines[0].split()[0]
    numbers = {"0": "refused"}
    readable = []
    for line in lines[1:]:
        process, call, region, detail = line.split(" ", 3)
        if call == "note":
            text = ["note", detail]
        else:
            text = [call, str(numbers.setdefault(region, len(numbers)))]
            if call == "begin" and region != "0" or detail == "unknown":
                text.append(detail)
        readable.append(" ".join(([] if process == parent else ["child"]) + text))
    return readable
