"""Software cards, programs that run on them through the command line of zerogpu, and what they did.

A program (programs/*.py) is a list of checks, run in one process since starting torch takes seconds. Each check is a
test (`each_check`). Each program has software cards of its own, and when it has ended nothing may be left on them, and
softcuda must have seen no violation.
"""

import ast
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIST = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target") / "dist"
CLI = DIST / "bin" / "zerogpu"
LIB = DIST / "lib" / "zerogpu"
OBJECTS = [LIB / name for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1")]
PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
CUBIN = ROOT / "crates" / "image" / "tests" / "data" / "sm80.cubin"
OURS = ("ZEROGPU_", "SOFTCUDA_", "CUDA_", "PYTORCH_", "CHECKS", "NVIDIA_")
# A program's end, as a check of its own.
END = "the program ends well"


def torch_version():
    """The version of the PyTorch under test, as (major, minor)."""
    return tuple(int(part) for part in importlib.metadata.version("torch").split(".")[:2])


def checks_of(program):
    """The names of a program's checks, and its end."""
    tree = ast.parse((PROGRAMS / program).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    marks = ("check", "checks.check")
    names = [
        node.name
        for node in functions
        if any(ast.unparse(mark.func if isinstance(mark, ast.Call) else mark) in marks for mark in node.decorator_list)
    ]
    assert names, f"{program} has no checks"
    return names + [END]


def each_check(program):
    """Makes a test of each check of a program; the test calls `outcome.require(check)`."""
    return pytest.mark.parametrize("check", checks_of(program))


@dataclasses.dataclass
class Outcome:
    """How a program ended, and what its checks told."""

    code: int
    out: str
    err: str
    told: typing.Dict[str, dict]
    # Lines that softcuda logged, and cards that were not empty afterwards.
    violations: typing.List[str]
    left: typing.List[dict]

    def require(self, check):
        """The check passed; skips the test if it can't be made here."""
        if check == END:
            return self.require_end()
        told = self.told.get(check)
        assert told, f"the program ended before: exit code {self.code}\n{self.out}{self.err}"
        if "skipped" in told:
            pytest.skip(told["skipped"])
        if "failed" in told:
            pytest.fail(told["failed"], pytrace=False)

    def require_end(self, messages=False):
        """The program ended with 0 and left nothing; nobody said anything, unless `messages` of ours are expected."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}{self.err}"
        assert messages or not self.messages(), self.err
        assert not self.violations, self.violations
        assert not self.left, self.left

    def require_all(self, messages=False):
        """Each check passed, and the program ended well."""
        for check in self.told:
            self.require(check)
        self.require_end(messages)

    def messages(self):
        """What the shim or softcuda said."""
        return [line for line in self.err.splitlines() if line.startswith(("zerogpu:", "softcuda:"))]


class World:
    """Software cards, and the programs that use them."""

    def __init__(self, folder):
        self.folder = folder
        self.cards = folder / "cards"
        self.strict = folder / "violations"
        self.launch_log = folder / "launches"
        self._programs = 0

    def environment(self, **more):
        """The environment of a program. Settings of whoever runs the tests do not count."""
        values = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        for name in ("LD_PRELOAD", "PYTHONPATH"):
            values.pop(name, None)
        values.update(
            ZEROGPU_SOCKET="none",
            SOFTCUDA_CARDS=str(self.cards),
            SOFTCUDA_STRICT_LOG=str(self.strict),
            SOFTCUDA_LAUNCH_LOG=str(self.launch_log),
            PYTHONFAULTHANDLER="1",
            CHECKS_CLI=str(CLI),
            CHECKS_CUBIN=str(CUBIN),
            CHECKS_TORCH=importlib.metadata.version("torch"),
            CHECKS_FOLDER=str(self.folder),
        )
        return dict(values, **{name: str(value) for name, value in more.items()})

    @staticmethod
    def command(program, *arguments, driver="soft", options=()):
        """The command that starts a program, or any other command, under the shim."""
        words = [program] if isinstance(program, str) else program
        if words[0].endswith(".py"):
            words = [sys.executable, str(PROGRAMS / words[0])] + words[1:]
        return [str(CLI), "run", "--driver", str(driver), *map(str, options), "--", *words, *map(str, arguments)]

    def start(self, program, *arguments, driver="soft", options=(), **environment):
        """Starts a program, and does not wait for it."""
        return subprocess.Popen(
            self.command(program, *arguments, driver=driver, options=options),
            env=self.environment(**{"CHECKS": self.folder / "checks", **environment}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
        )

    def run(self, program, *arguments, timeout=300, **how):
        """Runs a program (a file in programs/, or a command as a list) to its end."""
        self._programs += 1
        told = self.folder / f"checks{self._programs}"
        process = self.start(program, *arguments, **dict(how, CHECKS=told))
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # with the place where it hangs: faulthandler answers SIGABRT
            os.killpg(process.pid, signal.SIGABRT)
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s\n{out}{err}") from None
        lines = told.read_text().splitlines() if told.exists() else []
        told = {line["check"]: line for line in map(json.loads, lines)}
        return Outcome(process.returncode, out, err, told, self.violations(), self.left())

    def violations(self):
        """What programs did that no program may do."""
        return self.strict.read_text().splitlines() if self.strict.exists() else []

    def launches(self):
        """The kernels that were launched on the cards."""
        lines = self.launch_log.read_text().splitlines() if self.launch_log.exists() else []
        return [json.loads(line) for line in lines]

    def look(self):
        """The cards, as soft-smi shows them."""
        command = [str(CLI), "soft-smi", "--json"]
        shown = subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True).stdout
        return json.loads(shown)["cards"]

    def left(self):
        """Cards with anything on them."""
        return [card for card in self.look() if card["bytes_used"] or card["contexts"] or card["processes"]]

    def close(self):
        assert not self.violations()
        assert not self.left()
