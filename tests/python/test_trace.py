"""Traces: each call once, with bytes and durations, in each form, whatever ends the process."""

import json
import re
import signal
import subprocess
import sys

import pytest
from world import CLI, OBJECTS, PROGRAMS, ROOT

pytestmark = pytest.mark.once

CALLS = {"cuMemAlloc_v2": 50, "cuMemcpyHtoD_v2": 50, "cuMemcpyDtoH_v2": 50, "cuMemFree_v2": 51, "cuInit": 1}
ENDS = {"normal": 0, "os._exit": 3, "kill": -signal.SIGKILL, "abort": -signal.SIGABRT}


def zerogpu(*arguments):
    done = subprocess.run([CLI, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def judge(path):
    """The trace is whole: each call is in it once."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0]["type"] == "trace" and records[-1]["type"] == "end" and records[-1]["lost"] <= 1
    calls = [record for record in records if record["type"] == "call" and record["depth"] == 0]
    counts = {name: sum(call["name"] == name for call in calls) for name in CALLS}
    assert counts == CALLS
    allocations = [call["bytes"] for call in calls if call["name"] == "cuMemAlloc_v2"]
    assert allocations == [size << 20 for size in range(1, 51)]
    assert all(call["bytes"] == 1000 for call in calls if call["name"].startswith("cuMemcpy"))
    failed = [call for call in calls if call["result"]]
    assert [(call["name"], call["status"]) for call in failed] == [("cuMemFree_v2", "CUDA_ERROR_INVALID_VALUE")]
    assert [call["at_ns"] for call in calls] == sorted(call["at_ns"] for call in calls)
    return records


@pytest.mark.parametrize("end", ENDS)
def test_a_trace_is_completed_by_the_command_line(world, end):
    path = world.folder / "trace.jsonl"
    outcome = world.run("traced.py", end, options=["--trace", f"json,file={path}"])
    # run answers as a shell does
    assert outcome.code == (ENDS[end] if ENDS[end] >= 0 else 128 - ENDS[end]), outcome.err
    judge(path)
    assert not path.with_name(path.name + ".ring").exists()


@pytest.mark.parametrize("end", ENDS)
def test_a_trace_is_recovered_where_the_command_line_was_not_used(world, end):
    path = world.folder / "trace.jsonl"
    values = world.environment(
        LD_PRELOAD=":".join(map(str, OBJECTS)), ZEROGPU_DRIVER="none", ZEROGPU_TRACE=f"json,file={path}"
    )
    command = [sys.executable, str(PROGRAMS / "traced.py"), end]
    assert subprocess.run(command, env=values, stderr=subprocess.DEVNULL).returncode == ENDS[end]
    said = zerogpu("trace", "recover", str(path))
    assert ("nothing to recover" in said) == (end == "normal"), said
    records = judge(path)
    assert records[-1]["recovered"] == (end != "normal")
    assert "nothing to recover" in zerogpu("trace", "recover", str(path))


def test_the_forms_tell_the_same(world):
    text, chrome = world.folder / "trace.txt", world.folder / "trace.json"
    world.run("traced.py", "normal", options=["--trace", f"text,file={text}"]).require_end()
    world.run("traced.py", "normal", options=["--trace", f"chrome,file={chrome}"]).require_end()
    lines = text.read_text().splitlines()
    events = json.loads(chrome.read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    for name, count in CALLS.items():
        assert sum(f" {name}(" in line for line in lines) == count, name
        assert sum(event.get("name") == name and event.get("ph") == "X" for event in events) == count, name


def test_the_summary_counts(world):
    path = world.folder / "trace.jsonl"
    world.run("traced.py", "normal", options=["--trace", f"json,file={path}"]).require_end()
    rows = {line.split()[0]: line.split() for line in zerogpu("trace", "summary", str(path)).splitlines() if line}
    for name, count in CALLS.items():
        assert rows[name][1] == str(count), rows[name]
    assert rows["cuMemFree_v2"][2] == "1"


def test_filters(world):
    path = world.folder / "trace.jsonl"
    world.run("traced.py", "normal", options=["--trace", f"json,only=cuMemFree*,errors,file={path}"]).require_end()
    calls = [json.loads(line) for line in path.read_text().splitlines() if '"call"' in line]
    assert [(call["name"], call["result"]) for call in calls] == [("cuMemFree_v2", 1)]


def test_a_claim_and_a_park_are_spans(world):
    path = world.folder / "trace.jsonl"
    script = "import torch, spaces\nx = torch.arange(9).to('cuda')\nspaces.GPU(lambda: x + 1)()"
    options = ["--trace", f"json,file={path}"]
    world.run([sys.executable, "-c", script], options=options).require_end()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    spans = [(record["kind"], record["bytes"]) for record in records if record["type"] == "span"]
    assert [kind for kind, _ in spans if kind in ("claim", "park")] == ["claim", "park"]
    assert all(moved >= 72 for kind, moved in spans if kind in ("claim", "park")), spans
    (region,) = [record for record in records if record.get("kind") == "region"]
    (claim,) = [record for record in records if record.get("kind") == "claim"]
    assert region["at_ns"] <= claim["at_ns"] and region["dur_ns"] >= claim["dur_ns"]
    (launch,) = [record for record in records if record["type"] == "launch"]
    assert "CUDAFunctorOnSelf_add" in launch["kernel"]


def test_names_deferred_kernels_and_what_is_borrowed(world):
    path = world.folder / "trace.jsonl"
    script = "import torch\nx = torch.arange(9).to('cuda')\n(x + 1).cpu()\n" + (
        "import shim, time\nwhile not shim.parked(): time.sleep(0.01)"
    )
    options = ["--trace", f"json,file={path}"]
    world.run(
        [sys.executable, "-c", script], options=options, PYTHONPATH=PROGRAMS, ZEROGPU_IDLE="100ms"
    ).require_end()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    details = [record["text"] for record in records if record.get("kind") == "detail"]
    assert "cuGetExportTable" in details
    assert any(re.search("kernel .*CUDAFunctorOnSelf_add.* is deferred", text) for text in details)
    asked = [record for record in records if record.get("name") in ("cuGetProcAddress", "cuGetProcAddress_v2")]
    assert len(asked) <= sum(text.startswith("cu") for text in details)
    (borrow,) = [record for record in records if record.get("kind") == "borrow"]
    (claim,) = [record for record in records if record.get("kind") == "claim"]
    assert borrow["at_ns"] == claim["at_ns"] and borrow["dur_ns"] > claim["dur_ns"]


def test_bytes_of_shaped_copies(world):
    path = world.folder / "trace.jsonl"
    world.run("shaped.py", driver="none", options=["--trace", f"json,file={path}"]).require_end()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    moved = [(record["name"], record["bytes"]) for record in records if record["type"] == "call" and "bytes" in record]
    assert moved == [("cuMemAllocPitch_v2", 512 * 10), ("cuMemcpy2D_v2", 100 * 10)]


def not_implemented():
    """Exported names that have no implementation: the rule of crates/abi/src/codegen.rs."""
    sources = "".join(path.read_text() for path in (ROOT / "crates" / "device" / "src" / "api").rglob("*.rs"))
    known = set(re.findall(r"^pub (?:unsafe )?fn (cu[A-Z]\w*)", sources, re.M))
    names = []
    for line in (ROOT / "crates" / "abi" / "driver.abi").read_text().splitlines():
        if match := re.match(r"(\w+)@\S+(?: (\w+)@\d+)? \(", line):
            twin = [f"{match[1]}_{match[2]}"] if match[2] else []
            names += [name for name in [match[1], *twin] if name not in known and match[1] not in known]
    return names


def test_what_is_not_implemented_says_so_once_and_writes_nothing(world):
    names = not_implemented()
    assert len(names) > 50 and "cuGraphicsMapResources" in names, names
    path = world.folder / "trace.jsonl"
    world.run("unsupported.py", *names, driver="none", options=["--trace", f"json,file={path}"]).require_end()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    said = [record["text"].split()[0] for record in records if record.get("kind") == "unsupported"]
    assert sorted(said) == sorted(names)
    calls = [record["name"] for record in records if record["type"] == "call" and record["result"] == 801]
    assert sorted(calls) == sorted(names * 2)
