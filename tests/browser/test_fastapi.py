"""A FastAPI app under uvicorn, and a plain script: the same marked calls, without Gradio."""

import concurrent.futures
import json
import sys
import urllib.error
import urllib.request

import pytest
from serving import ROOT, Served, free_port, until

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    port = free_port()
    command = ["-m", "uvicorn", "--app-dir", EXAMPLES / "fastapi", "--port", port, "app:app"]
    served = Served(tmp_path_factory.mktemp("fastapi"), command, port, ZEROGPU_WAIT="10s")
    try:
        yield served.ready("/openapi.json")
    finally:
        served.close()


def post(app, path, *texts):
    """The status and the text of an answer."""
    body = json.dumps({"texts": texts}).encode()
    request = urllib.request.Request(app.url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def vectors(app, *texts):
    status, text = post(app, "/vectors", *texts)
    assert status == 200, text
    return json.loads(text)["vectors"]


def test_calls_one_after_the_other(app):
    for call in (1, 2):
        assert [len(vector) for vector in vectors(app, "one", "two")] == [8, 8]
        app.settled()
        until(lambda: app.leases() == call, "a lease for each call")


def test_calls_at_once(app):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: vectors(app, str(number)), range(24)))
    assert [len(answer) for answer in answers] == [1] * 24
    app.settled()


def test_a_stream(app):
    status, text = post(app, "/stream", "one", "two", "three")
    assert status == 200 and [len(json.loads(line)) for line in text.splitlines()] == [8, 8, 8]
    app.settled()


def test_no_gpu_in_time_is_an_answer_that_says_so(app):
    with app.rival() as rival:
        status, text = post(app, "/vectors", "one")
        assert status == 503 and "No GPU was available after" in json.loads(text)["error"], text
        rival.release()
    vectors(app, "two")
    app.settled()


def test_after_the_brokers_death(app):
    app.restart_broker()
    vectors(app, "one")
    app.settled()


def test_a_plain_script(app):
    """It shares the card of the app, by turns."""
    outcome = app.world.run([sys.executable, EXAMPLES / "script" / "app.py"], options=["--socket", app.broker.socket])
    assert outcome.code == 0 and not outcome.messages(), outcome.err
    assert outcome.out == "".join(f"batch {number}: (256, 4096)\n" for number in range(3))
    app.settled()
