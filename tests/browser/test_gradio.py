"""Gradio apps as their visitors see them, in Chromium: calls, streams, queues, errors, and a broker that dies.

The same tests for each version of Gradio: the one that is installed. UPDATE_DOCS=1 takes the pictures of docs/pictures
anew, with Gradio 5.
"""

import os
import re
import urllib.parse
from importlib.metadata import version

import pytest
from browser import launched
from playwright.sync_api import expect
from serving import ROOT, Served, free_port, until

expect.set_options(timeout=30_000)
WAITING = "Waiting for a GPU to become available"
# How long a launch takes on the software card, in microseconds: so that a call lasts long enough to be looked at.
LAUNCH = {"text": 400, "picture": 20000}
# Letters of what the text app writes, at least.
SYLLABLES = 24 * 2
# So many of them take long enough for something to be done in the meantime.
MANY = "60"
PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def apps(tmp_path_factory):
    """The two apps of examples/, each with a broker and a card of its own."""
    started = {}
    try:
        for name, launch in LAUNCH.items():
            command = [ROOT / "examples" / name / "app.py"]
            started[name] = Served(tmp_path_factory.mktemp(name), command, free_port(), SOFTCUDA_LAUNCH_US=launch)
        yield {name: served.ready() for name, served in started.items()}
    finally:
        for served in started.values():
            served.close()


class Visitor:
    """Someone with an app open in a tab."""

    def __init__(self, browser, served):
        self._context = browser.new_context(viewport={"width": 1000, "height": 760})
        # what Gradio's page wants from elsewhere, it does without
        self._context.route(lambda url: urllib.parse.urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
        self.page = self._context.new_page()
        self.page.goto(served.url)
        expect(self.page.get_by_role("textbox").first).to_be_visible()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self, label):
        return self.page.get_by_label(label, exact=True)

    def text(self):
        """What the text app has written so far."""
        return self.field("Text").input_value()

    def toast(self, text):
        """A message of Gradio in a corner of the page."""
        return self.page.locator(".toast-body", has_text=text)

    def writes(self, start, least=0):
        """Waits for a text that begins so, and goes on for so long."""
        until(lambda: self.text().startswith(start) and len(self.text()) >= len(start) + least, "it writes", told=self.text)

    def done(self):
        """Waits until nothing is under way in the page: until then Gradio ignores another click."""
        expect(self.page.locator(".generating, .progress-text")).to_have_count(0)

    def close(self):
        self._context.close()


@pytest.fixture
def visit(browser):
    """Opens an app in a new tab of a new visitor."""
    visitors = []

    def make(served):
        visitors.append(Visitor(browser, served))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()


def idle(served):
    """The app with the card free, before a test and after it. What app and broker have said is shown if the test fails."""
    served.settled()
    before = len(served.text())
    yield served
    print(served.text()[before:], served.broker.text())
    served.settled()


@pytest.fixture
def text(apps):
    yield from idle(apps["text"])


@pytest.fixture
def picture(apps):
    yield from idle(apps["picture"])


def photograph(visitor, name):
    """A picture for the documents, if they are to be made anew."""
    if os.environ.get("UPDATE_DOCS") and version("gradio").startswith("5."):
        for toast in visitor.page.locator(".toast-body").all():
            expect(toast).to_have_css("opacity", "1")
        visitor.page.screenshot(path=PICTURES / f"gradio-{name}.png")


def test_a_text_grows_in_the_page_while_the_app_has_the_card(visit, text):
    visitor = visit(text)
    photograph(visitor, "before")
    visitor.page.get_by_role("spinbutton").fill(MANY)
    visitor.button("Write").click()
    until(lambda: len(visitor.text()) > 40, "some syllables are there")
    first = visitor.text()
    assert first.startswith("Once upon a time ") and text.claimed() and text.bytes() > 475 << 20
    photograph(visitor, "during")
    until(lambda: len(visitor.text()) > len(first), "more comes")
    visitor.writes("Once upon a time ", SYLLABLES)


def test_the_second_call_is_as_the_first_and_the_card_is_empty_in_between(visit, text):
    visitor, leases = visit(text), text.leases()
    for call in (1, 2):
        visitor.field("Begin with").fill(f"Call {call}")
        visitor.button("Write").click()
        visitor.writes(f"Call {call} ")
        visitor.done()
        text.settled()
        until(lambda: text.leases() == leases + call, "a lease for each call")


