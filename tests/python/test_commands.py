"""Each command in the documents runs as it stands there, or says why not."""

import pytest
from mentions import NOT_RUN, SESSION, excepted, has, mentions, run_commands, split
from pages import COMMAND, INSTALLS, PAGES, Sandbox, as_a_user, blocks, commands, installed_here, looks_like
from testing import lacking

pytestmark = pytest.mark.once


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_says_what_it_is(page):
    wrong = []
    for block in blocks(page):
        if not block.kind:
            wrong.append(f"line {block.line}: the block has no language; commands are sh or console, output is text")
        if block.note == "not run" and len(block.said.split()) < 3:
            wrong.append(f"line {block.line}: say why it is not run")
        if block.kind not in ("sh", "console", "python") and any(map(COMMAND.match, block.text.splitlines())):
            wrong.append(f"line {block.line}: commands in a block of {block.kind}; call it sh or console")
        if block.kind == "python":
            compile(block.text, f"{page}:{block.line}", "exec")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.runs() for b in blocks(page))], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page):
    user = as_a_user()
    if user is None:
        lacking.skip("run by root, for whom brokers are the system's, and unshare --user is not allowed here")
    parts, shown, last = [], {}, None
    sandbox = Sandbox(installs=any(block.runs() and INSTALLS.search(block.text) for block in blocks(page)))
    try:
        for block in blocks(page):
            if block.note == "file":
                (sandbox.work / block.said).write_text(block.text)
            elif block.note == "output":
                assert last is not None, f"line {block.line}: output of no command"
                shown[last] = block.text
            elif block.runs():
                for command, output in commands(block):
                    last = len(parts)
                    parts.append(command)
                    if output is not None:
                        shown[last] = output
        printed = sandbox.run(user, parts)
    finally:
        sandbox.close()
    assert not installed_here(), "the page has changed the environment, which other tests use"
    for number, text in shown.items():
        assert looks_like(text, printed[number]), f"{parts[number]}\nprinted\n{printed[number]}\nthe page shows\n{text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_in_sentences_and_tables_is_run(page):
    """In a block of some page, or in mentions.SESSION, or mentions.NOT_RUN says why not."""
    run = run_commands()
    missing = [
        f"{page.name}:{line}: `{text}` is run nowhere: put it into a block, into SESSION or NOT_RUN of tests/python/mentions.py"
        for line, text in mentions(page)
        if not any(has(words, split(text)) for words in run) and not excepted(text)
    ]
    assert not missing, "\n".join(missing)


def test_each_exception_is_needed():
    """Those that are named no more, and those that are run by now, leave the list."""
    named = [text for page in PAGES for _, text in mentions(page)]
    idle = [name for name in NOT_RUN if not any(excepted(text) == name for text in named)]
    run = run_commands()
    idle += [name for name in NOT_RUN if name.split() in run]
    assert not idle


def test_what_is_only_named_runs_too():
    user = as_a_user()
    if user is None:
        lacking.skip("run by root, for whom brokers are the system's, and unshare --user is not allowed here")
    sandbox = Sandbox()
    try:
        sandbox.run(user, [SESSION])
    finally:
        sandbox.close()


def test_a_command_is_had_by_one_with_its_words():
    words = split("out=$(zerogpu status) # zerogpu top") + split("x/zerogpu run --vram 1GiB --driver soft -- python app.py")
    assert not has(words, ["zerogpu", "top"]) and has(words, split("zerogpu run --driver soft -- ..."))
    assert has(words, split("zerogpu run --vram SIZE -- python app.py")) and not has(words, split("zerogpu run --driver none"))


def test_a_shape_leaves_numbers_open_and_words_not():
    shown = "card 0: A100   1368 MiB leased\n...\n  claimed  app.py (pid 7539)  for 6.5 s"
    assert looks_like(shown, "card 1: A100 2 GiB leased\nmore\nlines\n  claimed  app.py (pid 1) for 900 ms\n")
    assert not looks_like(shown, "card 1: A100 2 GiB leased\nmore\n  claimed  other.py (pid 1) for 900 ms\n")
    assert not looks_like(shown, "card 1: A100 2 GiB warm\nmore\n  claimed  app.py (pid 1) for 900 ms\n")
    assert not looks_like("a", "a\nb") and looks_like("a\n...", "a\nb\nc")


def test_a_command_that_fails_is_named():
    sandbox = Sandbox()
    try:
        with pytest.raises(AssertionError, match=r"exit status 3 of\necho said; \(exit 3\)\n\nsaid\n"):
            sandbox.run([], ["true\n", "echo said; (exit 3)\n", "touch never\n"])
        assert not (sandbox.work / "never").exists()
    finally:
        sandbox.close()
