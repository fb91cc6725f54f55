"""The table of figures, and its place in docs/performance.md."""

import dataclasses
import datetime
import os
import pathlib
import platform
import subprocess
import typing

from testing.places import ROOT

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- made by scripts/bench: begin -->"
END = "<!-- made by scripts/bench: end -->"
HEAD = "| what | beside | that | zerogpu | target | |\n|---|---|---|---|---|---|"


@dataclasses.dataclass
class Row:
    """A line: what was measured, its alternative with its figure, ours, and whether the target is met (None: none is set)."""

    what: str
    beside: str
    that: str
    ours: str
    target: str = ""
    met: typing.Optional[bool] = None

    @classmethod
    def absolute(cls, what, beside, that, ours, limit, unit):
        """Our figure itself has a limit."""
        return cls(what, beside, unit.format(that), unit.format(ours), f"at most {limit:g} {unit.split()[-1]}", ours <= limit)

    @classmethod
    def difference(cls, what, beside, that, ours, limit, unit):
        """What we add has a limit."""
        more = f"{unit.format(ours)} (+{unit.format(ours - that)})".replace("+-", "-")
        return cls(what, beside, unit.format(that), more, f"at most {limit:g} {unit.split()[-1]} more", ours - that <= limit)

    @classmethod
    def ratio(cls, what, beside, that, ours, limit, unit):
        """Our share of the alternative has a limit."""
        share = f"{unit.format(ours)} ({ours / that:.2f}x)"
        return cls(what, beside, unit.format(that), share, f"at most {limit:g}x" if limit else "", ours / that <= limit if limit else None)

    def line(self):
        mark = {None: "", True: "met", False: "**missed**"}[self.met]
        return f"| {self.what} | {self.beside} | {self.that} | {self.ours} | {self.target} | {mark} |"


def text(rows):
    """The table and the machine that it is from."""
    return "\n".join([machine(), "", HEAD, *(row.line() for row in rows)])


def machine():
    """The machine, the commit, and how busy the machine was."""
    cpu = next(
        (line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    one, five, fifteen = os.getloadavg()
    return (
        f"{datetime.date.today()}, commit {told.stdout.strip() or 'unknown'}: {cpu}, {len(os.sched_getaffinity(0))} cores, "
        f"{gib:.0f} GiB, Linux {platform.release().split('-')[0]}, no GPU.\n"
        f"Load average at the end: {one:.1f} (1 min), {five:.1f} (5 min), {fifteen:.1f} (15 min)."
    )


def write(table):
    """Puts the table between its marks."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
