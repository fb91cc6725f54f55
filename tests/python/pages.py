"""The code blocks of the documents, and a shell that runs their commands.

A page is a session: its blocks of commands run from top to bottom in one shell, in a folder of their own that looks
like a clone after `scripts/build`, with the program of README as `app.py`, over software cards. CONTRIBUTING.md says how
a page is written for it.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile

from world import DIST, OURS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a page may take, in seconds.
PATIENCE = 600
NOTE = re.compile(r"<!-- (not run|file|output)(?:: (.*?))? -->$")
# A line that starts a broker: it serves before the next line is run.
BROKER = re.compile(r"zerogpu broker\b.*&[ \t]*(?:#.*)?$", re.MULTILINE)
# A line that somebody would type.
COMMAND = re.compile(
    r"^\s*(?:\$ |(?:[A-Z_]+=\S+ )*"
    r"(?:(?:cargo|python3?|pip|docker|podman|systemctl|curl) |scripts/\w|zerogpu [a-z-]+(?: |$)))"
)

# A page that installs gets an environment that is thrown away: this one is kept for other tests.
INSTALLS = re.compile(r"\bpip install ")
# What `pip install` of the wheel puts into an environment, below its site-packages and its bin.
INSTALLED = ("zerogpu", "zerogpu-*", "spaces.py", "spaces-*", "spaces")

# What stands before a page's commands.
HEAD = r"""set -euo pipefail
top=$PWD
finish() {
    status=$?
    set +e
    kill $(jobs -p)
    wait
    # a broker that zerogpu run has started
    zerogpu status --socket $XDG_RUNTIME_DIR/zerogpu/broker.sock --json | python -c 'import json, os; os.kill(json.load(open(0))["pid"], 15)'
    exit $status
}
broker_is_there() {
    broker=$!
    until zerogpu status; do kill -0 $broker; sleep 0.1; done >/dev/null 2>&1
}
trap 'finish >$top/cleanup 2>&1' EXIT
"""


@dataclasses.dataclass
class Block:
    """A code block. `kind`: its language; an indented block is one of `sh`. `note`, `said`: of the comment above it."""

    # The first and the last, counted from 1.
    line: int
    last: int
    kind: str
    text: str
    note: str = ""
    said: str = ""

    def runs(self):
        return self.kind in ("sh", "console") and self.note != "not run"


def blocks(page):
    """The code blocks of a page, in order."""
    found, lines, at, in_list = [], page.read_text().splitlines(), 0, False
    while at < len(lines):
        line, start = lines[at], at
        fence = re.match(r"(```+)(.*)", line)
        if fence:
            at = lines.index(fence[1], at + 1)
            found.append(noted(lines, start, at, fence[2].strip().split(" ")[0], lines[start + 1 : at]))
        elif line.startswith("    ") and not in_list and (not lines[at - 1].strip() or NOTE.match(lines[at - 1])):
            while at + 1 < len(lines) and (not lines[at + 1].strip() or lines[at + 1].startswith("    ")):
                at += 1
            found.append(noted(lines, start, at, "sh", [line[4:] for line in lines[start : at + 1]]))
        elif line.strip():
            in_list = bool(re.match(r"\s*(?:[-*]|\d+\.) ", line)) or in_list and line.startswith("  ")
        at += 1
    return found


def noted(lines, start, end, kind, text):
    above = start - 1 if start and lines[start - 1].strip() else start - 2
    note = NOTE.match(lines[above]) if above >= 0 else None
    return Block(start + 1, end + 1, kind, "\n".join(text).rstrip() + "\n", *(note.groups("") if note else ()))


def commands(block):
    """The commands of a block, each with what is shown of its output: None in a block of `sh`."""
    if block.kind == "sh":
        return [(block.text, None)]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"line {block.line}: a console begins with a command, after '$ '"
    return [tuple(part.split("\n", 1)) for part in parts[1:]]


def script(parts):
    """The shell's script: the commands, the output of each in a file of its own."""
    lines = [HEAD]
    for number, text in enumerate(parts):
        text = BROKER.sub(r"\g<0>\nbroker_is_there", text.rstrip("\n"))
        lines += [f"echo {number} >$top/current", "{", text, f"}} >$top/output.{number} 2>&1 </dev/null"]
    return "\n".join(lines) + "\n"


def as_a_user():
    """In front of a command: a user, since what root starts has its place in the system. None: it can't be had."""
    if os.geteuid():
        return []
    words = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    try:
        return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else None
    except FileNotFoundError:
        return None


