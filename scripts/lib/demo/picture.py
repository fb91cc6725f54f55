"""The live picture: bytes on the card over time, and what each app does."""

import collections
import os
import shutil
import sys
import threading
import time

# Seconds between two looks, and in a column of the picture.
EVERY, COLUMN = 0.12, 0.25
# Bytes that are worth a line of their own, where there is no picture.
WORTH = 64 << 20
# Lines of the bars, and columns left of them.
HEIGHT, LEFT = 6, 10
EIGHTHS = " ▁▂▃▄▅▆▇█"
MARKS = {"parked": "·", "waiting": "▒", "claimed": "█"}
COLOURS = {"parked": "2", "waiting": "33", "claimed": "32", "bar": "36"}

Sample = collections.namedtuple("Sample", "at bytes states")


class Picture:
    """Looks at the card in a thread of its own, and draws what it sees: in a terminal a picture, else a line for each change."""

    def __init__(self, stage, samples=()):
        self.samples = list(samples)
        self._stage = stage
        self._live = sys.stdout.isatty()
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._told = None
        self._notes = dict.fromkeys(stage.apps, "")
        self._drawn = 0
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._failure = None
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def note(self, app, call, text):
        """What a caller has sent or got."""
        name = self._stage.apps[app]
        self._notes[name] = "" if call == "ends" else text
        if not self._live and call != "goes on":
            self._tell(f"{self._now():7.1f} s  {name} {'is called' if call == 'begins' else 'has answered'}: {text}")

    def finish(self):
        """Ends the watch, and leaves the whole picture."""
        self.__exit__()
        if self._failure:
            raise self._failure
        # the card as it is now: the last look may have been before its last call's end
        self._look()
        self._look()
        self._erase()
        print("\n".join(self._lines()) + "\n", flush=True)

    def _now(self):
        return time.monotonic() - self._stage.began

    def _watch(self):
        try:
            while not self._ended.wait(EVERY):
                self._look()
        except Exception as error:  # told by finish()
            self._failure = error

    def _look(self):
        before = self.samples[-1] if self.samples else None
        sample = Sample(self._now(), self._stage.used(), self._stage.states())
        self.samples.append(sample)
        if self._live:
            self._erase()
            lines = self._lines()
            self._drawn = len(lines)
            print("\n".join(lines), flush=True)
        # bytes and states are looked at one after the other: what two looks agree on is so
        elif before and before[1:] == sample[1:] and differs(sample, self._told):
            self._told = sample
            states = ", ".join(f"{app} {state}" for app, state in sample.states.items())
            self._tell(f"{sample.at:7.1f} s  {states}; on the card: {sample.bytes >> 20} MiB")

    def _tell(self, line):
        """A line of its own, whichever thread it comes from."""
        with self._telling:
            print(line, flush=True)

    def _erase(self):
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
            self._drawn = 0

    def _lines(self):
        screen = shutil.get_terminal_size((100, 24)).columns
        columns = self._columns(max(20, min(screen - LEFT - 14, 120)))
        peak = max([sample.bytes for sample in self.samples] + [64 << 20])
        top = -(-(peak >> 20) // 100) * 100
        lines = [f"  MiB on {self._stage.card.name}, of {self._stage.card.total >> 20}"]
        for row in range(HEIGHT, 0, -1):
            label = f"{top * row // HEIGHT:>{LEFT - 3}} ┤ " if row in (HEIGHT, HEIGHT // 2) else " " * (LEFT - 2) + "│ "
            cells = "".join(EIGHTHS[eighths(column.bytes, row, top)] for column in columns)
            lines.append(label + self._painted("bar", cells))
        lines.append(f"{0:>{LEFT - 3}} ┼─" + "─" * len(columns))
        for app in self._stage.apps:
            cells = "".join(self._painted(column.states[app], MARKS[column.states[app]]) for column in columns)
            state = self.samples[-1].states[app] if self.samples else "parked"
            lines.append(f"{app:>{LEFT - 3}}   {cells} {self._painted(state, state)}")
        legend = "   ".join(f"{self._painted(state, mark)} {state}" for state, mark in MARKS.items())
        lines.append(" " * LEFT + legend + f"   (a column: {COLUMN} s)")
        if self._live and not self._ended.is_set():
            for app, note in self._notes.items():
                lines.append(f"{app:>{LEFT - 3}}   {note[-(screen - LEFT - 2):]}")
        return lines

    def _columns(self, width):
        """The latest samples, some to a column: the most bytes, and the state that tells most."""
        grouped = collections.OrderedDict()
        for sample in self.samples:
            grouped.setdefault(int(sample.at / COLUMN), []).append(sample)
        if not grouped:
            return []
        columns, last = [], None
        for number in range(min(grouped), max(grouped) + 1):
            last = joined(grouped[number]) if number in grouped else last
            columns.append(last)
        return columns[-width:]

    def _painted(self, what, text):
        return f"\x1b[{COLOURS[what]}m{text}\x1b[0m" if self._colour else text


def differs(sample, told):
    """Whether a look has something to tell that was not told before."""
    return told is None or sample.states != told.states or abs(sample.bytes - told.bytes) > WORTH


def joined(samples):
    """Several samples as one."""
    order = list(MARKS)
    states = {app: max((sample.states[app] for sample in samples), key=order.index) for app in samples[0].states}
    return Sample(samples[0].at, max(sample.bytes for sample in samples), states)


def eighths(number, row, top):
    """How much of a cell in a row of the bars is full, in eighths. A little is never nothing."""
    filled = (number >> 20) / top * HEIGHT - (row - 1)
    least = 1 if number and row == 1 else 0
    return max(least, min(8, round(filled * 8)))
