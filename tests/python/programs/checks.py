"""How a program checks things: each check is a function; its outcome is a line of JSON in the file CHECKS.

    @check
    def memory_comes_back(): ...

    checks.main()

A check that raises has failed, and the next one runs. The tests name the checks by reading the source (conftest.py).
"""

import json
import os
import time
import traceback

_checks = []


def check(function=None, *, since="0"):
    """Marks a function as a check. `since`: the first version of torch that can do what it checks."""
    if function is None:
        return lambda function: check(function, since=since)
    _checks.append((function, since))
    return function


def numbers(version):
    """A version as something that can be compared."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def main():
    """Runs all checks in the order in which they stand."""
    version = os.environ["CHECKS_TORCH"]
    for function, since in _checks:
        started = time.monotonic()
        if numbers(version) < numbers(since):
            outcome = {"skipped": f"needs torch {since}"}
        else:
            try:
                outcome = {"value": function()}
            except Exception:
                outcome = {"failed": traceback.format_exc()}
        tell(function.__name__, seconds=round(time.monotonic() - started, 3), **outcome)


def tell(name, **outcome):
    """Writes an outcome. What a program tells under another name than a check's is there for the test to look at."""
    with open(os.environ["CHECKS"], "a") as file:
        file.write(json.dumps(dict(outcome, check=name), default=str) + "\n")


def raises(kind, text, function, *arguments, **keywords):
    """Asserts that the call raises `kind` (a class, or several) with `text` in its message; gives the exception."""
    try:
        function(*arguments, **keywords)
    except kind as error:
        assert text in str(error), f"{error!r} does not say {text!r}"
        return error
    raise AssertionError(f"no {kind} was raised")


def until(condition, text, seconds=20.0):
    """Waits until the condition holds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not after {seconds} s: {text}"
        time.sleep(0.002)
