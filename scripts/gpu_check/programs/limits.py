"""Where a program leaves the straight path: out of memory, work outside any call, a call that takes too long."""

import threading
import time

from .registry import COPIES, program


@program("oom", cpu=False)
def oom(check):
    """More memory than there is: PyTorch's own error, and the program goes on"""
    torch = check.torch
    model = check.load(torch.nn.Linear(256, 256))
    x = check.put(torch.randn(32, 256))
    total = torch.cuda.mem_get_info()[1]

    def too_much():
        try:
            torch.empty(total + (1 << 30), dtype=torch.uint8, device=check.device)
        except torch.cuda.OutOfMemoryError:
            return True
        return False

    for _ in range(2):
        check.save(check.step(model, x))
        check.require(check.step(too_much), "an allocation beyond the card's memory did not fail")
    check.require(too_much(), "an allocation beyond the card's memory did not fail outside a region")
    check.save(check.step(model, x))


@program("borrow", soft=COPIES + "; the numbers made at module scope are kernel results")
def borrow(check):
    """GPU work at module scope: random weights, half(), a rope cache, item(), then calls that use them"""
    torch = check.torch
    torch.manual_seed(3)
    weights = torch.randn(128, 64, device=check.device).half().float()
    angles = torch.outer(
        torch.arange(32, device=check.device), 1 / 10000 ** (torch.arange(0, 64, device=check.device) / 64)
    )
    cos, sin = angles.cos(), angles.sin()
    largest = weights.abs().max().item()
    x = check.put(torch.randn(32, 128))
    check.park()
    check.require(
        not check.shim or not check.cuda or check.state["borrows"] >= 1, "item() outside any call did not borrow"
    )
    for _ in range(2):
        check.save(check.step(lambda: (x @ weights) * cos + sin), torch.tensor(largest))


@program("recorded", soft="nothing but a tensor that is never written: what is recorded are kernels")
def recorded(check):
    """Kernels, uploads and memsets outside any call: a call's claim runs each kernel on the bytes of its time"""
    torch = check.torch
    kept = check.put(torch.arange(1000))
    source = torch.empty(1 << 16, dtype=torch.int32)
    x = torch.zeros(1 << 16, dtype=torch.int32, device=check.device)
    results, expected = [], []
    for turn in range(1, 5):
        x.copy_(source.fill_(turn))
        results.append(x * 10 + turn)
        expected.append(turn * 10 + turn)
        x.zero_()
        results.append(x + turn)
        expected.append(turn)
    source.fill_(99)
    _require_recorded(check, 12)
    result = check.step(lambda: torch.stack(results) + kept[0].int())
    _require_values(check, result, torch.tensor(expected, dtype=torch.int32)[:, None].expand(-1, len(source)))


@program("background", soft="nothing but a tensor that is never written: what is recorded are kernels")
def background(check):
    """Kernels of another thread, outside any call: the claim of a call of the main thread runs them"""
    torch = check.torch
    kept = check.put(torch.arange(1000))
    made = []

    def work():
        x = torch.arange(1 << 16, dtype=torch.int32, device=check.device)
        made.append(x * 3 + 1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    check.require(len(made) == 1, "the thread failed")
    _require_recorded(check, 2)
    result = check.step(lambda: made[0] + kept[1].int())
    _require_values(check, result, torch.arange(1 << 16, dtype=torch.int32) * 3 + 2)


def _require_recorded(check, commands):
    """So many commands at least wait for the first claim."""
    check.park()
    if check.shim and check.cuda:
        state = check.state
        check.require(state["claims"] == 0 and state["deferred"] >= commands, f"not recorded: {state}")


def _require_values(check, result, expected):
    """They were run by the claim of the one step, with these values."""
    if check.shim and check.cuda:
        state = check.state
        check.require((state["claims"], state["borrows"], state["deferred"]) == (1, 0, 0), f"run otherwise: {state}")
    check.save(result)
    if check.kernels:
        check.require(check.torch.equal(result.cpu(), expected), "wrong values")


@program("deadline", cpu=False)
def deadline(check):
    """A call that overruns its duration is aborted; the next one works"""
    torch = check.torch
    model = check.load(torch.nn.Linear(256, 256))
    x = check.put(torch.randn(32, 256))

    def endless():
        stop = time.monotonic() + (20 if check.shim else 0.1)
        while time.monotonic() < stop:
            model(x)
            torch.cuda.synchronize()

    check.save(check.step(model, x))
    try:
        check.gpu(endless, duration=1)()
        check.require(not check.shim, "the call was not aborted")
    except RuntimeError as error:
        check.require(str(error) == "GPU task aborted", f"the call failed otherwise: {error}")
        check.require(error.__cause__ is not None, "the call was not stopped, only reported")
    check.park()
    for _ in range(2):
        check.save(check.step(model, x))
