"""The documents say what is so: README's program prints what README shows, and what they name exists."""

import os
import re
import subprocess
import sys

import pytest
from messages import rust_files
from world import CLI, OBJECTS, ROOT, torch_version

README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def block(text, language, number=0):
    """The contents of a fenced block of a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


@pytest.mark.skipif(torch_version() != (2, 4), reason="the sizes that README shows are those of PyTorch 2.4.0")
def test_the_program_of_readme_prints_what_readme_shows(world, tmp_path):
    shown = block(README.split("It prints", 1)[1], "text")
    (tmp_path / "app.py").write_text(block(README, "python"))
    path = f"{CLI.parent}{os.pathsep}{os.environ['PATH']}"
    outcome = world.run([sys.executable, "app.py"], PATH=path)
    outcome.require_end()
    assert outcome.out == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_of_a_page_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(r"`((?:scripts|docs|crates|shim|src|tests|fuzz)/[\w./-]*)", text)
    missing = [path for path in links if not (page.parent / path).exists()]
    missing += [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_each_variable_that_is_read_is_described():
    read = {"RUST_LOG", "TMPDIR", "LISTEN_PID", "LISTEN_FDS"}  # by libraries, or by a name that is put together
    for path in [*rust_files(), *(ROOT / "shim" / "python" / "spaces").glob("*.py")]:
        read |= set(re.findall(r"\b(?:var|var_os|environ\.get)\(\"(\w+)\"", path.read_text().split("#[cfg(test)]")[0]))
    assert {"XDG_RUNTIME_DIR", "SPACES_GRADIO_AUTO_WRAP", "CUDA_MODULE_LOADING"} <= read
    page = (ROOT / "docs" / "environment.md").read_text()
    assert not [name for name in read if not re.search(rf"^\|[^|]*`{name}`", page, re.MULTILINE)]


def test_the_header_declares_what_the_shim_exports():
    """But for `zerogpu_memory_used`, which is the NVML companion's."""
    header = (ROOT / "shim" / "include" / "zerogpu.h").read_text()
    declared = set(re.findall(r"^[\w ]+[ *](zerogpu_\w+)\(", header, re.MULTILINE))
    symbols = subprocess.run(["readelf", "-W", "--dyn-syms", OBJECTS[0]], check=True, capture_output=True, text=True)
    exported = set(re.findall(r" (zerogpu_\w+)$", symbols.stdout, re.MULTILINE))
    assert declared and exported == declared | {"zerogpu_memory_used"}


def test_the_header_describes_each_key_of_the_state(world):
    code = "from spaces import _shim; s = _shim.find(); s.end(s.begin(1.0)); print(*s.state())"
    outcome = world.run([sys.executable, "-c", code])
    outcome.require_end()
    header = (ROOT / "shim" / "include" / "zerogpu.h").read_text()
    assert set(re.findall(r'^ \*   "(\w+)"', header, re.MULTILINE)) == set(outcome.out.split())


@pytest.fixture(scope="module")
def commands():
    """The commands of `zerogpu`, as it names them."""
    text = subprocess.run([CLI, "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^  ([a-z][a-z-]+)  ", text.split("Commands:")[1].split("Options:")[0], re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_variables_and_commands_that_exist(page, commands):
    text = page.read_text()
    known = set(re.findall(r"\w+", (ROOT / "docs" / "environment.md").read_text())) | {"ZEROGPU_TEST_REAL_DRIVER"}
    assert set(re.findall(r"\b(?:ZEROGPU|SOFTCUDA)_[A-Z_]*[A-Z]\b", text)) <= known
    # In an indented line of commands, after a prompt or variables, in backticks, by its path.
    before = r"^    |^ +\$ |=\S+ |`|bin/"
    assert set(re.findall(rf"(?:{before})zerogpu ([a-z-]+)", text, re.MULTILINE)) <= commands
