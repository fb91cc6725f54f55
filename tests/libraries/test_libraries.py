"""Libraries around PyTorch on the virtual device: what can be told of them without a card that computes.

Each file of programs/ is a program of one library; each of its checks is a test.
"""

import pathlib

import pytest
from world import END, PROGRAMS, checks_of

HERE = pathlib.Path(__file__).resolve().parent / "programs"
PAIRS = [(path, check) for path in sorted(HERE.glob("with_*.py")) for check in checks_of(path)]


@pytest.fixture(scope="module")
def outcome(worlds):
    """How a program ended. It runs when its first check is asked for."""
    outcomes = {}

    def of(path):
        if path not in outcomes:
            world = worlds(path.stem)
            outcomes[path] = world.run(str(path), **variables(world.folder))
        return outcomes[path]

    return of


def variables(folder):
    """No network, nothing kept for later runs, code compiled in the program's own process."""
    values = {"PYTHONPATH": PROGRAMS, "HF_HUB_OFFLINE": 1, "TRANSFORMERS_OFFLINE": 1, "HF_HOME": folder / "hugging-face"}
    values.update(TORCHINDUCTOR_CACHE_DIR=folder / "inductor", TRITON_CACHE_DIR=folder / "triton")
    return dict(values, TORCHINDUCTOR_COMPILE_THREADS=1)


@pytest.mark.parametrize("program, check", PAIRS, ids=[f"{path.stem}-{check}" for path, check in PAIRS])
def test_library(outcome, program, check):
    ended = outcome(program)
    ended.require(check)
    if check == END and "network" in ended.told:
        pytest.fail(ended.told["network"]["failed"])
