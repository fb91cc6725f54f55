"""The software cards of tests/python, for programs of libraries around PyTorch."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

from fixtures import worlds  # noqa: E402, F401 (the path first; pytest finds it here)
