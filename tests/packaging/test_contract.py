"""What packaging/container and docs/containers.md say is the same, and what the tests of containers do."""

import containers
import contract
import pytest
from contract import PORT
from node import DOCKERFILE
from testing import lacking


@pytest.fixture
def told(tmp_path):
    """What runc is told for a container of the tests."""
    if not containers.PROFILE.exists():
        lacking.skip(f"{containers.PROFILE} is missing: scripts/lib/packages {containers.HOST_PACKAGES[1]}")
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
