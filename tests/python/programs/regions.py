"""Regions of every kind: when a GPU is claimed, that it is given back, that all objects live on."""

import asyncio
import ctypes
import gc
import mmap
import threading

import checks
import driver
import shim
import spaces
import spaces._shim
import torch
from checks import check, raises

INTERFACE = spaces._shim.find()
torch.manual_seed(0)
HOST = torch.randint(0, 256, (3 << 20,), dtype=torch.uint8)
DATA = HOST.to("cuda")
FLOATS = torch.randn(64, 64).to("cuda")


def kernel():
    """GPU work that only a GPU can do."""
    return FLOATS + 1


def claims():
    return shim.state()["claims"]


def require_parked():
    state = shim.state()
    assert state["level"] == "parked" and state["regions"] == 0, state
    shim.require_empty()
    assert torch.equal(DATA.cpu(), HOST)


@check
def a_region_that_only_copies_never_claims():
    before = claims()

    @spaces.GPU
    def copies():
        there = HOST.to("cuda").clone()
        there.copy_(DATA)
        torch.cuda.synchronize()
        torch.cuda.Event().record()
        return there.cpu(), torch.cuda.mem_get_info()

    back, _ = copies()
    assert torch.equal(back, HOST) and claims() == before
    require_parked()


@check
def a_region_that_does_nothing_never_claims():
    before = claims()
    assert spaces.GPU(lambda: 5)() == 5
    assert claims() == before
    require_parked()


@check
def many_kernels_claim_once():
    before = claims()

    @spaces.GPU
    def many():
        for _ in range(100):
            kernel()
        torch.cuda.synchronize()
        return shim.state()["level"], shim.on_card()

    level, (used, contexts) = many()
    assert level == "claimed" and contexts == 1 and used >= HOST.numel()
    assert claims() == before + 1
    require_parked()


@check
def a_call_within_a_call_has_the_outer_ones_region():
    before = claims()
    inner = spaces.GPU(lambda: (kernel(), shim.state()["regions"])[1])

    @spaces.GPU
    def outer():
        kernel()
        depth = inner()
        assert shim.state()["level"] == "claimed", "the inner call's end gave the GPU back"
        kernel()
        return depth

    assert outer() == 1 and claims() == before + 1
    require_parked()


@check
def overlapping_regions_park_when_the_last_one_ends():
    before = claims()
    first = INTERFACE.begin(60.0)
    kernel()
    second = INTERFACE.begin(60.0)
    assert INTERFACE.end(first) == 0
    assert shim.state()["level"] == "claimed" and shim.on_card()[1] == 1
    kernel()
    assert INTERFACE.end(second) == 0 and INTERFACE.end(second) != 0
    assert claims() == before + 1
    require_parked()


@check
def overlapping_calls_of_two_threads():
    entered, leave = threading.Event(), threading.Event()

    @spaces.GPU
    def long():
        kernel()
        entered.set()
        leave.wait(60)
        kernel()

    thread = threading.Thread(target=long)
    thread.start()
    assert entered.wait(60)
    before = claims()
    spaces.GPU(kernel)()
    assert claims() == before and shim.state()["level"] == "claimed"
    assert torch.equal(DATA.cpu(), HOST)
    leave.set()
    thread.join()
    require_parked()


@check
def a_region_is_ended_by_another_thread():
    region = INTERFACE.begin(60.0)
    kernel()
    ended = []
    thread = threading.Thread(target=lambda: ended.append(INTERFACE.end(region)))
    thread.start()
    thread.join()
    assert ended == [0]
    require_parked()


@check
def a_thread_that_ends_ends_its_region():
    thread = threading.Thread(target=lambda: (INTERFACE.begin(60.0), kernel()))
    thread.start()
    thread.join()
    checks.until(lambda: shim.state()["regions"] == 0 and shim.parked(), "the region of a thread that has ended ends")
    require_parked()


@check
def a_movable_region_outlives_its_thread():
    regions = []

    def begin():
        regions.append(INTERFACE.begin(60.0))
        assert INTERFACE.movable(regions[0]) == 0
        kernel()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert shim.state()["regions"] == 1 and shim.state()["level"] == "claimed"
    assert INTERFACE.end(regions[0]) == 0
    require_parked()


@check
def generators_hold_from_the_first_item_to_the_end():
    @spaces.GPU
    def stream(count):
        for number in range(count):
            kernel()
            yield number, shim.state()["level"]
        return "done"

    items = stream(3)
    assert shim.parked() and shim.state()["regions"] == 0
    assert next(items) == (0, "claimed") and shim.state()["level"] == "claimed"
    assert list(items) == [(1, "claimed"), (2, "claimed")]
    require_parked()


