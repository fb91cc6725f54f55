"""GPU work outside any region: deferred and replayed, or a GPU is borrowed. In the order in which it was asked for."""

import gc
import json
import os
import threading

import checks
import shim
import spaces
import torch
from checks import check

LOG = os.environ["SOFTCUDA_LAUNCH_LOG"]
MIB = 1 << 20
BIG = int(os.environ["OUTSIDE_BIG"])

# at module scope, as programs do: all of this needs kernels
table = torch.arange(0, 64, device="cuda").float().half()
noise = torch.randn(32, 32, device="cuda")
FIRST = shim.state()


def launched():
    if not os.path.exists(LOG):
        return []
    with open(LOG) as file:
        return [json.loads(line) for line in file]


def settle():
    """Replays what is recorded."""
    spaces.GPU(lambda: table + 1)()
    checks.until(shim.parked, "parked")
    state = shim.state()
    assert state["deferred"] == 0 and state["deferred_bytes"] == 0, state
    gc.collect()
    torch.cuda.empty_cache()


@check
def work_at_module_scope_needs_no_gpu():
    assert FIRST["claims"] == 0 and FIRST["deferred"] >= 3, FIRST
    assert not launched()


@check
def the_next_region_replays_it_in_order():
    before = shim.state()["deferred"]
    spaces.GPU(lambda: noise * 2)()
    names = [launch["kernel"] for launch in launched()]
    assert len(names) == before + 1, names
    order = [next(i for i, name in enumerate(names) if part in name) for part in ("arange", "distribution")]
    assert order == sorted(order), names
    assert shim.state()["borrows"] == 0
    settle()


@check
def a_read_back_borrows_and_gives_back():
    before = shim.state()
    assert (table + 1).sum().item() is not None
    after = shim.state()
    assert after["borrows"] == before["borrows"] + 1 and after["claims"] == before["claims"] + 1
    checks.until(shim.parked, "the borrowed GPU is given back when it is idle")
    shim.require_empty()
    settle()


@check
def one_kernel_and_then_a_model():
    """One early kernel must not make the record swallow the model, nor make its copies wait."""
    before = shim.state()
    kept = table * 2
    weights = [torch.full((64 * MIB,), number % 251, dtype=torch.uint8) for number in range(BIG // (64 * MIB))]
    there = [tensor.to("cuda") for tensor in weights]
    for tensor, original in zip(there, weights):
        assert torch.equal(tensor.cpu(), original)
    state = shim.state()
    assert state["borrows"] == before["borrows"] and state["claims"] == before["claims"], state
    assert state["deferred"] >= 1 and state["deferred_bytes"] < MIB, state
    del there, kept
    settle()


@check
def a_recorded_kernel_sees_the_bytes_of_its_time():
    """The copy comes after the kernel in the program, so it must come after it on the card, and its source is kept."""
    there = torch.full((1000,), 3.0).to("cuda")
    result = there + 1
    source = torch.full((1000,), 4.0)
    there.copy_(source)
    source.fill_(5.0)
    assert shim.state()["deferred"] >= 2, shim.state()
    settle()
    assert (there.cpu() == 4.0).all()
    assert result.shape == (1000,)


@check
def memory_that_a_record_names_is_not_given_to_others():
    there = torch.full((32 * MIB,), 7, dtype=torch.uint8).to("cuda")
    address = there.data_ptr()
    there.add_(1)
    del there
    torch.cuda.empty_cache()
    other = torch.full((32 * MIB,), 9, dtype=torch.uint8).to("cuda")
    assert other.data_ptr() != address, "the recorded kernel would write to another tensor's memory"
    settle()
    assert (other.cpu() == 9).all()


@check
def modules_and_streams_may_end_before_the_replay():
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    before = len(launched())
    with torch.cuda.stream(stream):
        result = table * 3
        event.record()
    torch.cuda.current_stream().wait_event(event)
    assert stream.query() and event.query(), "recorded work is finished, to the host"
    stream.synchronize()
    torch.cuda.synchronize()
    del stream, event, result
    gc.collect()
    settle()
    assert len(launched()) > before + 1


@check
def the_record_is_bounded():
    """More than ZEROGPU_RECORD: a GPU is borrowed, nothing is lost."""
    before, count = shim.state(), len(launched())
    target = torch.zeros(1 << 18).to("cuda")
    for number in range(40):
        target += 1
        target.copy_(torch.full((1 << 18,), float(number)))
        assert shim.state()["deferred_bytes"] <= 16 * MIB
    assert (target.cpu() == 39.0).all()
    assert shim.state()["borrows"] > before["borrows"]
    assert len(launched()) == count + 40
    checks.until(shim.parked, "parked")
    settle()


@check
def any_thread_may_do_it():
    before = len(launched())
    results = []

    def work(number):
        results.append((torch.full((100,), float(number)).to("cuda") * 2, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle()
    names = [launch["kernel"] for launch in launched()[before:]]
    assert sum("Mul" in name or "mul" in name for name in names) >= 8, names


checks.main()
