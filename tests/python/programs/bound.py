"""A program whose context can't be made anew. Between its calls the broker has the driver put it aside: the card is empty, the
program goes on, and none of its calls waits for the driver.
"""

import ctypes
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
broker = Broker.of_this_program().start()
host = torch.randint(0, 256, (24 * MIB,), dtype=torch.uint8)
data = host.to("cuda")
stream, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)


def bind():
    """A call that the shim only forwards: softcuda has no such slot."""
    table = ctypes.c_void_p()
    driver.call("cuGetExportTable", ctypes.byref(table), bytes.fromhex("1734DC26800D47458726C0F1E7DD8BCA"))
    slots = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))
    ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(slots[5])(None, None, None, 16)


@spaces.GPU
def call(inside=lambda: None):
    with torch.cuda.stream(stream):
        answer = data[:100] + 1
        event.record()
    inside()
    host[: 3 * MIB] += 1
    data[: 3 * MIB].copy_(host[: 3 * MIB])
    torch.cuda.synchronize()
    assert torch.equal(data.cpu(), host)
    return answer


def settled():
    """Parked and bound, nothing is on the card, and no byte has changed."""
    state = shim.state()
    assert state["level"] == "parked" and state["bound_by"] and not state["left"], state
    checks.until(shim.empty, "the context leaves the card")
    assert torch.equal(data.cpu(), host)


def within(seconds, function):
    """Does something that must not wait for the driver, in a thread that may be left behind."""
    done = []
    thread = threading.Thread(target=lambda: done.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"it waits, after {seconds} s"
    return done[0]


@check
def a_call_that_binds():
    call(bind)
    settled()
    checks.until(lambda: broker.status()["programs"][0]["aside"], "the broker knows that it is aside")
    (program,) = broker.status()["programs"]
    assert program["bound_by"] == "what slot 5 of export table 1734DC26 made", program
    assert broker.text().count("its context was put aside") == 1


@check
def calls_one_after_the_other():
    for _ in range(3):
        call()
        settled()


@check
def a_call_that_comes_at_once():
    for _ in range(5):
        call()
    settled()


@check
def the_program_goes_on_while_it_is_aside():
    """Whatever it does without a GPU. Objects that end have twins in the context."""
    global stream, event

    def work():
        global stream, event
        more = torch.full((12 * MIB,), 7, dtype=torch.uint8).to("cuda")
        host[4 * MIB : 5 * MIB] = 3
        data[4 * MIB : 5 * MIB].copy_(host[4 * MIB : 5 * MIB])
        event.record()
        event.synchronize()
        assert event.query() and stream.query()
        stream.synchronize()
        stream, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
        ended = driver.made("cuStreamCreate", 1)
        driver.call("cuStreamDestroy_v2", ended)
        for name in ("module", "stream", "event"):
            driver.call(*objects.pop(name))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.mem_get_info()
        address = driver.made("cuMemAddressReserve", 2 * MIB, 0, 0, 0)
        driver.call("cuMemAddressFree", address, 2 * MIB)
        pinned = torch.zeros(MIB, dtype=torch.uint8, pin_memory=True)
        pinned.copy_(more[:MIB])
        assert (pinned == 7).all()
        return True

    objects = {}

    def make():
        module = driver.image()
        function = driver.made("cuModuleGetFunction", module, b"empty")
        own, mark = driver.made("cuStreamCreate", 1), driver.made("cuEventCreate", 0)
        driver.launch(function, own)
        driver.call("cuEventRecord", mark, own)
        objects.update(
            module=("cuModuleUnload", module), stream=("cuStreamDestroy_v2", own), event=("cuEventDestroy_v2", mark)
        )

    call(make)
    settled()
    assert within(20, work)
    settled()
    call()
    settled()


@check
def the_broker_dies_while_it_is_aside():
    broker.kill()
    assert within(20, lambda: torch.equal(data.cpu(), host))
    started = time.monotonic()
    raises(GPUError, "no broker answers on", call)
    assert time.monotonic() - started < WAIT + 10
    broker.start()
    call()
    settled()


@check
def a_context_that_can_not_be_brought_back_fails_one_call():
    broker.kill()
    broker._environment["SOFTCUDA_FAULT"] = "cuCheckpointProcessRestore:1=2"
    broker.start()
    raises(GPUError, "could not be brought back to the card", call)
    call()
    settled()
    broker.stop()
    del broker._environment["SOFTCUDA_FAULT"]
    broker.start()
    call()
    settled()


@check
def a_forked_child_while_it_is_aside():
    child = os.fork()
    if not child:
        os._exit(driver.answer("cuCtxSynchronize"))
    checks.until(lambda: os.waitpid(child, os.WNOHANG)[0], "the child ends")
    call()
    settled()


@check
def the_program_may_end_while_it_is_aside():
    settled()


checks.main()
