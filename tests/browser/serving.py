"""An app under `zerogpu run`, the broker that lends it a software card, and what is on the card."""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests" / "python"), str(ROOT / "tests" / "python" / "programs")]

from brokers import COLD, Broker  # noqa: E402  (found by the path set above)
from world import CLI, World  # noqa: E402

# How long an app may take to start, and anything else to happen, in seconds.
START, SOON = 240, 60
# An app that is late on a busy machine is not ended for that.
PATIENT = COLD.replace('grace = "2s"', 'grace = "60s"')
# What a broker has on a card for itself: the results of its hashes.
RESULTS = 2 << 20


class Served:
    """An app of examples/ that listens on `url`."""

    def __init__(self, folder, command, port, **settings):
        self.world = World(folder)
        self.url = f"http://127.0.0.1:{port}"
        self.broker = Broker(folder, CLI, self.world.environment(), PATIENT).start()
        self._log = folder / "app.log"
        values = self.world.environment(GRADIO_SERVER_PORT=port, GRADIO_ANALYTICS_ENABLED="False", **settings)
        command = World.command([sys.executable, *map(str, command)], options=["--socket", self.broker.socket])
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, env=values, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self, path="/"):
        """Waits until it answers; itself."""
        until(lambda: self._process.poll() is not None or answers(self.url + path), "the app answers", START)
        assert self._process.poll() is None, self.text()
        return self

    def text(self):
        """What the app has said."""
        return self._log.read_text(errors="replace")

    def status(self):
        """What the broker says of the queue and the card."""
        return self.broker.status()["scheduler"]

    def claimed(self):
        """Whether the app has the card."""
        return any(card["holders"] for card in self.status()["cards"])

    def bytes(self):
        """Bytes of the card that are in use, less the broker's own."""
        return self.world.look()[0]["bytes_used"] - RESULTS

    def settled(self):
        """Waits until the card is empty again."""
        until(lambda: not self.claimed() and self.bytes() == 0, "the card is given back")

    def leases(self):
        """How many leases have ended."""
        return self.broker.text().count("lease ended")

    def restart_broker(self):
        """Kills the broker, without a warning, and starts another."""
        self.broker.kill()
        self.broker.start()

    def rival(self):
        """Another program that has the card, as soon as it can."""
        return Rival(self)

    def close(self):
        """Ends app and broker; nothing may be left of them."""
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(SOON)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self.broker.close()
        self.world.close()


class Rival:
    """A program that holds the card until `release`; see tests/python/programs/holder.py."""

    def __init__(self, served):
        program = str(ROOT / "tests" / "python" / "programs" / "holder.py")
        command = World.command([sys.executable, program], options=["--socket", served.broker.socket])
        values = served.world.environment(HOLDER="{}", ZEROGPU_NAME="rival")
        self._process = subprocess.Popen(
            command, env=values, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._expect("held")

    def _expect(self, word):
        assert self._process.stdout.readline() == word + "\n", f"the rival ended: {self._process.poll()}"

    def release(self):
        """Has it give the card back and end."""
        self._process.communicate("\n")
        assert self._process.returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def until(condition, text, seconds=SOON, told=lambda: ""):
    """Waits until the condition holds; what it gave. `told`: what else to say if it never does."""
    give_up = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up, f"not after {seconds} s: {text} {told()}"
        time.sleep(0.02)


def answers(url):
    """Whether something is served there."""
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port():
    """A port that nobody uses now, and that the system gives to nobody who doesn't ask for it."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