@check
def an_abandoned_generator_lets_go():
    @spaces.GPU
    def stream():
        while True:
            kernel()
            yield

    for leave in (lambda items: items.close(), lambda items: None):
        items = stream()
        next(items)
        assert shim.state()["regions"] == 1
        leave(items)
        del items
        gc.collect()
        require_parked()


@check
def a_generator_may_be_stepped_by_many_threads():
    @spaces.GPU
    def stream():
        total = 0
        for _ in range(5):
            kernel()
            total += yield total

    items, seen = stream(), [None]

    def step(value):
        seen[0] = items.send(value)

    for value in (None, 1, 2, 3, 4):
        thread = threading.Thread(target=step, args=(value,))
        thread.start()
        thread.join()
        assert shim.state()["level"] == "claimed"
    assert seen == [10]
    items.close()
    require_parked()


@check
def coroutines_interleave():
    @spaces.GPU
    async def task(number):
        kernel()
        await asyncio.sleep(0.01 * number)
        kernel()
        return number

    async def main():
        return await asyncio.gather(*[task(number) for number in range(4)])

    assert asyncio.run(main()) == [0, 1, 2, 3]
    require_parked()


@check
def exceptions_pass_and_the_gpu_is_given_back():
    def fail(error):
        kernel()
        raise error

    for error in (ValueError("on purpose"), KeyboardInterrupt(), SystemExit(3), MemoryError()):
        raises(type(error), "", spaces.GPU(fail), error)
        require_parked()


@check
def sys_exit_in_a_thread():
    thread = threading.Thread(target=spaces.GPU(lambda: (kernel(), exit_thread())))
    thread.start()
    thread.join()
    require_parked()


def exit_thread():
    raise SystemExit


@check
def what_is_made_inside_lives_on():
    @spaces.GPU
    def make():
        made = HOST[: 1 << 20].to("cuda")
        kernel()
        other = made.clone()
        late = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
        late.copy_(HOST[1 << 20 : 2 << 20])
        return made, other, made[100:200], late

    made, other, view, late = make()
    address = made.data_ptr()
    require_parked()
    for _ in range(5):
        spaces.GPU(kernel)()
        assert torch.equal(made.cpu(), HOST[: 1 << 20]) and torch.equal(other.cpu(), HOST[: 1 << 20])
        assert torch.equal(late.cpu(), HOST[1 << 20 : 2 << 20]) and torch.equal(view.cpu(), HOST[100:200])
    assert made.data_ptr() == address and view.data_ptr() == address + 100
    require_parked()


