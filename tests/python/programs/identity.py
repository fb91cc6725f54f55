"""What torch says of the device, field by field, against what the profile promises."""

import ctypes
import os

import checks
import driver
import torch
from checks import check, raises

GIB = 1 << 30
NAME = os.environ.get("ZEROGPU_PROFILE", "a100-40gb")
# From NVIDIA's data sheets; an H100's recorded rows (tests/data/device-attributes-h100.tsv).
PROFILES = {
    "a100-40gb": dict(
        name="NVIDIA A100-SXM4-40GB",
        total_memory=42505273344,
        multi_processor_count=108,
        L2_cache_size=41943040,
        clock_rate=1410000,
        memory_clock_rate=1215000,
        memory_bus_width=5120,
        pci_device_id=4,
    ),
    "a100-mig-3g.40gb": dict(
        name="NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        total_memory=42144366592,
        multi_processor_count=42,
        L2_cache_size=20971520,
        clock_rate=1410000,
        memory_clock_rate=1593000,
        memory_bus_width=2560,
        pci_device_id=4,
    ),
    "h100-80gb": dict(
        name="NVIDIA H100 80GB HBM3",
        total_memory=85017493504,
        multi_processor_count=132,
        L2_cache_size=52428800,
        clock_rate=1980000,
        memory_clock_rate=2619000,
        memory_bus_width=5120,
        pci_device_id=6,
    ),
}
ALL = dict(
    is_integrated=0,
    is_multi_gpu_board=0,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    shared_memory_per_block=49152,
    pci_bus_id=0,
    pci_domain_id=0,
)
AMPERE = dict(major=8, minor=0, shared_memory_per_block_optin=166912, shared_memory_per_multiprocessor=167936)
HOPPER = dict(major=9, minor=0, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472)
EXPECTED = dict(ALL, **PROFILES[NAME], **(HOPPER if NAME.startswith("h100") else AMPERE))
if "IDENTITY_VRAM" in os.environ:
    EXPECTED["total_memory"] = int(os.environ["IDENTITY_VRAM"])


@check
def one_device_is_available():
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 1
    assert torch.cuda.current_device() == 0


@check
def nvml_sees_the_same_device():
    assert torch.cuda._device_count_nvml() == 1


@check
def name_and_capability():
    assert torch.cuda.get_device_name() == EXPECTED["name"]
    assert torch.cuda.get_device_name("cuda:0") == EXPECTED["name"]
    assert torch.cuda.get_device_capability() == (EXPECTED["major"], EXPECTED["minor"])


@check
def every_field_of_the_properties():
    properties = torch.cuda.get_device_properties(0)
    fields = [field for field in dir(properties) if not field.startswith("_")]
    assert {"name", "major", "minor", "total_memory", "multi_processor_count"} <= set(fields), fields
    shown = {field: getattr(properties, field) for field in fields}
    # that of AMD's cards; CUDA builds show the name, or the capability
    assert shown.pop("gcnArchName", "") in ("", EXPECTED["name"], f"{EXPECTED['major']}.{EXPECTED['minor']}")
    uuid = shown.pop("uuid", None)
    assert uuid is None or len(str(uuid)) == 36 and str(uuid)[14] == "4", uuid
    assert shown == {field: EXPECTED.get(field, "a field that this test does not know") for field in shown}


@check
def devices_that_are_not_there_are_refused():
    raises((RuntimeError, AssertionError), "nvalid device", torch.cuda.get_device_properties, 1)
    raises(RuntimeError, "invalid device ordinal", torch.zeros, 1, device="cuda:1")
    assert torch.cuda.device_count() == 1


@check
def memory_info_moves_with_allocations():
    free, total = torch.cuda.mem_get_info()
    assert total == EXPECTED["total_memory"]
    # a context costs what NVIDIA's does, and no more than a sixteenth
    assert total * 15 // 16 <= free < total, (free, total)
    tensor = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    held, _ = torch.cuda.mem_get_info()
    assert free - held == GIB, free - held
    del tensor
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info() == (free, total)


@check
def versions():
    # the newest that the shim knows, or what the driver below says
    expected = int(os.environ.get("IDENTITY_DRIVER", "13000"))
    assert driver.made("cuDriverGetVersion", kind=ctypes.c_int) == expected
    assert f"sm_{EXPECTED['major']}0" in torch.cuda.get_arch_list() or NAME.startswith("h100")


@check
def bf16_is_supported():
    assert torch.cuda.is_bf16_supported()


@check
def tensors_say_where_they_are():
    tensor = torch.empty(2, device="cuda")
    assert tensor.is_cuda and tensor.device == torch.device("cuda", 0)
    assert torch.empty(2).to("cuda:0").device == tensor.device
    with torch.cuda.device(0):
        assert torch.empty(1, device="cuda").get_device() == 0


checks.main()
