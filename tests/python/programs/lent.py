"""A program and its broker, which comes, goes, dies and comes again: no byte changes, and the program goes on.

The program starts before any broker, and plays with one itself. ZEROGPU_WAIT is short.
"""

import gc
import os
import threading
import time

import checks
import driver
import shim
import spaces
import torch
from brokers import Broker
from checks import check, raises
from spaces._region import GPUError

MIB = 1 << 20
WAIT = float(os.environ["ZEROGPU_WAIT"].rstrip("s"))
torch.manual_seed(0)
host = torch.randint(0, 256, (24 * MIB,), dtype=torch.uint8)
data = host.to("cuda")
address = data.data_ptr()
# copies between a card and its broker's host memory take their time, so that there is a middle to kill the broker in
broker = Broker.of_this_program(SOFTCUDA_GBPS="0.2")


def kernel():
    return data[:100] + 1


def change(turn):
    """Changes bytes, here and on the device; each part by a way of its own."""
    part = 2 * MIB * (turn % 5)
    host[part : part + 3 * MIB] = turn
    data[part : part + 3 * MIB].copy_(torch.full((3 * MIB,), turn, dtype=torch.uint8))
    host[14 * MIB + turn : 20 * MIB] = turn + 100
    driver.call("cuMemsetD8_v2", address + 14 * MIB + turn, turn + 100, 6 * MIB - turn)
    host[20 * MIB : 22 * MIB] = host[part : part + 2 * MIB]
    data[20 * MIB : 22 * MIB].copy_(data[part : part + 2 * MIB])


def exact():
    assert data.data_ptr() == address
    assert torch.equal(data.cpu(), host)


def settled():
    """Parked, nothing is on the card, and no byte has changed."""
    checks.until(shim.parked, "parked")
    shim.require_empty()
    exact()


@spaces.GPU
def call(inside=lambda: None, turn=0):
    kernel()
    exact()
    change(turn)
    answer = inside()
    kernel()
    torch.cuda.synchronize()
    exact()
    return answer


def waiting():
    return shim.state()["waiting"]


def later(seconds, function):
    thread = threading.Thread(target=lambda: (time.sleep(seconds), function()))
    thread.start()
    return thread


@check
def without_a_broker_a_model_is_loaded_and_a_call_says_what_is_missing():
    exact()
    started = time.monotonic()
    waits = []
    watcher = threading.Thread(target=lambda: checks.until(lambda: waits.append(waiting()) or waits[-1], "it waits"))
    watcher.start()
    error = raises(GPUError, "no broker answers on", call)
    watcher.join()
    assert waits[-1] == {"place": None, "of": None, "seconds": None} and waiting() is None, waits
    assert "zerogpu broker" in str(error) and isinstance(error.__cause__, RuntimeError), repr(error)
    # once, and with some time for a machine that does other things, too
    assert WAIT * 0.9 < time.monotonic() - started < WAIT * 1.9
    settled()


@check
def a_broker_that_comes_while_a_call_waits():
    thread = later(0.2, broker.start)
    call()
    thread.join()
    settled()
    (program,) = broker.status()["programs"]
    assert program["name"] == "lent.py" and program["pid"] == os.getpid(), program


@check
def calls_one_after_the_other():
    for turn in range(4):
        call(turn=turn)
        settled()
    assert shim.state()["claims"] == shim.state()["parks"]


@check
def the_broker_dies_between_calls():
    broker.kill()
    settled()
    change(1)
    raises(GPUError, "no broker answers on", call)
    settled()
    broker.start()
    call(turn=2)
    settled()


@check
def the_broker_dies_while_memory_is_made_and_freed():
    broker.kill()
    made = [torch.full((12 * MIB,), number, dtype=torch.uint8).to("cuda") for number in range(6)]
    del made[::2]
    torch.cuda.empty_cache()
    broker.start(ready=False)
    made += [torch.full((12 * MIB,), 9, dtype=torch.uint8).to("cuda")]
    call()
    assert [int(tensor.cpu().unique()) for tensor in made] == [1, 3, 5, 9]
    del made
    gc.collect()
    torch.cuda.empty_cache()
    settled()


@check
def the_broker_dies_in_a_call_which_goes_on():
    def inside():
        broker.kill()
        change(3)
        more = torch.full((12 * MIB,), 7, dtype=torch.uint8).to("cuda")
        kernel()
        assert (more.cpu() == 7).all() and shim.state()["level"] == "claimed"
        gone = torch.full((12 * MIB,), 8, dtype=torch.uint8).to("cuda")
        del gone
        torch.cuda.empty_cache()
        return more

    more = call(inside)
    settled()
    assert (more.cpu() == 7).all()
    broker.start()
    call(turn=4)
    settled()
    assert (more.cpu() == 7).all()


@check
def a_broker_comes_again_in_the_same_call():
    def leases():
        return broker.status()["scheduler"]["cards"][0]["holders"]

    def inside():
        (before,) = leases()
        broker.kill()
        broker.start()
        checks.until(leases, "the new broker knows of the lease")
        (after,) = leases()
        assert 0 < after["left"] <= before["left"] and not after["overdue"], (before, after)
        change(5)
        more = torch.full((12 * MIB,), 6, dtype=torch.uint8).to("cuda")
        kernel()
        return more

    more = call(inside)
    settled()
    checks.until(lambda: not leases(), "the lease has ended")
    assert (more.cpu() == 6).all()
    call(turn=6)
    settled()
    assert (more.cpu() == 6).all()


@check
def the_broker_dies_at_any_moment_of_a_park():
    for turn, moment in enumerate((0.0, 0.02, 0.04, 0.07, 0.1)):
        killer = call(lambda: later(moment, broker.kill), turn=turn)
        exact()
        killer.join()
        settled()
        broker.start()
    call()
    settled()


@check
def the_broker_dies_at_any_moment_of_a_claim():
    """The call waits for the next broker, and goes on as if nothing had been."""
    for turn, moment in enumerate((0.01, 0.05, 0.1, 0.15)):
        restart = later(moment, lambda: (broker.kill(), broker.start()))
        call(turn=turn)
        restart.join()
        settled()


@check
def the_broker_is_asked_to_end_in_a_call():
    def inside():
        broker.stop()
        change(8)
        broker.start()

    call(inside)
    settled()
    broker.stop()
    settled()
    broker.start()
    call()
    settled()


@check
def the_broker_is_stopped_for_a_while():
    """As by a debugger, or a machine that swaps: a call waits, and nothing breaks."""
    broker.pause()
    thread = later(0.3, broker.resume)
    call()
    thread.join()
    settled()


@check
def after_all_this_nothing_is_left():
    broker.stop()
    settled()
    assert not shim.brokers() or not shim.card()["processes"], shim.card()


checks.main()
