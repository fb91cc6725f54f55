"""Seconds of clone(), .to('cuda') and .cpu() of the same bytes, in turn, each into fresh memory: copies.py MIB ROUNDS"""
import json
import sys
import time

import torch

mib, rounds = map(int, sys.argv[1:])
source = torch.empty(mib << 20, dtype=torch.uint8)
torch.arange(source.numel() // 8, out=source.view(torch.int64))
torch.zeros(1, device="cuda")
taken = {"clone": [], "to": [], "cpu": []}


def timed(name, copy):
    start = time.perf_counter()
    made = copy()
    taken[name].append(time.perf_counter() - start)
    return made


for round in range(rounds + 1):
    made = timed("clone", source.clone)
    # given back to the system, so that the next one is fresh again
    del made
    there = timed("to", lambda: source.to("cuda"))
    back = timed("cpu", there.cpu)
    # in pieces: a comparison takes memory of its own
    pieces = zip(source.split(64 << 20), back.split(64 << 20))
    assert round or all(torch.equal(one, other) for one, other in pieces), "bytes have changed"
    del there, back
    torch.cuda.empty_cache()
# the first round also makes what is made once
print(json.dumps({name: seconds[1:] for name, seconds in taken.items()}))
