"""The steps: for each size claims and parks through a broker, and beside them the driver's own checkpoint."""

import ctypes
import datetime
import json
import os
import pathlib
import shutil
import tempfile
import time

from .. import card, report
from . import table
from .cuda import NOT_SUPPORTED, CudaError, Driver
from .processes import Broker, Failed, Program

MIB = 1 << 20
# What a parked program may leave on a card (docs/design.md, "nothing on the card").
SLACK = card.Observer.PARKED_BYTES
# A copy by the broker should reach this share of a plain one.
TARGET = 0.95
# What a virtual card takes for a context: as much as a real one.
OVERHEAD = 1 << 30
# Memory of a card and of the host that is left alone.
RESERVE = 3 << 30


def main(settings):
    started = time.monotonic()
    folder = settings.keep or pathlib.Path(tempfile.mkdtemp(prefix="gpu-check-"))
    settings.cards = folder / "softcuda-cards"
    try:
        view = card.open_view(settings)
        check = Check(settings, view, folder, started + settings.budget)
        check.run()
    except card.NoCard as error:
        print(f"gpu-check: {error}")
        return report.NOTHING_RUNS
    finally:
        if not settings.keep:
            shutil.rmtree(folder, ignore_errors=True)
    whole = {
        "date": datetime.date.today().isoformat(),
        "cards": check.names,
        "driver": view.driver,
        "seconds": round(time.monotonic() - started, 1),
        "copy": check.rates,
        "rows": check.rows,
        "checkpoints": check.checkpoints,
        "notes": check.notes,
        "errors": check.errors,
    }
    print(table.text(whole))
    if settings.json:
        settings.json.write_text(json.dumps(whole, indent=2) + "\n")
    if check.errors:
        return report.FAILED
    return report.GOOD if check.rows else report.NOTHING_RUNS


