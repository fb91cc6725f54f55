"""What is on the cards, seen from outside: by NVIDIA's management library, or by `zerogpu soft-smi`."""

import ctypes
import json
import os
import subprocess
import time


class NoCard(Exception):
    """There is no card to look at."""


def open_view(settings):
    """The cards that the settings are about."""
    if settings.device == "cpu":
        return Nothing()
    if settings.driver == "soft":
        return Soft(settings.zerogpu, settings.cards)
    return Nvml()


class View:
    """A look at the cards: `names`, `driver`, and `look()`: bytes used by card, and the number of contexts if known."""

    # What a claimed process must at least be seen to hold.
    CLAIMED_BYTES = 0

    def free(self):
        """Bytes that the first card has left; None: as much as anyone wants."""
        return None

    def growth(self, before):
        """By how much a card holds more than in an earlier look, and how many contexts more there are, if known."""
        used, contexts = self.look()
        bytes_before, contexts_before = before
        growth = max((now - bytes_before.get(card, 0) for card, now in used.items()), default=0)
        return growth, None if contexts is None else contexts - contexts_before

    def settled(self, within=2.0):
        """A look that is the same twice, 50 ms apart: what an ended process had is gone only a little after it."""
        give_up = time.monotonic() + within
        last = self.look()
        while time.monotonic() < give_up:
            time.sleep(0.05)
            now = self.look()
            if now == last:
                break
            last = now
        return last


class Nvml(View):
    """The machine's real cards."""

    # A context alone takes some hundred MiB.
    CLAIMED_BYTES = 64 << 20

    class _Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self):
        # Stays open: a card that nobody has open forgets its state, and its used memory moves.
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise NoCard(f"no NVIDIA driver on this machine ({error})") from None
        self._ask("nvmlInit_v2")
        count = ctypes.c_uint()
        self._ask("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self._cards = [ctypes.c_void_p() for _ in range(count.value)]
        for index, card in enumerate(self._cards):
            self._ask("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(card))
        self.names = [self._text("nvmlDeviceGetName", card) for card in self._cards]
        self.driver = self._text("nvmlSystemGetDriverVersion")

    def look(self):
        # NVML counts no contexts.
        return {index: self._memory(card).used for index, card in enumerate(self._cards)}, None

    def free(self):
        return self._memory(self._cards[0]).free

    def _memory(self, card):
        memory = self._Memory()
        self._ask("nvmlDeviceGetMemoryInfo", card, ctypes.byref(memory))
        return memory

    def _ask(self, function, *arguments):
        code = getattr(self._nvml, function)(*arguments)
        if code:
            raise NoCard(f"{function} of NVIDIA's management library answers {code}")

    def _text(self, function, *arguments):
        text = ctypes.create_string_buffer(96)
        self._ask(function, *arguments, text, len(text))
        return text.value.decode()


class Soft(View):
    """The software cards in one file (SOFTCUDA_CARDS)."""

    def __init__(self, zerogpu, cards):
        self._command = [zerogpu, "soft-smi", "--json"]
        self._environment = dict(os.environ, SOFTCUDA_CARDS=str(cards))
        self.driver = "softcuda"

    @property
    def names(self):
        return [card["name"] for card in self._cards()]

    def look(self):
        cards = self._cards()
        return {card["index"]: card["bytes_used"] for card in cards}, sum(card["contexts"] for card in cards)

    def _cards(self):
        done = subprocess.run(self._command, env=self._environment, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)["cards"]


class Nothing(View):
    """No card: programs run on the CPU."""

    names = []
    driver = None

    def look(self):
        return {}, None


class Observer:
    """Compares what is on the cards while a program is claimed or parked with what was there before it started."""

    # Card memory that may differ while a process is parked (docs/design.md, "nothing on the card").
    PARKED_BYTES = 8 << 20
    # Seconds that the driver may take to give memory back after a park.
    WITHIN = 3.0

    def __init__(self, view):
        self._view = view
        self._before = view.settled()
        self.claimed_bytes = None
        self.parks = []
        self.errors = []

    def answer(self, event):
        """Looks at the cards for an event of the program."""
        if event["event"] == "claimed":
            self._claimed()
        elif event["event"] == "parked":
            self._parked(event["step"], event["state"])

    def _claimed(self):
        self.claimed_bytes, contexts = self._view.growth(self._before)
        if self.claimed_bytes < self._view.CLAIMED_BYTES or contexts == 0:
            self.errors.append("nothing of the process was seen on the card while it was claimed")

    def _parked(self, step, state):
        bound = state["bound_by"]
        give_up = time.monotonic() + self.WITHIN
        while True:
            used, contexts = self._view.growth(self._before)
            clean = used <= self.PARKED_BYTES and not contexts
            if clean or bound or time.monotonic() > give_up:
                break
            time.sleep(0.02)
        if not clean and not bound:
            self.errors.append(f"step {step}: {used} bytes and {contexts or 0} contexts on the card while parked")
        park = {"step": step, "bytes": used, "contexts": contexts, "bound_by": bound}
        park.update((key, state.get(key)) for key in ("claims", "last_claim_ms", "last_park_ms"))
        self.parks.append(park)
