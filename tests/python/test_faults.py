"""Each driver function that claim, park and forwarded calls use fails once, at each of its first calls."""

import re
import subprocess
import sys

import pytest
from world import LIB, ROOT

pytestmark = pytest.mark.once

OUT_OF_MEMORY, UNKNOWN, ILLEGAL_ADDRESS = 2, 999, 700


def functions():
    """What the shim calls in the driver below: the list in the source, without what only leases and brokers need."""
    text = (ROOT / "crates" / "below" / "src" / "driver.rs").read_text()
    (block,) = re.findall(r"^functions! \{\n(.*?)^\}", text, re.M | re.S)
    names = re.findall(r"^    (cu\w+)\(", block, re.M)
    assert len(names) > 40 and LENT <= set(names)
    return [name for name in names if name not in LENT]


# What a broker calls, and a program that a broker lends a card to.
LENT = {
    "cuCtxGetCurrent",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDeviceTotalMem_v2",
    "cuMemExportToShareableHandle",
    "cuMemGetAllocationGranularity",
    "cuMemGetInfo_v2",
    "cuMemImportFromShareableHandle",
}


def test_faults_are_counted_each_for_itself(world):
    """Else faults of one function in a row would fall on calls further apart than they say."""
    program = "import ctypes, sys; d = ctypes.CDLL(sys.argv[1]); print([d.cuInit(0) for _ in range(5)])"
    values = world.environment(SOFTCUDA_FAULT="cuInit:1=2,cuInit:2=3,cuInit:4=999")
    command = [sys.executable, "-c", program, LIB / "libsoftcuda.so"]
    done = subprocess.run(command, env=values, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[2, 3, 0, 999, 0]"


# Asked before the shim starts to claim, and answered for all its life.
EARLY = ("cuDriverGetVersion",)


@pytest.mark.parametrize("function", [name for name in functions() if name not in EARLY])
def test_a_function_that_fails_once(world, quick, function):
    code = OUT_OF_MEMORY if "Mem" in function else UNKNOWN
    for nth in (1,) if quick else (1, 2, 3):
        outcome = world.run("faults.py", SOFTCUDA_FAULT=f"{function}:{nth}={code}", timeout=60)
        assert outcome.code == 0, f"{function}, call {nth}: {outcome.err}"
        assert not outcome.left and not outcome.violations
        failed = [code for code in outcome.told["codes"]["codes"] if code]
        assert failed in ([], [code]), f"{function}, call {nth}: one refusal was told as {failed}"


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
VITAL = CLAIM + ["cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel"]


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


# Not heard of, but in the trace: the driver keeps the module until the context goes; a stream runs without the attribute.
QUIET = ("cuModuleUnload", "cuStreamSetAttribute")
# Not called: only where the driver gives other addresses than asked for; only for tables that are forwarded.
UNUSED = ("cuMemAddressFree", "cuGetExportTable")


@pytest.mark.parametrize("function", [name for name in functions() if name not in EARLY])
def test_the_program_reaches_the_function(world, function):
    """Else the tests above would pass whatever the shim does."""
    outcome = world.run("faults.py", SOFTCUDA_FAULT=f"{function}={UNKNOWN}", FAULTS_LASTING=1, timeout=60)
    heard = any(outcome.told["codes"]["codes"]) or outcome.messages()
    assert bool(heard) == (function not in QUIET + UNUSED), outcome.err


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
