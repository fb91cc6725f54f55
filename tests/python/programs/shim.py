"""The shim in this process, and the software card, seen from outside."""

import json
import os
import subprocess

import spaces._shim


def state():
    """What the shim says of itself (shim/include/zerogpu.h)."""
    return spaces._shim.find().state()


def parked():
    """Whether it says that nothing is on the card."""
    return state()["level"] == "parked"


def card():
    """The first software card, as `zerogpu soft-smi --json` shows it."""
    values = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [os.environ["CHECKS_CLI"], "soft-smi", "--json"]
    return json.loads(subprocess.run(command, env=values, check=True, capture_output=True).stdout)["cards"][0]


def empty():
    """Whether nothing of any process is on the card."""
    shown = card()
    return shown["bytes_used"] == 0 and shown["contexts"] == 0


def require_empty():
    shown = card()
    assert shown["bytes_used"] == 0 and shown["contexts"] == 0, shown


def on_card():
    """Bytes and contexts that this process has on the card."""
    own = [process for process in card()["processes"] if process["pid"] == os.getpid()]
    return (own[0]["bytes_used"], own[0]["contexts"]) if own else (0, 0)
