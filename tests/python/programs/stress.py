"""Ten threads: some go in and out of regions, the others allocate, copy and free. STRESS_SECONDS: for how long."""

import os
import random
import threading
import time

import checks
import shim
import spaces
import torch

SECONDS = float(os.environ["STRESS_SECONDS"])
MIB = 1 << 20

end = time.monotonic() + SECONDS
problems, turns = [], {}


def more():
    """Whether time is left, or there were few moments in which no region was open; there are some more then."""
    now = time.monotonic()
    return now < end or (now < end + 60 and shim.state()["parks"] <= 3)


def steady(function):
    """Calls the function until time is up, with random numbers of its own."""

    def run(number):
        dice, count = random.Random(number), 0
        try:
            torch.cuda.set_device(0)
            while more() and not problems:
                function(number, dice, count)
                count += 1
        except BaseException as error:
            problems.append(f"{function.__name__} {number}, turn {count}: {error!r}")
            raise
        finally:
            turns[f"{function.__name__} {number}"] = count

    return run


def require_all(tensor, value, *where):
    """The tensor, on the host, has this value everywhere. Fails with what else it has, and where."""
    wrong = (tensor != value).nonzero().flatten()
    if len(wrong):
        found = tensor[wrong].unique()[:8].tolist()
        spans = f"{len(wrong)} of {len(tensor)}, from {wrong[0].item()} to {wrong[-1].item()}"
        raise AssertionError(f"{where}: {value} expected, {found} found in {spans}")


weights = [torch.full((2 * MIB,), number, dtype=torch.uint8).to("cuda") for number in range(4)]


@steady
def serve(number, dice, count):
    @spaces.GPU(duration=60)
    def call():
        result = weights[number] + 1
        if dice.random() < 0.3:
            time.sleep(dice.random() * 0.01)
        data = torch.full((1000,), count).to("cuda")
        require_all(data.cpu(), count, "call", number)
        return result

    call()
    # so that there are moments in which no region is open
    time.sleep(dice.random() * 0.05)
    if dice.random() < 0.5:
        require_all(weights[number].cpu(), number, "weights", count)


def pick(dice, own):
    """A value for all of a tensor: often the one that others have too, so that memory gets again what it had before."""
    return dice.choice((own, 77))


@steady
def copy(number, dice, count):
    size = dice.randrange(1, 4 * MIB)
    value = pick(dice, (number * 50 + count) % 251)
    original = torch.full((size,), value, dtype=torch.uint8)
    if dice.random() < 0.3:
        original = original.pin_memory()
    there = original.to("cuda", non_blocking=True)
    twin = there.clone() if dice.random() < 0.5 else there
    if dice.random() < 0.2:
        torch.cuda.empty_cache()
    del there
    require_all(twin.cpu(), value, "copy", number, count)


@steady
def use_streams(number, dice, count):
    stream, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    value = pick(dice, count)
    with torch.cuda.stream(stream):
        there = torch.full((dice.randrange(1, MIB),), value).to("cuda", non_blocking=True)
        event.record()
    torch.cuda.current_stream().wait_event(event)
    there.record_stream(torch.cuda.current_stream())
    event.synchronize()
    require_all(there.cpu(), value, "stream", number, count)


threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
threads += [threading.Thread(target=copy, args=(number,)) for number in range(4)]
threads += [threading.Thread(target=use_streams, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(SECONDS + 120)
assert not any(thread.is_alive() for thread in threads), f"a thread hangs; turns: {turns}"
assert not problems, problems
assert all(turns.values()), turns
for number, tensor in enumerate(weights):
    require_all(tensor.cpu(), number, "at the end")
checks.until(shim.parked, "parked")
shim.require_empty()
checks.tell("turns", state=shim.state(), turns=turns)
