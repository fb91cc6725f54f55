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


@pytest.mark.parametrize("spec", ["json", "json,file=trace.jsonl"])
def test_a_program_that_goes_elsewhere_leaves_its_trace_where_it_was_started(world, spec):
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    outcome = world.run("traced.py", "kill", elsewhere, options=["--trace", spec])
    assert outcome.code == 128 + signal.SIGKILL and "completed with" in outcome.err, outcome.err
    [path] = world.folder.glob("*.jsonl")
    judge(path)
    assert not list(elsewhere.iterdir()) and not list(world.folder.glob("*.ring"))


def test_a_ring_of_another_user_is_passed_over(world):
    """Whoever can write where rings are may name any file of ours as a trace's output."""
    ring = world.folder / "zerogpu-1.trace.ring"
    plant = f"open('{ring}', 'wb').write(bytes(20000)); os.chmod('{ring}', 0o666)"
    program = [sys.executable, "-c", f"import os; {plant}"]
    outcome = world.run(program, options=["--trace", f"text,ring={world.folder}"])
    assert (outcome.code, outcome.err, ring.stat().st_size) == (0, "", 20000)
    named = subprocess.run([CLI, "trace", "recover", ring], capture_output=True, text=True)
    assert named.returncode == 1 and "another user may have written it" in named.stderr


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
        "import shim, time, spaces._shim\nwhile not shim.parked(): time.sleep(0.01)\n"
        # waits for the end of the park, which writes what was borrowed
        "interface = spaces._shim.find()\ninterface.end(interface.begin(1.0))"
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


def called_by_libraries():
    """The functions that PyTorch and NVIDIA's libraries called on a real card: {(name, version asked for)}."""
    recordings = sorted((ROOT / "tests" / "data").glob("calls-torch-*.tsv"))
    assert len(recordings) == 2, recordings
    lines = [line.split("\t") for path in recordings for line in path.read_text().splitlines() if line[0] != "#"]
    return {(name, int(version)) for library, name, version, *_ in lines if library != "library"}


# Functions that refuse whatever they are asked.
REFUSING = r"^pub unsafe fn (cu\w+)\([^)]*\) -> CUresult \{\s*answer\(\|\| Err\(CUresult::NOT_SUPPORTED\)\)\s*\}"


def test_what_libraries_call_is_implemented(world):
    asked = called_by_libraries()
    assert len(asked) > 100 and ("cuLaunchKernelEx", 11060) in asked, sorted(asked)
    words = [f"{name}:{version}" for name, version in sorted(asked)]
    outcome = world.run("called.py", *words, driver="none")
    outcome.require_end()
    symbols = outcome.told["symbols"]["value"]
    assert symbols.keys() == set(words)
    sources = [path.read_text() for path in (ROOT / "crates" / "device" / "src" / "api").rglob("*.rs")]
    refusing = {name for text in sources for name in re.findall(REFUSING, text, re.M)}
    assert "cuIpcOpenEventHandle" in refusing, refusing
    missing = {word: symbol for word, symbol in symbols.items() if symbol in {*not_implemented(), *refusing}}
    assert not missing, missing


# Slots that zerogpu does not know, in tables of different users: {name in the trace: (UUID, slots)}. The compilers' first,
# while nothing is claimed: they need no card, and nothing is claimed for them.
UNKNOWN_SLOTS = {
    "DA9151D3": ("DA9151D33AE6CC41A5C04F26D533E328", [5]),
    "CUDART_INTERFACE": ("6BD5FB6C5BF4E74A8987D93912FD9DF9", [3, 9]),
    "21318C60": ("21318C60971432488CA641FF7324C8F2", [1, 76]),
    "1734DC26": ("1734DC26800D47458726C0F1E7DD8BCA", range(1, 17)),
    "69A28E9F": ("69A28E9F24498B47B030C5DA330EA4E9", range(1, 34)),
}
COMPILERS = "DA9151D3"


@pytest.mark.parametrize("when, driver", [("before", "none"), ("after", "none"), ("before", "soft"), ("after", "soft")])
def test_unknown_slots_name_themselves_once(world, when, driver):
    path = world.folder / "trace.jsonl"
    words = [f"{table}:{slot}" for table, slots in UNKNOWN_SLOTS.values() for slot in slots]
    world.run("slots.py", when, *words, driver=driver, options=["--trace", f"json,file={path}"]).require_end()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    said = [record["text"] for record in records if re.match("slot .* of export table", record.get("text", ""))]
    expected = []
    for table, (_, slots) in UNKNOWN_SLOTS.items():
        if when == "before":
            end = "was called before cuInit: answered NOT_INITIALIZED"
        elif driver == "soft" and table != COMPILERS:
            end = "is not known to zerogpu: forwarded to the driver"
        else:
            end = "is not known to zerogpu: answered NOT_SUPPORTED"
        expected += [f"slot {slot} of export table {table} {end}" for slot in slots]
    assert sorted(said) == sorted(expected)
