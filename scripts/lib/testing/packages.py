"""Debian packages that some tests need: installed where that may be done, named where not."""

import os
import shutil
import subprocess

from .environments import Missing


def lacking(names):
    """Those of the packages that are not installed."""
    return [name for name in names if not _installed(name)]


def install(names):
    """Installs Debian packages that are not there. Raises `Missing` with what to do where it can't."""
    wanted = lacking(names)
    if not wanted:
        return
    command = f"apt-get install {' '.join(wanted)}"
    if not shutil.which("apt-get"):
        raise Missing(f"{', '.join(wanted)} of Debian are missing, and there is no apt-get: install them as this system does")
    if os.geteuid() != 0:
        raise Missing(f"{', '.join(wanted)} are missing: run {command} as root")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    for step in ([*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", *wanted]):
        ended = subprocess.run(step, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if ended.returncode:
            raise Missing(f"{' '.join(step[:1] + step[4:])} failed with {ended.returncode}: {command} by hand says more")
    print(f"installed {', '.join(wanted)}", flush=True)


def _installed(name):
    try:
        shown = subprocess.run(
            ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    return shown.stdout == b"installed"