def test_examples_are_filled_in(visit, text):
    visitor = visit(text)
    visitor.page.get_by_text("In the year 3000").click()
    expect(visitor.field("Begin with")).to_have_value("In the year 3000")
    visitor.button("Write").click()
    visitor.writes("In the year 3000 ")


def test_two_tabs_at_once_share_one_claim(visit, text):
    first, second, leases = visit(text), visit(text), text.leases()
    # both calls are under way before the first of them has a card
    with text.rival() as rival:
        for number, visitor in enumerate((first, second)):
            visitor.field("Begin with").fill(f"Tab {number}")
            visitor.button("Write").click()
            expect(visitor.toast(WAITING)).to_be_visible()
        rival.release()
    first.writes("Tab 0 ")
    second.writes("Tab 1 ")
    text.settled()
    # the broker logs a lease when it has ended; the rival had one, too
    until(lambda: text.leases() > leases + 1, "the lease is there")
    assert text.leases() == leases + 2


def test_a_third_tab_sees_its_place_in_gradios_queue(visit, text):
    visitors = [visit(text) for _ in range(3)]
    # no call ends before the last one has come
    with text.rival() as rival:
        for visitor in visitors:
            visitor.button("Write").click()
            # in this order: each is in the queue before the next one comes
            expect(visitor.page.get_by_text(re.compile(r"queue: 1/1|processing|\d+(\.\d+)?s")).first).to_be_visible()
        expect(visitors[2].page.get_by_text(re.compile(r"queue: 1/1")).first).to_be_visible()
        rival.release()
    until(lambda: visitors[2].text(), "it has its turn")


def test_an_error_of_the_app_is_told(visit, text):
    visitor = visit(text)
    visitor.field("Begin with").fill("")
    visitor.button("Write").click()
    expect(visitor.toast("Begin the text with some words")).to_be_visible()


def test_progress_is_shown_and_a_picture_comes(visit, picture):
    visitor = visit(picture)
    visitor.page.get_by_role("spinbutton").fill("60")
    visitor.button("Paint").click()
    expect(visitor.page.get_by_text(re.compile(r"Painting - \d+")).first).to_be_visible()
    assert picture.claimed()
    expect(visitor.page.locator("img[src*='/file=']")).to_be_visible()


def test_a_call_that_takes_too_long_is_aborted_in_the_page_and_the_next_one_works(visit, picture):
    visitor = visit(picture)
    seconds = visitor.page.get_by_role("spinbutton")
    seconds.fill("1")
    visitor.button("Paint").click()
    expect(visitor.toast("GPU task aborted")).to_be_visible()
    photograph(visitor, "aborted")
    picture.settled()
    seconds.fill("60")
    visitor.button("Paint").click()
    expect(visitor.page.locator("img[src*='/file=']")).to_be_visible()


def test_who_waits_for_the_card_is_told_so_and_told_when_it_is_there(visit, text):
    visitor = visit(text)
    with text.rival() as rival:
        visitor.button("Write").click()
        expect(visitor.toast(f"{WAITING}: place 1 of 1 in the queue")).to_be_visible()
        photograph(visitor, "queue")
        assert visitor.text() == ""
        rival.release()
    expect(visitor.toast("Successfully acquired a GPU")).to_be_visible()
    visitor.writes("Once upon a time ")


@pytest.mark.parametrize("moment", ["between calls", "in a call"])
def test_after_the_brokers_death_calls_go_on(visit, text, moment):
    visitor = visit(text)
    if moment == "between calls":
        text.restart_broker()
    visitor.page.get_by_role("spinbutton").fill(MANY)
    visitor.button("Write").click()
    visitor.writes("Once upon a time ")
    if moment == "in a call":
        assert text.claimed()
        text.restart_broker()
    visitor.writes("Once upon a time ", SYLLABLES)
    visitor.done()


def test_a_call_waits_for_a_broker_that_comes(visit, text):
    visitor = visit(text)
    text.broker.kill()
    visitor.button("Write").click()
    expect(visitor.toast(WAITING)).to_be_visible()
    text.broker.start()
    expect(visitor.toast("Successfully acquired a GPU")).to_be_visible()
    visitor.writes("Once upon a time ")
