"""The processes of a check: the broker, and programs with and without the shim."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from .. import launch


class Failed(Exception):
    """A process did not do what it should."""


class Broker:
    """A broker on a socket of its own. It can be told to keep nothing warm."""

    COLD = '[memory]\nwarm = "0"\n'
    WARM = ""

    def __init__(self, settings, folder):
        self._log = folder / "broker.log"
        self._config = folder / "broker.toml"
        self.socket = folder / "broker.sock"
        self._port = _free_port()
        self._config.write_text(self.COLD)
        driver = settings.soft_lib if settings.driver == "soft" else "auto"
        command = [settings.zerogpu, "broker", "--driver", driver, "--socket", self.socket, "--config", self._config]
        command += ["--lib", settings.lib, "--metrics", f"127.0.0.1:{self._port}"]
        values = launch.environment(settings, shim=False)
        if settings.driver == "soft":
            values["SOFTCUDA_CARDS"] = str(settings.cards)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command], env=values, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait("the broker is ready", lambda: self.socket.exists() and self.text().count(" ready ") > 0)

    def text(self):
        return self._log.read_text(errors="replace")

    def configure(self, config):
        """Has it read another configuration; returns when it has."""
        read = self.text().count("again;")
        self._config.write_text(config)
        self._process.send_signal(signal.SIGHUP)
        self._wait("the broker has read its configuration", lambda: self.text().count("again;") > read)

    def copied(self):
        """Bytes copied so far and seconds spent on it, in and out."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        name = "zerogpu_{}_total{{way=\"{}\"}}"
        return {
            way: (int(values.get(name.format("copied_bytes", way), 0)), float(values.get(name.format("copying_seconds", way), 0)))
            for way in ("in", "out")
        }

    def end(self):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait(self, what, holds):
        give_up = time.monotonic() + 30
        while not holds():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise Failed(f"{what}: not in 30 s\n{self.text()}")
            time.sleep(0.02)


class Program:
    """A child (see child.py); with a broker it runs under the shim, else bare."""

    def __init__(self, settings, folder, name, broker=None, vram=0):
        values = launch.environment(settings, shim=broker is not None)
        if broker is not None:
            values.update(ZEROGPU_SOCKET=str(broker.socket), ZEROGPU_VRAM=str(vram), ZEROGPU_WAIT="120s", ZEROGPU_NAME=name)
        elif settings.driver == "soft":
            values["SOFTCUDA_CARDS"] = str(settings.cards)
        library = "libcuda.so.1" if broker is not None or settings.driver == "real" else str(settings.soft_lib)
        self._log = folder / f"{name}.log"
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gpu_check.broker.child", library],
                env=values, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def ask(self, do, within=120, **details):
        """Has it do something; gives the answer."""
        watch = threading.Timer(within, self.process.kill)
        watch.start()
        try:
            self.process.stdin.write(json.dumps(dict(details, do=do)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        answer = json.loads(line) if line else {"error": f"it has ended, or did not answer in {within} s"}
        if "error" in answer:
            raise Failed(f"{do}: {answer['error']}\n{self._log.read_text(errors='replace')}")
        return answer

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
