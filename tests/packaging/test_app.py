"""packaging/container's own app, with PyTorch, in two containers on one card; and that its files say the same as the page."""

import concurrent.futures
import json
import subprocess
import sys

import containers
import contract
import pytest
from test_container import DOCKERFILE, containers_can_be_had, image, node, until  # noqa: F401 (fixtures)
from testing import environments

PORT = 7860
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


def test_two_spaces_of_the_app_share_a_card_that_holds_one(node):  # noqa: F811
    (wanted,) = (contract.FOLDER / "requirements.txt").read_text().split()
    assert wanted == "torch==2.4.0"
    spaces = [node.app(name, Torch()) for name in ("first", "second")]

    def serves(space):
        assert space.process.poll() is None, space.output()
        return ask(space, [0.0] * 1024) is not None

    for space in spaces:
        until(lambda: serves(space), "the app serves", 180)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = list(pool.map(ask, spaces * 3, [[1.0] * 1024] * 6))
    # which numbers is a card's to say; that there are four, the model's
    assert [len(answer) for answer in answers] == [4] * 6
    status = node.broker.status()
    assert sorted(program["pid"] for program in status["programs"]) == sorted(space.pid() for space in spaces)
    assert {program["uid"] for program in status["programs"]} == {containers.UID}
    node.require_empty()


@pytest.fixture
def told(tmp_path):
    """What runc is told for a container of the tests."""
    runtime = containers.Runtime(tmp_path, tmp_path)
    return runtime.config("name", ["true"], DOCKERFILE.environment, [("/here", "/run/zerogpu", False)], 24 << 30, DOCKERFILE.folder)


def test_the_page_starts_a_container_as_the_tests_do(told):
    options = contract.podman()
    assert (options["gpus"], options["read-only"], options["tmpfs"]) == (["all"], [None], ["/tmp"])
    assert told["root"]["readonly"] and "/tmp" in [mount["destination"] for mount in told["mounts"] if mount["type"] == "tmpfs"]
    assert options["cap-drop"] == ["all"] and not any(told["process"]["capabilities"].values())
    assert options["security-opt"] == ["no-new-privileges"] and told["process"]["noNewPrivileges"]
    assert options["group-add"] == ["$(getent group zerogpu | cut -d: -f3)"]
    assert told["process"]["user"]["additionalGids"] == [containers.GROUP]
    assert options["volume"] == ["/run/zerogpu:/run/zerogpu:ro"]
    (mount,) = [mount for mount in told["mounts"] if mount["destination"] == "/run/zerogpu"]
    assert mount["options"] == ["rbind", "ro"]
    name, value = options["env"][0].split("=")
    assert f"{name}={value}" in told["process"]["env"] and DOCKERFILE.environment[name] == value
    assert options["memory"] == ["24g"] and options["publish"] == [f"{PORT}:{PORT}"]
    assert set(options) == {
        *("gpus", "read-only", "tmpfs", "cap-drop", "security-opt", "group-add", "volume", "env", "memory", "publish", "rm")
    }


def test_the_compose_file_says_what_the_page_says():
    options, (keys, services) = contract.podman(), contract.compose()
    assert services == ["first", "second"]
    assert keys["read_only"] == "true" and keys["tmpfs"] == f"[{options['tmpfs'][0]}]"
    assert keys["cap_drop"] == "[ALL]" and keys["security_opt"] == '["no-new-privileges:true"]'
    assert keys["group_add"] == '["${ZEROGPU_GID}"]' and keys["mem_limit"] == options["memory"][0]
    assert keys["volumes"] == f"- {options['volume'][0]}"
    assert "driver: nvidia, count: all, capabilities: [gpu]" in keys["deploy"]
    assert set(keys) == {"build", "read_only", "tmpfs", "cap_drop", "security_opt", "group_add", "mem_limit", "volumes", "deploy"}


def test_the_dockerfile_is_what_the_page_needs():
    assert DOCKERFILE.entry == ["zerogpu", "run", "--"] and DOCKERFILE.command == ["python", "app.py"]
    assert DOCKERFILE.of("EXPOSE") == [str(PORT)] and DOCKERFILE.of("FROM") == ["${BASE}"]
    assert f'("", {PORT})' in (contract.FOLDER / "app.py").read_text()
    known = {"ARG", "FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in DOCKERFILE.steps} == known, "a step that no test follows"
