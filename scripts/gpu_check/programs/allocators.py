"""PyTorch's other ways to get device memory."""

from .registry import program


def _grow_and_shrink(check):
    torch = check.torch
    blocks = [check.put(torch.randn(size << 10)) for size in (1, 300, 2000, 3000)]
    kept = blocks[::2]
    for size in (100, 1500, 6000):
        fresh = torch.randn(size << 10)
        there = fresh.to(check.device)
        check.save(check.step(lambda there: torch.cat([there.sin(), *kept]).roll(1), there))
        check.same(there, fresh)
        del there
        if check.cuda:
            torch.cuda.empty_cache()


@program("expandable", since=(2, 1), environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
def expandable(check):
    """Memory that grows and shrinks in expandable segments"""
    _grow_and_shrink(check)


@program("malloc-async", environment={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"})
def malloc_async(check):
    """Memory that grows and shrinks in the driver's own pools (cudaMallocAsync)"""
    _grow_and_shrink(check)
