"""The report as a text: tables (Markdown), notes, and the verdict."""

MIB = 1 << 20


def text(whole):
    heading = f"{', '.join(whole['cards']) or 'no card'}, driver {whole['driver']}, {whole['date']}, {whole['seconds']} s"
    parts = [heading]
    if whole["copy"]:
        parts.append("A plain copy of page-locked memory: {in:.1f} GB/s in, {out:.1f} GB/s out".format(**whole["copy"]))
    claims = [
        ("MiB", "claim", "changed", "claim ms", "park ms", "MiB in", "GB/s", "MiB out", "GB/s", "parked MiB", "bytes"),
        *(_claim(row) for row in whole["rows"]),
    ]
    parts.append(_table(claims))
    if whole["checkpoints"]:
        names = ("lock", "checkpoint", "restore", "unlock")
        rows = [("MiB", *(f"{name} ms" for name in names), "parked MiB", "bytes")]
        for row in whole["checkpoints"]:
            times = (_number(row[f"{name}_ms"]) for name in names)
            rows.append((_mib(row["size"]), *times, _mib(row["parked_bytes"]), _bytes(row)))
        parts.append("The driver's own checkpoint of a plain program with as much memory:\n\n" + _table(rows))
    for title in ("notes", "errors"):
        if whole[title]:
            parts.append("\n".join(f"- {title[:-1]}: {line}" for line in whole[title]))
    parts.append("fail" if whole["errors"] else "pass")
    return "\n" + "\n\n".join(parts)


def _claim(row):
    changed = f"{100 * row['changed']:.0f} %" if row["changed"] else "nothing"
    return (
        _mib(row["size"]),
        row["level"],
        changed,
        _number(row["claim_ms"]),
        _number(row["park_ms"]),
        _mib(row["bytes_in"]),
        _number(row["gbps_in"]),
        _mib(row["bytes_out"]),
        _number(row["gbps_out"]),
        _mib(row["parked_bytes"]),
        _bytes(row),
    )


def _table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [rows[0], tuple("-" * width for width in widths), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in lines)


def _bytes(row):
    return "wrong" if row["wrong_chunks"] else "exact"


def _mib(count):
    return f"{count / MIB:.0f}"


def _number(value):
    return "-" if value is None else f"{value:.1f}"
