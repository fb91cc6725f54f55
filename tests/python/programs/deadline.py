"""A marked call that takes too long: the GPU is given up, the app lives, the next call works."""

import ctypes
import threading
import time

import checks
import driver
import runtime
import shim
import spaces
import spaces._shim
import torch
from checks import check, raises

INTERFACE = spaces._shim.find()
HOST = torch.arange(1 << 20)
DATA = HOST.to("cuda")
ABORTED = "GPU task aborted"
TIMEOUT = 702
# What a call may last, in seconds, that has to come to its first kernel in that time.
TIME = 4


def kernel():
    return DATA + 1


def until_parked():
    """Waits, in a call, until its time is over and the GPU given up."""
    checks.until(shim.parked, "the time is over", TIME + 20)


def require_alive():
    """All is as if nothing had happened: the next call works, no byte is lost, no error sticks."""
    checks.until(shim.parked, "the GPU is given back")
    shim.require_empty()
    # a call of torch's that succeeds may take an error with it
    runtime.call("cudaGetLastError")
    assert torch.equal(DATA.cpu(), HOST)
    assert spaces.GPU(lambda: (kernel(), torch.cuda.synchronize(), 5)[2])() == 5
    runtime.call("cudaGetLastError")
    torch.cuda.synchronize()
    shim.require_empty()


@check
def a_call_that_sleeps_is_aborted():
    @spaces.GPU(duration=1)
    def sleepy():
        kernel()
        time.sleep(1.5)
        return "too late"

    started = time.monotonic()
    raises(RuntimeError, ABORTED, sleepy)
    assert time.monotonic() - started < 10
    require_alive()


@check
def the_card_is_given_up_while_the_call_still_sleeps():
    claims = shim.state()["claims"]

    @spaces.GPU(duration=TIME)
    def sleepy():
        kernel()
        # to look at the card may take longer than it is there
        assert shim.state()["claims"] == claims + 1
        checks.until(shim.empty, "the card is empty although the call has not returned", 20)

    error = raises(RuntimeError, ABORTED, sleepy)
    assert error.__cause__ is None, repr(error.__cause__)
    require_alive()


@check
def gpu_work_after_the_deadline_fails_with_702():
    codes = {}

    @spaces.GPU(duration=TIME)
    def late():
        kernel()
        until_parked()
        launch = raises(RuntimeError, "the launch timed out and was terminated", kernel)
        codes["copy in"] = driver.answer("cuMemcpyHtoD_v2", DATA.data_ptr(), bytes(8), 8)
        codes["copy out"] = driver.answer("cuMemcpyDtoH_v2", ctypes.create_string_buffer(8), DATA.data_ptr(), 8)
        codes["memset"] = driver.answer("cuMemsetD8_v2", DATA.data_ptr(), 1, 8)
        codes["wait"] = driver.answer("cuCtxSynchronize")
        codes["wait for a stream"] = driver.answer("cuStreamSynchronize", 0)
        raise launch

    error = raises(RuntimeError, ABORTED, late)
    assert "timed out" in str(error.__cause__)
    assert set(codes.values()) == {TIMEOUT}, codes
    require_alive()


@check
def freeing_and_asking_go_on_after_the_deadline():
    event = torch.cuda.Event()
    stream = torch.cuda.Stream()
    answers = {}

    @spaces.GPU(duration=TIME)
    def late():
        kernel()
        first, second = (torch.empty(32 << 20, dtype=torch.uint8, device="cuda") for _ in range(2))
        first.record_stream(stream)
        address = driver.made("cuMemAlloc_v2", 4096)
        own = driver.made("cuEventCreate", 0)
        until_parked()
        answers["free"] = driver.answer("cuMemFree_v2", address)
        answers["record"] = driver.answer("cuEventRecord", own, 0)
        answers["query"] = driver.answer("cuEventQuery", own)
        answers["destroy"] = driver.answer("cuEventDestroy_v2", own)
        answers["current"] = driver.answer("cuCtxGetCurrent", ctypes.byref(ctypes.c_uint64()))
        answers["attribute"] = driver.answer("cuDeviceGetAttribute", ctypes.byref(ctypes.c_int()), 16, 0)
        event.record()
        event.query()
        del first, second
        return torch.cuda.memory_allocated()

    raises(RuntimeError, ABORTED, late)
    torch.cuda.empty_cache()
    require_alive()
    assert set(answers.values()) == {0}, answers


@check
def other_threads_get_702_until_the_region_has_ended():
    answers, entered = [], threading.Event()

    def work():
        entered.wait(60)
        answers.append(driver.answer("cuCtxSetCurrent", driver.made("cuDevicePrimaryCtxRetain", 0)))
        answers.append(driver.answer("cuMemcpyHtoD_v2", DATA.data_ptr(), HOST[:1].numpy().tobytes(), 8))

    @spaces.GPU(duration=TIME)
    def late(thread):
        kernel()
        until_parked()
        entered.set()
        thread.join()

    thread = threading.Thread(target=work)
    thread.start()
    raises(RuntimeError, ABORTED, late, thread)
    assert answers == [0, TIMEOUT], answers
    require_alive()


@check
def the_latest_of_the_open_regions_counts():
    short = INTERFACE.begin(0.2)
    long = INTERFACE.begin(60.0)
    try:
        kernel()
        time.sleep(0.5)
        assert (INTERFACE.expired(short), INTERFACE.expired(long)) == (1, 0)
        kernel()
        assert INTERFACE.end(long) == 0
        raises(RuntimeError, "timed out", kernel)
    finally:
        assert INTERFACE.end(short) == 0
    require_alive()


@check
def a_generator_that_takes_too_long():
    @spaces.GPU(duration=0.3)
    def stream():
        while True:
            kernel()
            yield 1
            time.sleep(0.1)

    items = stream()

    def exhaust():
        for _ in items:
            pass

    raises(RuntimeError, ABORTED, exhaust)
    require_alive()


@check
def a_generator_that_nobody_goes_on_with():
    """Its region ends at its deadline: others have their GPU work done, and it hears of it if it goes on after all."""

    @spaces.GPU(duration=TIME)
    def stream():
        while True:
            kernel()
            yield 1

    items = stream()
    assert next(items) == 1
    checks.until(shim.empty, "the card is empty although the generator has not ended", 20)
    assert torch.equal(DATA.cpu(), HOST)
    (DATA + 1).sum().item()
    checks.until(lambda: shim.state()["regions"] == 0, "its region has ended", 20)
    raises(RuntimeError, ABORTED, next, items)
    require_alive()


@check
def many_aborted_calls():
    @spaces.GPU(duration=0.05)
    def late():
        kernel()
        time.sleep(0.1)
        kernel()

    for _ in range(10):
        raises(RuntimeError, ABORTED, late)
    require_alive()


@check
def a_call_in_time_is_left_alone():
    assert spaces.GPU(duration=5)(lambda: (kernel(), 7)[1])() == 7
    time.sleep(5.1)
    require_alive()


checks.main()
