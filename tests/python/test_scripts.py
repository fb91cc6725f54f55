"""scripts/test: how it judges a step, what it does with those that were skipped or failed, what it says is missing."""

import shutil
import sys

import pytest
from world import ROOT
from testing import environments, lacking, needs, plan, steps
from testing.steps import Step, judged

pytestmark = pytest.mark.once

CARGO = """
test a_good_one ... ok
test tests::a_bad_one ... FAILED
thread 'tests::a_bad_one' (77) panicked at src/lib.rs:7:5:
assertion `left == right` failed
test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""
PYTEST = """
FAILED tests/a.py::test_one - AssertionError: 3 passed in 1.00s
ERROR tests/a.py::test_two - OSError
== 1 failed, 4 passed, 1 skipped, 2 deselected, 1 error in 2.50s ==
"""


def step(name="a step", command=("true",), **more):
    return Step(name, list(command), **more)


def counts(result):
    return result.passed, result.failed, result.skipped


@pytest.mark.parametrize(
    "counted, code, text, wanted, note",
    [
        ("cargo", 101, CARGO, (6, 1, 2), ""),
        ("pytest", 1, PYTEST, (4, 2, 1), ""),
        ("pytest", 0, "7 passed in 0.10s\n", (7, 0, 0), ""),
        ("", 0, "said something: 3 failed\n", (1, 0, 0), ""),
        ("", 4, "", (0, 1, 0), "ended with 4"),
        # a runner that died before it counted, or after it counted well
        ("pytest", -11, "", (0, 1, 0), "ended with -11"),
        ("pytest", 1, "7 passed in 0.10s\n", (7, 1, 0), "ended with 1"),
        # and one that had nothing to do
        ("pytest", 0, "3 deselected in 0.10s\n", (0, 1, 0), "no test was run"),
        ("pytest", 0, "3 skipped in 0.10s\n", (0, 1, 3), "no test was run"),
        ("cargo", 0, "", (0, 1, 0), "no test was run"),
    ],
)
def test_a_step_is_judged_by_its_end_and_its_sums(counted, code, text, wanted, note):
    result = judged(step(counts=counted), code, text, 1.0)
    assert (counts(result), result.note) == (wanted, note)


def test_what_failed_is_named():
    assert judged(step(counts="cargo"), 101, CARGO, 1.0).names == (
        "test tests::a_bad_one ... FAILED",
        "thread 'tests::a_bad_one' (77) panicked at src/lib.rs:7:5: assertion `left == right` failed",
    )
    names = judged(step(counts="pytest"), 1, PYTEST, 1.0).names
    assert [name.split(" ")[0] for name in names] == ["FAILED", "ERROR"]
    assert judged(step(counts="pytest"), 0, "1 passed in 0.10s\n", 1.0).names == ()


def test_a_step_that_can_not_run_is_skipped_and_under_strict_fails():
    lacks = step(skips=3)
    result = judged(lacks, 3, "looking\nrunc is missing\n", 1.0)
    assert (counts(result), result.note) == ((0, 0, 1), "skipped: runc is missing")
    result = judged(lacks, 3, "looking\nrunc is missing\n", 1.0, strict=True)
    assert (counts(result), result.note) == ((0, 1, 0), "skipped, and --strict: runc is missing")
    # that code means nothing for another step, nor success for this one
    assert counts(judged(step(), 3, "", 1.0)) == (0, 1, 0) and counts(judged(lacks, 0, "", 1.0, strict=True)) == (1, 0, 0)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs steps; the exit code, the results by name, and what was printed."""
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")

    def run_them(*them, strict=False, jobs=2):
        runner = steps.Runner(them, jobs, strict)
        code = runner.run()
        return code, {result.step.name: result for result in runner.results.values()}, capsys.readouterr().out

    return run_them


