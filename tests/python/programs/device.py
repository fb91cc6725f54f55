"""Streams, events, generators, pinned memory, the allocator and its statistics, out of memory, without a kernel.

Runs with 2 GiB of device memory.
"""

import gc
import glob
import os
import re
import threading
import time

import checks
import runtime
import torch
from checks import check, raises

MIB = 1 << 20
VRAM = 2048 * MIB


@check
def streams():
    default = torch.cuda.default_stream()
    assert torch.cuda.current_stream() == default and default.cuda_stream == 0
    one, other = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    assert one != other and one.cuda_stream and other.cuda_stream
    least, greatest = other.priority_range() if hasattr(other, "priority_range") else (0, -5)
    assert one.priority == least and greatest <= other.priority < 0
    with torch.cuda.stream(one):
        assert torch.cuda.current_stream() == one
        data = torch.arange(1000).to("cuda", non_blocking=True)
    other.wait_stream(one)
    with torch.cuda.stream(other):
        twin = data.clone()
    data.record_stream(other)
    other.synchronize()
    assert one.query() and other.query() and default.query()
    assert torch.equal(twin.cpu(), torch.arange(1000))
    torch.cuda.synchronize()
    assert torch.cuda.ExternalStream(one.cuda_stream).query()


@check
def a_thousand_streams():
    kept = [torch.cuda.Stream() for _ in range(1000)]
    assert all(stream.query() for stream in kept)


@check
def events():
    first, second, silent = (torch.cuda.Event(enable_timing=timing) for timing in (True, True, False))
    stream = torch.cuda.Stream()
    before = time.monotonic()
    first.record(stream)
    with torch.cuda.stream(stream):
        data = torch.arange(4 * MIB).to("cuda", non_blocking=True)
    second.record(stream)
    stream.wait_event(silent)
    silent.record()
    torch.cuda.current_stream().wait_event(second)
    second.synchronize()
    assert first.query() and second.query()
    around = (time.monotonic() - before) * 1000
    # milliseconds; the card's clock and ours differ a little
    assert 0.0 < first.elapsed_time(second) < 1.1 * around, (first.elapsed_time(second), around)
    assert first.elapsed_time(first) == 0.0
    silent.synchronize()
    raises((RuntimeError, ValueError), "", first.elapsed_time, torch.cuda.Event(enable_timing=True))
    assert data.is_cuda
    assert len(torch.cuda.Event(interprocess=True).ipc_handle()) == 64


@check
def generators():
    generator = torch.Generator("cuda").manual_seed(7)
    assert generator.device.type == "cuda" and generator.initial_seed() == 7
    state = generator.get_state()
    generator.manual_seed(8)
    assert not torch.equal(generator.get_state(), state)
    generator.set_state(state)
    assert generator.initial_seed() == 7 and torch.equal(generator.get_state(), state)
    torch.cuda.manual_seed_all(3)
    saved = torch.cuda.get_rng_state()
    torch.cuda.manual_seed(4)
    torch.cuda.set_rng_state(saved)
    assert torch.equal(torch.cuda.get_rng_state(), saved) and torch.cuda.initial_seed() == 3
    assert generator.seed() != 7


@check
def pinned_memory():
    pinned = torch.empty(MIB, dtype=torch.uint8, pin_memory=True)
    assert pinned.is_pinned() and not torch.empty(8).is_pinned()
    assert pinned[100:].is_pinned()
    pinned.random_()
    assert torch.equal(pinned.to("cuda", non_blocking=True).cpu(), pinned)
    registered = torch.arange(MIB)
    runtime.call("cudaHostRegister", registered.data_ptr(), registered.numel() * 8, 0)
    assert registered.is_pinned()
    there = registered.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    runtime.call("cudaHostUnregister", registered.data_ptr())
    assert not registered.is_pinned() and torch.equal(there.cpu(), registered)


@check
def statistics():
    empty()
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    kept = torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - base == 100 * MIB
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated()
    del kept
    assert torch.cuda.memory_allocated() == base and torch.cuda.max_memory_allocated() == base + 100 * MIB
    stats = torch.cuda.memory_stats()
    assert stats["allocated_bytes.all.peak"] == base + 100 * MIB and stats["num_ooms"] == 0
    assert "CUDA memory summary" in torch.cuda.memory_summary()
    assert isinstance(torch.cuda.memory_snapshot(), list)
    free, total = torch.cuda.mem_get_info()
    empty()
    assert torch.cuda.mem_get_info()[0] - free >= 100 * MIB and total == VRAM
    assert torch.cuda.memory_reserved() - base < 100 * MIB


