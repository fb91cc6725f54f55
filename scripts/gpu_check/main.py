"""The command: which programs run, in which order, and what is made of the results.

Each program (programs/) runs in processes of its own: first bare, which says whether this card and this torch can run
it at all and what the right results are, then under the shim, parked after each step. Results are compared bit for
bit. This process stays outside: it is not preloaded, imports no torch, and looks at the card while the program is held
at the end of a step.
"""

import concurrent.futures
import json
import pathlib
import shutil
import tempfile
import time

from . import card, compare, launch, options, report
from .broker import main as broker

# What is said of a program that gave no verdict, by the status of its run.
NO_VERDICT = {"unable": "not runnable on this card", "absent": "not installed"}


def main():
    launch.refuse_preload()
    chosen, settings = options.read()
    if settings.broker:
        return broker.main(settings)
    started = time.monotonic()
    folder = settings.keep or pathlib.Path(tempfile.mkdtemp(prefix="gpu-check-"))
    settings.cards = folder / "softcuda-cards"
    try:
        view = card.open_view(settings)
        results, about = _Check(settings, view, folder, started + settings.budget).run(chosen)
    except card.NoCard as error:
        print(f"gpu-check: {error}")
        return report.NOTHING_RUNS
    finally:
        if not settings.keep:
            shutil.rmtree(folder, ignore_errors=True)
    whole = report.whole(settings, view, about, results, time.monotonic() - started)
    print(report.text(whole))
    if settings.json:
        settings.json.write_text(json.dumps(whole, indent=2) + "\n")
    return report.exit_status(whole)


class _Check:
    def __init__(self, settings, view, folder, give_up):
        self._settings = settings
        self._view = view
        self._folder = folder
        self._give_up = give_up
        self._about = {}

    def run(self, chosen):
        """The results of all programs, and what the programs said of their Python and torch."""
        bare = {}
        if self._settings.driver == "real":
            # Several at a time: nobody looks at the card meanwhile. All end before the first run under the shim.
            with concurrent.futures.ThreadPoolExecutor(self._settings.jobs) as pool:
                bare = dict(zip((program.name for program in chosen), pool.map(self._bare, chosen)))
        results = []
        for program in chosen:
            result = self._result(program, bare.get(program.name))
            results.append(result)
            print(report.line(result), flush=True)
        return results, self._about

    def _bare(self, program, folder="bare"):
        if self._settings.device == "cpu" and not program.cpu:
            return launch.Outcome("unable", "needs a GPU", 0.0, {})
        return self._launch(program, folder)

    def _launch(self, program, folder, observer=None):
        if time.monotonic() > self._give_up:
            return launch.Outcome("failed", "not run: the time is used up (--budget)", 0.0, {})
        outcome = launch.run(program, self._settings, self._folder / program.name / folder, observer, self._give_up)
        self._about = outcome.about or self._about
        return outcome

    def _result(self, program, bare):
        result = {"program": program.name, "title": program.title, "result": "pass", "text": "", "parks": []}
        if bare is not None:
            result["bare_seconds"] = round(bare.seconds, 1)
            if bare.status in NO_VERDICT:
                return dict(result, result=NO_VERDICT[bare.status], text=bare.text)
            if bare.status == "failed":
                return dict(result, result="fail", text=f"bare: {bare.text}")
        if self._settings.bare:
            return result
        if bare is None:
            result["compared"] = program.soft
        return self._under_the_shim(program, bare, result)

    def _under_the_shim(self, program, bare, result):
        observer = card.Observer(self._view)
        outcome = self._launch(program, "shim", observer)
        result.update(
            shim_seconds=round(outcome.seconds, 1), claimed_bytes=observer.claimed_bytes, parks=observer.parks
        )
        if outcome.status in NO_VERDICT and bare is None:
            return dict(result, result=NO_VERDICT[outcome.status], text=outcome.text)
        folder = self._folder / program.name
        errors = list(observer.errors)
        if outcome.status == "done":
            result["arrays"], differences = compare.copies(folder / "shim")
            errors += differences
            if bare is not None:
                count, differences = compare.runs(folder / "bare", folder / "shim")
                result["arrays"] += count
                if differences and not errors and self._unstable(program):
                    return dict(result, result="unstable", text="two bare runs differ on this card: no verdict")
                errors += differences
            if not result["arrays"]:
                errors.append("nothing was compared")
        else:
            errors.insert(0, outcome.text)
        if errors:
            result.update(result="fail", text="; ".join(errors))
        return result

    def _unstable(self, program):
        """Whether bare runs differ among themselves, so that a difference under the shim says nothing."""
        again = self._bare(program, "bare-again")
        folder = self._folder / program.name
        return again.status == "done" and bool(compare.runs(folder / "bare", folder / "bare-again")[1])
