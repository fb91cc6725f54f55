"""Holds a CPU tensor, then moves it to the device where there is one: memory.py MIB [--cuda]. Says when, and waits."""
import sys

import torch

source = torch.ones(int(sys.argv[1]) << 20, dtype=torch.uint8)
if "--cuda" in sys.argv:
    there = source.to("cuda")
    torch.cuda.synchronize()
print("done", flush=True)
sys.stdin.read()
