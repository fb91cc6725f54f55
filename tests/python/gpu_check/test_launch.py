"""One run of a program: the talk with it, and what is made of its end. Programs here are short scripts."""

import argparse
import pathlib
import re
import sys
import time

import pytest
from gpu_check import launch
from gpu_check.programs import by_name

PRELUDE = """#!{python}
import json, os, socket, sys, time
talk = socket.socket(fileno=int(os.environ["GPU_CHECK_SOCKET"])).makefile("rw")
def tell(event, **details):
    talk.write(json.dumps(dict(details, event=event)) + "\\n")
    talk.flush()
"""


class Observer:
    def __init__(self):
        self.events = []

    def answer(self, event):
        self.events.append(event["event"])


@pytest.fixture
def run(tmp_path):
    """Runs a script as a program; gives the outcome and what the observer was asked."""

    def run(script, seconds=20, shim=False, name="run", **limits):
        python = tmp_path / "python"
        python.write_text(PRELUDE.format(python=sys.executable) + script)
        python.chmod(0o700)
        settings = argparse.Namespace(
            python=str(python), hook=launch.HOOK, device="cuda", driver="soft", lib=tmp_path / "lib",
            soft_lib=tmp_path / "soft.so", cards=tmp_path / "cards",
        )  # fmt: skip
        program = by_name("linear")
        program = type(program)(**dict(vars(program), seconds=seconds, environment={"OWN": "1"}))
        observer = Observer() if shim else None
        outcome = launch.run(program, settings, tmp_path / name, observer, **limits)
        return outcome, observer and observer.events

    return run


def test_done(run):
    outcome, _ = run("tell('about', torch='9')\ntell('done')")
    assert (outcome.status, outcome.text, outcome.about["torch"]) == ("done", "", "9")


@pytest.mark.parametrize("event", ["unable", "failed"])
def test_what_the_program_says_of_itself(run, event):
    outcome, _ = run(f"tell('{event}', text='why')")
    assert (outcome.status, outcome.text) == (event, "why")


@pytest.mark.parametrize(
    "script, text",
    [
        ("os.abort()", "killed by SIGABRT"),
        ("tell('done'); os.abort()", "killed by SIGABRT at its end"),
        ("sys.exit('last words')", "ended with 1: last words"),
        ("tell('done'); sys.exit(4)", "ended with 4: no output"),
        ("pass", "ended with 0: no output"),
    ],
)
def test_a_program_that_ends_otherwise_has_failed(run, script, text):
    outcome, _ = run(script)
    assert (outcome.status, outcome.text) == ("failed", text)


def test_a_program_that_never_ends_is_stopped_with_all_that_it_started(run, tmp_path):
    script = "if not os.fork():\n    print(os.getpid(), flush=True)\ntime.sleep(600)"
    outcome, _ = run(script, seconds=20)
    assert (outcome.status, outcome.text) == ("failed", "still running after 20 s")
    child = (tmp_path / "run" / "log.txt").read_text().strip()
    end = time.monotonic() + 20
    while alive(child):
        assert time.monotonic() < end, f"process {child} goes on"


def test_a_program_ends_with_the_time_of_the_whole_check(run):
    outcome, _ = run("time.sleep(600)", seconds=300, give_up=time.monotonic() + 2)
    assert outcome.status == "failed" and outcome.seconds < 60
    assert re.fullmatch(r"cut after \d+ s: the time is used up \(--budget\)", outcome.text)


def alive(process):
    """Whether it runs: it may be gone, or a zombie that its new parent has not collected yet."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_program_waits_while_the_card_is_looked_at(run):
    script = "for event in 'claimed', 'parked':\n    tell(event)\n    assert talk.readline() == '\\n'\ntell('done')"
    outcome, asked = run(script, shim=True)
    assert outcome.status == "done", outcome
    assert asked == ["claimed", "parked"]


VARIABLES = "tell('failed', text=json.dumps([os.environ.get(n, '') for n in {}]))"


def test_the_environment_under_the_shim(run, tmp_path):
    names = ["LD_PRELOAD", "ZEROGPU_DRIVER", "SOFTCUDA_CARDS", "OWN"]
    outcome, _ = run(VARIABLES.format(names), shim=True)
    preload = ":".join(f"{tmp_path}/lib/{name}" for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"))
    assert launch.json.loads(outcome.text) == [preload, f"{tmp_path}/soft.so", f"{tmp_path}/cards", "1"]


def test_settings_of_the_caller_do_not_change_the_check(run, monkeypatch):
    names = ["ZEROGPU_SOCKET", "ZEROGPU_OUTSIDE", "ZEROGPU_VRAM", "ZEROGPU_PROFILE", "SOFTCUDA_GBPS"]
    for name in names:
        monkeypatch.setenv(name, "its")
    for shim in False, True:
        outcome, _ = run(VARIABLES.format(names), shim=shim, name=str(shim))
        assert launch.json.loads(outcome.text) == ["", "", "", "its", "its"]


def test_the_bare_environment(run, monkeypatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/own")
    outcome, _ = run(VARIABLES.format(["LD_PRELOAD", "LD_LIBRARY_PATH", "ZEROGPU_DRIVER", "PYTHONPATH"]))
    path = f"{launch.HOOK}:{launch.HERE.parent}:/own"
    assert launch.json.loads(outcome.text) == ["", "", "", path]
