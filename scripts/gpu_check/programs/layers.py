"""Layers of neural networks: cuBLAS, cuDNN and PyTorch's own kernels."""

from .registry import COPIES, program


@program("linear")
def linear(check):
    """Linear, GELU, LayerNorm (cuBLAS)"""
    nn = check.torch.nn
    model = check.load(nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 128)))
    x = check.put(check.torch.randn(64, 256))
    for _ in range(3):
        check.save(check.step(model, x))


@program("conv")
def conv(check):
    """Convolutions, batch norm, pooling, in float32 and half (cuDNN)"""
    torch, nn = check.torch, check.torch.nn
    torch.backends.cudnn.deterministic = True
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5)]
    model = check.load(nn.Sequential(*layers).eval())
    x = check.put(torch.randn(8, 3, 64, 64))
    for _ in range(2):
        check.save(check.step(model, x))
    if check.cuda:
        half = check.load(nn.Conv2d(32, 64, 3).half().to(memory_format=torch.channels_last))
        y = check.put(torch.randn(4, 32, 32, 32).half().contiguous(memory_format=torch.channels_last))
        for _ in range(2):
            check.save(check.step(half, y))


@program("attention")
def attention(check):
    """Scaled dot-product attention, half and float32, causal and not (flash and memory-efficient kernels)"""
    torch = check.torch
    attend = torch.nn.functional.scaled_dot_product_attention
    for dtype in (torch.float16, torch.float32) if check.cuda else (torch.float32,):
        q, k, v = (check.put(torch.randn(2, 8, 128, 64).to(dtype)) for _ in range(3))
        for causal in (False, True):
            check.save(check.step(attend, q, k, v, is_causal=causal))


@program("embedding", soft=COPIES + "; the sizes that unique() and nonzero() read back are kernel results")
def embedding(check):
    """Embeddings, gather, sort, top-k, cumulative sums, unique, nonzero"""
    torch, nn = check.torch, check.torch.nn
    table = check.load(nn.Embedding(1000, 64))
    ids = check.put(torch.randint(0, 1000, (16, 32)))

    def look_up():
        rows = table(ids)
        scores = rows.sum(-1)
        values, order = scores.sort(-1)
        top = scores.topk(5)
        return rows, values, order, top.values, top.indices, scores.gather(1, order), scores.cumsum(1)

    def count():
        unique, counts = ids.unique(return_counts=True)
        return unique, counts, (ids > 500).nonzero()

    for _ in range(2):
        check.save(*check.step(look_up))
    if check.kernels:
        check.save(*check.step(count))


@program("sparse", soft=COPIES + "; building a sparse matrix reads back kernel results")
def sparse(check):
    """COO and CSR matrices times dense ones (cuSPARSE)"""
    torch = check.torch
    dense = check.put(torch.randn(256, 64))
    places = check.put(torch.randint(0, 256, (2, 2000)))
    values = check.put(torch.randn(2000))
    check.save(check.step(torch.matmul, dense.t(), dense))
    if not check.kernels:
        return
    matrix = check.step(lambda: torch.sparse_coo_tensor(places, values, (256, 256)).coalesce())
    check.save(matrix.values(), check.step(torch.sparse.mm, matrix, dense))
    rows = check.step(matrix.to_sparse_csr)
    check.save(check.step(torch.matmul, rows, dense))


@program("autocast")
def autocast(check):
    """Mixed precision forward and backward under autocast"""
    torch, nn = check.torch, check.torch.nn
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)).to(check.device)
    x = check.put(torch.randn(32, 128))
    dtype = torch.float16 if check.cuda else torch.bfloat16

    def forward():
        with torch.autocast(check.device, dtype=dtype):
            return model(x).float().square().mean()

    for _ in range(2):
        loss = check.step(forward)
        check.step(loss.backward)
        check.save(loss, *(parameter.grad for parameter in model.parameters()))
