"""A machine with a software card, a broker, and containers of an image: what docs/containers.md describes."""

import json
import os
import shutil
import subprocess
import sys
import time

import containers
import contract
from containers import GROUP
from places import CLI, CUBIN, DRIVER, PROGRAMS, clean

sys.path.insert(0, str(DRIVER.parent))
from brokers import Broker  # noqa: E402

# The card holds what the broker has for itself (640 MiB) and one Space with its context, no two.
CARD = "736MiB"
SPACE = 48
CONFIG = """
socket-mode = "0660"
[queue]
grace = "2s"
[memory]
warm = "0"
context = "16MiB"
"""
# Instead of --gpus: the software card.
SOFT = {"ZEROGPU_DRIVER": "soft"}
# What a broker has on a card for itself.
OWN = 4 << 20
PYTHON = "/app/venv/bin/python"
DOCKERFILE = contract.Dockerfile()


def build(root, wheel):
    """Makes the root with the wheel and the programs, by the steps of packaging/container/Dockerfile."""
    subprocess.run(["cp", "--archive", "--reflink=auto", containers.debian(), root], check=True)
    prepare(root)
    context = root / "context"
    user, packages, own = DOCKERFILE.runs()
    # there is no useradd in the root, which has the user: the same one
    assert user == (f"useradd --uid {containers.UID} --no-create-home --home-dir /tmp {DOCKERFILE.user}", {})
    assert f"\n{DOCKERFILE.user}:x:{containers.UID}:{containers.UID}::/tmp:" in (root / "etc/passwd").read_text()
    # nothing can be fetched: PyTorch comes with a folder, where a test needs it
    assert packages[0].startswith("pip install ") and packages[0].endswith(" --requirement /context/requirements.txt")
    assert packages[1] == {"/context/requirements.txt": "requirements.txt"} and (contract.FOLDER / "requirements.txt").exists()
    command, mounts = own
    assert mounts == {"/context": "."}
    shutil.copytree(contract.FOLDER, context)
    shutil.copy(wheel, context)
    environment = {"PATH": "/app/venv/bin:/usr/sbin:/usr/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
    subprocess.run(["chroot", root, "/bin/sh", "-c", f"{command} --quiet"], check=True, env=environment)
    shutil.rmtree(context)
    for text in DOCKERFILE.of("COPY"):
        name, folder = text.split()
        shutil.copy(contract.FOLDER / name, root / folder.strip("/"))
    for path in (PROGRAMS / "space.py", DRIVER, CUBIN):
        shutil.copy(path, root / "app")


def prepare(root):
    """What the base image would have: a Python with pip, here in an environment, by the names that the steps call."""
    (pip,) = (root / "usr/share/python-wheels").glob("pip-*.whl")
    path = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
    subprocess.run(["chroot", root, "/usr/bin/python3", "-m", "venv", "--without-pip", "/app/venv"], check=True, env=path)
    # Debian's as it lies there, which takes less time than to put it into the environment
    program = root / "app/venv/bin/pip"
    program.write_text(f'#!/bin/sh\nexec {PYTHON} /usr/share/python-wheels/{pip.name}/pip "$@"\n')
    program.chmod(0o755)


class Node:
    """The machine: a software card, a broker that lends it to a group, and the folders that containers get."""

    def __init__(self, folder, image):
        # the way there is open to the containers' user
        for parent in (folder, *folder.parents[:2]):
            parent.chmod(0o755)
        self.run, self.cards = folder / "run", folder / "cards"
        self.run.mkdir()
        self.cards.touch()
        os.chown(self.cards, 0, GROUP)
        self.cards.chmod(0o660)
        environment = dict(clean(), SOFTCUDA_CARDS=str(self.cards))
        self.broker = Broker(self.run, CLI, environment, CONFIG, ["--cards", "1", "--vram", CARD])
        self.start()
        (folder / "containers").mkdir()
        self.runtime = containers.Runtime(folder / "containers", image)
        self._look = ([CLI, "soft-smi", "--json"], environment)

    def start(self):
        self.broker.start()
        # as the socket unit of packaging/systemd does
        os.chown(self.broker.socket, 0, GROUP)

    def container(self, name, *arguments, mounts=None, path="/app/venv/bin:/usr/bin:/bin", settings=(), **more):
        """A container as docs/containers.md says."""
        environment = dict(
            DOCKERFILE.environment,
            PATH=path,
            SOFTCUDA_CARDS="/run/zerogpu-cards",
            CHECKS_CUBIN="/app/sm80.cubin",
            **dict(settings),
        )
        usual = [(self.run, "/run/zerogpu", False), (self.cards, "/run/zerogpu-cards", True)]
        mounts = usual if mounts is None else mounts
        return self.runtime.start(name, *arguments, environment=environment, mounts=mounts, folder=DOCKERFILE.folder, **more)

    def space(self, name, turns, **more):
        command = [*DOCKERFILE.entry, "python", "space.py", name, SPACE, turns]
        return self.container(name, *map(str, command), settings=SOFT, **more)

    def app(self, name, torch):
        """The app of packaging/container, as the image starts it; PyTorch comes from a folder of this machine."""
        usual = [(self.run, "/run/zerogpu", False), (self.cards, "/run/zerogpu-cards", True)]
        mounts = [*usual, *((path, str(path), False) for path in torch.folders)]
        command = [*DOCKERFILE.entry, *DOCKERFILE.command]
        path = f"{torch.environment}/bin:/app/venv/bin:/usr/bin:/bin"
        return self.container(name, *command, mounts=mounts, path=path, settings=SOFT)

    def card(self):
        """What the machine says of the card."""
        command, environment = self._look
        return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)["cards"][0]

    def require_empty(self):
        """Nothing of a Space is on the card, as soon as the broker has let go."""
        until(lambda: self.card()["bytes_used"] <= OWN and self.card()["contexts"] == 1, "the card is empty")
        (process,) = self.card()["processes"]
        assert process["pid"] == self.broker.status()["pid"]

    def holders(self):
        return self.broker.status()["scheduler"]["cards"][0]["holders"]

    def close(self):
        self.runtime.close()
        self.broker.close()


def until(true, what, seconds=20):
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.002)
