"""bitsandbytes: it finds its library for the device's CUDA, quantizes there, and its layers live through parks."""

import re

import bitsandbytes
import checks
import kept
import launches
import shim
import torch
from checks import check

torch.manual_seed(0)


@check
def it_has_found_cuda():
    library = bitsandbytes.cextension.lib
    assert library.compiled_with_cuda, library


@check
def a_layer_of_four_bits():
    layer = bitsandbytes.nn.Linear4bit(256, 128, bias=False, compute_dtype=torch.float16, quant_type="nf4")
    # quantizing is a kernel, outside any marked call: deferred
    launches.of(lambda: layer.to("cuda"), "kQuantizeBlockwise")
    assert layer.weight.is_cuda and layer.weight.dtype == torch.uint8 and layer.weight.quant_state.absmax.is_cuda
    originals = kept.host_state(layer)
    whole = kept.Kept(layer, originals)
    x = torch.randn(4, 256, dtype=torch.float16).to("cuda")
    with torch.no_grad():
        for _ in range(2):
            result = launches.of(lambda: layer(x), "kDequantizeBlockwise|gemm")
            assert result.shape == (4, 128) and result.is_cuda
            launches.of(lambda: layer(x[:1]), "kgemm_4bit|kDequantizeBlockwise")
            whole.require()


@check
def a_layer_of_eight_bits():
    # a threshold would read the number of outliers back from kernels, which do nothing here
    layer = bitsandbytes.nn.Linear8bitLt(256, 128, bias=False, has_fp16_weights=False, threshold=0.0)
    quantizing = ["kgetColRowStats", "kDoubleRowColQuant"]
    _, made = launches.during(lambda: layer.to("cuda"), "kDoubleRowColQuant")
    assert its_own(made) == quantizing, made
    assert layer.weight.is_cuda and layer.weight.dtype == torch.int8
    x = torch.randn(4, 256, dtype=torch.float16).to("cuda")

    def call():
        with torch.no_grad():
            result, made = launches.during(lambda: layer(x), "gemm_int8")
        assert result.shape == (4, 128) and result.dtype == torch.float16 and result.is_cuda
        return its_own(made)

    ends = ["kTransformRowToFormat", "kdequant_mm_int32_fp16"]
    # the first call lays the weights out for the card, too
    assert call() == [*quantizing, "kTransformRowToFormat", *ends]
    # what kernels would have written comes from the host, where its bytes are known
    bytes_of_layer = {
        "weight": torch.randint(-128, 128, layer.weight.shape, dtype=torch.int8),
        "SCB": torch.rand(128),
    }
    with torch.no_grad():
        layer.weight.copy_(bytes_of_layer["weight"])
        layer.state.SCB.copy_(bytes_of_layer["SCB"])
    addresses = layer.weight.data_ptr(), layer.state.SCB.data_ptr()
    for _ in range(2):
        assert call() == [*quantizing, *ends]
        assert (layer.weight.data_ptr(), layer.state.SCB.data_ptr()) == addresses
        kept.require_same({"weight": layer.weight, "SCB": layer.state.SCB}, bytes_of_layer)


def its_own(made):
    """The names of bitsandbytes' kernels among launches, in order: functions of no namespace, whose names begin with a k."""
    found = [re.match(r"_Z(\d+)(k\w+)", launch["kernel"]) for launch in made]
    return [one[2][: int(one[1])] for one in found if one]


@check
def an_optimizer_of_eight_bits():
    layer = torch.nn.Linear(256, 256).to("cuda")
    optimizer = bitsandbytes.optim.Adam8bit(layer.parameters(), min_8bit_size=1024)

    def step():
        layer(torch.randn(8, 256).to("cuda")).sum().backward()
        optimizer.step()

    for _ in range(2):
        launches.of(step, "kOptimizer.*8bit|kOptimizerStatic8bit")
    assert optimizer.state[layer.weight]["state1"].is_cuda
    assert shim.parked()


checks.main()
