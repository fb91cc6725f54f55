"""The apps and their broker: started, looked at, called, and ended, whatever happens."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from testing.places import ROOT, TARGET

COMMAND = TARGET / "dist" / "bin" / "zerogpu"
APP = ROOT / "examples" / "text" / "app.py"
# The card is empty as soon as nobody computes. By default what fits stays there, ready to be thrown out.
CONFIG = '[memory]\nwarm = "0"\n'
# How long an app may take to start, a call to give the card back, and a process to end, in seconds.
START, PARK, END = 180, 20, 15


class Failed(Exception):
    """Why the demo can't go on."""


class Stage:
    """A broker and apps on a card."""

    def __init__(self, card, folder, python, ports, trace):
        self.card, self.python = card, python
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.apps = [f"text-{number}" for number in range(1, len(ports) + 1)]
        self.began = None
        # what the broker has on the card for itself
        self.own = 0
        self._folder, self._ports, self._trace = folder, ports, trace
        self._socket = folder / "broker.sock"
        self._processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # the broker, which was the first, is the last: it takes back what the apps have
        for process in reversed(self._processes):
            end(process)

    def start(self):
        """Starts all, and waits until the apps serve."""
        (self._folder / "broker.toml").write_text(CONFIG)
        command = ["broker", "--driver", self.card.driver, *self.card.broker, "--socket", self._socket]
        self.started([COMMAND, *command, "--config", self._folder / "broker.toml"], "broker", self.card.broker_environment)
        self._until(self.status, "broker", START)
        self.own = self.card.used()
        self.began = time.monotonic()
        for app, port in zip(self.apps, self._ports):
            options = ["--driver", self.card.driver, "--socket", self._socket]
            if self._trace:
                options += ["--trace", f"json,file={self._timeline(app)}"]
            settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "ZEROGPU_NAME": app}
            self.started([COMMAND, "run", *options, "--", self.python, APP], app, settings)
        for app, url in zip(self.apps, self.urls):
            self._until(lambda: answers(url), app, START)

    def started(self, command, name, settings=(), **how):
        """Starts a process; what it says goes to a file of that name."""
        values = dict(os.environ)
        # what the caller's shell has set is for other programs
        for foreign in ("LD_PRELOAD", "ZEROGPU_SOCKET", "ZEROGPU_DRIVER", "ZEROGPU_TRACE", "CUDA_VISIBLE_DEVICES"):
            values.pop(foreign, None)
        values.update(self.card.environment, PYTHONUNBUFFERED="1")
        values.update(settings)
        with open(self._log(name), "ab") as log, uninterrupted():
            how = dict(dict(stdout=log, stderr=log, stdin=subprocess.DEVNULL), **how)
            process = subprocess.Popen(list(map(str, command)), env=values, start_new_session=True, cwd=ROOT, **how)
            process.name = name
            self._processes.append(process)
        return process

    def _until(self, condition, name, seconds):
        give_up = time.monotonic() + seconds
        while not condition():
            ended = [process for process in self._processes if process.poll()]
            if ended or time.monotonic() > give_up:
                name = ended[0].name if ended else name
                raise Failed(f"{name} {'ended' if ended else 'does not answer'}. It said:\n{self.tail(name)}")
            time.sleep(0.05)

    def status(self):
        """What the broker says; None if it does not answer."""
        look = subprocess.run([COMMAND, "status", "--json", "--socket", self._socket], capture_output=True, text=True)
        return json.loads(look.stdout) if look.returncode == 0 else None

    def states(self):
        """What each app does: "claimed", "waiting" or "parked"."""
        status = self.status()
        if status is None:
            return dict.fromkeys(self.apps, "parked")
        names = {program["space"]: program["name"] for program in status["programs"]}
        states = dict.fromkeys(self.apps, "parked")
        for waiting in status["scheduler"]["queue"]:
            states[names.get(waiting["space"])] = "waiting"
        for card in status["scheduler"]["cards"]:
            states.update({names.get(holder["space"]): "claimed" for holder in card["holders"]})
        return {app: states[app] for app in self.apps}

    def used(self):
        """Bytes that the apps have on the card."""
        return max(0, self.card.used() - self.own)

    def settle(self):
        """Waits until the card is given back."""
        self._until(lambda: set(self.states().values()) == {"parked"}, "broker", PARK)

    def tail(self, name):
        """The last lines that a process has said."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-30:])

    def log(self):
        """The broker's log."""
        return self._log("broker").read_text(errors="replace")

    def _log(self, name):
        return self._folder / f"{name}.log"

    def _timeline(self, app):
        place = TARGET / "demo"
        place.mkdir(parents=True, exist_ok=True)
        return place / f"{app}.trace.jsonl"

    def timelines(self):
        """Files of the timelines, if there are any."""
        return [self._timeline(app) for app in self.apps] if self._trace else []


@contextlib.contextmanager
def uninterrupted():
    """A signal that comes meanwhile is heard at the end: a process that has started is known by then, and is ended."""
    came = []
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in heard.items() if callable(handler)}
    for number in heard:
        signal.signal(number, lambda *signal: came.append(signal))
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    for number, frame in came:
        heard[number](number, frame)


def end(process):
    """Ends a process and all that it has started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(END)
            break
        except subprocess.TimeoutExpired:
            pass
    process.wait()


def answers(url):
    """Whether an app serves its page."""
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False
