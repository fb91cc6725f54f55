"""Code that is made at run time and kept: graphs, torch.compile, the profiler's instrumentation."""

from .registry import program


@program("graph", cpu=False)
def graph(check):
    """A CUDA graph: captured, replayed after parks, destroyed"""
    torch, nn = check.torch, check.torch.nn
    model = check.load(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)))
    inputs = [torch.randn(32, 128) for _ in range(3)]
    x = inputs[0].to(check.device)

    def capture():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            y = model(x)
        return captured, y

    captured, y = check.step(capture, binds=True)
    for fresh in inputs:
        x.copy_(fresh)
        check.step(captured.replay, binds=True)
        check.same(x, fresh)
        check.save(y)
    del captured, y  # not reset(): torch 2.0 would free the graph twice
    torch.cuda.empty_cache()
    check.save(check.step(model, x))


@program("compile", cpu=False, seconds=180)
def compiled(check):
    """torch.compile, forward and backward (Triton)"""
    torch = check.torch
    check.needs("triton.compiler")
    x = check.put(torch.randn(256, 512)).requires_grad_()

    @torch.compile
    def function(x):
        return (x.sin() * 2 + x.sigmoid()).exp()

    for _ in range(3):
        x.grad = None
        y = check.step(function, x)
        check.step(y.backward, torch.ones_like(y))
        check.save(y, x.grad)


@program("profiler", cpu=False, soft="its weights and inputs; nothing runs that could be profiled")
def profiler(check):
    """torch.profiler, around a step: bare it sees kernels (CUPTI), under the shim none, and changes nothing"""
    torch = check.torch
    x = check.put(torch.randn(256, 256))

    def profiled():
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            y = (x @ x).relu()
            torch.cuda.synchronize()
        on_device = torch.autograd.DeviceType.CUDA
        return y, sorted({event.name for event in profile.events() if event.device_type == on_device})

    for _ in range(2):
        y, kernels = check.step(profiled)
        check.save(y)
        if check.kernels:
            if not kernels and not check.shim:
                check.unable("the profiler sees no kernels here, without the shim either")
