"""Other processes: workers, children, and the tools that inherit the preload and must not notice."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from world import OBJECTS, PROGRAMS, each_check
from testing import lacking

PRELOAD = ":".join(map(str, OBJECTS))


@pytest.fixture(scope="module")
def outcome(worlds):
    return worlds("processes").run("processes.py", driver="none")


@each_check("processes.py")
def test_processes(outcome, check):
    outcome.require(check)


HELLO = """
#include <stdio.h>
int main(void) { puts("hello"); return 3; }
"""
# The same commit at any time, and by whoever runs the tests.
COMMIT = """
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='1700000000 +0000'
git init -q . && git add hello.c && git commit -qm 'Say hello' && git log --stat --format=fuller
# its index holds times and numbers of files
rm .git/index
"""
TOOLS = {
    "bash": ["bash", "-c", "for i in 1 2 3; do echo $((i * i)) | cat; done; exit 5"],
    "sh": ["sh", "-c", "ls -la /proc/self/fd | wc -l"],
    "git": ["git", "init", "-q", "."],
    "git log": ["sh", "-ec", COMMIT],
    "gcc": ["gcc", "-O2", "-Wall", "-o", "hello", "hello.c"],
    "gcc and its program": ["sh", "-c", "gcc -o hello hello.c && ./hello"],
    "python": [sys.executable, "-c", "import json, ssl, threading; print(json.dumps([1, 2]))"],
    "threads and descriptors": [
        sys.executable,
        "-c",
        "import os; print(sorted(os.listdir('/proc/self/fd')), os.listdir('/proc/self/task').__len__())",
    ],
    "perl": ["perl", "-e", "print 2 + 2"],
    "env": ["true"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_do_not_notice_the_preload(world, tmp_path, tool):
    command = TOOLS[tool]
    program = tool.split()[0] if command[0] == "sh" else command[0]
    if not shutil.which(program):
        lacking.skip(f"{program} is not installed")
    results = []
    for name, preload in (("bare", {}), ("preloaded", {"LD_PRELOAD": PRELOAD})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "hello.c").write_text(HELLO)
        done = subprocess.run(command, env=world.environment(**preload), cwd=folder, capture_output=True, text=True)
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        results.append((done.returncode, done.stdout, done.stderr, files))
    assert results[0] == results[1]
    assert results[0][2] == ""


# Bytes of memory that the three objects may dirty in a process that does not use them: relocations.
MOST_DIRTY = 2 << 20


def test_an_idle_process_holds_nothing_but_the_mapped_objects(world):
    script = "import re; print(open('/proc/self/maps').read()); print(open('/proc/self/smaps').read())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=world.environment(LD_PRELOAD=PRELOAD), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(str(path.resolve()) in done.stdout for path in OBJECTS), "the preload is not there"
    assert "memfd" not in done.stdout and "7000" + "0" * 8 not in done.stdout
    dirty, ours = 0, False
    for line in done.stdout.splitlines():
        if "-" in line.split(" ")[0] and len(line.split()) >= 5:
            ours = any(str(path.resolve()) in line for path in OBJECTS)
        elif ours and line.startswith("Private_Dirty:"):
            dirty += int(line.split()[1]) * 1024
    assert 0 < dirty < MOST_DIRTY


def test_torch_on_the_cpu_starts_no_driver(world):
    script = "import os, torch; torch.rand(100, 100).mm(torch.rand(100, 100)); print(open('/proc/self/maps').read())"
    outcome = world.run([sys.executable, "-c", script], driver="soft")
    outcome.require_end()
    assert "libcuda.so.1" in outcome.out and "softcuda" not in outcome.out and "memfd" not in outcome.out


NVML_FIRST = """
import os, torch
assert torch.cuda.is_available() and not torch.cuda.is_initialized()
child = os.fork()
if child == 0:
    assert torch.equal(torch.arange(1000).to("cuda").cpu(), torch.arange(1000))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert torch.equal(torch.arange(1000).to("cuda").cpu(), torch.arange(1000))
"""


def test_a_fork_before_the_first_driver_call_may_use_the_device(world):
    """As with NVIDIA's driver: counting devices through NVML does not poison the children."""
    outcome = world.run([sys.executable, "-c", NVML_FIRST], driver="soft", PYTORCH_NVML_BASED_CUDA_CHECK=1)
    outcome.require_end()


BEFORE_EXIT = """
import atexit, os, sys, threading
import torch, spaces, driver

x, y = torch.arange(1000).to("cuda"), torch.eye(8).to("cuda")

def download_for_ever():
    driver.start()
    while True:
        driver.download(x.data_ptr(), 8000)

"""
EXITS = {
    "falls off the end": "",
    "sys.exit": "sys.exit(9)",
    "os._exit": "os._exit(9)",
    "exception": "raise ValueError('on purpose')",
    "in a thread": "t = threading.Thread(target=lambda: x.clone()); t.start(); t.join()",
    "while a thread is in the driver": "threading.Thread(target=download_for_ever, daemon=True).start()",
    "at exit": "atexit.register(lambda: x.cpu()); atexit.register(torch.cuda.synchronize)",
    "with libraries": "spaces.GPU(lambda: (torch.fft.rfft(x.float()), torch.linalg.svdvals(y), y @ y))()",
}
CODES = {"sys.exit": 9, "os._exit": 9, "exception": 1}


@pytest.mark.parametrize("way", EXITS)
def test_exits_are_clean(world, way):
    outcome = world.run([sys.executable, "-c", BEFORE_EXIT + EXITS[way]], timeout=120, PYTHONPATH=PROGRAMS)
    assert outcome.code == CODES.get(way, 0), outcome.err
    assert not outcome.messages() and not outcome.violations and not outcome.left
    assert outcome.err == "" or way == "exception", outcome.err


def test_a_process_that_is_killed_leaves_no_card_in_use(world):
    script = "import os, torch, spaces\nx = torch.arange(1000).to('cuda')\n" + (
        "@spaces.GPU\ndef hold():\n    (x + 1).sum()\n    print('held', flush=True)\n    os.read(0, 1)\nhold()"
    )
    process = subprocess.Popen(
        world.command([sys.executable, "-c", script]),
        env=world.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(os.devnull).parent,
    )
    assert process.stdout.readline() == "held\n"
    (card,) = world.left()
    assert card["contexts"] == 1 and card["bytes_used"] > 0
    process.kill()
    process.wait()
    assert not world.left()