def says(text, code=0):
    return [sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"]


def test_what_needs_a_failed_step_fails_and_what_needs_a_skipped_one_is_skipped(run):
    them = (
        step("broken", says("no", 1)),
        step("absent", says("no runc", 3), skips=3),
        step("on the broken", needs=("broken",)),
        step("on the absent", needs=("absent",)),
        step("after both", after=("broken", "absent")),
    )
    code, results, printed = run(*them)
    assert code == 1
    assert {name: counts(result) for name, result in results.items()} == {
        "broken": (0, 1, 0),
        "absent": (0, 0, 1),
        "on the broken": (0, 1, 0),
        "on the absent": (0, 0, 1),
        "after both": (1, 0, 0),
    }
    assert "1 passed, 2 failed, 2 skipped" in printed and results["on the absent"].note == "not run: absent was skipped"


def test_strict_turns_green_to_red(run):
    them = (step("absent", says("no runc", 3), skips=3), step("on the absent", needs=("absent",)), step("well"))
    assert run(*them)[0] == 0
    code, results, printed = run(*them, strict=True)
    assert code == 1 and "1 passed, 2 failed\n" in printed
    assert results["absent"].note == "skipped, and --strict: no runc" and results["on the absent"].note == "not run: absent failed"


@pytest.mark.parametrize("strict", [False, True])
def test_a_test_that_lacks_something_fails_under_strict(run, tmp_path, monkeypatch, strict):
    monkeypatch.delenv(lacking.STRICT, raising=False)
    (tmp_path / "test_it.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts' / 'lib')!r})\n"
        "from testing import lacking\n\ndef test_it(): lacking.skip('no Python 3.8')\n\ndef test_other(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", str(tmp_path / "test_it.py")]
    code, results, _ = run(step("tests", command, counts="pytest"), strict=strict)
    assert code == int(strict) and counts(results["tests"]) == ((1, 1, 0) if strict else (1, 0, 1))
    if strict:
        assert results["tests"].names[0].split(" - ")[0].endswith("::test_it")


def test_the_end_names_what_failed(run):
    text = "FAILED tests/a.py::test_one - no\n1 failed, 1 passed in 0.10s"
    code, _, printed = run(step("tests", says(text, 1), counts="pytest"))
    # after the table, where a log that is cut off at its head still has it
    assert code == 1 and "    tests: FAILED tests/a.py::test_one - no" in printed[printed.index("FAIL") :].splitlines()[-5:]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine that has only these programs."""

    def make(*programs, **scripts):
        for name in programs:
            (tmp_path / name).symlink_to(shutil.which(name))
        for name, text in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))

    return make


def missing():
    return "\n".join(needs.missing(needs.TESTING, needs.COMPONENTS, headers=True))


def test_what_is_missing_is_named_with_the_way_to_get_it(bare):
    bare()
    said = missing()
    for words in ("Rust is missing", "rustup", "a C compiler is missing: apt-get install gcc", "git is missing: apt-get install git"):
        assert words in said, said
    assert "readelf is missing: apt-get install binutils" in said and "Python 3.10 or 3.11 with venv is missing" in said, said


@pytest.mark.parametrize("place", [".pyenv/versions/3.11.9", ".local/share/uv/python/cpython-3.11.9-linux-x86_64-gnu"])
def test_a_python_of_a_manager_is_found_though_it_is_not_on_the_path(bare, tmp_path, monkeypatch, place):
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("UV_PYTHON_INSTALL_DIR", raising=False)
    bare()
    program = tmp_path / place / "bin" / "python3.11"
    program.parent.mkdir(parents=True)
    # it answers as a 3.11 that has all modules
    program.write_text('#!/bin/sh\ncase "$2" in *"3.11"*) exit 0 ;; esac\nexit 1\n')
    with pytest.raises(environments.Missing, match="uv python install 3.11, or pyenv install 3.11"):
        environments.find_python()
    program.chmod(0o755)
    assert environments.find_python() == str(program)


def test_parts_of_rust_that_are_missing_are_named(bare):
    bare(cargo='[ $1 = --version ] && echo "cargo 1.99.0 (abc)" || exit 101', cc="", git="", readelf="")
    said = missing()
    for part in ("cargo fmt is missing: rustup component add rustfmt", "cargo clippy is missing: rustup component add clippy"):
        assert part in said, said
    assert "Rust" not in said and "C compiler" not in said


def test_a_rust_that_is_too_old_is_named(bare):
    bare(cargo='echo "cargo 1.60.0 (abc)"')
    assert "and cargo is of 1.60: " in missing()


@pytest.mark.parametrize("base, way", [("/usr", "apt-get install python3.11-dev"), ("/opt/python", "install the headers of that Python in ")])
def test_headers_of_python_that_are_missing_are_named(bare, tmp_path, base, way):
    # this Python, as another one that says where it lies and has no headers there
    setup = f"import sys, sysconfig; sys.base_prefix = {base!r}; sys.version_info = (3, 11)"
    setup += f"; sysconfig.get_paths = lambda: dict(include={str(tmp_path)!r}); exec(sys.argv[1])"
    bare(**{"python3.11": f'[ $# = 2 ] || exit 1\ncase $2 in *sysconfig*) exec {sys.executable} -c "{setup}" "$2" ;; esac'})
    assert f"Python.h of {tmp_path}/python3.11 is missing: {way}" in missing()
    assert "Python.h" not in "\n".join(needs.missing(needs.BUILDING))
    (tmp_path / "Python.h").touch()
    assert "Python.h" not in missing()


def test_each_need_is_a_step_and_comes_before():
    every = plan.plan(True, False, True)
    names = [one.name for one in every]
    assert len(names) == len(set(names))
    for number, one in enumerate(every):
        assert set(one.needs) <= set(names[:number]), one.name
        assert set(one.after) <= set(names), one.name


def test_what_is_chosen_brings_what_it_needs():
    (wanted,) = [one for one in plan.plan(False, False, True) if one.name == "packaging"]
    chosen = [one.name for one in plan.chosen(plan.plan(False, False, True), ["packaging"])]
    assert wanted.needs and set(wanted.needs) < set(chosen) and "cargo test" not in chosen


def test_each_library_of_gpu_check_runs_where_it_is_installed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from gpu_check import programs

    there = [one.name for one in programs.ALL if one.run.__module__.endswith(".libraries")]
    assert there == list(plan.LIBRARIES)
