"""`torch.zeros(3, device="cuda") + 1`, and where its tensors lie."""

import sys

import checks
import shim
import torch

sys.stdout.reconfigure(line_buffering=True)

zeros = torch.zeros(3, device="cuda")
ones = zeros + 1
checks.tell("deferred", state=shim.state(), zeros=zeros.data_ptr(), ones=ones.data_ptr())
back = ones.cpu()
checks.tell("read", state=shim.state(), shape=list(back.shape))
checks.until(shim.parked, "the borrowed GPU is given back")
shim.require_empty()
