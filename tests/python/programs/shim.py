"""The shim in this process, and the software card, seen from outside."""

import json
import os
import subprocess

import checks
import spaces._shim


def state():
    """What the shim says of itself (shim/include/zerogpu.h)."""
    return spaces._shim.find().state()


def parked():
    """Whether it says that nothing is on the card."""
    return state()["level"] == "parked"


# What a broker has of a card for itself: a context, and the results of its hashes.
RESULTS = 2 << 20


def card():
    """The first software card, as `zerogpu soft-smi --json` shows it, less what its broker has for itself."""
    values = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [os.environ["CHECKS_CLI"], "soft-smi", "--json"]
    shown = json.loads(subprocess.run(command, env=values, check=True, capture_output=True).stdout)["cards"][0]
    others = [process for process in shown["processes"] if process["pid"] not in brokers()]
    own = RESULTS * sum(process["pid"] in brokers() for process in shown["processes"])
    contexts = sum(process["contexts"] for process in others)
    return dict(shown, bytes_used=shown["bytes_used"] - own, contexts=contexts, others=others)


def brokers():
    """The processes of the brokers that this program's cards have had."""
    path = os.environ.get("CHECKS_BROKERS")
    return [int(line) for line in open(path)] if path and os.path.exists(path) else []


def empty():
    """Whether nothing of any program is on the card."""
    shown = card()
    return shown["bytes_used"] == 0 and shown["contexts"] == 0


def require_empty():
    """Nothing is on the card. A broker takes its memory back a moment after the park."""
    if brokers():
        checks.until(empty, "the card is empty")
    shown = card()
    assert shown["bytes_used"] == 0 and shown["contexts"] == 0, shown


def on_card():
    """Bytes and contexts that this process has on the card; what a broker lends counts as the broker's own."""
    shown = card()
    own = [process for process in shown["others"] if process["pid"] == os.getpid()]
    bytes_used, contexts = (own[0]["bytes_used"], own[0]["contexts"]) if own else (0, 0)
    return (shown["bytes_used"] if brokers() else bytes_used), contexts
