"""Where things are."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

DIST = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target") / "dist"
CLI = DIST / "bin" / "zerogpu"
PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
# The driver by ctypes, for programs of these tests as well.
DRIVER = ROOT / "tests" / "python" / "programs" / "driver.py"
CUBIN = ROOT / "crates" / "image" / "tests" / "data" / "sm80.cubin"


def clean():
    """The environment, without what starts with one of our prefixes or leads Python or the loader elsewhere."""
    ours = ("ZEROGPU_", "SOFTCUDA_", "CUDA_", "LD_", "PYTHON", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER", "CHECKS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
