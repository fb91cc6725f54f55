"""Commands that the documents name in their sentences and tables, and whether a block that runs has them.

A command in backticks is compared word by word with the commands that are run: those of all pages, and those of SESSION. A word
in capitals (FILE) stands for any word, `...` for any words. `zerogpu doctor` is had by each command with these words; with
options, by one that has each of them and what follows it.
"""

import re
import shlex

from pages import PAGES, blocks, commands
from world import ROOT

# The first words of what is typed. Of ours, what follows them is their own; of the others, we name only what they are to do.
OTHERS = "cargo|pip|python3?|docker|podman|systemctl|curl|rustup|apt-get|uv|git|jq|kill|eval|nvidia-smi"
TYPED = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:(?:target/dist/bin/)?zerogpu [a-z][a-z-]*(?: |$)|(?:{OTHERS}) |scripts/[a-z/-]+(?: |$))")


# What the pages only name, run here as one more page (pages.Sandbox): each command has to succeed.
SESSION = """
scripts/gpu-check --list
zerogpu help run
zerogpu soft-smi
zerogpu run --profile h100-80gb --vram 20GiB -- python -c 'import torch; print(torch.cuda.get_device_properties(0))'
zerogpu broker --socket $XDG_RUNTIME_DIR/zerogpu/broker.sock --driver soft --cards 4 --vram 8GiB &
zerogpu top
if zerogpu revoke $$ 2>refused; then false; fi
grep "no program of this broker has the process" refused
zerogpu env --format docker --at /opt/zerogpu --socket /run/zerogpu/broker.sock
zerogpu run --driver soft --trace 'text,file=trace.txt,only=cuMemAlloc*|cuMemcpy*|cuLaunchKernel' -- python app.py
grep cuMemcpyHtoD trace.txt
zerogpu run --driver soft --trace text -- python app.py
zerogpu run --trace json,file=trace.jsonl -- python app.py
zerogpu trace view trace.jsonl
zerogpu run --trace json,file=killed.jsonl -- python -c "import os, torch; torch.zeros(1).to('cuda'); os.kill(os.getpid(), 9)" || true
zerogpu trace recover killed.jsonl
(
eval "$(zerogpu env)"
python app.py
)
# a model loads and copies, a kernel fails with a line that names it
if zerogpu run --driver none -- python app.py 2>failed; then false; fi
grep "gemv.* can't run: there is no CUDA driver" failed
"""

IT_BUILDS = "a developer's tool, which takes minutes or writes these pages; scripts/test has the same as steps"
# Those that neither a page nor SESSION runs, and why. The first that fits counts.
NOT_RUN = {
    "cargo bench": "a measurement of minutes, for whoever works on what it measures",
    "cargo deny": "its database can't be reached where the tests run",
    "cargo": IT_BUILDS,
    "UPDATE_DOCS=1 cargo": IT_BUILDS,
    "jq": "a program that is not there where the tests run",
    "scripts/bench": IT_BUILDS,
    "scripts/check-abi": "a step of scripts/test by itself",
    "scripts/check-binaries": "a step of scripts/test by itself",
    "scripts/check-dependencies": "a step of scripts/test by itself",
    "scripts/check-genuine": "a step of scripts/test by itself",
    "scripts/demo": "tests/demo runs it",
    "scripts/fuzz": "a step of scripts/test by itself",
    "scripts/lib/environment": "steps of scripts/test run it, for each environment",
    "scripts/lib/lock": "it writes the locks of tests/envs anew",
    "scripts/stress": "the long runs, ten minutes and more; cargo test has a short form of each",
    "scripts/gpu-check": "it needs a GPU; over softcuda it is a step of scripts/test",
    "scripts/test": "it is what runs this",
    "python -m zerogpu": "tests/packaging/test_wheel.py runs it",
    "pip uninstall zerogpu": "tests/packaging/test_wheel.py runs it",
    "python -I": "tests/packaging/test_wheel.py runs it",
    "docker": "no image can be fetched where the tests run; tests/packaging/test_container.py follows the steps",
    "systemctl": "it needs systemd, and root",
    "kill -9": "told of as what happens to a program; tests/node and tests/packaging kill some so",
}


def mentions(page):
    """The commands in backticks outside blocks: (line, command)."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        for number in range(block.line - 1, block.last):
            lines[number] = ""
    text = "\n".join(lines)
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        words = " ".join(found[1].split())
        if TYPED.match(words) and is_command(words.split()):
            yield text[: found.start()].count("\n") + 1, words


def is_command(words):
    """Not a folder of scripts/, nor a library that is named by its path."""
    path = ROOT / words[0]
    return not words[0].startswith("scripts/") or path.is_file()


def run_commands():
    """The words of each command in a block that is run, of all pages."""
    texts = [SESSION]
    for page in PAGES:
        for block in blocks(page):
            if block.runs():
                texts += [text for text, _ in commands(block)]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    return [words for words in map(split, lines) if words]


def split(line):
    """The words of a line, without what follows #; the command zerogpu by its name alone."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation that goes on in the next line
        words = line.split()
    return [re.sub(r"^\(*(?:\S*/)?zerogpu$", "zerogpu", word) for word in words]


def has(words, wanted):
    """Whether a command that is run has these words: the first ones, and each option with what follows it."""
    wanted = wanted[: wanted.index("...")] if "..." in wanted else wanted
    starts = [0, *(at for at, word in enumerate(wanted) if at and word.startswith("-")), len(wanted)]
    groups = [wanted[start:end] for start, end in zip(starts, starts[1:])]
    return all(any(same(words[at:], group) for at in range(len(words))) for group in groups)


def same(words, wanted):
    """Whether these words begin so. A name of one letter or more in capitals stands for any word."""
    return len(words) >= len(wanted) and all(want == word or re.fullmatch("[A-Z]+", want) for want, word in zip(wanted, words))


def excepted(text):
    """The exception under which a command falls, if any: the one that it begins with."""
    return next((name for name in NOT_RUN if text == name or text.startswith(name + " ")), None)
