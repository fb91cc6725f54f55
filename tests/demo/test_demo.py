"""scripts/demo, whole: what a newcomer sees of it, and that nothing is left behind. Needs its environment (`demo`)."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "scripts" / "demo"
TIMELINES = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target") / "demo"
# How long a run may take, where all is built and downloaded, in seconds.
RUN = 240


class Run:
    """A run of the demo, with a folder for temporary files of its own, by which its processes are known."""

    def __init__(self, folder):
        self.folder = folder
        # a machine with a GPU has software cards too: this test is about those
        commands = folder / "bin"
        commands.mkdir()
        (commands / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
        (commands / "nvidia-smi").chmod(0o755)
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        # kernels take their time: what a call does is seen, however seldom the picture looks
        self.environment = dict(os.environ, TMPDIR=str(self._temporary), PATH=path, TERM="xterm", SOFTCUDA_LAUNCH_US="1000")

    def left(self):
        """Processes and files that it has left."""
        mark = f"TMPDIR={self._temporary}".encode()
        processes = []
        for place in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    processes.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return processes + [path.name for path in self._temporary.glob("zerogpu-*")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run whose output is no terminal."""
    run = Run(tmp_path_factory.mktemp("plain"))
    done = subprocess.run([DEMO, "--trace"], env=run.environment, capture_output=True, text=True, timeout=RUN)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    assert done.stderr == "" and "\x1b" not in done.stdout
    run.text = done.stdout
    return run


def test_it_says_that_a_software_card_does_not_compute(plain):
    assert "No NVIDIA GPU answers here" in plain.text and "kernels are recorded and not executed" in plain.text


def test_the_card_is_empty_before_and_after_and_holds_a_model_during_calls(plain):
    before, most, after = map(int, re.search(r"before, at most, after: (\d+) MiB, (\d+) MiB, (\d+) MiB", plain.text).groups())
    assert before == 0 and 475 <= most < 2 * 475 and after == 0
    seen = [int(number) for number in re.findall(r"; on the card: (\d+) MiB", plain.text)]
    # by turns nothing and a model
    assert seen[0] == seen[-1] == 0 and max(seen) >= 475 and len(seen) >= 7, plain.text


def test_each_app_has_the_card_in_its_turn_and_one_waits_for_the_other(plain):
    states = re.findall(r"text-1 (\w+), text-2 (\w+); on", plain.text)
    assert ("claimed", "parked") in states and ("parked", "claimed") in states
    assert ("claimed", "waiting") in states or ("waiting", "claimed") in states
    assert ("claimed", "claimed") not in states


def test_the_table_has_the_brokers_numbers(plain):
    rows = re.findall(r"^(text-\d) +(\d+) +(\d+) MiB +([\d.]+) s +([\d.]+) s +([\d.]+) s$", plain.text, re.MULTILINE)
    assert [(name, int(claims)) for name, claims, *_ in rows] == [("text-1", 2), ("text-2", 2)], plain.text
    for _, _, mebibytes, held, _, run in rows:
        assert int(mebibytes) >= 475 and 0 < float(held) < float(run)
    assert sum(float(waited) for *_, waited, _ in rows) > 0


def test_the_picture_stands_at_the_end(plain):
    picture = plain.text[plain.text.index("MiB on ") :].splitlines()
    assert re.match(r" +0 ┼─+$", picture[7]) and "█" in picture[6]
    assert [line.split()[0] for line in picture[8:10]] == ["text-1", "text-2"]


def test_the_timelines_tell_of_the_claims(plain):
    for name in ("text-1", "text-2"):
        timeline = TIMELINES / f"{name}.trace.jsonl"
        assert f"Timeline: {timeline}" in plain.text
        spans = [json.loads(line) for line in timeline.read_text().splitlines() if '"span"' in line]
        assert [span["kind"] for span in spans].count("claim") == 2


def test_nothing_is_left(plain):
    assert plain.left() == []


class Terminal:
    """A run in a terminal."""

    def __init__(self, run, *options):
        self.text = ""
        self.process, self._screen = None, None
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, DEMO, *options],
            env=run.environment,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(its)
        self._screen = ours

    def until(self, condition, text):
        """Reads until the condition holds of what was shown."""
        give_up = time.monotonic() + RUN
        while not condition():
            assert time.monotonic() < give_up, f"not in time: {text}\n{self.text}"
            if select.select([self._screen], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self._screen, 1 << 16).decode(errors="replace")
                except OSError:  # its end
                    assert condition(), f"it ended before: {text}\n{self.text}"

    def keys(self, keys):
        os.write(self._screen, keys)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        os.close(self._screen)


@pytest.fixture
def terminal(tmp_path):
    """Makes a run in a terminal; the run and the terminal."""
    made = []

    def make(*options):
        run = Run(tmp_path)
        made.append(Terminal(run, *options))
        return run, made[-1]

    yield make
    for one in made:
        one.close()


def test_it_serves_until_ctrl_c_and_clears_up(terminal):
    port = free_ports()
    run, shown = terminal("--serve", "--port", str(port))
    shown.until(lambda: f"Open http://127.0.0.1:{port}" in shown.text, "it serves")
    # a picture that was drawn again and again, in place, in colours
    assert shown.text.count("\x1b[J") > 20 and "\x1b[36m" in shown.text and "\x1b[32m█" in shown.text
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=20).read().decode()
    assert "gradio" in page
    shown.keys(b"\x03")
    shown.until(lambda: "Nothing is left running." in shown.text, "it ends")
    assert shown.process.wait(60) == 130
    assert run.left() == []


def test_it_is_stopped_in_the_middle_and_clears_up(terminal):
    run, shown = terminal()
    shown.until(lambda: "a broker, and two apps" in shown.text and len(run.left()) > 2, "it starts the apps")
    shown.keys(b"\x03")
    shown.until(lambda: "Nothing is left running." in shown.text, "it ends")
    assert shown.process.wait(60) == 130
    assert run.left() == []


def test_it_says_what_is_missing_and_how_to_get_it(tmp_path):
    (tmp_path / "python3").symlink_to(shutil.which("python3"))
    environment = dict(PATH=str(tmp_path), HOME=str(tmp_path))
    done = subprocess.run([sys.executable, DEMO], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == ""
    for words in ("Rust is missing", "rustup", "apt-get install gcc", "Python 3.10 or 3.11 with venv is missing", "python3.11-venv"):
        assert words in done.stdout, done.stdout


def free_ports():
    """A port that is free, as the next is, and that the system gives to nobody who doesn't ask for it."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port
