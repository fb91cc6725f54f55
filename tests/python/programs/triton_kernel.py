"""A Triton kernel: compiled here, launched in a region, recorded by softcuda."""

import struct

import checks
import launches
import torch
import triton
import triton.language as tl
from checks import check

COUNT = 1000


@triton.jit
def add_kernel(x, y, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@check
def a_launch_has_its_grid_and_parameters():
    x, y = torch.ones(COUNT).to("cuda"), torch.ones(COUNT).to("cuda")
    out = torch.empty_like(x)

    def add():
        return add_kernel[(triton.cdiv(COUNT, 256),)](x, y, out, COUNT, BLOCK=256, num_warps=8)

    compiled, made = launches.during(add, "add_kernel")
    assert ".target sm_" in compiled.asm["ptx"] and compiled.asm["cubin"][:4] == b"\x7fELF"
    (launch,) = made
    assert (launch["grid"], launch["block"]) == ([4, 1, 1], [256, 1, 1]), launch
    params = bytes.fromhex(launch["params"])
    wanted = struct.pack("<QQQi", x.data_ptr(), y.data_ptr(), out.data_ptr(), COUNT)
    assert params[: len(wanted)] == wanted, launch


checks.main()
