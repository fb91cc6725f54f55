"""Programs that get their cards from a broker: the same as on a card of their own, and what only a broker does."""

import contextlib
import json
import os
import select
import signal
import sys

import pytest
from world import CLI, END, PROGRAMS, World, each_check

sys.path.insert(0, str(PROGRAMS))
from brokers import COLD, Broker  # noqa: E402

pytestmark = pytest.mark.once


class Node(World):
    """Software cards that a broker lends. With `config` it is started here, else by the program."""

    def __init__(self, folder, config=None, **environment):
        super().__init__(folder)
        self.broker = None
        if config:
            settings = self.environment(**environment)
            # its own kernels are none of the programs'
            del settings["SOFTCUDA_LAUNCH_LOG"]
            self.broker = Broker(folder, CLI, settings, config).start()
        self._pids = folder / "brokers"

    def environment(self, **more):
        return super().environment(**{"CHECKS_BROKERS": self.folder / "brokers", "SOFTCUDA_STRICT_PINS": 1, **more})

    def start(self, program, *arguments, options=(), **how):
        return super().start(program, *arguments, options=[*options, "--socket", self.folder / "broker.sock"], **how)

    def run(self, program, *arguments, **how):
        outcome = super().run(program, *arguments, **how)
        outcome.err += self.log()
        self.close()
        outcome.left = self.left()
        return outcome

    def log(self):
        log = self.folder / "broker.log"
        return "".join(f"broker: {line}" for line in log.read_text().splitlines(True)) if log.exists() else ""

    def close(self):
        """Ends the broker, whoever started it."""
        if self.broker:
            self.broker.close()
        for pid in self._pids.read_text().split() if self._pids.exists() else ():
            try:
                process = os.pidfd_open(int(pid))
            except ProcessLookupError:
                continue
            except OSError:
                # the number is a thread's by now
                continue
            with contextlib.closing(open(process, "rb", buffering=0)):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                # what it has on the cards is there until it has ended
                assert select.select([process], [], [], 20)[0], f"process {pid} does not end"
        # their numbers may be others' from now on
        self._pids.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Makes nodes, and ends their brokers."""
    nodes = []

    def make(name, *arguments, **how):
        nodes.append(Node(tmp_path_factory.mktemp(name), *arguments, **how))
        return nodes[-1]

    yield make
    for made in nodes:
        made.close()


@pytest.fixture(scope="module")
def canonical(node, quick):
    return node("canonical", COLD).run("canonical.py", CANONICAL_PARKS=20 if quick else 60)


@each_check("canonical.py")
def test_canonical_program(canonical, check):
    canonical.require(check)


ALLOCATORS = {"default": "", "expandable segments": "expandable_segments:True", "async": "backend:cudaMallocAsync"}


@pytest.fixture(scope="module", params=ALLOCATORS)
def regions(request, node):
    allocator = {"PYTORCH_CUDA_ALLOC_CONF": ALLOCATORS[request.param]} if ALLOCATORS[request.param] else {}
    return node("regions", COLD).run("regions.py", options=["--vram", "1GiB"], **allocator)


@each_check("regions.py")
def test_regions(regions, check):
    regions.require(check)


@pytest.fixture(scope="module")
def deadline(node):
    # a program that is late on a busy machine is not ended for that
    return node("deadline", COLD.replace('grace = "2s"', 'grace = "60s"')).run("deadline.py")


@each_check("deadline.py")
def test_deadline(deadline, check):
    deadline.require(check)


@pytest.fixture(scope="module")
def outside(node):
    return node("outside", COLD).run("outside.py", ZEROGPU_RECORD="16MiB", OUTSIDE_BIG=256 << 20)


@each_check("outside.py")
def test_outside_of_regions(outside, check):
    outside.require(check)


@pytest.fixture(scope="module")
def processes(node):
    return node("processes", COLD).run("processes.py")


@each_check("processes.py")
def test_processes(processes, check):
    processes.require(check)


def test_ten_threads_in_and_out_of_regions(node, quick):
    outcome = node("stress", COLD).run("stress.py", STRESS_SECONDS=3 if quick else 10)
    outcome.require_all()
    state = outcome.told["turns"]["state"]
    assert state["claims"] == state["parks"] > 3, state


# What the driver refuses a program that has lent memory: a descriptor of a slab, and to map, or to unmap, what was lent before.
UNMAPS = [f"cuMemUnmap:{nth}=999" for nth in range(1, 10)]
REFUSALS = {
    "an import": ["cuMemImportFromShareableHandle:3=2"],
    "an unmap at a park": ["cuMemUnmap:1=999", "cuMemUnmap:2=999", *UNMAPS[4:]],
    "access in a call": ["cuMemSetAccess:2=999", "cuMemUnmap:1=999", "cuMemUnmap:2=999"],
    "access and its park": ["cuMemSetAccess:2=999", "cuMemUnmap:1=999", "cuMemUnmap:2=999", *UNMAPS[3:7]],
    "access and its parks": ["cuMemSetAccess:2=999", "cuMemUnmap:1=999", "cuMemUnmap:2=999", *UNMAPS[3:9]],
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_lent_memory_that_is_refused(node, refusal):
    outcome = node("regrown", '[queue]\ngrace = "5s"\n').run("regrown.py", SOFTCUDA_FAULT=",".join(REFUSALS[refusal]))
    assert outcome.code == 0, outcome.err
    assert outcome.told["refused"]["refused"] or refusal == "an unmap at a park", "nothing was refused"
    assert not outcome.violations and not outcome.left, outcome.err


def test_memory_that_the_driver_keeps_from_the_broker_is_given_back_later(node):
    """A slab comes to nothing: the driver refuses access to it, and then to unmap it."""
    # the first access is that of the broker's own memory; it asks twice each time: as the access is refused, at once, and as the
    # program's memory leaves the card
    unmaps = ",".join(f"cuMemUnmap:{nth}=999" for nth in range(1, 7))
    made = node("unclosed", COLD, SOFTCUDA_FAULT=f"cuMemSetAccess:2=999,{unmaps}")
    script = """
