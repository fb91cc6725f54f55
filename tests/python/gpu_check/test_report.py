"""The table and the exit status."""

from gpu_check import report


def _result(result="pass", **more):
    return dict({"program": "p", "title": "t", "result": result, "text": "", "parks": []}, **more)


def _park(step, claims, claim, park, size=0, bound_by=()):
    keys = ("step", "claims", "last_claim_ms", "last_park_ms", "bytes", "bound_by", "contexts")
    return dict(zip(keys, (step, claims, claim, park, size, list(bound_by), None)))


def _text(*results):
    heading = {"cards": ["C"], "driver": "1", "torch": "2", "cuda": "3", "python": "4", "date": "5", "seconds": 6}
    return report.text(dict(heading, programs=list(results)))


def test_exit_status():
    status = lambda *names: report.exit_status({"programs": [_result(name) for name in names]})  # noqa: E731
    assert status("pass", "not runnable on this card", "unstable") == 0
    assert status("pass", "fail") == 1
    assert status("not runnable on this card") == 3


def test_times_are_medians_of_the_programs_own_claims():
    parks = [_park(1, 1, 100.0, 10.0), _park(2, 1, 100.0, 10.0), _park(3, 2, 300.0, 30.0), _park(4, 3, 110.0, 11.0)]
    row = _text(
        _result(arrays=5, claimed_bytes=600 << 20, bare_seconds=1.5, shim_seconds=2.5, parks=parks)
    ).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["p", "pass", "5", "4", "600", "0", "110.0", "11.0", "1.5", "2.5"]


def test_a_bound_process_is_told_in_a_note():
    text = _text(_result(parks=[_park(1, 1, 1.0, 1.0, 500 << 20, ["graph"]), _park(2, 2, 1.0, 1.0, 1 << 20)]))
    assert "- p: bound at 1 of 2 parks by graph, keeping 500 MiB on the card" in text
    assert "| 1          |" in text  # parked MiB: of the park that was not bound


def test_unknown_times_are_dashes():
    assert "| -        | -       |" in _text(_result(parks=[_park(1, None, None, None)]))
