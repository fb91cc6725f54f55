"""Where things are."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "zerogpu"
TARGET = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target")
LOGS = TARGET / "test-logs"
LOCKS = ROOT / "tests" / "envs"
