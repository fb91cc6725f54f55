"""What the driver below refuses more than once, and what is said of it. Each call that fails once: `fault_each_call` of
tests/semantics."""

import subprocess
import sys

import pytest
from world import LIB

pytestmark = pytest.mark.once

OUT_OF_MEMORY, UNKNOWN, ILLEGAL_ADDRESS = 2, 999, 700


def test_faults_are_counted_each_for_itself(world):
    """Else faults of one function in a row would fall on calls further apart than they say."""
    program = "import ctypes, sys; d = ctypes.CDLL(sys.argv[1]); print([d.cuInit(0) for _ in range(5)])"
    values = world.environment(SOFTCUDA_FAULT="cuInit:1=2,cuInit:2=3,cuInit:4=999")
    command = [sys.executable, "-c", program, LIB / "libsoftcuda.so"]
    done = subprocess.run(command, env=values, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[2, 3, 0, 999, 0]"


# Without these no claim is possible, ...
CLAIM = [
    "cuInit",
    "cuMemAddressReserve",
    "cuDevicePrimaryCtxRetain",
    "cuMemCreate",
    "cuMemMap",
    "cuMemSetAccess",
    "cuMemcpyHtoDAsync_v2",
]
# ... and without these no launch: the caller must hear of it.
VITAL = CLAIM + ["cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel"]


@pytest.mark.parametrize("function", VITAL)
def test_the_caller_gets_the_error(world, function):
    # the addresses are asked for three times
    times = 3 if function == "cuMemAddressReserve" else 1
    faults = ",".join(f"{function}:{nth}={UNKNOWN}" for nth in range(1, times + 1))
    outcome = world.run("faults.py", SOFTCUDA_FAULT=faults, timeout=60)
    assert outcome.code == 0, outcome.err
    codes = outcome.told["codes"]["codes"]
    assert codes[0] in (UNKNOWN, OUT_OF_MEMORY) and not any(codes[1:]), codes


@pytest.mark.parametrize("function", VITAL)
def test_a_function_that_always_fails(world, function):
    outcome = world.run("faults.py", SOFTCUDA_FAULT=f"{function}={UNKNOWN}", FAULTS_LASTING=1, timeout=60)
    assert outcome.code == 0, outcome.err
    assert not outcome.left and not outcome.violations
    assert outcome.messages() or function not in CLAIM, "nobody said why"


# A copy home that fails: the bytes stay where they are until it works.
@pytest.mark.parametrize("function", ["cuMemcpyDtoHAsync_v2", "cuCtxSynchronize", "cuMemcpyDtoH_v2"])
@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_park_that_fails_is_tried_again(world, function, times):
    faults = ",".join(f"{function}:{nth}={UNKNOWN}" for nth in range(1, times + 1))
    outcome = world.run("faults.py", SOFTCUDA_FAULT=faults, timeout=60)
    assert outcome.code == 0, outcome.err
    assert not outcome.left and not outcome.violations


def test_a_lost_device_is_said_and_the_program_ends(world):
    outcome = world.run("faults.py", SOFTCUDA_FAULT=f"cuCtxSynchronize={ILLEGAL_ADDRESS}", FAULTS_LASTING=1, timeout=60)
    assert outcome.code >= 0, outcome.err
    assert any("GPU failed" in message for message in outcome.messages()), outcome.err
    assert not outcome.left


def test_a_card_that_is_full_for_others(world):
    """A card smaller than what is parked: the claim fails with out of memory, and says so."""
    outcome = world.run("faults.py", SOFTCUDA_VRAM="8MiB", FAULTS_LASTING=1, options=["--vram", "1GiB"], timeout=60)
    assert outcome.code == 0, outcome.err
    assert set(outcome.told["codes"]["codes"]) == {OUT_OF_MEMORY}
    assert outcome.messages()
    assert not outcome.left