class Check:
    def __init__(self, settings, view, folder, give_up):
        self._settings = settings
        self._view = view
        self._folder = folder
        self._give_up = give_up
        self.names, self.rates = [], {}
        self.rows, self.checkpoints, self.notes, self.errors = [], [], [], []

    def run(self):
        if self._settings.driver == "soft":
            # this process looks on through the library, too
            os.environ["SOFTCUDA_CARDS"] = str(self._settings.cards)
        driver = Driver(str(self._settings.soft_lib) if self._settings.driver == "soft" else "libcuda.so.1")
        driver.call("cuInit", 0)
        try:
            # a plain program first: it also makes the software cards
            self._plain(driver)
            self.names = self._view.names
            self._through_a_broker()
            for size in self._sizes():
                self._checkpoint(driver, size)
        except Failed as error:
            self.errors.append(str(error))

    def _plain(self, driver):
        program = Program(self._settings, self._folder, "plain")
        try:
            self.rates = program.ask("rates", size=min(1 << 30, max(self._settings.sizes)))
        finally:
            program.end()

    def _sizes(self):
        """The sizes for which there is room and time."""
        for size in self._settings.sizes:
            text = self._hindrance(size)
            if text is None:
                yield size
            elif text not in self.notes:
                self.notes.append(text)

    def _hindrance(self, size):
        title = f"{size // MIB} MiB: not run, "
        if time.monotonic() > self._give_up:
            return title + "the time is used up (--budget)"
        free = self._view.free()
        if free is not None and size + RESERVE > free:
            return title + f"the card has {free // MIB} MiB free"
        host = _host_memory()
        if size + RESERVE > host and self._settings.driver == "real":
            return title + f"the host has {host // MIB} MiB free"
        return None

    def _through_a_broker(self):
        empty = self._view.settled()
        broker = Broker(self._settings, self._folder)
        try:
            for size in self._sizes():
                self._size(broker, size)
        finally:
            broker.end()
        self._look("after the broker's end", empty)

    def _size(self, broker, size):
        empty = self._view.settled()
        program = Program(self._settings, self._folder, "claims", broker, size + OVERHEAD)
        try:
            program.ask("open", size=size)
            self._row(broker, program, empty, size, "cold, first", size, 0)
            self._row(broker, program, empty, size, "cold", size, 0)
            broker.configure(Broker.WARM)
            self._row(broker, program, empty, size, "cold, kept warm", size, 0, warm=size)
            self._row(broker, program, empty, size, "warm", 0, 0, warm=size)
            self._row(broker, program, empty, size, "warm", 0, 0.1, warm=size)
            self._row(broker, program, empty, size, "warm", 0, 1, warm=size)
            broker.configure(Broker.COLD)
            self._look(f"{size // MIB} MiB, nothing warm any more", empty)
        finally:
            broker.configure(Broker.COLD)
            program.end()
        self._look(f"{size // MIB} MiB, after the program's end", empty)

    def _row(self, broker, program, empty, size, level, brought, share, warm=0):
        """One claim and park. `share` of the memory changes in between; `warm` bytes should stay on the card."""
        before = broker.copied()
        claim = program.ask("claim")
        wrong = program.ask("check")["wrong"]
        changed = program.ask("change", share=share)["bytes"] if share else 0
        park = program.ask("park")
        wrong += program.ask("check")["wrong"]
        copied = {way: [now - then for now, then in zip(after, before[way])] for way, after in broker.copied().items()}
        changes = f"{100 * share:.0f} % changed" if share else "unchanged"
        title = f"{size // MIB} MiB, {level}, {changes}"
        parked = self._look(title, empty, warm)
        rate = {way: bytes_ / seconds / 1e9 if bytes_ and seconds else None for way, (bytes_, seconds) in copied.items()}
        self.rows.append({
            "size": size, "level": level, "changed": share, "claim_ms": claim["ms"], "park_ms": park["ms"],
            "bytes_in": copied["in"][0], "bytes_out": copied["out"][0], "gbps_in": rate["in"], "gbps_out": rate["out"],
            "parked_bytes": parked, "wrong_chunks": wrong,
        })  # fmt: skip
        errors = []
        if wrong:
            errors.append(f"{wrong} chunks of 2 MiB hold wrong bytes")
        if claim["state"]["level"] != "claimed" or park["state"]["level"] != "parked":
            errors.append(f"{claim['state']['level']} while claimed, {park['state']['level']} when parked")
        for way, expected in (("in", brought), ("out", changed)):
            if not expected <= copied[way][0] <= expected + SLACK:
                errors.append(f"{copied[way][0] / MIB:.0f} MiB were copied {way}, not {expected / MIB:.0f}")
        self.errors += [f"{title}: {error}" for error in errors]
        for way in ("in", "out"):
            # a first copy page-locks the memory; a few chunks say nothing about a rate
            if level != "cold, first" and rate[way] and copied[way][0] >= 1 << 30:
                reached = rate[way] / self.rates[way]
                if reached < TARGET:
                    self.notes.append(f"{title}: copies {way} reach {100 * reached:.0f} % of a plain one")

    def _look(self, title, empty, warm=0):
        """Waits until the card holds no more than it should; what it holds."""
        most = warm + warm // 128 + SLACK
        give_up = time.monotonic() + card.Observer.WITHIN
        while True:
            bytes_, contexts = self._view.growth(empty)
            clean = bytes_ <= most and not contexts
            if clean or time.monotonic() > give_up:
                break
            time.sleep(0.02)
        if not clean or bytes_ < warm:
            self.errors.append(f"{title}: {bytes_ / MIB:.0f} MiB and {contexts or 0} contexts on the card, not {warm / MIB:.0f} MiB")
        return bytes_

    def _checkpoint(self, driver, size):
        """The same amount of memory, by the driver's own means."""
        empty = self._view.settled()
        program = Program(self._settings, self._folder, "checkpoints")
        title = f"{size // MIB} MiB, checkpoint"
        pid = ctypes.c_int(program.process.pid)
        row = {"size": size}

        def timed(step):
            started = time.monotonic()
            driver.call(f"cuCheckpointProcess{step}", pid, None)
            row[f"{step.lower()}_ms"] = (time.monotonic() - started) * 1e3

        try:
            program.ask("open", size=size)
            timed("Lock")
            timed("Checkpoint")
            row["parked_bytes"] = self._look(title, empty)
            timed("Restore")
            timed("Unlock")
            row["wrong_chunks"] = program.ask("check")["wrong"]
            if row["wrong_chunks"]:
                self.errors.append(f"{title}: {row['wrong_chunks']} chunks of 2 MiB hold wrong bytes")
            timed("Lock")
            timed("Checkpoint")
        except CudaError as error:
            # not ours to fail for: it is here to be compared with
            text = "needs driver 570 or newer" if error.code == NOT_SUPPORTED else str(error)
            return self.notes.append(f"{title}: {text}")
        finally:
            # while checkpointed, if it came so far
            program.kill()
        self.checkpoints.append(row)
        self._look(f"{title}, killed while checkpointed", empty)


def _host_memory():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
