"""docs/containers.md, run: Spaces in containers, a broker outside, and one software card that holds only one of them."""

import json
import os
import pathlib
import time

import containers
from node import SPACE


# Calls of a Space, each time that it is told to take its turns.
TURNS = 5


def test_two_spaces_share_a_card_that_holds_one(node):
    spaces = [node.space("first", TURNS), node.space("second", TURNS)]
    for space in spaces:
        (ready,) = space.hear("ready")
        assert ready["spaces"].startswith("/app/venv/lib/python3.") and "/zerogpu/lib/python/spaces/" in ready["spaces"]
        assert ready["uid"] == containers.UID and ready["process"] < 20, "it is in a pid namespace of its own"
    taken = TURNS
    # the second may have started when the first had had all its turns
    while not by_turns(spaces):
        assert taken < 5 * TURNS, "one waits for all calls of the other"
        taken += TURNS
        for space in spaces:
            space.tell("turns")
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
        assert space.hear("done")[-1]["taken"] == taken + TURNS
        space.tell("end")
    for space in spaces:
        code, _, log = space.output()
        assert (code, log) == (0, ""), log
    node.require_empty()


def by_turns(spaces):
    """Whether each had some of its turns between the other's, which is read from what they say. Never both at once."""
    calls = []
    for space in spaces:
        lines = space.hear("done")
        begins, ends = ([line["at"] for line in lines if line["what"] == what] for what in ("in", "out"))
        assert len(begins) == len(ends) == TURNS
        calls += [(begin, end, space) for begin, end in zip(begins, ends)]
    calls.sort(key=lambda call: call[0])
    for (_, end, _), (begin, _, _) in zip(calls, calls[1:]):
        assert end <= begin, "both were on the card at once, which holds one"
    order = [space is spaces[0] for _, _, space in calls]
    return order != sorted(order) and order != sorted(order, reverse=True)


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
    # seen through `zerogpu status`, which takes its time on a busy machine
    assert min(took) < 1, took
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
