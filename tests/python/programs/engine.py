"""What the engine promises in details that no framework makes visible: by the driver API alone, without torch."""

import ctypes
import struct
import threading
import time

import checks
import driver
import shim
import spaces._shim
from checks import check

INTERFACE = spaces._shim.find()
CONTEXT = driver.start()
MODULE = driver.image()
EMPTY = driver.made("cuModuleGetFunction", MODULE, b"empty")
OVER = 702


def variable(name, module=MODULE):
    """A module variable's address and bytes."""
    address, size = ctypes.c_uint64(), ctypes.c_size_t()
    driver.call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), module, name)
    return address.value, size.value


def refused():
    """Whether launches are."""
    return driver.answer("cuLaunchKernel", EMPTY, 1, 1, 1, 1, 1, 1, 0, 0, None, None) == OVER


def require_parked():
    checks.until(shim.parked, "parked")
    shim.require_empty()


@check
def a_variable_of_a_recorded_kernels_module_waits_for_the_kernel():
    """However late it was asked for: the kernel may use it."""
    driver.launch(EMPTY)
    table, size = variable(b"table")
    before = shim.state()["deferred"]
    driver.upload(table, bytes(range(size)))
    assert shim.state()["deferred"] == before + 1
    assert driver.download(table, size) == bytes(range(size))
    assert shim.state()["borrows"] == 1
    require_parked()


@check
def a_variable_with_an_address_in_it_keeps_what_is_written():
    link, size = variable(b"pointer_to_counter")
    counter, _ = variable(b"counter")
    ours = counter.to_bytes(8, "little")
    first = driver.download(link, size)
    region = INTERFACE.begin(60.0)
    driver.launch(EMPTY)
    driver.upload(link, ours)
    INTERFACE.end(region)
    require_parked()
    assert driver.download(link, size) == ours
    region = INTERFACE.begin(60.0)
    driver.launch(EMPTY)
    # kernels follow it, so on the card it is the card's address
    assert driver.download(link, size) not in (first, ours)
    INTERFACE.end(region)
    assert driver.download(link, size) == ours
    driver.upload(link, b"ABCDEFGH")
    for _ in range(2):
        region = INTERFACE.begin(60.0)
        driver.launch(EMPTY)
        assert driver.download(link, size) == b"ABCDEFGH"
        INTERFACE.end(region)
    require_parked()


@check
def managed_variables_keep_what_a_claim_wrote():
    """Below us they end with the context, as all variables do."""
    source = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .global .attribute(.managed) .align 8 .b8 asked_for[8];
.visible .global .attribute(.managed) .align 8 .b8 asked_for_later[8];
.visible .entry uses_both() { ret; }
\0"""
    module = driver.made("cuModuleLoadData", source)
    kernel = driver.made("cuModuleGetFunction", module, b"uses_both")
    early, size = variable(b"asked_for", module)
    driver.upload(early, b"before..")
    region = INTERFACE.begin(60.0)
    driver.launch(kernel)
    assert driver.download(early, size) == b"before.."
    late, _ = variable(b"asked_for_later", module)
    for address in (early, late):
        driver.upload(address, b"inside..")
    INTERFACE.end(region)
    require_parked()
    for address in (early, late):
        assert driver.download(address, size) == b"inside.."
    region = INTERFACE.begin(60.0)
    driver.launch(kernel)
    for address in (early, late):
        assert driver.download(address, size) == b"inside.."
    INTERFACE.end(region)
    require_parked()
    driver.call("cuModuleUnload", module)


@check
def a_deadline_counts_once_the_later_ones_have_ended():
    for later in (60.0, float("inf")):
        early = INTERFACE.begin(1.0)
        late = INTERFACE.begin(later)
        driver.launch(EMPTY)
        time.sleep(0.3)  # the watcher has looked, and sleeps until the later one
        assert INTERFACE.end(late) == 0
        checks.until(refused, f"the deadline before {later} counts", 5)
        assert INTERFACE.end(early) == 0
        require_parked()


@check
def a_thread_that_ends_takes_its_deadline_with_it():
    early = INTERFACE.begin(1.0)
    thread = threading.Thread(target=lambda: (INTERFACE.begin(60.0), driver.launch(EMPTY), time.sleep(0.3)))
    thread.start()
    thread.join()
    checks.until(refused, "the deadline counts", 5)
    assert INTERFACE.end(early) == 0
    require_parked()


@check
def waiting_for_an_event_after_the_deadline():
    event = driver.made("cuEventCreate", 0)
    region = INTERFACE.begin(2.0)
    driver.launch(EMPTY)
    driver.call("cuEventRecord", event, 0)
    answer = lambda: driver.answer("cuEventSynchronize", event)
    checks.until(lambda: answer() == OVER, "waits fail")
    checks.until(shim.parked, "parked")
    assert answer() == OVER and driver.answer("cuEventQuery", event) == 0
    INTERFACE.end(region)
    assert answer() == 0


@check
def what_the_host_may_look_at_does_not_wait():
    """Page-locked memory shows a fill and a stream's write once they are done, whatever kernel came before."""
    flag = driver.made("cuMemHostAlloc", 4096, 0)
    ctypes.memset(flag, 0, 4096)
    for write in (("cuStreamWriteValue32_v2", 0, flag, 7, 0), ("cuMemsetD32_v2", flag, 9, 1)):
        driver.launch(EMPTY)
        driver.call(*write)
        driver.call("cuCtxSynchronize")
        assert ctypes.c_uint32.from_address(flag).value == write[-2], write
        assert shim.state()["deferred"] == 0
        require_parked()


@check
def times_keep_their_digits():
    """Of two events of one claim, however old it is: the driver's own difference, not that of two large numbers."""
    start, end = (driver.made("cuEventCreate", 0) for _ in range(2))
    region = INTERFACE.begin(60.0)
    driver.launch(EMPTY)
    time.sleep(0.5)
    times = []
    for _ in range(20):
        driver.launch(EMPTY)
        driver.call("cuEventRecord", start, 0)
        driver.launch(EMPTY)
        driver.call("cuEventRecord", end, 0)
        driver.call("cuEventSynchronize", end)
        times.append(driver.made("cuEventElapsedTime", start, end, kind=ctypes.c_float))
    # what a launch takes; more where this thread was held up between the calls
    assert any(abs(ms - 1.001) < 1e-6 for ms in times), times
    INTERFACE.end(region)
    require_parked()


@check
def host_memory_by_the_drivers_handles():
    """NCCL makes such: it is claimed and parked like any."""
    size, address = 2 << 20, driver.made("cuMemAddressReserve", 2 << 20, 0, 0, 0)
    numa_node = struct.pack("IIIiQBBHI", 1, 0, 3, 0, 0, 0, 0, 0, 0)
    handle = driver.made("cuMemCreate", size, numa_node, 0)
    driver.call("cuMemMap", address, size, 0, handle, 0)
    driver.call("cuMemSetAccess", address, size, struct.pack("IiI", 1, 0, 3), 1)
    driver.upload(address, b"before")
    region = INTERFACE.begin(60.0)
    driver.launch(EMPTY)
    assert driver.download(address, 6) == b"before"
    driver.upload(address, b"inside")
    made_inside = driver.made("cuMemCreate", size, numa_node, 0)
    INTERFACE.end(region)
    assert driver.download(address, 6) == b"inside"
    require_parked()
    driver.call("cuMemUnmap", address, size)
    for unused in (handle, made_inside):
        driver.call("cuMemRelease", unused)


checks.main()
