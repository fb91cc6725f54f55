"""Steps: what they run, how far they are, how they ended."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing

from .places import LOGS, ROOT

# Seconds between signs of life where the output is no terminal.
EVERY = 60
# Lines of a failed step's log that are shown.
TAIL = 40

# The lines in which a test runner says how many tests went how.
SUMS = {
    "cargo": re.compile(r"^test result: .*$", re.M),
    "pytest": re.compile(r"^=* ?\d+ (?:passed|failed|skipped|deselected|errors?)\b.* in [\d.]+s.*$", re.M),
}
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


@dataclasses.dataclass
class Result:
    """How a step ended."""

    step: Step
    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""


class Runner:
    """Runs steps one after the other and keeps their results."""

    def __init__(self, total):
        self.total = total
        self.results = []
        self.tty = sys.stdout.isatty()
        LOGS.mkdir(parents=True, exist_ok=True)
        for old in LOGS.glob("*.log"):
            old.unlink()

    def run(self, step):
        """Runs the step if what it needs went well."""
        number = len(self.results) + 1
        head = f"[{number:2}/{self.total}] {step.name}"
        broken = [result.step.name for result in self.results if result.failed and result.step.name in step.needs]
        if broken:
            self.results.append(Result(step, 0, 1, 0, 0.0, f"not run: {broken[0]} failed"))
            print(f"{head}: not run, {broken[0]} failed", flush=True)
            return
        print(f"{head} ..." + (f" ({step.about})" if step.about else ""), flush=True)
        log = LOGS / f"{number:02}-{re.sub(r'[^a-z0-9.]+', '-', step.name.lower())}.log"
        started = time.monotonic()
        code = self._run(step, log, started)
        result = judged(step, code, log.read_text(errors="replace"), time.monotonic() - started)
        self.results.append(result)
        mark = "  FAIL" if result.failed else "  ok  " if result.passed else "  skip"
        print(f"{mark} {clock(result.seconds)}  {counted(result)}", flush=True)
        if result.failed:
            lines = log.read_text(errors="replace").splitlines()[-TAIL:]
            print("\n".join(f"    | {line}" for line in lines) + f"\n    {log}", flush=True)

    def _run(self, step, log, started):
        with open(log, "wb") as output:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env=dict(os.environ, **step.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(log, started, ended))
        ticker.start()
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            ended.set()
            ticker.join()

    def _tick(self, log, started, ended):
        while not ended.wait(1 if self.tty else EVERY):
            text = f"       {clock(time.monotonic() - started)}  {last_line(log)}"
            print(f"\r\x1b[K{text[:110]}" if self.tty else text[:160], end="" if self.tty else "\n", flush=True)
        if self.tty:
            print("\r\x1b[K", end="", flush=True)

    def finish(self):
        """Prints the table and the closing line; gives the exit code."""
        width = max(len(result.step.name) for result in self.results)
        print()
        for result in self.results:
            mark = "FAIL" if result.failed else "ok" if result.passed else "skip"
            print(f"{result.step.name:<{width}}  {mark:<4}  {clock(result.seconds)}  {result.note or counted(result)}")
        seconds = sum(result.seconds for result in self.results)
        skipped = sum(result.skipped for result in self.results)
        print(f"{'':<{width}}        {clock(seconds)}")
        failed = sum(result.failed for result in self.results)
        passed = sum(result.passed for result in self.results)
        print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
        return 1 if failed else 0


def judged(step, code, text, seconds):
    """The result of a step that ended with `code` after printing `text`."""
    if code and code == step.skips:
        return Result(step, 0, 0, 1, seconds, f"skipped: {(text.strip().splitlines() or ['no reason given'])[-1]}")
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
    return Result(step, **sums, seconds=seconds, note=note)


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
