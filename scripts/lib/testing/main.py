"""The command line of scripts/test."""

import argparse
import os

from . import needs, plan
from .steps import Runner


def main(about):
    """Runs what the arguments say; gives the exit code."""
    arguments = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--all", action="store_true", help="each PyTorch version in full")
    arguments.add_argument("--quick", action="store_true", help="one PyTorch version, short loops")
    arguments.add_argument("--only", action="append", metavar="NAME", help="steps whose name contains NAME")
    arguments.add_argument("--list", action="store_true", help="name the steps and run none")
    arguments.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="steps side by side (%(default)s)")
    arguments.add_argument("--strict", action="store_true", help="fail for what this machine lacks, where it would be skipped")
    options = arguments.parse_args()
    if options.all and options.quick:
        arguments.error("--all and --quick exclude each other")

    steps = plan.plan(options.all, options.quick, named=bool(options.only))
    if options.only:
        steps = plan.chosen(steps, options.only)
        if not steps:
            arguments.error(f"no step is called {' or '.join(options.only)}; scripts/test --list names them")
    if options.list:
        print("\n".join(step.name for step in steps))
        return 0
    lacks = needs.missing(needs.TESTING, needs.COMPONENTS, headers=True)
    if lacks:
        print("scripts/test can't run here:\n  " + "\n  ".join(lacks))
        return 2
    return Runner(steps, max(1, options.jobs), options.strict).run()
