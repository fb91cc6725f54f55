"""bitsandbytes: it finds its library for the device's CUDA, quantizes there, and its layers live through parks."""

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
    layer = bitsandbytes.nn.Linear8bitLt(256, 128, bias=False, has_fp16_weights=False, threshold=6.0)
    launches.of(lambda: layer.to("cuda"), "k[A-Z]")
    assert layer.weight.is_cuda and layer.weight.dtype == torch.int8


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
