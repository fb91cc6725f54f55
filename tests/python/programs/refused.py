"""A kernel where there is no GPU: what the program sees, and that it can go on."""

import checks
import torch
from checks import check, raises

zeros = torch.zeros_like(torch.empty(3)).to("cuda")


@check
def a_launch_raises_what_cuda_without_a_card_raises():
    raises(RuntimeError, "no CUDA-capable device is detected", lambda: zeros + 1)


@check
def again():
    raises(RuntimeError, "no CUDA-capable device is detected", lambda: zeros + 1)


@check
def copies_go_on():
    original = torch.arange(1000)
    assert torch.equal(original.to("cuda").clone().cpu(), original)
    assert not zeros.cpu().any()


checks.main()
