"""One of several programs whose memory does not fit on the card together. SHARES_JOURNAL: the file that all write to."""

import json
import os
import subprocess
import time

import checks
import shim
import spaces
import torch
from checks import check

CALLS = int(os.environ["SHARES_CALLS"])
NAME = os.environ["SHARES_NAME"]
MIB = 1 << 20

torch.manual_seed(len(NAME))
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(30)]).eval()
originals = {name: tensor.clone() for name, tensor in model.state_dict().items()}
model.to("cuda")
counter = torch.zeros(MIB, dtype=torch.int64).to("cuda")


def note(what):
    with open(os.environ["SHARES_JOURNAL"], "a") as journal:
        journal.write(json.dumps([NAME, what, time.monotonic()]) + "\n")


def other_waits():
    """Whether the other one is in the queue, or has made all its calls."""
    status = json.loads(subprocess.check_output([os.environ["CHECKS_CLI"], "status", "--json"]))
    return status["scheduler"]["queue"] or "done" in open(os.environ["SHARES_JOURNAL"]).read()


@spaces.GPU(duration=60)
def serve(turn):
    with torch.no_grad():
        model(torch.full((1, 1024), 1.0).to("cuda"))
    note("begin")
    checks.until(other_waits, "the other one has its turn", 50)
    assert (counter.cpu() == turn).all(), turn
    counter.copy_(torch.full((MIB,), turn + 1))
    # each turn changes one layer, on the device only
    model[turn].weight.data[:7].copy_(model[turn].weight.data[7:14])
    originals[f"{turn}.weight"][:7] = originals[f"{turn}.weight"][7:14]
    torch.cuda.synchronize()
    note("end")


@check
def weights_stay_exact_while_others_use_the_card():
    note("ready")
    checks.until(lambda: open(os.environ["SHARES_JOURNAL"]).read().count("ready") == 2, "both are ready", 120)
    for turn in range(CALLS):
        serve(turn)
        if turn % 5 == 0:
            same()
    note("done")
    same()
    checks.until(shim.parked, "parked")


def same():
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.cpu().view(torch.int32), originals[name].view(torch.int32)), name


checks.main()
