"""Steps: what they run, how far they are, how they ended."""

import dataclasses
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import typing

from . import lacking
from .places import LOGS, ROOT

# Seconds between signs of life where the output is no terminal.
EVERY = 60
# Characters of the bar that a terminal shows.
BAR = 20
# Lines of a failed step's log that are shown.
TAIL = 40

# The lines in which a test runner says how many tests went how.
SUMS = {
    "cargo": re.compile(r"^test result: .*$", re.M),
    "pytest": re.compile(r"^=* ?\d+ (?:passed|failed|skipped|deselected|errors?)\b.* in [\d.]+s.*$", re.M),
}
# The lines in which one says which test failed, and why.
NAMES = {
    "cargo": re.compile(r"^(?:test .* \.\.\. FAILED|thread '.*' \(?.*panicked at .*(?:\n.+)?|error: test failed.*)$", re.M),
    "pytest": re.compile(r"^(?:FAILED|ERROR) .*$", re.M),
}
# Failures of a step that the closing lines name.
NAMED = 20
WORDS = {"passed": "passed", "failed": "failed", "error": "failed", "errors": "failed"}
WORDS.update(skipped="skipped", ignored="skipped")


@dataclasses.dataclass
class Step:
    """Something to run. `counts`: whose tests its output tells of ("cargo", "pytest"); else it counts as one."""

    name: str
    command: typing.List[str]
    counts: str = ""
    needs: typing.Tuple[str, ...] = ()
    environment: typing.Dict[str, str] = dataclasses.field(default_factory=dict)
    # What a reader should know while waiting.
    about: str = ""
    # The exit code with which it says that it can't run here.
    skips: int = 0
    # Steps that must have ended before, however.
    after: typing.Tuple[str, ...] = ()
    # It uses all processors by itself and measures time: nothing runs beside it.
    alone: bool = False


@dataclasses.dataclass
class Result:
    """How a step ended."""

    step: Step
    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""
    # What failed in it, one line each.
    names: typing.Tuple[str, ...] = ()


@dataclasses.dataclass
class Running:
    """A step that has been started."""

    step: Step
    process: subprocess.Popen
    log: pathlib.Path
    started: float


