"""Streams, events, pinned memory: objects that a context takes with it, and that must outlive it here."""

from .registry import COPIES, program


@program("streams", cpu=False)
def streams(check):
    """Two streams of the program's own, ordered by events that are kept through parks"""
    torch = check.torch
    x = check.put(torch.randn(512, 512))
    one, two = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    half_way = torch.cuda.Event()

    def work():
        begin.record()
        one.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(one):
            product = x @ x
            half_way.record()
        two.wait_event(half_way)
        with torch.cuda.stream(two):
            product.record_stream(two)
            result = (product + x).relu()
        torch.cuda.current_stream().wait_stream(two)
        result.record_stream(torch.cuda.current_stream())
        end.record()
        return result

    for _ in range(3):
        check.save(check.step(work))
        check.require(half_way.query() and end.query(), "an event of a parked stream is not complete")
        check.require(begin.elapsed_time(end) >= 0, "time between two events is negative")
    check.require(one.query() and two.query(), "a parked stream is not idle")


@program("pinned", cpu=False, soft=COPIES + ", and all copies between pinned and device memory")
def pinned(check):
    """Pinned host memory, non_blocking copies both ways"""
    torch = check.torch
    source = torch.randint(0, 256, (32 << 20,), dtype=torch.uint8).pin_memory()
    back = torch.empty_like(source).pin_memory()
    there = torch.empty_like(source, device=check.device)
    arrived = torch.cuda.Event()

    def upload():
        there.copy_(source, non_blocking=True)

    def download():
        back.copy_(there, non_blocking=True)
        arrived.record()
        arrived.synchronize()

    check.require(source.is_pinned() and back.is_pinned(), "memory is not pinned")
    check.step(there.zero_)
    check.step(upload)
    check.step(download)
    check.same(back, source)
    check.step(there.add_, 1)
    check.step(download)
    check.save(back)
    upload()  # outside any region
    download()
    check.same(back, source)
