"""The engine in detail, by the driver API alone; and what becomes of refusals that a program can live with."""

import sys

import pytest
from world import PROGRAMS, each_check

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def engine(worlds):
    return worlds("engine").run("engine.py", SOFTCUDA_LAUNCH_US=1000)


@each_check("engine.py")
def test_engine(engine, check):
    engine.require(check)


START = """
import ctypes, threading, time
import checks, driver, shim, spaces._shim
interface = spaces._shim.find()
context = driver.start()
empty = driver.made("cuModuleGetFunction", driver.image(), b"empty")
def launch():
    return driver.answer("cuLaunchKernel", empty, 1, 1, 1, 1, 1, 1, 0, 0, None, None)
def limit(n):
    return driver.made("cuCtxGetLimit", n, kind=ctypes.c_size_t)
"""


def run(world, script, **environment):
    """A script of driver calls."""
    return world.run([sys.executable, "-c", START + script], PYTHONPATH=PROGRAMS, timeout=60, **environment)