"""docs/containers.md, run: Spaces in containers, a broker outside, and one software card that holds only one of them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import containers
import contract
import pytest
from containers import GROUP
from places import CLI, CUBIN, DRIVER, PROGRAMS, clean
from testing import lacking

sys.path.insert(0, str(DRIVER.parent))
from brokers import Broker  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def containers_can_be_had():
    if containers.missing():
        lacking.skip(containers.missing())


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


@pytest.fixture(scope="module")
def image(wheel, tmp_path_factory):
    """The root with the wheel and the programs, made by the steps of packaging/container/Dockerfile."""
    root = tmp_path_factory.mktemp("image") / "root"
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
    return root


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


@pytest.fixture
def node(image, tmp_path):
    made = Node(tmp_path, image)
    yield made
    made.close()


def until(true, what, seconds=20):
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.002)


def test_two_spaces_share_a_card_that_holds_one(node):
    spaces = [node.space("first", 5), node.space("second", 5)]
    calls = []
    for space in spaces:
        (ready,) = space.hear("ready")
        assert ready["spaces"].startswith("/app/venv/lib/python3.") and "/zerogpu/lib/python/spaces/" in ready["spaces"]
        assert ready["uid"] == containers.UID and ready["process"] < 20, "it is in a pid namespace of its own"
    for space in spaces:
        lines = space.hear("done")
        begins, ends = ([line["at"] for line in lines if line["what"] == what] for what in ("in", "out"))
        assert len(begins) == len(ends) == 5
        calls += [(begin, end, space) for begin, end in zip(begins, ends)]
    calls.sort(key=lambda call: call[0])
    for (_, end, _), (begin, _, _) in zip(calls, calls[1:]):
        assert end <= begin, "both were on the card at once, which holds one"
    order = [space is spaces[0] for _, _, space in calls]
    assert order != sorted(order) and order != sorted(order, reverse=True), "one waited for all calls of the other"
    node.require_empty()

    # the broker calls them by their numbers out here
    status = node.broker.status()
    seen = {program["name"]: program for program in status["programs"]}
    assert sorted(program["pid"] for program in status["programs"]) == sorted(space.pid() for space in spaces), seen
    assert {program["uid"] for program in status["programs"]} == {containers.UID}

    # the next broker finds them, and they find it: the folder is mounted, not the socket
    node.broker.kill()
    node.start()
    for space in spaces:
        space.tell("turns")
    for space in spaces:
        assert space.hear("done")[-1]["taken"] == 10
        space.tell("end")
    for space in spaces:
        code, _, log = space.output()
        assert (code, log) == (0, ""), log
    node.require_empty()


def test_a_container_killed_in_a_call_frees_the_card(node):
    took = []
    for attempt in range(3):
        space = node.space(f"killed-{attempt}", 1)
        space.hear("done")
        space.tell("hold")
        space.hear("held")
        assert len(node.holders()) == 1
        assert node.card()["bytes_used"] >= SPACE << 20
        dead = space.kill()
        while node.holders():
            assert time.monotonic() < dead + 20, "the broker does not notice"
        took.append(time.monotonic() - dead)
        node.require_empty()
    print(f"the card was free {', '.join(f'{1000 * t:.0f} ms' for t in took)} after the container was dead")
    assert sorted(took)[1] < 0.1, took
    space = node.space("after", 1)
    space.hear("done")


def test_memory_is_charged_to_the_container(node):
    """The bytes of the device are the container's own shared memory; over its limit it is killed, and only it."""
    space = node.space("charged", 2)
    space.hear("done")
    assert charged(space.pid()) >= SPACE << 20
    code, out, _ = node.space("too-big", 2, limit=(SPACE // 2) << 20).output()
    assert code == 137 and "done" not in out, (code, out)
    space.tell("turns")
    space.hear("done")
    node.require_empty()


def charged(pid):
    """Bytes of shared memory in the control group of a process."""
    lines = [line.split(":", 2) for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    ways = {controllers: path for _, controllers, path in lines}
    place = f"/sys/fs/cgroup/memory{ways['memory']}" if "memory" in ways else f"/sys/fs/cgroup{ways['']}"
    stat = dict(line.split() for line in (pathlib.Path(place) / "memory.stat").read_text().splitlines())
    return int(stat["shmem"])


def test_the_doctor_in_a_container(node):
    said = doctor(node.container("doctor", "zerogpu", "doctor", "--json"))
    problems = [finding for finding in said["findings"] if finding["level"] == "problem"]
    assert not problems and said["ok"], problems
    texts = "\n".join(finding["text"] for finding in said["findings"])
    for part in ("answers on /run/zerogpu/broker.sock", "outside this container's pid namespace", "seccomp", "memfd"):
        assert part in texts, texts
    assert "membarrier is refused" not in texts


def test_the_doctor_where_the_socket_is_not_mounted(node):
    said = doctor(node.container("unmounted", "zerogpu", "doctor", "--json", mounts=[]))
    (problem,) = [finding for finding in said["findings"] if finding["level"] == "problem"]
    assert problem["text"] == "/run/zerogpu/broker.sock, which ZEROGPU_SOCKET names, is not there"
    assert "in a container, mount the folder" in problem["remedy"]


def test_the_doctor_where_the_group_is_missing(node):
    os.chown(node.broker.socket, 0, 0)
    said = doctor(node.container("foreign", "zerogpu", "doctor", "--json"))
    (problem,) = [finding for finding in said["findings"] if finding["level"] == "problem"]
    assert "may not connect to the broker" in problem["text"] and "group" in problem["remedy"], problem


def doctor(container):
    code, out, log = container.output()
    assert log == "", log
    said = json.loads(out)
    assert code == (0 if said["ok"] else 1)
    return said
