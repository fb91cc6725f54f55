"""Inside a program's process: `python -m gpu_check.child PROGRAM FOLDER DEVICE soft|real`.

Talks with the process outside over the socket whose descriptor is in GPU_CHECK_SOCKET: one line of JSON for each event
(see `Check._tell`); after "claimed" and "parked" it waits for an answer, so that the card can be looked at meanwhile.
"""

import copy
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import socket
import sys
import time
import traceback

import spaces
import spaces._shim

from . import npy, programs

# Seconds until a borrowed GPU must have been given back (ZEROGPU_IDLE is 200 ms unless set).
PARKS_WITHIN = 10


class Unable(Exception):
    """This machine can't run the program, with or without the shim."""


class Check:
    """What a program is given: its device, its steps, and where its results go."""

    def __init__(self, torch, folder, device, kernels, outside):
        self.torch = torch
        self.device = device
        self.cuda = device == "cuda"
        # False on softcuda: a kernel does nothing there, so no result of one may be saved, or steer the program.
        self.kernels = kernels
        self.state = None
        self._folder = folder
        self._outside = outside
        self._shim = spaces._shim.find()
        self.shim = self._shim is not None
        self._seen_claimed = False
        self._steps = 0
        self._saved = 0
        self._originals = []
        torch.manual_seed(0)

    def load(self, module):
        """The module on the device, frozen; at the program's end its bytes and addresses must be what they are now."""
        module.requires_grad_(False)
        originals = copy.deepcopy(module.state_dict())
        module.to(self.device)
        for name, tensor in module.state_dict().items():
            self._originals.append((tensor, originals[name], tensor.data_ptr()))
        return module

    def put(self, tensor):
        """The tensor on the device, never written; at the program's end as in `load`."""
        there = tensor.to(self.device, copy=True)
        self._originals.append((there, tensor, there.data_ptr()))
        return there

    @staticmethod
    def gpu(function, duration=120):
        """The function, marked."""
        return spaces.GPU(duration=duration)(function)

    def step(self, function, *arguments, binds=False, **keywords):
        """Calls the function, marked, and parks. `binds`: it may leave the process bound to its context."""
        result = self.gpu(self._inside)(function, arguments, keywords)
        self.park(binds)
        return result

    def _inside(self, function, arguments, keywords):
        result = function(*arguments, **keywords)
        if self.cuda:
            self.torch.cuda.synchronize()
        if self.shim and not self._seen_claimed:
            self._seen_claimed = True
            self._tell("claimed", answer=True)
        return result

    def park(self, binds=False):
        """No region is open: waits until the device is parked, and lets it be looked at from outside."""
        self._steps += 1
        if not self.shim:
            return
        give_up = time.monotonic() + PARKS_WITHIN
        while True:
            self.state = self._shim.state()
            if self.state["level"] == "parked" or self.state["bound_by"]:
                break
            self.require(time.monotonic() < give_up, f"not parked after {PARKS_WITHIN} s: {self.state}")
            time.sleep(0.005)
        self.require(binds or not self.state["bound_by"], f"bound by {self.state['bound_by']}")
        self._tell("parked", step=self._steps, state=self.state, answer=True)

    def save(self, *tensors):
        """Results of kernels: compared between the bare run and the one under the shim."""
        for tensor in tensors:
            if self.kernels:
                npy.save(self._folder / f"{self._saved:03}.npy", tensor)
            self._saved += 1

    def same(self, tensor, original):
        """Results of copies: compared with the original, on each kind of device."""
        npy.save(self._folder / f"{self._saved:03}.copied.npy", tensor)
        npy.save(self._folder / f"{self._saved:03}.original.npy", original)
        self._saved += 1

    def finish(self):
        """Checks what `load` and `put` promised."""
        for tensor, original, address in self._originals:
            self.require(tensor.data_ptr() == address, "an address changed")
            self.same(tensor, original)
        self._tell("done")

    def require(self, holds, text):
        if not holds:
            raise AssertionError(text)

    def unable(self, text):
        raise Unable(text)

    def needs(self, module):
        try:
            importlib.import_module(module)
        except ImportError as error:
            self.unable(f"needs {module}: {error}")

    def _tell(self, event, answer=False, **details):
        _tell(self._outside, event, answer, **details)


def _connect():
    connection = socket.socket(fileno=int(os.environ.pop("GPU_CHECK_SOCKET")))
    # Whatever the program starts must not keep it open: its end is the sign that the program has ended.
    connection.set_inheritable(False)
    os.register_at_fork(after_in_child=lambda: os.close(connection.fileno()))
    return connection.makefile("rw")


def _tell(outside, event, answer=False, **details):
    outside.write(json.dumps(dict(details, event=event)) + "\n")
    outside.flush()
    if answer and not outside.readline():
        raise SystemExit("the process outside has gone")


def main():
    name, folder, device, driver = sys.argv[1:]
    program = programs.by_name(name)
    outside = _connect()
    absent = [module for module in program.needs if importlib.util.find_spec(module) is None]
    if absent:
        return _tell(outside, "absent", text=", ".join(absent))
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < program.since:
        return _tell(outside, "unable", text="needs torch {}.{}".format(*program.since))
    try:
        import torch

        _tell(outside, "about", torch=version, python=sys.version.split()[0], cuda=torch.version.cuda)
        if device == "cuda":
            torch.cuda.init()  # fails with PyTorch's own reason
        check = Check(torch, pathlib.Path(folder), device, driver == "real", outside)
        program.run(check)
        check.finish()
    except Unable as error:
        _tell(outside, "unable", text=str(error))
    except Exception as error:
        traceback.print_exc()
        # Bare, such errors say that the card or the torch is not up to the program.
        unable = isinstance(error, (RuntimeError, ImportError)) and spaces._shim.find() is None
        _tell(outside, "unable" if unable else "failed", text=_line(error))


def _line(error):
    """The error in one line: the first of its text, with the next if it only announces that."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return type(error).__name__ + (": " + text if text else "")


if __name__ == "__main__":
    main()
