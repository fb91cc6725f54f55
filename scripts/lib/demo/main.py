"""The command line of scripts/demo."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading

from testing import environments, needs
from testing.places import ROOT

from . import sums
from .card import find
from .picture import Picture
from .stage import COMMAND, Failed, Stage
from .steps import Steps

ENVIRONMENT = "demo"
# The usual port of Gradio.
PORT = 7860


def main(about):
    """Runs the demo; gives the exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="keep the apps open for a browser, until Ctrl-C")
    parser.add_argument("--port", type=int, help="where the first app listens (the first free one from 7860 on)")
    parser.add_argument("--trace", action="store_true", help="write a timeline of each app to target/demo")
    options = parser.parse_args()
    lacks = needs.missing(needs.BUILDING)
    if lacks:
        print("scripts/demo can't run here:\n  " + "\n  ".join(lacks))
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with contextlib.ExitStack() as stack:
            return run(options, stack)
    except KeyboardInterrupt:
        print("\nStopped. Nothing is left running.", flush=True)
        return 130
    except Failed as error:
        print(f"\n{error}", flush=True)
        return 1


def stop(*_):
    """Ends the demo, by Ctrl-C for one; from then on nothing disturbs the clearing up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(options, stack):
    """The demo itself; what it starts ends with the stack."""
    ports = free_ports(options.port)
    steps = Steps()
    steps.run("zerogpu", ["scripts/build"], "two or three minutes the first time")
    steps.run("PyTorch and Gradio", ["scripts/lib/environment", ENVIRONMENT], "a download of 2.7 GB the first time")
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zerogpu-demo-")))
    card = find(COMMAND, folder)
    print(f"\n{card.told}\n", flush=True)
    stage = stack.enter_context(Stage(card, folder, environments.interpreter(ENVIRONMENT), ports, options.trace))
    with steps.waiting("a broker, and two apps"):
        stage.start()
    with Picture(stage) as picture:
        call(stage, picture)
        stage.settle()
        picture.finish()
    well = sums.show(stage, picture.samples)
    for timeline in stage.timelines():
        print(f"Timeline: {timeline}" + view_of(timeline))
    if not options.serve:
        print("To click in the apps yourself: scripts/demo --serve", flush=True)
        return 0 if well else 1
    print(f"Open {stage.urls[0]} and {stage.urls[1]} in a browser. Ctrl-C ends the demo.\n", flush=True)
    with Picture(stage, picture.samples):
        threading.Event().wait()


def call(stage, picture):
    """Calls the apps as Gradio's own client does, and shows what comes back."""
    command = [stage.python, ROOT / "scripts" / "lib" / "demo" / "caller.py", *stage.urls]
    client = stage.started(command, "caller", stdout=subprocess.PIPE, text=True)
    for line in client.stdout:
        picture.note(**json.loads(line))
    if client.wait():
        raise Failed(f"A call failed:\n{stage.tail('caller')}")


def view_of(timeline):
    """How to look at a timeline."""
    commands = subprocess.run([COMMAND, "trace", "--help"], capture_output=True, text=True).stdout
    name = os.path.relpath(COMMAND)
    return f"\n  look at it with: {name} trace view {os.path.relpath(timeline)}" if "\n  view " in commands else ""


def free_ports(wanted):
    """Two ports, one after the other, of which nobody uses any."""
    for first in [wanted] if wanted else range(PORT, PORT + 200, 2):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", first))
            two.bind(("127.0.0.1", first + 1))
            return [first, first + 1]
    raise Failed(f"Port {wanted or PORT} or the next is in use: choose another with --port.")
