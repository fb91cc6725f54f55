"""The command line."""

import argparse
import pathlib
import shutil
import sys

from . import launch, programs

# Bytes of memory that --broker tries.
SIZES = [1 << 30, 4 << 30, 16 << 30]
SOFT_SIZES = [64 << 20, 128 << 20, 256 << 20]


def read():
    """The programs to run, and the settings; leaves with a message where they make no sense."""
    parser = _parser()
    settings = parser.parse_args()
    if settings.list:
        for program in programs.ALL:
            print(f"{program.name:12} {program.title}\n{'':12} compared on softcuda: {program.soft}")
        sys.exit(0)
    unknown = set(settings.only) - {program.name for program in programs.ALL}
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))} (--list names them)")
    settings.budget = settings.budget if settings.budget is not None else (200 if settings.broker else 330)
    if settings.broker:
        _check_broker(parser, settings)
    if settings.bare and settings.driver == "soft":
        parser.error("--bare runs on the machine's own driver: leave out --driver soft")
    if not settings.bare:
        _check_library(parser, settings)
    if settings.keep:
        settings.keep.mkdir(parents=True)
    return [program for program in programs.ALL if not settings.only or program.name in settings.only], settings


def _check_broker(parser, settings):
    if settings.only or settings.bare or settings.device == "cpu":
        parser.error("--broker has no programs to choose, and needs the shim and a card")
    settings.sizes = settings.sizes or (SOFT_SIZES if settings.driver == "soft" else SIZES)


def _sizes(text):
    sizes = [int(float(size) * 1024) << 20 for size in text.split(",")]
    if min(sizes) < 64 << 20:
        raise ValueError(text)
    return sizes


def _check_library(parser, settings):
    if settings.lib is None:
        parser.error("--lib is needed: the folder that holds " + ", ".join(launch.OBJECTS))
    settings.lib = settings.lib.resolve()
    missing = [name for name in launch.OBJECTS if not (settings.lib / name).exists()]
    if missing:
        parser.error(f"{settings.lib} holds no {', '.join(missing)}")
    if settings.driver == "soft":
        settings.soft_lib = (settings.soft_lib or settings.lib / "libsoftcuda.so").resolve()
        if not settings.soft_lib.exists():
            parser.error(f"{settings.soft_lib} does not exist: name softcuda's library by --soft-lib")
    if settings.driver == "soft" or settings.broker:
        settings.zerogpu = (
            settings.zerogpu or shutil.which("zerogpu", path=str(settings.lib)) or shutil.which("zerogpu")
        )
        if settings.zerogpu is None:
            parser.error("the command zerogpu is neither in --lib nor in PATH: name it by --zerogpu")


def _parser():
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description="Runs small real PyTorch programs bare and under the zerogpu shim, parked after each step, and "
        "compares their results bit for bit.",
        epilog="Exit status: 0 all good, 1 a program failed, 2 wrong use, 3 no program can run on this machine bare.",
    )
    add = parser.add_argument
    path = pathlib.Path
    add("only", nargs="*", metavar="PROGRAM", help="programs to run (default: all)")
    add("--list", action="store_true", help="name the programs and end")
    add("--lib", type=path, metavar="FOLDER", help="folder of zerogpu's " + ", ".join(launch.OBJECTS))
    add("--hook", type=path, metavar="FOLDER", default=launch.HOOK, help="folder of the Python hook")
    add("--python", metavar="PATH", default=sys.executable, help="the Python that has torch (default: this one)")
    add(
        "--driver",
        choices=("real", "soft"),
        default="real",
        help="real (default): this machine's; soft: softcuda, where kernels do nothing and only copies are compared",
    )
    add("--soft-lib", type=path, metavar="PATH", help="softcuda's library (default: libsoftcuda.so in --lib)")
    add("--zerogpu", metavar="PATH", help="the command zerogpu, for soft-smi (default: in --lib, else in PATH)")
    add("--bare", action="store_true", help="bare runs only")
    add("--broker", action="store_true", help="instead: claims and parks through a broker, timed")
    add(
        "--sizes",
        type=_sizes,
        metavar="GIB,...",
        help="GiB of memory, with --broker (default: 1,4,16; with --driver soft 0.0625,0.125,0.25)",
    )
    add(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the programs that can run there, as a test of the programs and of this tool",
    )
    add("--jobs", type=int, default=3, metavar="N", help="bare runs at a time (default: %(default)s)")
    add(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="start no run after this, and cut one that still runs (default: 330; with --broker 200, which cuts none)",
    )
    add("--json", type=path, metavar="FILE", help="write the whole report there")
    add("--keep", type=path, metavar="FOLDER", help="keep results and logs in this new folder")
    return parser
