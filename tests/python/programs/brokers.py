"""A broker of software cards, as tests start it, and programs that play with one."""

import json
import os
import pathlib
import signal
import subprocess
import time

# An administrator's file: nothing stays warm, so that a card is empty as soon as nobody computes.
COLD = '[queue]\ngrace = "2s"\nreconnect = "500ms"\n[memory]\nwarm = "0"\n'


class Broker:
    """A broker; its files are in `folder`, and so is the list of the processes that it ever was."""

    def __init__(self, folder, command, environment, config=COLD, options=()):
        self.folder = pathlib.Path(folder)
        self.socket = self.folder / "broker.sock"
        self.list = self.folder / "brokers"
        self.log = self.folder / "broker.log"
        self._config = self.folder / "broker.toml"
        self._config.write_text(config)
        self._command = [command, "broker", "--driver", "soft", "--socket", self.socket, "--config", self._config, *options]
        self._look = [command, "status", "--json", "--socket", self.socket]
        # a program under the shim may start one: the broker is no such program
        self._environment = {name: value for name, value in environment.items() if name not in ("LD_PRELOAD", "ZEROGPU_SOCKET")}
        self._process = None

    @classmethod
    def of_this_program(cls, config=COLD, options=(), **environment):
        """One for the program that asks, which `zerogpu run --socket` has told where."""
        folder = pathlib.Path(os.environ["ZEROGPU_SOCKET"]).parent
        return cls(folder, os.environ["CHECKS_CLI"], dict(os.environ, **environment), config, options)

    def start(self, ready=True):
        """Starts it, and waits until it answers."""
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with open(self.list, "a") as pids:
            pids.write(f"{self._process.pid}\n")
        give_up = time.monotonic() + 20
        while ready and not self.answers():
            assert self._process.poll() is None and time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.01)
        return self

    def answers(self):
        return subprocess.run(self._look, env=self._environment, capture_output=True).returncode == 0

    def status(self):
        """What `zerogpu status` shows."""
        look = subprocess.run(self._look, env=self._environment, capture_output=True, text=True)
        assert look.returncode == 0, look.stderr + self.log.read_text()
        return json.loads(look.stdout)

    def kill(self):
        """Ends it at this instant."""
        self._process.kill()
        self._process.wait()

    def configure(self, config):
        """Has it read another configuration."""
        read = self.text().count("again;")
        self._config.write_text(config)
        self._process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + 20
        while self.text().count("again;") == read:
            assert time.monotonic() < give_up, self.text()
            time.sleep(0.01)

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        """Asks it to end."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(40) == 0, self.log.read_text()

    def close(self):
        """Ends it, if it is there."""
        if self._process and self._process.poll() is None:
            self.stop()

    def text(self):
        """What it has logged."""
        return self.log.read_text()