def installed_here():
    """Files of zerogpu, or of the package whose name its hook has, in the environment that runs these tests."""
    site, programs = (pathlib.Path(sysconfig.get_path(name)) for name in ("purelib", "scripts"))
    return [path for pattern in INSTALLED for path in site.glob(pattern)] + list(programs.glob("zerogpu*"))


class Sandbox:
    """A folder like a clone, a home, a runtime folder, software cards. `installs`: an environment that is thrown away."""

    def __init__(self, installs=False):
        # not below pytest's folders: the path of a socket has room for 107 bytes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zerogpu-docs-"))
        self.work = self.folder / "work"
        self.violations = self.folder / "violations"
        for folder in (self.work, self.folder / "home", self.folder / "run"):
            folder.mkdir(mode=0o700)
        for entry in ROOT.iterdir():
            if not entry.name.startswith(".") and entry.name not in ("target", "scripts"):
                (self.work / entry.name).symlink_to(entry)
        (self.work / "target").symlink_to(DIST.parent)
        # they find the clone by their own path
        (self.work / "scripts").mkdir()
        for entry in (ROOT / "scripts").iterdir():
            if entry.is_file():
                link = self.work / "scripts" / entry.name
                link.write_text(f'#!/bin/sh\nexec {entry} "$@"\n')
                link.chmod(0o755)
        (self.work / "app.py").write_text(app())
        self._programs = [str(pathlib.Path(sys.executable).parent)]
        if installs:
            self._programs.insert(0, self._environment_of_its_own())

    def _environment_of_its_own(self):
        """Makes an environment that has the packages of this one; the folder of its programs."""
        venv = self.folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        (site,) = venv.glob("lib/python3*/site-packages")
        # not --system-site-packages: for an environment made by another that means the Python below both
        (site / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return str(venv / "bin")

    def environment(self):
        values = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        for name in ("LD_PRELOAD", "PYTHONPATH"):
            values.pop(name, None)
        home = pathlib.Path.home()
        for name, folder in (("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup"), ("XDG_CACHE_HOME", ".cache")):
            values.setdefault(name, str(home / folder))
        # the clone's own command comes after what a page has installed
        path = [*self._programs[:-1], str(DIST / "bin"), self._programs[-1], values["PATH"]]
        values.update(
            HOME=str(self.folder / "home"),
            XDG_RUNTIME_DIR=str(self.folder / "run"),
            PATH=os.pathsep.join(path),
            ZEROGPU_DRIVER="soft",
            SOFTCUDA_STRICT_LOG=str(self.violations),
        )
        return values

    def run(self, user, parts):
        """Runs commands; what each printed. AssertionError: one failed."""
        (self.folder / "script").write_text(script(parts))
        process = subprocess.Popen(
            [*user, "bash", str(self.folder / "script")], cwd=self.work, env=self.environment(), start_new_session=True
        )
        try:
            code = process.wait(timeout=PATIENCE)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        outputs = [self.work / f"output.{number}" for number in range(len(parts))]
        if code:
            number = int((self.work / "current").read_text())
            raise AssertionError(f"exit status {code} of\n{parts[number]}\n{outputs[number].read_text()}")
        assert not self.violations.exists() or not self.violations.read_text(), self.violations.read_text()
        return [output.read_text(errors="replace") for output in outputs]

    def close(self):
        shutil.rmtree(self.folder)


def app():
    """README's program."""
    return next(block.text for block in blocks(ROOT / "README.md") if block.kind == "python")


# In what is shown: left out, a number of some kind, a unit, space.
LOOSE = re.compile(
    r"(?P<any>\.\.\.)|(?P<hex>0x[0-9a-f]+)|(?P<number>\d[\d.,]*)"
    r"|(?P<unit>\b(?:ns|us|ms|s|min|[KMGT]iB)\b)|(?P<space>[ \t]+)"
)
FORMS = {
    "any": ".*",
    "hex": "0x[0-9a-f]+",
    "number": r"\d[\d.,]*",
    "unit": r"(?:ns|us|ms|s|min|B|bytes|[KMGT]iB)",
    "space": r"[ \t]+",
}


def looks_like(shown, printed):
    """Whether output has the shape that is shown: other numbers, times and sizes; `...` stands for anything."""
    pattern, at = "", 0
    for loose in LOOSE.finditer(shown.strip()):
        pattern += re.escape(shown.strip()[at : loose.start()]) + FORMS[loose.lastgroup]
        at = loose.end()
    pattern += re.escape(shown.strip()[at:])
    # a line of dots alone stands for any number of lines, and none
    pattern = re.sub(r"(?m)^\.\*\\?\n", r"(?s:(?:.*\\n)?)", pattern)
    pattern = re.sub(r"(?m)^\.\*$", "(?s:.*)", pattern)
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.strip().splitlines())) is not None
