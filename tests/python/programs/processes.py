"""Workers and children of a program that uses the device."""

import ctypes
import multiprocessing
import os
import subprocess
import sys

import checks
import driver
import torch
import torch.multiprocessing
from checks import check, raises

READY = torch.arange(1000).to("cuda")
PINNED = torch.arange(1000).pin_memory()


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((100,), index)


def forked(function):
    """What the function gives in a forked child: its text, or the text of what it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = function()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, str(text).encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


@check
def loader_workers_that_fork():
    load("fork")


@check
def loader_workers_that_are_spawned():
    load("spawn")


def load(method):
    loader = torch.utils.data.DataLoader(
        Numbers(), batch_size=8, num_workers=2, pin_memory=True, multiprocessing_context=method
    )
    total = 0
    for number, batch in enumerate(loader):
        assert batch.is_pinned()
        there = batch.to("cuda", non_blocking=True)
        assert torch.equal(there.cpu(), torch.arange(number * 8, number * 8 + 8)[:, None].expand(8, 100))
        total += 1
    assert total == 8


@check
def a_forked_pool_works_on_the_cpu():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(double, range(10)) == [2 * number for number in range(10)]


def double(number):
    return int((torch.tensor([number]) * 2).item())


@check
def cuda_after_a_fork_is_refused_by_torch():
    text = forked(lambda: torch.zeros(1, device="cuda"))
    assert "Cannot re-initialize CUDA in forked subprocess" in text, text
    assert torch.equal(READY.cpu(), torch.arange(1000))


@check
def the_driver_answers_a_forked_child_not_initialized():
    def ask():
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        info = driver.answer("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        count = driver.answer("cuDeviceGetCount", ctypes.byref(ctypes.c_int()))
        return [info, count, driver.answer("cuInit", 0)]

    assert forked(ask) == "[3, 3, 3]"


@check
def a_forked_child_reads_pinned_memory():
    assert forked(lambda: torch.equal(PINNED, torch.arange(1000))) == "True"

    def write():
        PINNED.zero_()
        return PINNED.sum().item()

    assert forked(write) == "0"
    assert torch.equal(PINNED, torch.arange(1000)), "a child's write reached its parent"


@check
def a_forked_child_opens_no_region():
    import spaces

    text = forked(spaces.GPU(lambda: "inside"))
    assert "GPUError" in text and "fork" in text, text


@check
def spawned_children_have_devices_of_their_own():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(round_trip, range(4)) == [0, 1, 2, 3]


def round_trip(number):
    there = torch.full((1000,), number).to("cuda")
    assert (there.cpu() == number).all() and torch.cuda.device_count() == 1
    return number


@check
def tensors_of_the_cpu_are_shared():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    shared = torch.zeros(10).share_memory_()
    child = context.Process(target=fill, args=(shared, queue))
    child.start()
    assert queue.get(timeout=60) == "filled"
    child.join()
    assert child.exitcode == 0 and (shared == 5).all()


def fill(shared, queue):
    shared.fill_(5)
    queue.put("filled")


@check
def subprocesses():
    command = [sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'].count('libcuda.so.1'))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert subprocess.run("exit 7", shell=True).returncode == 7
    assert os.system("true") == 0
    command = [sys.executable, "-c", "import torch; print(torch.arange(3).to('cuda').tolist())"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[0, 1, 2]\n"


@check
def torch_says_no_in_a_child_only():
    raises(RuntimeError, "invalid device ordinal", torch.zeros, 1, device="cuda:1")
    assert torch.equal(READY.clone().cpu(), torch.arange(1000))


if __name__ == "__main__":
    checks.main()