@check
def what_is_freed_inside_is_there_for_others():
    """As on a card: pieces given back are room for larger ones, wherever the pieces lay."""
    size = 128 << 20
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    kept = [torch.full((size,), number, dtype=torch.uint8).to("cuda") for number in range(free // size - 1)]

    @spaces.GPU
    def free_and_take():
        kernel()
        freed = len(kept[::2])
        del kept[::2]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        large = torch.empty(freed * size, dtype=torch.uint8, device="cuda")
        large[:1000].copy_(HOST[:1000])
        return large

    large = free_and_take()
    assert torch.equal(large[:1000].cpu(), HOST[:1000])
    assert [int(tensor.cpu()[5]) for tensor in kept] == list(range(1, 2 * len(kept), 2))
    del large, kept
    torch.cuda.empty_cache()
    require_parked()


@check
def what_is_loaded_again_inside_lives_on():
    """A model that is freed and loaded again has the same bytes at the same addresses; only the host's copy is new."""
    gc.collect()
    torch.cuda.empty_cache()
    size = 30 << 20
    model = torch.arange(size // 4, dtype=torch.int32)
    # between others: the memory is the middle of something larger
    parts = [model.to("cuda") for _ in range(3)]
    spaces.GPU(kernel)()

    @spaces.GPU
    def load_again():
        kernel()
        address, parts[1] = parts[1].data_ptr(), None
        torch.cuda.empty_cache()
        parts[1] = torch.empty(size // 4, dtype=torch.int32, device="cuda")
        assert parts[1].data_ptr() == address
        parts[1].copy_(model)

    for _ in range(2):
        load_again()
        assert all(torch.equal(part.cpu(), model) for part in parts)
    del parts
    torch.cuda.empty_cache()
    require_parked()


@check
def streams_and_events_live_on():
    stream, start, end = torch.cuda.Stream(priority=-1), *[torch.cuda.Event(enable_timing=True) for _ in range(2)]
    handle = stream.cuda_stream

    @spaces.GPU
    def record(event):
        with torch.cuda.stream(stream):
            kernel()
            event.record()
        torch.cuda.current_stream().wait_event(event)
        kernel()

    record(start)
    assert start.query()
    for _ in range(3):
        spaces.GPU(kernel)()
    record(end)
    end.synchronize()
    assert end.query() and stream.query() and stream.cuda_stream == handle
    assert 0.0 < start.elapsed_time(end) < 60_000.0

    middle = torch.cuda.Event(enable_timing=True)
    middle.record()
    assert start.elapsed_time(middle) >= start.elapsed_time(end)
    require_parked()


@check
def random_states_live_on():
    torch.cuda.manual_seed(11)
    spaces.GPU(lambda: torch.randn(100, device="cuda"))()
    state = torch.cuda.get_rng_state()
    spaces.GPU(kernel)()
    assert torch.equal(torch.cuda.get_rng_state(), state)
    require_parked()


@check
def pinned_memory_is_used_inside_and_outside():
    pinned = torch.empty(1 << 20, dtype=torch.uint8, pin_memory=True)
    back = torch.zeros(1 << 20, dtype=torch.uint8, pin_memory=True)

    @spaces.GPU
    def copy(value):
        pinned.fill_(value)
        there = pinned.to("cuda", non_blocking=True)
        kernel()
        back.copy_(there, non_blocking=True)
        torch.cuda.synchronize()
        return there

    for value in (3, 4):
        there = copy(value)
        assert (back == value).all() and (there.cpu() == value).all()
        require_parked()


@check
def registered_memory_that_is_unmapped_spoils_no_claim():
    size = 1 << 20
    memory = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    driver.call("cuMemHostRegister_v2", address, size, 0)
    spaces.GPU(kernel)()
    gc.collect()
    memory.close()
    before = claims()
    for _ in range(2):
        spaces.GPU(kernel)()
    assert claims() == before + 2
    driver.call("cuMemHostUnregister", address)
    require_parked()


@check
def libraries_keep_their_handles():
    @spaces.GPU
    def work():
        (FLOATS @ FLOATS, torch.fft.rfft(FLOATS), torch.linalg.solve_ex(FLOATS, FLOATS))
        torch.nn.functional.conv2d(FLOATS.view(1, 1, 64, 64), FLOATS[:3, :3].reshape(1, 1, 3, 3))
        torch.cuda.synchronize()

    for _ in range(4):
        work()
        require_parked()


@check
def variables_of_modules_live_on():
    module = driver.image()
    kernel = driver.made("cuModuleGetFunction", module, b"empty")
    size = ctypes.c_size_t()
    address = ctypes.c_uint64()
    driver.call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), module, b"table")
    assert size.value == 256
    first = bytes(range(256))
    driver.upload(address.value, first)
    for turn in range(3):
        region = INTERFACE.begin(60.0)
        driver.launch(kernel)
        inside = driver.download(address.value, 256)
        second = bytes((byte + turn) % 256 for byte in first)
        driver.upload(address.value, second)
        INTERFACE.end(region)
        assert inside == first and driver.download(address.value, 256) == second
        first = second
    require_parked()


@check
def out_of_memory_inside_and_on():
    @spaces.GPU
    def fill():
        kernel()
        kept = []
        try:
            while True:
                kept.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            count = len(kept)
        kept.clear()
        torch.cuda.empty_cache()
        return count

    count = fill()
    assert 0 < count < 8 and fill() == count
    spaces.GPU(kernel)()
    require_parked()


@check
def asynchronous_copies_are_complete_after_the_region():
    back = torch.zeros(3 << 20, dtype=torch.uint8, pin_memory=True)

    @spaces.GPU
    def start():
        kernel()
        back.copy_(DATA, non_blocking=True)

    for _ in range(20):
        back.zero_()
        start()
        assert torch.equal(back, HOST)
    require_parked()


@check
def statistics_do_not_change_at_a_park():
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.mem_get_info()
    spaces.GPU(lambda: torch.cuda.synchronize())()
    region = INTERFACE.begin(60.0)
    torch.cuda._sleep(1)
    INTERFACE.end(region)
    assert before == (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.mem_get_info())
    require_parked()


@check
def refused_regions():
    for seconds in (0.0, -1.0, float("nan")):
        assert INTERFACE.begin(seconds) == 0 and INTERFACE.reason()
    assert INTERFACE.end(12345) != 0 and INTERFACE.reason()
    require_parked()


checks.main()
