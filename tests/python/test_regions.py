"""Regions: a GPU is held only while a marked call needs it, nothing is left behind, and no byte changes."""

import importlib.util
import sys

import pytest
from world import PROGRAMS, each_check, torch_version


@pytest.fixture(scope="module")
def canonical(worlds, quick):
    return worlds("canonical").run("canonical.py", CANONICAL_PARKS=20 if quick else 1000, timeout=600)


@pytest.mark.core
@each_check("canonical.py")
def test_canonical_program(canonical, check):
    canonical.require(check)


ALLOCATORS = {"default": "", "expandable segments": "expandable_segments:True", "async": "backend:cudaMallocAsync"}


@pytest.fixture(scope="module", params=ALLOCATORS)
def regions(request, worlds):
    if request.param == "expandable segments" and torch_version() < (2, 1):
        pytest.skip("torch 2.0 has no expandable segments")
    allocator = {"PYTORCH_CUDA_ALLOC_CONF": ALLOCATORS[request.param]} if ALLOCATORS[request.param] else {}
    return worlds("regions").run("regions.py", options=["--vram", "2GiB"], SOFTCUDA_VRAM="2GiB", **allocator)


@each_check("regions.py")
def test_regions(regions, check):
    regions.require(check)


@pytest.fixture(scope="module")
def deadline(worlds):
    return worlds("deadline").run("deadline.py")


@each_check("deadline.py")
def test_deadline(deadline, check):
    deadline.require(check)


@pytest.fixture(scope="module")
def outside(worlds, quick):
    big = (256 << 20) if quick else (2 << 30)
    return worlds("outside").run("outside.py", ZEROGPU_RECORD="16MiB", OUTSIDE_BIG=big)


@each_check("outside.py")
def test_outside_of_regions(outside, check):
    outside.require(check)


AT_ONCE = """
import torch, shim, checks
x = torch.zeros(3).to("cuda")
y = x + 1
state = shim.state()
assert (state["borrows"], state["deferred"]) == (1, 0), state
checks.until(shim.parked, "parked")
shim.require_empty()
assert not x.cpu().any()
"""
REFUSED = """
import torch, checks, spaces
x = torch.zeros(3).to("cuda")
checks.raises(RuntimeError, "", lambda: x + 1)
assert not x.cpu().any()
spaces.GPU(lambda: x + 1)()
"""


def test_a_gpu_is_borrowed_at_once_if_so_set(world):
    options = ["--outside", "borrow"]
    outcome = world.run([sys.executable, "-c", AT_ONCE], options=options, PYTHONPATH=PROGRAMS)
    outcome.require_end()
    assert len(world.launches()) == 1


def test_work_outside_is_refused_if_so_set(world):
    options = ["--outside", "error"]
    outcome = world.run([sys.executable, "-c", REFUSED], options=options, PYTHONPATH=PROGRAMS)
    outcome.require_end(messages=True)
    (message,) = outcome.messages()
    assert "outside any @spaces.GPU function" in message and "CUDAFunctorOnSelf_add" in message
    assert len(world.launches()) == 1


def test_ten_threads_in_and_out_of_regions(world, quick):
    seconds = 2 if quick else 60 if torch_version() == (2, 4) else 10
    outcome = world.run("stress.py", STRESS_SECONDS=seconds)
    outcome.require_all()
    state = outcome.told["turns"]["state"]
    assert state["claims"] == state["parks"] > 3, state


IN_A_REGION = """
import atexit, os, signal, sys, threading, time
import torch, spaces, shim, checks

host = torch.arange(1000)
x = host.to("cuda")

@spaces.GPU
def call(function):
    x + 1
    assert shim.on_card()[1] == 1
    return function()

def fork():
    child = os.fork()
    if child == 0:
        try:
            x + 1
        except RuntimeError as error:
            os._exit(7 if "Cannot re-initialize CUDA" in str(error) or "initialization error" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    x + 1
    return shim.on_card()[1]

def thread():
    t = threading.Thread(target=sys.exit)
    t.start()
    t.join()
"""
WAYS_OUT = {
    "sys.exit": ("call(lambda: sys.exit(4))", 4),
    "os._exit": ("call(lambda: os._exit(4))", 4),
    "exception": ("call(lambda: 1 / 0)", 1),
    "kill": ("call(lambda: os.kill(os.getpid(), signal.SIGKILL))", 137),
    "fork inside": ("assert call(fork) == 1\nshim.require_empty()\nassert torch.equal(x.cpu(), host)", 0),
    "fork between": ("call(lambda: 0)\nfork()\ncall(fork)\nchecks.until(shim.parked, 'parked')", 0),
    "fork with a record": ("y = x + 1\nfork()\nassert y.cpu().shape == (1000,)", 0),
    "sys.exit in a thread inside": ("call(thread)\nshim.require_empty()", 0),
    "a region that is open at the end": ("spaces._shim.find().begin(60.0)\nx + 1", 0),
    "a generator that is open at the end": ("g = spaces.GPU(lambda: (yield x + 1))()\nnext(g)", 0),
    "a record at the end": ("y = x + 1", 0),
    "work at exit": ("atexit.register(lambda: call(lambda: 0))", 0),
    "a region at exit in a thread": ("threading.Thread(target=call, args=(lambda: time.sleep(0.5),)).start()", 0),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_ways_out_of_a_region(world, way):
    script, code = WAYS_OUT[way]
    outcome = world.run([sys.executable, "-c", IN_A_REGION + script], PYTHONPATH=PROGRAMS, timeout=120)
    assert outcome.code == code or (code == 137 and outcome.code == -9), outcome.err
    assert not outcome.messages(), outcome.err
    assert not outcome.violations and not outcome.left
    assert code or not outcome.err, outcome.err


@pytest.fixture(scope="module")
def hugging_face(worlds):
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("transformers and diffusers are in the environment of torch 2.4.0 only")
    return worlds("hugging-face").run("hugging_face.py")


@each_check("hugging_face.py")
def test_hugging_face_models(hugging_face, check):
    hugging_face.require(check)
