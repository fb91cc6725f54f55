"""Compares results bit for bit: two runs with one another, and copies with their originals."""

import array

from .npy import Array


def runs(one, other):
    """What differs between the results in two folders: (number of arrays compared, texts)."""
    names = sorted({path.name for folder in (one, other) for path in folder.glob("*.npy")})
    return _compare((name, one / name, other / name) for name in names if not name.endswith(".original.npy"))


def copies(folder):
    """What differs between the copies in a folder and their originals: (number of arrays compared, texts)."""
    pairs = (
        (path, path.with_name(path.name.replace(".copied.", ".original."))) for path in folder.glob("*.copied.npy")
    )
    return _compare((copied.name, original, copied) for copied, original in sorted(pairs))


def _compare(rows):
    count, texts = 0, []
    for name, one, other in rows:
        count += 1
        text = _difference(one, other)
        if text:
            texts.append(f"{name}: {text}")
    return count, texts


def _difference(one, other):
    if not one.exists() or not other.exists():
        return "only in one run"
    a, b = Array(one), Array(other)
    if (a.code, a.shape) != (b.code, b.shape):
        return f"{a.code} {a.shape} against {b.code} {b.shape}"
    if a.data == b.data:
        return None
    bytes_differ = sum(x != y for x, y in zip(a.data, b.data))
    first = next(i for i, (x, y) in enumerate(zip(a.data, b.data)) if x != y)
    text = (
        f"{bytes_differ} of {len(a.data)} bytes differ, the first in element {first // a.width} of {a.code} {a.shape}"
    )
    return text + _distance(a, b)


def _distance(a, b):
    """How far apart the values are: rounding and corruption look different."""
    typecode = {"<f4": "f", "<f8": "d"}.get(a.code)
    if typecode is None:
        return ""
    values = zip(array.array(typecode, a.data), array.array(typecode, b.data))
    return f", values by up to {max(abs(x - y) for x, y in values):.3g}"
