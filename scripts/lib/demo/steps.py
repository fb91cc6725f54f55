"""Long steps: in a terminal one line that moves, with what the tool says of its progress; else plain lines."""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import threading
import time

from testing.places import ROOT
from testing.steps import clock

from .stage import Failed

# Lines of a failed step's output that are shown.
TAIL = 30


class Steps:
    """Runs steps one after the other."""

    def __init__(self):
        self._live = sys.stdout.isatty()

    @contextlib.contextmanager
    def waiting(self, title, about="", says=lambda: ""):
        """Shows how long the block takes. `says`: what there is to say meanwhile."""
        started, ended = time.monotonic(), threading.Event()
        if not self._live:
            print(f"{title} ..." + (f" ({about})" if about else ""), flush=True)

        def tick():
            while True:
                width = shutil.get_terminal_size().columns - 1
                text = f"  {title}  {clock(time.monotonic() - started)}  {says() or about}"
                print(f"\r\x1b[K{text[:width]}", end="", flush=True)
                if ended.wait(0.2):
                    return

        ticker = threading.Thread(target=tick)
        if self._live:
            ticker.start()
        well = False
        try:
            yield
            well = True
        finally:
            ended.set()
            if self._live:
                ticker.join()
                print("\r\x1b[K", end="")
            print(f"  {'ok' if well else 'no':<4}{title}  {clock(time.monotonic() - started)}", flush=True)

    def run(self, title, command, about):
        """Runs a command to its end."""
        said = bytearray()
        with self.waiting(title, about, lambda: last_line(said)):
            # in a terminal of its own, a tool shows its progress
            ours, its = pty.openpty() if self._live else os.pipe()
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=its, stderr=its, start_new_session=True
            )
            os.close(its)
            try:
                read(ours, said)
                code = process.wait()
            except BaseException:
                os.killpg(process.pid, 9)
                process.wait()
                raise
            finally:
                os.close(ours)
            if code:
                raise Failed("\n".join(lines(said)[-TAIL:]) + f"\n{' '.join(command)} failed")


def read(descriptor, said):
    """Reads to the end."""
    while True:
        select.select([descriptor], [], [])
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:  # the end of a terminal
            return
        if not piece:
            return
        said += piece


def lines(said):
    """What was said, without the colours and moves of a terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def last_line(said):
    """The last line of it."""
    return (lines(bytes(said[-2000:])) or [""])[-1]
