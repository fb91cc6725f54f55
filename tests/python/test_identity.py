"""What a program sees: one device, as the profile describes it, however it looks."""

import ctypes.util
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

import pytest
from world import OBJECTS, each_check

pytestmark = pytest.mark.core

GIB = 1 << 30
WAYS = {
    "no driver": dict(driver="none"),
    "softcuda": dict(driver="soft"),
    "MIG slice": dict(driver="none", options=["--profile", "a100-mig-3g.40gb"], ZEROGPU_PROFILE="a100-mig-3g.40gb"),
    "H100": dict(driver="none", options=["--profile", "h100-80gb"], ZEROGPU_PROFILE="h100-80gb"),
    "10 GiB": dict(driver="none", options=["--vram", "10GiB"], IDENTITY_VRAM=10 * GIB),
}


@pytest.fixture(scope="module", params=WAYS)
def outcome(request, worlds):
    return worlds("identity").run("identity.py", **WAYS[request.param])


@each_check("identity.py")
def test_identity(outcome, check):
    outcome.require(check)


# What collect_env says where torch sees a device. The latter four it asks of nvcc, nvidia-smi and ldconfig, which the
# shim does not bring; without a device it asks nobody, and says "No CUDA".
OF_THE_DEVICE = {
    "Is CUDA available": ["True"],
    # torch 2.4 sets it when it starts to use the device, 2.11 does not
    "CUDA_MODULE_LOADING set to": ["LAZY", ""],
    "CUDA runtime version": ["Could not collect"],
    "GPU models and configuration": ["Could not collect"],
    "Nvidia driver version": ["Could not collect"],
    "cuDNN version": ["Could not collect"],
    "Caching allocator config": ["N/A"],
}
# What changes from one moment to the next.
OF_THE_MOMENT = ("CPU MHz", "CPU(s) scaling MHz", "BogoMIPS")


def shown(text):
    """The lines of collect_env: what they are about, and what they say."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {what: said.strip() for what, said in lines.items() if what not in OF_THE_MOMENT}


def test_collect_env_describes_the_device(world, driver):
    command = [sys.executable, "-m", "torch.utils.collect_env"]
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True, cwd=world.folder)
    assert done.returncode == 0, done.stderr
    outcome = world.run(command, driver=driver)
    outcome.require_end()
    bare, seen = shown(done.stdout), shown(outcome.out)
    assert seen["PyTorch version"].split("+")[0] == importlib.metadata.version("torch").split("+")[0]
    tools = [tool for tool in ("nvcc", "nvidia-smi") if shutil.which(tool)]
    # and cuDNN, as the system's linker knows it
    if shutil.which("ldconfig"):
        tools += re.findall("libcudnn", subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout)
    for what, values in OF_THE_DEVICE.items():
        was, now = bare.pop(what, None), seen.pop(what, None)
        if was is not None and not tools:
            assert now in values, (what, now)
    assert seen == bare, "the rest is as without the shim"


COUNT = """
import torch
print(torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda._device_count_nvml(), torch.cuda.is_initialized())
"""


@pytest.mark.parametrize("nvml_check", [False, True])
def test_the_device_is_counted_through_cuda_and_through_nvml(world, driver, nvml_check):
    more = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"} if nvml_check else {}
    outcome = world.run([sys.executable, "-c", COUNT], driver=driver, **more)
    outcome.require_end()
    assert outcome.out.split() == ["True", "1", "1", "False"]


@pytest.mark.parametrize("visible, count", [("0", 1), ("", 0), ("-1", 0), ("1", 0), ("0,1", 1)])
def test_visible_devices_are_chosen_as_cuda_does(world, driver, visible, count):
    outcome = world.run([sys.executable, "-c", COUNT], driver=driver, CUDA_VISIBLE_DEVICES=visible)
    outcome.require_end()
    available, through_cuda, _, _ = outcome.out.split()
    assert (available, through_cuda) == (str(count > 0), str(count))


PLAIN = """
import torch
assert torch.cuda.get_device_name() == "NVIDIA A100-SXM4-40GB"
assert torch.cuda._device_count_nvml() == 1
x = torch.arange(1000)
assert torch.equal(x.to("cuda").cpu(), x)
"""


@pytest.mark.parametrize("preload", [[OBJECTS[0]], [OBJECTS[0].with_name("libzerogpu.so")], OBJECTS])
def test_a_plain_preload_is_enough(world, preload):
    """Without the command line: the shim by itself opens its companions."""
    values = world.environment(LD_PRELOAD=":".join(map(str, preload)), ZEROGPU_DRIVER="none")
    done = subprocess.run([sys.executable, "-c", PLAIN], env=values, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_shim_there_is_no_device(world):
    """What the tests above see comes from the shim."""
    if ctypes.util.find_library("cuda") or os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has an NVIDIA driver")
    done = subprocess.run([sys.executable, "-c", COUNT], env=world.environment(), capture_output=True, text=True)
    assert done.stdout.split()[:2] == ["False", "0"]
