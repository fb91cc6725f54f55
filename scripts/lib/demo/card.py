"""The card under the apps, seen from outside of them: the first NVIDIA GPU that fits, else a software card."""

import collections
import json
import os
import subprocess

from .stage import Failed

NO_GPU = "No NVIDIA GPU answers here (nvidia-smi)"
SOFTWARE = """{why}, so the apps share a software card. Its copies are real and its memory counts as
a card's does, but it can't compute: kernels are recorded and not executed. What you see is who has the card and what
is on it; what the apps write is not what a GPU would write."""

# What the shim is made for (docs/compatibility.md), and the profile of each: by itself it would take that of the machine's first GPU.
PROFILES = {"8.0": "a100-40gb", "9.0": "h100-80gb"}
OLDEST_DRIVER = 535
FIELDS = ("uuid", "name", "compute_cap", "driver_version", "memory.total", "memory.used")

Gpu = collections.namedtuple("Gpu", "uuid name architecture driver total used")


class Silent(Exception):
    """nvidia-smi does not answer, with its own words."""


def ask(*options):
    """The GPUs that nvidia-smi lists, in its order. Raises `Silent`."""
    command = ["nvidia-smi", *options, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Silent(f"nvidia-smi: {error.strerror}") from error
    if shown.returncode:
        # its failures stand on standard output
        said = (shown.stdout + shown.stderr).strip().splitlines() or ["it says nothing"]
        raise Silent(f"nvidia-smi ended with {shown.returncode}: {said[0]}")
    return [gpu for gpu in map(parsed, shown.stdout.splitlines()) if gpu]


def parsed(line):
    """A line of nvidia-smi; None where it is none. A name may have commas, and memory may be "[N/A]"."""
    fields = line.strip().split(", ")
    if len(fields) < len(FIELDS):
        return None
    uuid, *name = fields[: len(fields) - 4]
    architecture, driver, total, used = fields[-4:]
    return Gpu(uuid, ", ".join(name), architecture, driver, size(total), size(used))


def size(text):
    """Bytes, of a number of MiB; None if it is none."""
    return int(text) << 20 if text.isdigit() else None


def unfit(gpu):
    """Why the apps can't run on a GPU, as the beginning of a sentence; "" if they can."""
    if gpu.architecture not in PROFILES:
        return f"{gpu.name} has compute capability {gpu.architecture}, and zerogpu needs {' or '.join(PROFILES)}"
    major = gpu.driver.split(".")[0]
    if not major.isdigit() or int(major) < OLDEST_DRIVER:
        return f"{gpu.name} has NVIDIA's driver {gpu.driver}, and zerogpu needs {OLDEST_DRIVER} or newer"
    if gpu.total is None or gpu.used is None:
        return f"nvidia-smi does not say how much memory of {gpu.name} is in use"
    return ""


class Nvidia:
    """One of the machine's GPUs, through nvidia-smi."""

    driver = "auto"
    broker = []

    def __init__(self, gpu):
        self.name, self.total = gpu.name, gpu.total
        self.told = f"The apps share {gpu.name}."
        self._uuid = gpu.uuid
        profile = "h200" if "H200" in gpu.name else PROFILES[gpu.architecture]
        self.environment = {"ZEROGPU_PROFILE": profile}
        # it lends all cards that its driver shows, and the picture is of this one
        self.broker_environment = {"CUDA_VISIBLE_DEVICES": gpu.uuid}

    def used(self):
        """Bytes in use. Raises `Failed` if they are no longer told."""
        try:
            gpus = ask(f"--id={self._uuid}")
        except Silent as error:
            raise Failed(f"{self.name} can't be looked at any more: {error}") from error
        if not gpus or gpus[0].used is None:
            raise Failed(f"nvidia-smi no longer says how much memory of {self.name} is in use")
        return gpus[0].used


class Software:
    """A software card, in a file of its own."""

    driver = "soft"
    name = "the software card"
    total = 8 << 30
    broker_environment = {}

    def __init__(self, command, cards, why=NO_GPU):
        self.told = SOFTWARE.format(why=why)
        self._look = [str(command), "soft-smi", "--json", "--cards", str(cards)]
        self.broker = ["--vram", str(self.total)]
        self.environment = {"SOFTCUDA_CARDS": str(cards)}

    def used(self):
        """Bytes in use."""
        shown = subprocess.run(self._look, capture_output=True, text=True, check=True)
        return json.loads(shown.stdout)["cards"][0]["bytes_used"]


def find(command, folder):
    """The card to use: the first GPU that fits. A software card has its file in `folder`."""
    cards = os.path.join(folder, "cards")
    try:
        gpus = ask()
    except Silent as error:
        return Software(command, cards, f"No NVIDIA GPU answers here ({error})")
    for gpu in gpus:
        if not unfit(gpu):
            return Nvidia(gpu)
    return Software(command, cards, unfit(gpus[0]) if gpus else NO_GPU)
