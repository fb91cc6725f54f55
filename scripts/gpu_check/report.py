"""The report: as JSON, as a table (Markdown), as an exit status."""

import datetime
import statistics

GOOD, FAILED, NOTHING_RUNS = 0, 1, 3

_COLUMNS = (
    "program",
    "result",
    "arrays",
    "parks",
    "claimed MiB",
    "parked MiB",
    "claim ms",
    "park ms",
    "bare s",
    "shim s",
)


def whole(settings, view, about, results, seconds):
    """Everything, ready for JSON."""
    return {
        "date": datetime.date.today().isoformat(),
        "cards": view.names,
        "driver": view.driver,
        "device": settings.device,
        "torch": about.get("torch"),
        "cuda": about.get("cuda"),
        "python": about.get("python"),
        "seconds": round(seconds, 1),
        "programs": results,
    }


def line(result):
    """One program, told while the check is running."""
    text = f": {result['text']}" if result["text"] else ""
    return f"{result['program']:12} {result['result']}{text}"


def text(report):
    """The heading, the table, and what there is to say of single programs."""
    cards = ", ".join(report["cards"]) or "no card"
    heading = f"{cards}, driver {report['driver']}, torch {report['torch']} (CUDA {report['cuda']}), "
    heading += f"Python {report['python']}, {report['date']}, {report['seconds']} s"
    rows = [_COLUMNS, *(_row(result) for result in report["programs"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    rows.insert(1, tuple("-" * width for width in widths))
    table = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    notes = [f"- {result['program']}: {note}" for result in report["programs"] for note in _notes(result)]
    return "\n".join(["", heading, "", *table, *([""] + notes if notes else [])])


def exit_status(report):
    """0 all good, 1 a program failed, 3 none could run."""
    results = [result["result"] for result in report["programs"]]
    if "fail" in results:
        return FAILED
    return GOOD if "pass" in results else NOTHING_RUNS


def _row(result):
    parks = result["parks"]
    # A program that is bound keeps its context, and says so in a note: not what this column is about.
    parked = [park["bytes"] for park in parks if not park["bound_by"]]
    return (
        result["program"],
        result["result"],
        _number(result.get("arrays")),
        _number(len(parks) or None),
        _mib(result.get("claimed_bytes")),
        _mib(max(parked, default=None)),
        _median(_claims(parks), "last_claim_ms"),
        _median(_claims(parks), "last_park_ms"),
        _number(result.get("bare_seconds")),
        _number(result.get("shim_seconds")),
    )


def _claims(parks):
    """The parks that ended a claim of their own: a step that needed no GPU repeats the times of the one before."""
    own, count = [], 0
    for park in parks:
        if (park["claims"] or 0) > count:
            count = park["claims"]
            own.append(park)
    return own


def _notes(result):
    if result["text"]:
        yield result["text"]
    bound = [park for park in result["parks"] if park["bound_by"]]
    if bound:
        reasons = ", ".join(sorted({reason for park in bound for reason in park["bound_by"]}))
        most = _mib(max(park["bytes"] for park in bound))
        yield f"bound at {len(bound)} of {len(result['parks'])} parks by {reasons}, keeping {most} MiB on the card"
    if "compared" in result:
        yield f"compared: {result['compared']}"


def _median(parks, key):
    values = [park[key] for park in parks if park[key] is not None]
    return f"{statistics.median(values):.1f}" if values else "-"


def _mib(count):
    return "-" if count is None else f"{count / (1 << 20):.0f}"


def _number(value):
    return "-" if value is None else str(value)
