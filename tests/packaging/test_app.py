"""packaging/container's own app, with PyTorch, in two containers on one card."""

import concurrent.futures
import json
import subprocess
import sys

import containers
import contract
from contract import PORT
from node import until
from testing import environments

# Asks the app in a container's network, where nobody else can.
ASK = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:%d", sys.stdin.read().encode(), timeout=60).read().decode())
"""


class Torch:
    """The environment of PyTorch 2.4.0, for a container to see: its folder, and what it needs beside it."""

    def __init__(self):
        self.environment = environments.folder("torch-2.4.0")
        base = subprocess.run(
            [environments.interpreter("torch-2.4.0"), "-c", "import sys; print(sys.base_prefix)"], check=True, capture_output=True, text=True
        ).stdout.strip()
        # PyTorch takes the C++ library of the system, which a Python image has
        self.folders = [self.environment, "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"] + [base] * (base != "/usr")


def ask(container, numbers):
    """The app's answer to numbers; None if it does not serve."""
    try:
        pid = container.pid()
    except subprocess.CalledProcessError:  # runc has not made it yet
        return None
    command = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", ASK % PORT]
    done = subprocess.run(command, input=json.dumps(numbers), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_two_spaces_of_the_app_share_a_card(node):
    (wanted,) = (contract.FOLDER / "requirements.txt").read_text().split()
    assert wanted == "torch==2.4.0"
    spaces = [node.app(name, Torch()) for name in ("first", "second")]

    def serves(space):
        assert space.process.poll() is None, space.output()
        return ask(space, [0.0] * 1024) is not None

    for space in spaces:
        until(lambda: serves(space), "the app serves", 180)
    served = node.broker.status()["totals"]["leases"]
    # each app is asked in turn, so that none of its calls shares a lease with another; both at once
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = sum(pool.map(lambda space: [ask(space, [1.0] * 1024) for _ in range(3)], spaces), [])
    # which numbers is a card's to say; that there are four, the model's
    assert [len(answer) for answer in answers] == [4] * 6
    status = node.broker.status()
    assert served >= 2 and status["totals"]["leases"] >= served + 6, (served, status["totals"])
    assert sorted(program["pid"] for program in status["programs"]) == sorted(space.pid() for space in spaces)
    assert {program["uid"] for program in status["programs"]} == {containers.UID}
    node.require_empty()
