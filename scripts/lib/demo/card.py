"""The card under the apps, seen from outside of them: the first NVIDIA GPU, else a software card."""

import json
import os
import subprocess

SOFTWARE = """No NVIDIA GPU answers here (nvidia-smi), so the apps share a software card. Its copies are real and its memory counts as
a card's does, but it can't compute: kernels are recorded and not executed. What you see is who has the card and what
is on it; what the apps write is not what a GPU would write."""


class Nvidia:
    """The machine's first GPU, through nvidia-smi."""

    driver = "auto"
    broker = []
    environment = {}

    def __init__(self, name, total):
        self.name, self.total = name, total
        self.told = f"The apps share {name}."

    @staticmethod
    def ask():
        """Its name, its bytes, and those in use; None if there is none."""
        command = ["nvidia-smi", "--id=0", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return None
        fields = shown.stdout.strip().rsplit(", ", 2)
        if shown.returncode or len(fields) != 3:
            return None
        return fields[0], int(fields[1]) << 20, int(fields[2]) << 20

    def used(self):
        """Bytes in use."""
        return self.ask()[2]


class Software:
    """A software card, in a file of its own."""

    driver = "soft"
    name = "the software card"
    total = 8 << 30
    told = SOFTWARE

    def __init__(self, command, cards):
        self._look = [str(command), "soft-smi", "--json", "--cards", str(cards)]
        self.broker = ["--vram", str(self.total)]
        self.environment = {"SOFTCUDA_CARDS": str(cards)}

    def used(self):
        """Bytes in use."""
        shown = subprocess.run(self._look, capture_output=True, text=True, check=True)
        return json.loads(shown.stdout)["cards"][0]["bytes_used"]


def find(command, folder):
    """The card to use. A software card has its file in `folder`."""
    found = Nvidia.ask()
    return Nvidia(*found[:2]) if found else Software(command, os.path.join(folder, "cards"))
