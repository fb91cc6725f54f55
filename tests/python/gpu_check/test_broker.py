"""`gpu-check --broker` as a whole, in small, on software cards; and what it finds when something is wrong."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import pytest
from gpu_check.broker import main, table

ROOT = pathlib.Path(__file__).resolve().parents[3]
DIST = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target") / "dist"
MIB = 1 << 20


@pytest.fixture
def check(tmp_path):
    """Runs it on the built libraries; gives its exit status, output and report."""

    def run(*arguments, **environment):
        report = tmp_path / "report.json"
        command = [sys.executable, ROOT / "scripts" / "gpu-check", "--broker", "--driver", "soft", "--json", report]
        command += ["--lib", DIST / "lib" / "zerogpu", "--zerogpu", DIST / "bin" / "zerogpu", *arguments]
        ours = ("LD_PRELOAD", "ZEROGPU_", "SOFTCUDA_")
        values = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        values.update(environment)
        done = subprocess.run(list(map(str, command)), env=values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        return done.returncode, done.stdout.decode(), json.loads(report.read_text()) if report.exists() else None

    return run


def test_all_sizes_pass(check):
    code, output, report = check("--sizes", "0.0625,0.125")
    assert code == 0 and output.rstrip().endswith("pass"), output
    assert report["errors"] == report["notes"] == [], output
    # first, cold, kept warm; then warm with nothing, a part and all changed
    assert [(row["size"] // MIB, row["level"], row["changed"]) for row in report["rows"]] == [
        (size, level, changed)
        for size in (64, 128)
        for level, changed in [("cold, first", 0), ("cold", 0), ("cold, kept warm", 0), ("warm", 0), ("warm", 0.1), ("warm", 1)]
    ]
    for row in report["rows"]:
        size, part = row["size"], int(row["size"] // (2 * MIB) * row["changed"]) * 2 * MIB
        assert row["bytes_in"] == (0 if row["level"] == "warm" else size) and row["bytes_out"] == part, row
        assert row["parked_bytes"] == (size if "warm" in row["level"] else 0), row
    assert [(row["size"] // MIB, row["parked_bytes"], row["wrong_chunks"]) for row in report["checkpoints"]] == [
        (64, 0, 0),
        (128, 0, 0),
    ]


def test_a_driver_that_can_not_checkpoint_is_no_failure(check):
    code, output, report = check("--sizes", "0.0625", SOFTCUDA_FAULT="cuCheckpointProcessLock=801")
    assert code == 0 and report["checkpoints"] == [], output
    assert report["notes"] == ["64 MiB, checkpoint: needs driver 570 or newer"]


def test_a_claim_that_fails_is_a_failure(check):
    code, output, _ = check("--sizes", "0.0625", SOFTCUDA_FAULT="cuMemCreate=2")
    assert code == 1 and output.rstrip().endswith("fail"), output


def test_what_there_is_no_time_for_is_told(check):
    code, output, report = check("--sizes", "0.0625", "--budget", "0")
    assert code == 3 and report["notes"] == ["64 MiB: not run, the time is used up (--budget)"] and report["rows"] == []


class Program:
    def __init__(self, wrong=0):
        self.wrong = wrong

    def ask(self, do, **details):
        level = {"claim": "claimed", "park": "parked"}.get(do)
        return {"wrong": self.wrong, "bytes": 10 * MIB, "ms": 1.0, "state": {"level": level}}


class Broker:
    """One that has copied so many bytes at each look."""

    def __init__(self, *looks):
        self._looks = list(looks)

    def copied(self):
        bytes_in, bytes_out = self._looks.pop(0)
        return {"in": (bytes_in, 1.0 if bytes_in else 0.0), "out": (bytes_out, 1.0 if bytes_out else 0.0)}


class View:
    def __init__(self, used, contexts=0):
        self._growth = used, contexts

    def growth(self, empty):
        return self._growth


def _errors(broker, program, view, brought, share, warm=0):
    made = main.Check(argparse.Namespace(), view, None, 0)
    made.rates = {"in": 1e-3, "out": 1e-3}
    made._row(broker, program, None, 100 * MIB, "warm", brought, share, warm)
    return made.errors


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(main.card.Observer, "WITHIN", 0.05)


def test_what_a_row_finds():
    right = dict(brought=100 * MIB, share=0.1)
    copied = (0, 0), (100 * MIB, 10 * MIB)
    assert _errors(Broker(*copied), Program(), View(0), **right) == []
    title = "100 MiB, warm, 10 % changed: "
    wrong = _errors(Broker(*copied), Program(wrong=1), View(0), **right)
    assert wrong == [title + "2 chunks of 2 MiB hold wrong bytes"]
    assert _errors(Broker((0, 0), (0, 10 * MIB)), Program(), View(0), **right) == [title + "0 MiB were copied in, not 100"]
    assert _errors(Broker((0, 0), (100 * MIB, 100 * MIB)), Program(), View(0), **right) == [
        title + "100 MiB were copied out, not 10"
    ]
    assert len(_errors(Broker(*copied), Program(), View(9 * MIB), **right)) == 1
    assert len(_errors(Broker(*copied), Program(), View(0, contexts=1), **right)) == 1
    assert len(_errors(Broker(*copied), Program(), View(0), warm=100 * MIB, **right)) == 1, "warm bytes are missing"
    assert _errors(Broker(*copied), Program(), View(100 * MIB), warm=100 * MIB, **right) == []


def test_the_report_says_what_was_measured():
    row = {
        "size": 1 << 30, "level": "warm", "changed": 0.1, "claim_ms": 1.25, "park_ms": 2.0, "bytes_in": 0, "bytes_out": 100 * MIB,
        "gbps_in": None, "gbps_out": 50.0, "parked_bytes": 1 << 30, "wrong_chunks": 0,
    }  # fmt: skip
    checkpoint = {name: 3.0 for name in ("lock_ms", "checkpoint_ms", "restore_ms", "unlock_ms")}
    whole = {
        "cards": ["C"], "driver": "1", "date": "2", "seconds": 3, "copy": {"in": 54.0, "out": 55.0}, "rows": [row],
        "checkpoints": [dict(checkpoint, size=1 << 30, parked_bytes=0, wrong_chunks=1)], "notes": ["n"], "errors": [],
    }  # fmt: skip
    lines = table.text(whole).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert ["1024", "warm", "10 %", "1.2", "2.0", "0", "-", "100", "50.0", "1024", "exact"] in cells
    assert ["1024", "3.0", "3.0", "3.0", "3.0", "0", "wrong"] in cells
    assert "- note: n" in lines and lines[-1] == "pass" and table.text(dict(whole, errors=["e"])).endswith("- error: e\n\nfail")