@check
def out_of_memory_and_on():
    empty()
    before = torch.cuda.memory_allocated()
    error = raises(torch.cuda.OutOfMemoryError, "CUDA out of memory", torch.empty, 1 << 40, dtype=torch.uint8, device="cuda")
    # the message of torch 2.3 ends before it comes to the sizes
    assert "2.00 GiB" in str(error) or checks.numbers(torch.__version__) == (2, 3), error
    free, _ = torch.cuda.mem_get_info()
    kept = []
    try:
        while True:
            kept.append(torch.full((128 * MIB,), len(kept), dtype=torch.uint8).to("cuda"))
    except torch.cuda.OutOfMemoryError:
        pass
    assert len(kept) == free // (128 * MIB), f"{len(kept)} times 128 MiB, but {free >> 20} MiB were said to be free"
    for number, tensor in enumerate(kept):
        assert (tensor.cpu() == number).all(), number
    kept[3].copy_(torch.full((128 * MIB,), 99, dtype=torch.uint8))
    assert (kept[3].cpu() == 99).all()
    room = len(kept)
    del tensor
    kept.clear()
    empty()
    again = [torch.empty(128 * MIB, dtype=torch.uint8, device="cuda") for _ in range(room)]
    del again
    empty()
    assert torch.cuda.memory_allocated() == before


@check
def a_cap_of_torch_itself():
    empty()
    torch.cuda.set_per_process_memory_fraction(0.25)
    raises(torch.cuda.OutOfMemoryError, "", torch.empty, VRAM // 2, dtype=torch.uint8, device="cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.empty(VRAM // 2, dtype=torch.uint8, device="cuda").is_cuda


def memory_of_this_process():
    """Bytes of RAM: pages mapped, and pages of anonymous files that are kept, mapped or not."""
    with open("/proc/self/smaps_rollup") as rollup:
        mapped = int(re.search(r"^Rss:\s+(\d+)", rollup.read(), re.M)[1]) * 1024
    files = 0
    for path in glob.glob("/proc/self/fd/*"):
        if os.path.exists(path) or os.path.islink(path):
            try:
                if "memfd:" in os.readlink(path):
                    files += os.stat(path).st_blocks * 512
            except FileNotFoundError:
                continue  # closed meanwhile
    return mapped, files


@check
def freed_memory_goes_back_to_the_system():
    empty()
    mapped, files = memory_of_this_process()
    for _ in range(3):
        kept = [torch.full((64 * MIB,), 5, dtype=torch.uint8).to("cuda") for _ in range(16)]
        more_mapped, more_files = memory_of_this_process()
        assert max(more_mapped - mapped, more_files - files) >= 1000 * MIB, "the measure does not see it"
        kept.clear()
        empty()
        now_mapped, now_files = memory_of_this_process()
        assert now_mapped - mapped < 64 * MIB, f"{now_mapped - mapped} bytes more are mapped than before"
        assert now_files - files < 64 * MIB, f"{now_files - files} bytes more are in files than before"


@check
def threads_each_with_its_own_stream():
    problems = []

    def work(number):
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for turn in range(100):
                    data = torch.full((10_000 + turn,), number * 1000 + turn)
                    back = data.to("cuda").clone().cpu()
                    assert torch.equal(back, data), (number, turn)
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems


@check
def sharing_gives_a_handle():
    handle = torch.arange(10).to("cuda").untyped_storage()._share_cuda_()
    # newer versions put two bytes of their own before the driver's 64
    assert len(handle[1]) in (64, 66) and handle[2] >= 80


@check
def a_captured_copy_replays():
    source, target = torch.arange(1000).to("cuda"), torch.zeros(1000, dtype=torch.int64).to("cuda")
    stream = torch.cuda.Stream()
    runtime.call("cudaStreamBeginCapture", stream.cuda_stream, 2)
    copy = (target.data_ptr(), source.data_ptr(), 8000, runtime.DEVICE_TO_DEVICE, stream.cuda_stream)
    runtime.call("cudaMemcpyAsync", *copy)
    runtime.call("cudaMemsetAsync", target.data_ptr() + 4000, 0xFF, 400, stream.cuda_stream)
    graph, executable = runtime.Handle(), runtime.Handle()
    runtime.call("cudaStreamEndCapture", stream.cuda_stream, runtime.address(graph))
    assert not target.cpu().any(), "a captured copy has run"
    runtime.call("cudaGraphInstantiate", runtime.address(executable), graph.value, 0, 0, 0)
    for factor in (1, 5):
        source.copy_(torch.arange(1000) * factor)
        torch.cuda.synchronize()
        runtime.call("cudaGraphLaunch", executable.value, stream.cuda_stream)
        stream.synchronize()
        expected = torch.arange(1000) * factor
        expected[500:550] = -1
        assert torch.equal(target.cpu(), expected), factor
    runtime.call("cudaGraphExecDestroy", executable.value)
    runtime.call("cudaGraphDestroy", graph.value)


def empty():
    """Gives back what nobody holds."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


checks.main()