class Runner:
    """Runs steps in order, several side by side where they may, and keeps their results. `strict`: none may be skipped."""

    def __init__(self, steps, jobs, strict=False):
        self.jobs = jobs
        self.strict = strict
        self.variables = {lacking.STRICT: "1"} if strict else {}
        self.total = len(steps)
        self.waiting = dict(enumerate(steps, 1))
        self.running = {}
        self.results = {}
        self.ended = queue.SimpleQueue()
        self.tty = sys.stdout.isatty()
        LOGS.mkdir(parents=True, exist_ok=True)
        for old in LOGS.glob("*.log"):
            old.unlink()

    def run(self):
        """Runs them all; gives the exit code."""
        started = time.monotonic()
        try:
            while self.waiting or self.running:
                while self._start_next():
                    pass
                self._wait_for_one()
        except BaseException:
            for running in self.running.values():
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
            raise
        return self._finish(time.monotonic() - started)

    def _start_next(self):
        """Starts the first step that can be; False if none can for now."""
        names = {step.name for step in self.waiting.values()} | {running.step.name for running in self.running.values()}
        failed = {result.step.name for result in self.results.values() if result.failed}
        skipped = {result.step.name for result in self.results.values() if result.skipped and not result.passed}
        if any(running.step.alone for running in self.running.values()):
            return False
        for number, step in self.waiting.items():
            for ended, how in ((failed, "failed"), (skipped, "was skipped")):
                for need in ended.intersection(step.needs):
                    del self.waiting[number]
                    fails = int(ended is failed)
                    self.results[number] = Result(step, 0, fails, 1 - fails, 0.0, f"not run: {need} {how}")
                    self._say(f"{self._head(number, step)}: not run, {need} {how}")
                    return True
            if step.alone and self.running:
                return False
            if not names.intersection(step.needs + step.after) and len(self.running) < self.jobs:
                del self.waiting[number]
                self._start(number, step)
                return True
        return False

    def _start(self, number, step):
        self._say(f"{self._head(number, step)} ..." + (f" ({step.about})" if step.about else ""))
        log = LOGS / f"{number:02}-{re.sub(r'[^a-z0-9.]+', '-', step.name.lower())}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env=dict(os.environ, **self.variables, **step.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[number] = Running(step, process, log, time.monotonic())
        threading.Thread(target=lambda: self.ended.put((number, process.wait())), daemon=True).start()

    def _wait_for_one(self):
        """Waits until a step ends, and shows how far they are meanwhile."""
        if not self.running:
            return
        while True:
            try:
                number, code = self.ended.get(timeout=1 if self.tty else EVERY)
                break
            except queue.Empty:
                self._show()
        running = self.running.pop(number)
        step, text = running.step, running.log.read_text(errors="replace")
        result = self.results[number] = judged(step, code, text, time.monotonic() - running.started, self.strict)
        mark = "  FAIL" if result.failed else "  ok  " if result.passed else "  skip"
        name = f"{step.name}  " if self.jobs > 1 else ""
        self._say(f"{mark} {clock(result.seconds)}  {name}{counted(result)}".rstrip())
        if result.failed:
            self._say("\n".join(f"    | {line}" for line in text.splitlines()[-TAIL:]) + f"\n    {running.log}")

    def _head(self, number, step):
        return f"[{number:2}/{self.total}] {step.name}"

    def _show(self):
        lines = [
            f"       {clock(time.monotonic() - running.started)}  {running.step.name}: {last_line(running.log)}"
            for running in self.running.values()
        ]
        if self.tty:
            print(f"\r\x1b[K{self._bar()}" + " |".join(line[: 90 // len(lines)] for line in lines), end="", flush=True)
        else:
            print("\n".join(line[:160] for line in lines), flush=True)

    def _bar(self):
        """How many of the steps have ended."""
        done = len(self.results) * BAR // self.total
        return "█" * done + "░" * (BAR - done) + f" {len(self.results)}/{self.total}"

    def _say(self, text):
        print(("\r\x1b[K" if self.tty else "") + text, flush=True)

    def _finish(self, seconds):
        """Prints the table and the closing line; gives the exit code."""
        results = [result for _, result in sorted(self.results.items())]
        width = max(len(result.step.name) for result in results)
        print()
        for result in results:
            mark = "FAIL" if result.failed else "ok" if result.passed else "skip"
            print(f"{result.step.name:<{width}}  {mark:<4}  {clock(result.seconds)}  {result.note or counted(result)}")
        skipped = sum(result.skipped for result in results)
        # last, so that a log of which only the end is kept tells them
        for result in results:
            for name in result.names[:NAMED]:
                print(f"    {result.step.name}: {name}")
        print(f"{'':<{width}}        {clock(seconds)}")
        failed = sum(result.failed for result in results)
        passed = sum(result.passed for result in results)
        print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
        return 1 if failed else 0


def judged(step, code, text, seconds, strict=False):
    """The result of a step that ended with `code` after printing `text`. `strict`: one that was skipped has failed."""
    if code and code == step.skips:
        why = (text.strip().splitlines() or ["no reason given"])[-1]
        return Result(step, 0, int(strict), int(not strict), seconds, f"skipped{', and --strict' * strict}: {why}")
    sums = dict.fromkeys(WORDS.values(), 0)
    for line in SUMS[step.counts].findall(text) if step.counts else ():
        for number, word in re.findall(r"(\d+) (\w+)", line):
            if word in WORDS:
                sums[WORDS[word]] += int(number)
    if not step.counts and code == 0:
        sums["passed"] = 1
    note = ""
    if code and not sums["failed"]:
        sums["failed"], note = 1, f"ended with {code}"
    if not code and not sums["passed"]:
        sums["failed"], note = 1, "no test was run"
    names = NAMES[step.counts].findall(text) if step.counts and sums["failed"] else ()
    return Result(step, **sums, seconds=seconds, note=note, names=tuple(" ".join(name.split())[:300] for name in names))


def counted(result):
    """How many tests went how, in words."""
    if result.note or not result.step.counts:
        return result.note
    words = [f"{result.passed} passed"]
    words += [f"{number} {word}" for number, word in ((result.failed, "failed"), (result.skipped, "skipped")) if number]
    return ", ".join(words)


def clock(seconds):
    """Minutes and seconds."""
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"


def last_line(log):
    """The last line of a file, without the colours."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 500))
        lines = [line for line in re.split(rb"[\r\n]+", file.read()) if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", lines[-1].decode(errors="replace")).strip() if lines else ""
