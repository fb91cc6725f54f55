"""A program without a server: it prepares its batches on the CPU, and has a GPU only while it computes."""

import spaces
import torch
from torch import nn

network = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096)).to("cuda").eval()


@spaces.GPU(duration=20)
@torch.inference_mode()
def compute(batch):
    return network(batch.to("cuda")).cpu()


for number in range(3):
    batch = torch.randn(256, 4096)  # no GPU is held here
    print(f"batch {number}: {tuple(compute(batch).shape)}", flush=True)
