"""`python -m zerogpu ...`: the command `zerogpu`, where its folder is not on PATH."""

import importlib.metadata
import os
import pathlib
import sys


def command():
    """Where the installer has put the command: as it has recorded, or in `bin` beside the packages (pip --target)."""
    recorded = importlib.metadata.files("zerogpu") or ()
    places = [pathlib.Path(file.locate()) for file in recorded if file.name == "zerogpu"]
    places.append(pathlib.Path(__file__).resolve().parents[1] / "bin" / "zerogpu")
    for place in places:
        if os.access(place, os.X_OK):
            return str(place.resolve())
    sys.exit(f"zerogpu: the command is not in {places[0].parent}; install the wheel again")


if __name__ == "__main__":
    os.execv(command(), ["zerogpu"] + sys.argv[1:])
