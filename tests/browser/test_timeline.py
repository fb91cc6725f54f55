"""The page that `zerogpu trace view` writes, in a browser: it opens from a file, offline, and answers mouse and keyboard."""

import json
import os
import pathlib
import subprocess
import sys
import time

import browser
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIST = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target") / "dist"
CLI = DIST / "bin" / "zerogpu"
PROGRAMS = ROOT / "tests" / "python" / "programs"
# Where screenshots are kept, to be looked at.
PICTURES = pathlib.Path(os.environ.get("ZEROGPU_TEST_PICTURES") or DIST.parent / "pictures")
HOSTILE = "</script><script>window.hostile = 1</script><!--<img src=x onerror='window.hostile = 2'>"


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as running:
        yield running


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The records of a program under the shim, on softcuda, and the page made of them."""
    folder = tmp_path_factory.mktemp("trace")
    path = folder / "trace.jsonl"
    ours = ("ZEROGPU_", "SOFTCUDA_", "CUDA_", "LD_PRELOAD", "PYTHONPATH")
    values = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    values.update(
        ZEROGPU_SOCKET="none",
        SOFTCUDA_CARDS=str(folder / "cards"),
        PYTHONPATH=str(PROGRAMS),
        CHECKS_CUBIN=str(ROOT / "crates" / "image" / "tests" / "data" / "sm80.cubin"),
    )
    program = [sys.executable, str(pathlib.Path(__file__).with_name("traced.py"))]
    command = [str(CLI), "run", "--driver", "soft", "--trace", f"json,file={path}", "--", *program]
    subprocess.run(command, env=values, check=True, timeout=120)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return records, view(path, "--title", "Three marked calls")


def view(path, *options):
    """The page of a trace."""
    page = path.with_suffix(".html")
    subprocess.run([str(CLI), "trace", "view", str(path), "-o", str(page), *options], check=True)
    return page


class Page:
    """A timeline in a tab, and what the browser complained of or asked for."""

    def __init__(self, chromium, path, **context):
        self.context = chromium.new_context(viewport={"width": 1400, "height": 700}, offline=True, **context)
        self.tab = self.context.new_page()
        self.complaints, self.requests = [], []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri())
        self.until("window.timeline && timeline.x(0) > 0")
        self.box = self.tab.locator("#canvas").bounding_box()

    def look(self, expression):
        """The value of an expression in the page."""
        return self.tab.evaluate(expression)

    def until(self, condition):
        """Waits until an expression holds. Playwright's own wait asks the page to evaluate a text, which its policy forbids."""
        deadline = time.monotonic() + 30
        while not self.look(condition):
            assert time.monotonic() < deadline, condition
            self.tab.wait_for_timeout(20)

    def span(self):
        """Nanoseconds in view."""
        seen = self.look("timeline.view")
        return seen["to"] - seen["from"]

    def at(self, row, moment):
        """The place on the screen of a moment in the row with this label."""
        (found,) = [each for each in self.look("timeline.rows") if each["label"] == row]
        return self.box["x"] + self.look(f"timeline.x({moment})"), self.box["y"] + found["top"] + found["height"] / 2

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        # after the next drawing
        self.look("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.tab.screenshot(path=PICTURES / f"{name}.png")

    def close(self):
        self.context.close()
        assert not self.complaints
        assert len(self.requests) == 1 and self.requests[0].startswith("file://"), self.requests


@pytest.fixture
def opened(chromium, trace):
    page = Page(chromium, trace[1])
    yield page
    page.close()


def spans(records, kind):
    return [record for record in records if record["type"] == "span" and record["kind"] == kind]


def middle(span):
    return span["at_ns"] + span["dur_ns"] / 2


def test_it_tells_when_the_gpu_was_held(opened, trace):
    opened.picture("timeline-light")
    tab = opened.tab
    assert tab.title() == "Timeline: Three marked calls"
    assert "in 3 claims" in tab.locator("#headline").inner_text()
    assert tab.locator("#notes li").count() == 0
    assert tab.locator("#claims tbody tr").count() == 3
    assert tab.locator("#claims tbody tr").first.locator("td").nth(3).inner_text() == "48 MiB"
    counted = sum(record["type"] in ("call", "launch", "message", "span", "counter") for record in trace[0])
    assert opened.look("timeline.events") == counted
    rows = {row["label"]: row for row in opened.look("timeline.rows")}
    assert rows["marked calls"]["blocks"] == 3
    assert rows["GPU"]["blocks"] == 9
    on_card = [record["value"] for record in trace[0] if record["type"] == "counter" and record["name"] == "bytes on the card"]
    # each claim brings the program's memory, each park takes all away
    assert len(on_card) >= 6 and max(on_card) == 48 << 20 and on_card.count(0) >= 3
    assert rows["bytes on the card"]["values"] == len(on_card)
    legend = tab.locator("#legend").inner_text()
    for label in ("claim: bytes go to the card", "claimed: the program has the GPU", "a GPU is held", "failed"):
        assert label in legend
    for label in ("copy to the device", "copy to the host"):
        assert label in legend
    # the program has no other copies and waits for no broker, and what does not occur has no colour
    assert "waits for the broker" not in legend and "other copy" not in legend


def test_the_totals_are_those_of_the_records(opened, trace):
    cells = opened.tab.locator("#totals tr").all()
    totals = dict(cell.inner_text().split("\t") for cell in cells)
    travelled = [sum(span["bytes"] for span in spans(trace[0], kind)) >> 20 for kind in ("claim", "park")]
    assert travelled == [3 * 48, 3 * 48] and totals["bytes to the card, home"] == "144 MiB, 144 MiB", totals
    assert totals["program's copies in, out"] == "48 MiB, 3 MiB"
    calls = [record for record in trace[0] if record["type"] == "call"]
    failed = sum(call["result"] not in (0, 600) for call in calls)
    assert failed >= 1 and totals["calls, failed"] == f"{len(calls):,}, {failed}"
    assert totals["claims"].startswith("3, in ") and totals["parks"].startswith("3, in ")
    assert "waited for the broker" not in totals


def test_wheel_and_buttons_zoom(opened, trace):
    whole = opened.span()
    place = opened.at("GPU", middle(spans(trace[0], "park")[1]))
    opened.tab.mouse.move(*place)
    opened.tab.mouse.wheel(0, -800)
    opened.until(f"timeline.view.to - timeline.view.from < {whole / 2}")
    # what is under the pointer stays there
    assert opened.at("GPU", middle(spans(trace[0], "park")[1]))[0] == pytest.approx(place[0], abs=4)
    opened.picture("timeline-zoomed")
    zoomed = opened.span()
    opened.tab.get_by_role("button", name="Zoom in").click()
    assert opened.span() == pytest.approx(zoomed / 2)
    opened.tab.get_by_role("button", name="Zoom out").click()
    assert opened.span() == pytest.approx(zoomed)
    opened.tab.get_by_role("button", name="All", exact=True).click()
    assert opened.span() == pytest.approx(whole)


def test_dragging_moves_what_is_seen(opened):
    opened.tab.get_by_role("button", name="Zoom in").click()
    before = opened.look("timeline.view")
    x, y = opened.at("GPU", (before["from"] + before["to"]) / 2)
    opened.tab.mouse.move(x, y)
    opened.tab.mouse.down()
    opened.tab.mouse.move(x + 200, y, steps=4)
    opened.tab.mouse.up()
    after = opened.look("timeline.view")
    moved = 200 * (before["to"] - before["from"]) / (opened.look("timeline.x(timeline.view.to)") - opened.look("timeline.x(timeline.view.from)"))
    assert before["from"] - after["from"] == pytest.approx(moved, rel=0.01)
    assert opened.look("timeline.selected") is None


def test_a_block_tells_what_it_is(opened, trace):
    claim, park = (spans(trace[0], kind)[1] for kind in ("claim", "park"))
    used = (claim["at_ns"] + claim["dur_ns"] + park["at_ns"]) / 2
    detail = opened.tab.locator("#detail")
    for moment, title in ((middle(claim), "claim"), (middle(park), "park"), (used, "claimed")):
        opened.tab.mouse.move(*opened.at("GPU", moment))
        opened.until(f"timeline.hovered === '{title}'")
        assert detail.locator("h2").inner_text() == title
    assert detail.locator("dd").nth(3).inner_text() == "48 MiB"
    opened.tab.mouse.click(*opened.at("GPU", middle(claim)))
    opened.tab.mouse.move(5, 5)
    assert opened.look("timeline.selected") == "claim"
    assert "kernel empty" in detail.inner_text()
    opened.until("document.querySelector('#live').textContent.startsWith('claim, at ')")
    opened.picture("timeline-selected")
    opened.tab.locator("#canvas").press("Escape")
    assert opened.look("timeline.selected") is None


def test_the_search_finds_calls_and_kernels(opened, trace):
    calls = [record for record in trace[0] if record["type"] == "call"]
    field = opened.tab.get_by_label("Search", exact=True)
    field.fill("MEMCPY")
    wanted = sum("cuMemcpy" in call["name"] for call in calls)
    assert opened.look("timeline.matches") == wanted >= 4
    opened.picture("timeline-search")
    field.fill("cuMemFree_v2")
    assert opened.tab.locator("#matches").inner_text() == "1 match"
    field.press("Enter")
    assert opened.look("timeline.selected") == "cuMemFree_v2"
    failed = opened.tab.locator("#detail .error").inner_text()
    assert failed == "1 CUDA_ERROR_INVALID_VALUE"
    opened.until("document.querySelector('#live').textContent.startsWith('cuMemFree_v2, failed, at ')")
    field.fill("empty")
    # three claims for it, three stretches of holding it, three launches of it, and the name that was asked for
    assert opened.look("timeline.matches") >= 9
    field.fill("no such thing")
    assert opened.tab.locator("#matches").inner_text() == "0 matches"
    field.fill("")
    assert opened.tab.locator("#matches").inner_text() == ""


def test_the_keyboard_does_it_too(opened, trace):
    canvas = opened.tab.locator("#canvas")
    whole = opened.span()
    canvas.focus()
    canvas.press("+")
    assert opened.span() < whole
    before = opened.look("timeline.view.from")
    canvas.press("ArrowRight")
    assert opened.look("timeline.view.from") > before
    canvas.press("ArrowLeft")
    assert opened.look("timeline.view.from") == pytest.approx(before, abs=1)
    canvas.press("-")
    canvas.press("0")
    assert opened.span() == pytest.approx(whole)
    canvas.press("Shift+ArrowRight")
    assert opened.look("timeline.selected") == "region"
    canvas.press("Shift+ArrowDown")
    assert opened.look("timeline.selected") == "claim"
    canvas.press("Shift+ArrowRight")
    assert opened.look("timeline.selected") == "claimed"
    canvas.press("Enter")
    assert opened.span() < whole
    canvas.press("Escape")
    assert opened.look("timeline.selected") is None


def test_a_button_shows_each_claim(opened, trace):
    park = spans(trace[0], "park")[2]
    opened.tab.locator("#claims button").nth(2).click()
    seen = opened.look("timeline.view")
    assert seen["from"] < park["at_ns"] < park["at_ns"] + park["dur_ns"] < seen["to"]


def test_dark_where_the_reader_prefers_it(chromium, trace):
    corner = "Array.from(document.querySelector('#canvas').getContext('2d').getImageData(2, 2, 1, 1).data)"
    seen = {}
    for scheme in ("light", "dark"):
        page = Page(chromium, trace[1], color_scheme=scheme)
        page.picture(f"timeline-{scheme}")
        seen[scheme] = sum(page.look(corner)[:3])
        page.close()
    assert seen["light"] > 3 * 200 and seen["dark"] < 3 * 60, seen


def test_the_page_can_fetch_nothing(chromium, trace):
    page = Page(chromium, trace[1])
    refused = page.look("fetch(location.href).then(() => 'fetched', (error) => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in complaint for complaint in page.complaints), page.complaints
    page.context.close()


def hostile_lines():
    """A trace in which everything that a program can name carries a script."""
    yield {"type": "trace", "zerogpu": "0.1.0", "pid": 7, "program": HOSTILE, "settings": HOSTILE, "started": HOSTILE}
    yield {"type": "thread", "thread": 7, "name": HOSTILE}
    launch = {"type": "launch", "thread": 7, "depth": 1, "at_ns": 150, "call": "cuLaunchKernel", "kernel": HOSTILE}
    yield dict(launch, grid=[1, 1, 1], block=[1, 1, 1], shared_bytes=0, stream="0x0")
    call = {"type": "call", "thread": 7, "depth": 0, "at_ns": 100, "dur_ns": 900, "name": "cuLaunchKernel"}
    yield dict(call, args={"f": HOSTILE}, result=700, status=HOSTILE)
    yield {"type": "span", "thread": 7, "at_ns": 110, "dur_ns": 20, "kind": "claim", "name": HOSTILE, "bytes": 1}
    yield {"type": "counter", "at_ns": 130, "name": HOSTILE, "value": 1}


def test_a_hostile_name_is_text(chromium, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in hostile_lines()))
    page = Page(chromium, view(path))
    assert page.tab.locator("h1").inner_text() == HOSTILE
    page.tab.get_by_label("Search", exact=True).fill("window.hostile")
    page.tab.get_by_label("Search", exact=True).press("Enter")
    assert HOSTILE in page.tab.locator("#detail").inner_text()
    assert page.look("window.hostile") is None
    assert page.tab.locator("img").count() == 0
    assert "has no end" in page.tab.locator("#notes").inner_text()
    assert "still held" in page.tab.locator("#headline").inner_text()
    page.close()


def many(calls):
    """Calls of four threads, each within another, and a claim and a park for each thousand."""
    yield {"type": "trace", "zerogpu": "0.1.0", "pid": 1, "program": "many", "settings": "json", "started": ""}
    for number in range(calls // 2):
        at, thread = number * 5000, 1 + number % 4
        inner = {"type": "call", "thread": thread, "depth": 1, "at_ns": at + 500, "dur_ns": 700, "name": "cuMemAlloc_v2"}
        yield dict(inner, args={"dptr": hex(number), "bytesize": number}, result=0, status="CUDA_SUCCESS", bytes=number)
        outer = {"type": "call", "thread": thread, "depth": 0, "at_ns": at, "dur_ns": 4000, "name": "cuMemcpyHtoD_v2"}
        failed = number % 50_000 == 7
        status = "CUDA_ERROR_INVALID_VALUE" if failed else "CUDA_SUCCESS"
        yield dict(outer, args={"dstDevice": hex(number)}, result=int(failed), status=status, bytes=1)
        if number % 1000 == 999:
            held = {"type": "span", "thread": 1, "name": "k", "bytes": 1 << 28}
            yield dict(held, kind="claim", at_ns=at - 4_000_000, dur_ns=500_000)
            yield {"type": "counter", "at_ns": at - 3_500_000, "name": "bytes on the card", "value": number << 16}
            yield dict(held, kind="park", at_ns=at - 1_500_000, dur_ns=500_000)
            yield {"type": "counter", "at_ns": at - 1_000_000, "name": "bytes on the card", "value": 0}
    yield {"type": "end", "recovered": False, "lost": 0}


def test_many_calls_can_be_looked_at(chromium, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in many(200_000)))
    page = Page(chromium, view(path))
    assert page.look("timeline.events") > 200_000
    page.picture("timeline-many")
    page.tab.get_by_label("Search", exact=True).fill("cuMemcpyHtoD_v2")
    assert page.look("timeline.matches") == 100_000
    # to one call out of many
    page.tab.get_by_label("Search", exact=True).press("Enter")
    page.tab.locator("#canvas").press("Enter")
    assert page.span() < 10_000
    page.tab.mouse.move(*page.at("thread 1", 2000))
    page.until("timeline.hovered === 'cuMemcpyHtoD_v2'")
    page.close()