import checks, driver, shim, spaces._shim
driver.start()
interface, empty = spaces._shim.find(), driver.made("cuModuleGetFunction", driver.image(), b"empty")
memory = driver.made("cuMemAlloc_v2", 4 << 20)
driver.upload(memory, b"here")
for refused in (True, False):
    region = interface.begin(60.0)
    assert (driver.answer("cuLaunchKernel", empty, 1, 1, 1, 1, 1, 1, 0, 0, None, None) != 0) == refused
    if refused:
        assert shim.card()["bytes_used"] >= 4 << 20, "nothing was kept"
    interface.end(region)
assert driver.download(memory, 4) == b"here"
shim.require_empty()
"""
    outcome = made.run([sys.executable, "-c", script], PYTHONPATH=PROGRAMS, timeout=60)
    assert outcome.code == 0, outcome.err
    assert "memory of a card could not be given back" in outcome.err


def test_two_programs_share_a_card_that_holds_one_of_them(node):
    # room for 160 MiB beside the contexts; a model has 120 MiB
    vram, calls = (640 + 600 + 160) << 20, 15
    shared = node("shares", '[queue]\ngrace = "10s"\n', SOFTCUDA_VRAM=vram)
    journal = shared.folder / "journal"
    settings = dict(SHARES_CALLS=calls, SHARES_JOURNAL=journal, SOFTCUDA_VRAM=vram, options=["--vram", vram])
    programs = [
        shared.start("shares.py", SHARES_NAME=name, CHECKS=shared.folder / name, **settings) for name in ("a", "bb")
    ]
    for name, program in zip(("a", "bb"), programs):
        out, err = program.communicate(timeout=200)
        assert program.returncode == 0, out + err + shared.log()
        told = json.loads((shared.folder / name).read_text())
        assert "failed" not in told, told["failed"] + shared.log()
    notes = [json.loads(line) for line in journal.read_text().splitlines()]
    spans = [note for note in notes if note[1] in ("begin", "end")]
    # as they were written: no call begins in another's
    assert [what for _, what, _ in spans] == ["begin", "end"] * (2 * calls)
    assert all(first[0] == second[0] for first, second in zip(spans[::2], spans[1::2]))
    turns = [name for name, what, _ in spans if what == "begin"]
    # each waits in its call until the other one is in the queue
    assert all(one != other for one, other in zip(turns, turns[1:])), turns
    shared.close()
    assert not shared.violations() and not shared.left()


@pytest.fixture(scope="module")
def lent(node):
    return node("lent").run("lent.py", ZEROGPU_WAIT="8s")


@each_check("lent.py")
def test_a_broker_that_comes_and_goes(lent, check):
    # it says what its broker did not do
    lent.require_end(messages=True) if check == END else lent.require(check)


@pytest.fixture(scope="module")
def queued(node):
    vram = (640 + 600 + 208) << 20
    return node("queued").run("queued.py", ZEROGPU_WAIT="10s", SOFTCUDA_VRAM=vram, options=["--vram", "2GiB"])


@each_check("queued.py")
def test_a_card_that_others_want(queued, check):
    queued.require_end(messages=True) if check == END else queued.require(check)


@pytest.fixture(scope="module")
def bound(node):
    # softcuda notes the call of a slot that it does not have
    return node("bound").run("bound.py", ZEROGPU_WAIT="8s", SOFTCUDA_STRICT_LOG="")


@each_check("bound.py")
def test_a_context_that_can_not_be_made_anew(bound, check):
    # it says what its broker did not do
    bound.require_end(messages=True) if check == END else bound.require(check)
