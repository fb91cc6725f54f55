"""The canonical program: a model on 'cuda' at import, a marked function that is called in a loop.

CANONICAL_PARKS: how often. The kernels do nothing on softcuda, so each byte must stay as it is.
"""

import copy
import ctypes
import gc
import os
import re
import threading

import checks
import driver
import shim
import spaces
import torch
from checks import check

PARKS = int(os.environ["CANONICAL_PARKS"])

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Embedding(8192, 256), torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)
).eval()
originals = copy.deepcopy(model.state_dict())
model.to("cuda")
addresses = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
counter = torch.zeros(1000, dtype=torch.int64).to("cuda")


GRAIN = 2 << 20
window = driver.made("cuMemAddressReserve", 2 * GRAIN, 0, 0, 0)


class Things:
    """One of each kind of thing that a claim makes anew: page-locked memory, memory mapped by hand, a module variable."""

    def __init__(self, turn):
        self.number = turn % 250
        self.pinned = driver.made("cuMemHostAlloc", 1 << 16, 0)
        ctypes.memset(self.pinned, self.number, 1 << 16)
        self.handle = driver.made("cuMemCreate", GRAIN, (ctypes.c_uint32 * 12)(1, 0, 1, 0), 0)
        driver.call("cuMemMap", window, GRAIN, 0, self.handle, 0)
        driver.call("cuMemSetAccess", window, GRAIN, (ctypes.c_uint32 * 3)(1, 0, 3), 1)
        driver.upload(window, bytes([self.number]) * 4096)
        self.module = driver.image()
        variable, size = ctypes.c_uint64(), ctypes.c_size_t()
        driver.call("cuModuleGetGlobal_v2", ctypes.byref(variable), ctypes.byref(size), self.module, b"table")
        self.variable = variable.value
        driver.upload(self.variable, bytes([self.number]) * 256)

    def end(self):
        assert ctypes.string_at(self.pinned, 1 << 16) == bytes([self.number]) * (1 << 16)
        assert driver.download(window, 4096) == bytes([self.number]) * 4096
        assert driver.download(self.variable, 256) == bytes([self.number]) * 256
        driver.call("cuMemFreeHost", self.pinned)
        driver.call("cuMemUnmap", window, GRAIN)
        driver.call("cuMemRelease", self.handle)
        driver.call("cuModuleUnload", self.module)


things = []


def renew(turn):
    """Those of before end, and others are made."""
    while things:
        things.pop().end()
    things.append(Things(turn))


@spaces.GPU
def serve(turn, look):
    with torch.no_grad():
        result = model(torch.full((4, 16), turn % 8192).to("cuda", non_blocking=True))
    # in turns: made in a call, ended in a later one; made in a call, ended between calls; and the other way round
    if turn % 3:
        renew(turn)
    assert (counter.cpu() == turn).all(), turn
    counter.copy_(torch.full((1000,), turn + 1))
    return result.shape, shim.on_card() if look else None


def same_weights():
    state = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == addresses
    for name, tensor in state.items():
        assert torch.equal(tensor.cpu().view(torch.int32), originals[name].view(torch.int32)), name


def held():
    """What a leak would make grow: descriptors, threads, mappings, KiB of memory, KiB of addresses."""
    # what is free in the heap is no leak, and how much of that the system has back is a matter of chance
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/maps") as maps, open("/proc/self/status") as status:
        mappings, text = len(maps.readlines()), status.read()
    # memory files by what they hold: how much of it happens to be mapped changes from copy to copy
    size = int(re.search(r"^RssAnon:\s+(\d+)", text, re.M)[1]) + memory_files()
    addresses = int(re.search(r"^VmSize:\s+(\d+)", text, re.M)[1])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), mappings, size, addresses


def memory_files():
    """KiB of the memory files that the process has open."""
    held = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
                file = os.stat(f"/proc/self/fd/{fd}")
                held[file.st_ino] = file.st_blocks // 2
        except FileNotFoundError:
            continue  # the listing's own
    assert held, "device memory lies in a memory file"
    return sum(held.values())


@check
def a_model_is_loaded_without_a_gpu():
    same_weights()
    assert shim.state()["claims"] == 0
    shim.require_empty()


@check
def parks_keep_each_byte_and_leave_nothing():
    early = None
    for turn in range(PARKS):
        look = turn < 5 or turn % 50 == 0
        shape, (used, contexts) = serve(turn, True) if look else (serve(turn, False)[0], (1, 1))
        assert shape == (4, 16, 10)
        assert contexts == 1 and used > 0, "the call did not hold the card"
        state = shim.state()
        assert (state["level"], state["regions"], state["claims"], state["parks"]) == ("parked", 0, turn + 1, turn + 1), state
        assert state["left"] == [], state
        if look:
            shim.require_empty()
            same_weights()
        if turn % 3 != 1:
            renew(turn)
        if turn == min(50, PARKS // 2):
            early = held()
    same_weights()
    assert (counter.cpu() == PARKS).all()
    late = held()
    assert late[0] <= early[0], f"descriptors: {early[0]}, later {late[0]}"
    assert late[1] <= early[1], f"threads: {early[1]}, later {late[1]}"
    assert late[2] <= early[2] + 20, f"mappings: {early[2]}, later {late[2]}"
    assert late[3] <= early[3] + 8192, f"KiB of memory: {early[3]}, later {late[3]}"
    # one arena of malloc's more has 64 MiB, and a slab that each park forgot would have gigabytes
    assert late[4] <= early[4] + 131072, f"KiB of addresses: {early[4]}, later {late[4]}"


@check
def calls_from_other_threads_are_the_same():
    results = []
    threads = [threading.Thread(target=lambda turn=turn: results.append(serve(PARKS + turn, True))) for turn in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert [seen[1] for _, seen in results] == [1, 1, 1]
    same_weights()
    shim.require_empty()


checks.main()
