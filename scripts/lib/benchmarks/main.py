"""The command line of scripts/bench."""

import argparse
import os
import pathlib
import subprocess
import tempfile

from testing import environments
from testing.places import ROOT, TARGET

from . import parts, table
from .setting import Setting

# The PyTorch that is measured.
TORCH = "torch-2.4.0"
# What is measured, and what measures it.
PACKAGES = ("zerogpu", "zerogpu-shim", "zerogpu-nvml", "zerogpu-alias", "softcuda", "zerogpu-bench", "zerogpu-node-tests")


def main(about):
    """Runs what the arguments say; gives the exit code."""
    arguments = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", action="append", metavar="NAME", choices=list(parts.PARTS))
    arguments.add_argument("--list", action="store_true", help="name the parts and run none")
    arguments.add_argument("--dry", action="store_true", help="print the table, and write nothing")
    arguments.add_argument("--lib", type=pathlib.Path, metavar="FOLDER", help="libraries to measure, built before")
    options = arguments.parse_args()
    if options.list:
        print("\n".join(parts.PARTS))
        return 0
    try:
        rows = measured(options)
    except (environments.Missing, subprocess.CalledProcessError) as error:
        print(f"scripts/bench: {error}\n{getattr(error, 'stderr', None) or ''}")
        return 1
    text = table.text(rows)
    print(text)
    if not options.only and not options.dry:
        table.write(text)
    return 0


def measured(options):
    """The rows of all parts that are asked for."""
    if not options.lib:
        subprocess.run([ROOT / "scripts" / "build"], check=True)
    packages = [word for package in PACKAGES for word in ("-p", package)]
    subprocess.run(["cargo", "build", "--release", "--locked", *packages], cwd=ROOT, check=True)
    environments.make(TORCH)
    with tempfile.TemporaryDirectory(prefix="zerogpu-bench-") as scratch:
        setting = Setting(
            lib=(options.lib or TARGET / "dist" / "lib" / "zerogpu").resolve(),
            program=TARGET / "release" / "zerogpu-bench",
            node=TARGET / "release" / "zerogpu-node-bench",
            python=environments.interpreter(TORCH),
            scratch=pathlib.Path(scratch),
        )
        rows = []
        for name, part in parts.PARTS.items():
            if not options.only or name in options.only:
                print(f"{name} ... (load {os.getloadavg()[0]:.1f})", flush=True)
                made = part(setting)
                # at once, so that a run that is broken off has shown what it found
                print("\n".join(row.line() for row in made), flush=True)
                rows += made
        return rows
