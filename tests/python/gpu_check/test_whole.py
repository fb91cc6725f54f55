"""scripts/gpu-check as a whole, on a CPU, with a recorder in the shim's place: what it runs, compares and finds."""

import importlib.util
import json
import shutil

import pytest
from gpu_check.launch import HOOK
from testing import lacking

lacking.module("torch")


def test_equal_results_pass(gpu_check, library, tmp_path):
    report, kept = tmp_path / "report.json", tmp_path / "kept"
    where = ["--device", "cpu", "--lib", library, "--json", report, "--keep", kept]
    code, output, errors = gpu_check(*where, "linear", "generator")
    assert (code, errors) == (0, ""), output
    linear, generator = json.loads(report.read_text())["programs"]
    assert [linear["result"], generator["result"]] == ["pass", "pass"]
    # Three outputs in both runs; seven weights and inputs as copies, compared with their originals and between runs.
    assert linear["arrays"] == 3 + 2 * 7 and len(linear["parks"]) == 3
    calls = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    # One region for each marked call: three steps of the one; one step, two whole streams, one closed, of the other.
    assert calls.count("begin") == calls.count("end") == 3 + 4
    assert calls.count("movable") == 3
    for run in ("bare", "shim"):
        names = {path.name for path in (kept / "linear" / run).iterdir()}
        assert {"000.npy", "003.copied.npy", "003.original.npy", "log.txt"} <= names


def _bent_hook(tmp_path, code):
    """A copy of the hook in which marked plain functions do something else under the shim."""
    hook = tmp_path / "hook"
    shutil.copytree(HOOK, hook)
    with open(hook / "spaces" / "_wrapper.py", "a") as file:
        file.write(code)
    return hook


BEND = """
_straight = _plain
def _plain(task, region):
    marked = _straight(task, region)
    def bent(*args, **kwargs):
        result = marked(*args, **kwargs).clone()
        result.view(-1)[7] += 1e-6
        return result
    return bent
"""


def test_one_bit_more_fails(gpu_check, library, tmp_path):
    code, output, _ = gpu_check("--device", "cpu", "--lib", library, "--hook", _bent_hook(tmp_path, BEND), "linear")
    assert code == 1
    assert "linear       fail: 000.npy: " in output and "the first in element 7 of <f4 (64, 128)" in output, output


def test_a_program_that_fails_under_the_shim_fails(gpu_check, library, tmp_path):
    hook = _bent_hook(tmp_path, "\n_plain = lambda task, region: lambda *a, **k: 1 / 0\n")
    code, output, _ = gpu_check("--device", "cpu", "--lib", library, "--hook", hook, "linear")
    assert code == 1 and "linear       fail: ZeroDivisionError: division by zero" in output, output


def test_a_program_that_cannot_run_bare_is_told_apart(gpu_check, library):
    code, output, _ = gpu_check("--device", "cpu", "--lib", library, "streams")
    assert code == 3 and "streams      not runnable on this card: needs a GPU" in output


def test_a_library_that_is_not_installed_is_no_failure(gpu_check, library):
    if importlib.util.find_spec("peft"):
        pytest.skip("peft is installed here")
    code, output, errors = gpu_check("--device", "cpu", "--lib", library, "linear", "peft")
    assert (code, errors) == (0, ""), output
    assert "peft         not installed: peft" in output


def test_no_time_left_is_a_failure(gpu_check, library):
    code, output, _ = gpu_check("--device", "cpu", "--lib", library, "--budget", "0", "linear")
    assert code == 1 and "the time is used up" in output


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["nosuch"], "no such program: nosuch"),
        ([], "--lib is needed"),
        (["--lib", "/dev"], "holds no libcuda.so.1, libcuda.so, libnvidia-ml.so.1"),
        (["--bare", "--driver", "soft"], "leave out --driver soft"),
    ],
)
def test_wrong_use(gpu_check, arguments, text):
    code, _, errors = gpu_check(*arguments)
    assert code == 2 and text in errors


def test_it_must_not_run_under_the_shim_itself(gpu_check, library):
    code, _, errors = gpu_check("--bare", LD_PRELOAD=str(library / "libcuda.so.1"))
    assert code == 1 and "run it without the shim in LD_PRELOAD" in errors
