"""One run of one program, in a process of its own, and the talk with it."""

import dataclasses
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import typing

HERE = pathlib.Path(__file__).resolve().parent
HOOK = HERE.parents[1] / "shim" / "python"
# Variables of ours that the caller may set: others would make it another check (a broker, less memory, other rules).
KEPT = ("ZEROGPU_PROFILE", "ZEROGPU_TRACE")
OBJECTS = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1")


@dataclasses.dataclass
class Outcome:
    """How a run ended: "done", "unable" (the machine can't run it), "absent" (a library is not installed) or "failed"."""

    status: str
    text: str
    seconds: float
    about: typing.Dict[str, str]


def environment(settings, shim):
    """The variables of a program's process. Under the shim they are those of `zerogpu run`."""
    values = {name: value for name, value in os.environ.items() if _passes(name)}
    values.update(CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    _prepend(values, "PYTHONPATH", HERE.parent)
    _prepend(values, "PYTHONPATH", settings.hook)
    if settings.device == "cpu":
        values["CUDA_VISIBLE_DEVICES"] = ""
    if shim:
        values["LD_PRELOAD"] = ":".join(str(settings.lib / name) for name in OBJECTS)
        values["ZEROGPU_LIB"] = str(settings.lib)
        _prepend(values, "LD_LIBRARY_PATH", settings.lib)
        if settings.driver == "soft":
            values["ZEROGPU_DRIVER"] = str(settings.soft_lib)
            values["SOFTCUDA_CARDS"] = str(settings.cards)
    return values


def _passes(name):
    return name != "LD_PRELOAD" and (name in KEPT or not name.startswith("ZEROGPU_"))


def _prepend(values, name, path):
    values[name] = os.pathsep.join(filter(None, [str(path), values.get(name)]))


def run(program, settings, folder, observer=None, give_up=math.inf):
    """Runs the program and waits for its end, to `give_up` at most. With an observer it runs under the shim, else bare."""
    folder.mkdir(parents=True)
    started = time.monotonic()
    deadline = min(started + program.seconds, give_up)
    ours, its = socket.socketpair()
    values = environment(settings, shim=observer is not None)
    values.update(program.environment, GPU_CHECK_SOCKET=str(its.fileno()))
    # Compiled code is made anew in each run.
    values.update(TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor"), TRITON_CACHE_DIR=str(folder / "triton"))
    command = [settings.python, "-m", "gpu_check.child", program.name, str(folder), settings.device, settings.driver]
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            command,
            env=values,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[its.fileno()],
            start_new_session=True,
        )
    its.close()
    about, last = {}, None
    try:
        for event in _events(ours, deadline):
            if event["event"] == "about":
                about = event
            elif observer is not None and event["event"] in ("claimed", "parked"):
                observer.answer(event)
                ours.sendall(b"\n")
            else:
                last = event
        code = process.wait(timeout=max(1.0, deadline - time.monotonic()))
    except (TimeoutError, socket.timeout, subprocess.TimeoutExpired):
        seconds = time.monotonic() - started
        text = f"still running after {program.seconds} s"
        if deadline < started + program.seconds:
            text = f"cut after {seconds:.0f} s: the time is used up (--budget)"
        return Outcome("failed", text, seconds, about)
    finally:
        ours.close()
        _end(process)
    status, text = _verdict(last, code, folder / "log.txt")
    return Outcome(status, text, time.monotonic() - started, about)


def _events(connection, deadline):
    """The program's events, until it closes its end."""
    rest = b""
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line.decode())


def _end(process):
    """Ends the process with all that it started (torch.compile has workers); does nothing to what has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _verdict(last, code, log):
    if last is not None and last["event"] in ("unable", "absent", "failed"):
        return last["event"], last["text"]
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}" + (" at its end" if last else "")
    if code or last is None:
        lines = log.read_text(errors="replace").strip().splitlines()
        return "failed", f"ended with {code}: {lines[-1] if lines else 'no output'}"
    return "done", ""


def refuse_preload():
    """This process must see the real card."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    if any(name in preloaded for name in ("libcuda", "libnvidia-ml", "zerogpu")):
        sys.exit("gpu-check looks at the card from outside: run it without the shim in LD_PRELOAD")
