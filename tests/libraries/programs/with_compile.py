"""torch.compile: Inductor writes Triton kernels, gcc and ptxas build them under the shim, softcuda records their launch."""

import checks
import kept
import launches
import torch
import torch._dynamo
import torch._inductor
from checks import check

torch.manual_seed(0)
GEMM = "gemm|gemv|cutlass"
# kernels are called after what they do
torch._inductor.config.triton.unique_kernel_names = True


def addresses(launch, count):
    """The first parameters of a launch, as addresses."""
    data = bytes.fromhex(launch["params"])
    return [int.from_bytes(data[8 * at : 8 * at + 8], "little") for at in range(count)]


@check
def a_function_becomes_one_kernel():
    compiled = torch.compile(lambda x: (x.sin() * 2 + x.sigmoid()).exp())
    original = torch.randn(256, 512)
    x = original.to("cuda")
    for turn in range(3):
        y, made = launches.during(lambda: compiled(x), "^triton_poi_fused_.*exp")
        if turn:
            # the first call may have tried several forms
            assert len(made) == 1, made
        assert addresses(made[-1], 2) == [x.data_ptr(), y.data_ptr()]
        assert made[-1]["grid"][0] * made[-1]["block"][0] > 1 and y.shape == x.shape
        kept.require_same({"x": x}, {"x": original})


@check
def forward_and_backward():
    compiled = torch.compile(lambda x: (x.cos() * x).sum(-1))
    x = torch.randn(64, 128).to("cuda").requires_grad_()
    y = launches.of(lambda: compiled(x), "^triton_(per|red)_fused_")
    launches.of(lambda: y.backward(torch.ones(64).to("cuda")), "^triton_poi_fused_")
    assert x.grad.is_cuda and x.grad.shape == x.shape


@check
def a_model_is_compiled_around_cublas():
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.LayerNorm(128), torch.nn.Linear(128, 8))
    originals = kept.host_state(model)
    whole = kept.Kept(model.to("cuda"), originals)
    compiled = torch.compile(model)
    with torch.no_grad():
        for _ in range(2):
            result, made = launches.during(lambda: compiled(torch.randn(32, 64).to("cuda")), GEMM)
            assert result.shape == (32, 8) and any(launch["kernel"].startswith("triton_") for launch in made)
            whole.require()


@check
def sizes_that_change():
    compiled = torch.compile(lambda x: x.relu() + 1, dynamic=True)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for size in (100, 1000, 3000):
        _, made = launches.during(lambda: compiled(torch.randn(size).to("cuda")), "^triton_poi_fused_.*relu")
        assert int.from_bytes(bytes.fromhex(made[-1]["params"])[16:20], "little") == size, made[-1]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


@check
def a_graph_of_it_is_captured_and_replayed():
    compiled = torch.compile(lambda x: (x * 3).tanh(), mode="reduce-overhead")
    x = torch.randn(1000).to("cuda")
    counts = []
    for _ in range(5):
        y, made = launches.during(lambda: compiled(x).clone(), "^triton_poi_fused_.*tanh")
        counts.append(sum(launch["kernel"].startswith("triton_") for launch in made))
        assert y.shape == x.shape
    assert counts[-1] == counts[-2] == 1, counts


checks.main()
