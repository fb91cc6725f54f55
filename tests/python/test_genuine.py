"""NVIDIA's own driver library is installed but there is no card: all is as without a driver, and it is said why."""

import json
import os
import re
import subprocess
import sys

import pytest
from world import CLI, ROOT, each_check, torch_version
from testing import lacking

# What scripts/check-genuine ends with where NVIDIA's library can't be had.
NOT_RUN = 3
WAYS = {
    "default": {},
    "expandable": dict(PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True"),
    "async": dict(PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync"),
}


@pytest.fixture(scope="session")
def genuine():
    """NVIDIA's libcuda.so.1, as Debian packages it."""
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a card")
    if torch_version() >= (2, 11):
        pytest.skip("its CUDA 13 refuses drivers before 580, and Debian's is older")
    done = subprocess.run([ROOT / "scripts" / "check-genuine", "--path"], capture_output=True, text=True)
    if done.returncode == NOT_RUN:
        lacking.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return os.path.join(done.stdout.strip(), "libcuda.so.1")


@pytest.fixture(scope="module")
def identity(worlds, genuine):
    return worlds("identity").run("identity.py", driver=genuine)


@each_check("identity.py")
def test_identity(identity, check):
    identity.require(check)


@pytest.fixture(scope="module", params=WAYS)
def contents(request, worlds, genuine):
    if request.param == "expandable" and torch_version() < (2, 1):
        pytest.skip("torch 2.0 has no expandable segments")
    way = dict(WAYS[request.param], BYTES_MODE=request.param, BYTES_BIG=64 << 20)
    return worlds("bytes").run("bytes.py", driver=genuine, **way)


@each_check("bytes.py")
def test_bytes(contents, check):
    contents.require(check)


@pytest.fixture(scope="module")
def processes(worlds, genuine):
    return worlds("processes").run("processes.py", driver=genuine)


@each_check("processes.py")
def test_processes(processes, check):
    processes.require(check)


@pytest.fixture(scope="module")
def device(worlds, genuine):
    return worlds("device").run("device.py", driver=genuine, options=["--vram", "2GiB"])


@each_check("device.py")
def test_device(device, check):
    device.require(check)


@pytest.fixture(scope="module")
def refused(worlds, genuine):
    world = worlds("refused")
    options = ["--trace", f"json,file={world.folder}/trace.jsonl"]
    outcome = world.run("refused.py", driver=genuine, options=options)
    outcome.trace = [json.loads(line) for line in (world.folder / "trace.jsonl").read_text().splitlines()]
    return outcome


@each_check("refused.py")
def test_a_launch_is_refused_as_without_a_driver(refused, check):
    if check in refused.told:
        refused.require(check)
    else:
        refused.require_end(messages=True)


def test_it_is_said_once_that_there_is_no_card(refused):
    (message,) = refused.messages()
    assert re.search(r"kernel \S*CUDAFunctorOnSelf_add", message)
    assert "there is no card" in message and "--driver soft" in message
    traced = [record["text"] for record in refused.trace if record["type"] == "message"]
    assert any("there is no card" in text for text in traced), traced


def test_the_trace_says_at_the_start_that_there_is_no_card(world, genuine):
    path = world.folder / "trace.jsonl"
    script = "import torch; torch.arange(3).to('cuda')"
    options = ["--trace", f"json,file={path}"]
    world.run([sys.executable, "-c", script], driver=genuine, options=options).require_end()
    traced = [json.loads(line) for line in path.read_text().splitlines()]
    (said,) = [at for at, record in enumerate(traced) if "there is no card" in record.get("text", "")]
    assert said < [record["type"] for record in traced].index("call")


def test_the_doctor_says_that_there_is_no_card(world, genuine):
    values = world.environment(ZEROGPU_DRIVER=genuine)
    done = subprocess.run([CLI, "doctor", "--json"], env=values, capture_output=True, text=True)
    report = json.loads(done.stdout)
    (finding,) = [finding for finding in report["findings"] if finding["topic"] == "cards"]
    assert "driver installed, no card" in finding["text"] and "--driver soft" in finding["remedy"]
    assert report["driver"]["cards"] == [] and report["driver"]["init"] == 100
