"""What is measured, and in which environment programs run."""

import dataclasses
import json
import os
import pathlib
import subprocess

OURS = ("ZEROGPU_", "SOFTCUDA_", "CUDA_", "PYTORCH_")
# The card both of the shim and of softcuda: the one that the test kernel is made for.
PROFILE = "h100-80gb"


@dataclasses.dataclass
class Setting:
    """The libraries under test, the programs that measure calls and leases, PyTorch's Python, and a folder for files."""

    lib: pathlib.Path
    program: pathlib.Path
    node: pathlib.Path
    python: pathlib.Path
    scratch: pathlib.Path

    @property
    def shim(self):
        return self.lib / "libcuda.so.1"

    @property
    def softcuda(self):
        return self.lib / "libsoftcuda.so"

    @property
    def preload(self):
        return ":".join(str(self.lib / name) for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"))

    def environment(self, preload=False, **more):
        """The variables of a program; settings of whoever runs this do not count."""
        values = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH"):
            values.pop(name, None)
        values.update(
            ZEROGPU_DRIVER=str(self.softcuda),
            ZEROGPU_PROFILE=PROFILE,
            SOFTCUDA_PROFILE=PROFILE,
            SOFTCUDA_CARDS=str(self.scratch / "cards"),
        )
        if preload:
            values.update(LD_PRELOAD=self.preload, LD_LIBRARY_PATH=str(self.lib))
        return dict(values, **more)

    def ask(self, *words, **how):
        """Runs a program that prints one line of JSON, and gives what it says."""
        command = [str(word) for word in words]
        done = subprocess.run(command, env=self.environment(**how), check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)
