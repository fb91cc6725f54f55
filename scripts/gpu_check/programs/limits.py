"""Where a program leaves the straight path: out of memory, work outside any call, a call that takes too long."""

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
