"""What scripts/demo starts is ended, whatever comes in between."""

import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from demo import stage  # noqa: E402  (found by the path set above)


def test_what_starts_as_a_signal_comes_is_ended(tmp_path, monkeypatch):
    # whoever runs the tests may ignore it, as a shell does for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = []
    popen = subprocess.Popen

    def interrupted(*arguments, **how):
        begun.append(popen(*arguments, **how))
        os.kill(os.getpid(), signal.SIGINT)
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            with stage.Stage(types.SimpleNamespace(environment={}), tmp_path, sys.executable, [1], False) as apps:
                apps.started(["sleep", "600"], "sleeper")
        assert begun[0].poll() == -signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "it is as before"
    finally:
        begun[0].kill()
        begun[0].wait()
