"""Each text that the product can tell a human has an entry in docs/troubleshooting.md, and each entry a text."""

import re

import pytest
from messages import has_words, literals, shape, texts_of_python, texts_of_rust
from world import ROOT

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def rows():
    """The rows that hold messages: their cells."""
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def entries():
    """The messages of the page, in the shape of the sources' texts."""
    for message, *_ in rows():
        for text in re.findall(r"`([^`]*)`", message):
            yield shape(re.sub(r"<[^<>]*>", "{}", text.replace("\\|", "|")))


@pytest.fixture(scope="module")
def told():
    """The texts of the sources, each with where it stands."""
    return dict([*texts_of_rust(), *texts_of_python()])


def test_each_message_has_an_entry(told):
    known = set(entries())
    missing = [f"{where}: {text.replace('<>', '<...>')}" for text, where in told.items() if text not in known]
    assert not missing, "docs/troubleshooting.md lacks\n" + "\n".join(missing)


def test_each_entry_is_a_message(told):
    stale = [text for text in entries() if text not in told and has_words(text)]
    assert not stale, "docs/troubleshooting.md has what nobody says\n" + "\n".join(stale)


def test_no_message_has_two_entries():
    seen = [text for text in entries() if has_words(text)]
    assert not {text for text in seen if seen.count(text) > 1}


def test_each_entry_says_what_it_means_and_what_to_do():
    assert all(len(cells) == 3 and all(cells) for cells in rows())


def test_the_extraction_sees_through_what_stands_around_a_text():
    source = r'''
        //! "of a comment"
        #[doc = "of an attribute"] fn f<'a>(c: char) { if c == '"' || c == '\'' { bail!("in a macro of {}", c) } }
        #[error("of an error: {0}")] enum E {}
        fn g() -> Result<(), String> { Err(format!("a line \
            that goes on; {{}}")).map(|_| report::explain(&format!("a remark of {}", 1))) }
        const R: &str = r#"raw "quoted" text"#; /* "of another" */
        #[cfg(test)] #[allow(dead_code)] mod tests { fn t() { bail!("of a test") } }
        static LAST: [&str; 2] = ["first of two", concat!("second", " of two")];
    '''
    found = {shape(text): calls for _, text, calls in literals(source)}
    assert list(found) == [
        "in a macro of <>", "of an error: <>", "a line that goes on; {}", "a remark of <>", 'raw "quoted" text',
        "first of two", "second", "of two",
    ]  # fmt: skip
    assert "bail!" in found["in a macro of <>"] and "explain" in found["a remark of <>"]


def test_what_people_are_told_is_found_where_it_is_known_to_stand(told):
    """One message of each way in which a text reaches somebody."""
    for text, file in [
        ("a fault inside zerogpu was contained; please report it with a trace (ZEROGPU_TRACE=text)", "shim/src/fault.rs"),
        ("making the context", "shim/src/engine/claim.rs"),
        ("<>=<> is ignored: <>", "crates/settings/src/reader.rs"),
        ("the trace can't be written to <>: <>", "crates/trace/src/error.rs"),
        ("tenant '<>' has <> of its <> Spaces: end one of them and try again", "crates/lease/src/scheduler.rs"),
        ("<> is not understood", "src/broker/config.rs"),
        ("it kept a card beyond its time", "src/broker/outcome.rs"),
        ("the cards in <> can't be used: <>", "tests/softcuda/src/card.rs"),
        ("GPU task aborted", "shim/python/spaces/_region.py"),
        ("spaces.GPU marks functions, not <>", "shim/python/spaces/_wrapper.py"),
    ]:
        assert told.get(text, "").startswith(file), text
