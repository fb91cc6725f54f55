"""Which card scripts/demo takes, by what nvidia-smi says: a fake one, put first on PATH."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from demo import card, stage  # noqa: E402  (found by the path set above)

A100 = "GPU-a, NVIDIA A100-SXM4-40GB, 8.0, 550.54.15, 40960, 3"
H100 = "GPU-h, NVIDIA H100 80GB HBM3, 9.0, 535.104.05, 81559, 7"
H200 = "GPU-i, NVIDIA H200, 9.0, 580.159.04, 143771, 0"
T4 = "GPU-t, Tesla T4, 7.5, 550.54.15, 15360, 2"
L4 = "GPU-l, NVIDIA L4, 8.9, 550.54.15, 23034, 2"
OLD = "GPU-o, NVIDIA A100-PCIE-40GB, 8.0, 525.147.05, 40960, 3"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Makes an nvidia-smi that lists these GPUs, or one of them by --id=UUID, and keeps how it was called."""

    def make(*lines, code=0):
        (tmp_path / "gpus").write_text("".join(f"{line}\n" for line in lines))
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"""#!/bin/sh
echo "$@" >>{tmp_path}/calls
case $1 in
    --id=*) grep "^${{1#--id=}}," {tmp_path}/gpus ;;
    *) cat {tmp_path}/gpus ;;
esac
exit {code}
"""
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "calls"

    return make


def found(tmp_path):
    return card.find("zerogpu", tmp_path)


def test_a_gpu_that_fits_is_taken(smi, tmp_path):
    calls = smi(H100)
    taken = found(tmp_path)
    assert isinstance(taken, card.Nvidia) and taken.driver == "auto"
    assert (taken.name, taken.total, taken.used()) == ("NVIDIA H100 80GB HBM3", 81559 << 20, 7 << 20)
    assert taken.told == "The apps share NVIDIA H100 80GB HBM3."
    wanted = "--query-gpu=uuid,name,compute_cap,driver_version,memory.total,memory.used --format=csv,noheader,nounits"
    assert calls.read_text().splitlines() == [wanted, f"--id=GPU-h {wanted}"]


@pytest.mark.parametrize(
    "line, why",
    [
        (T4, "Tesla T4 has compute capability 7.5, and zerogpu needs 8.0 or 9.0"),
        # the right generation, and another architecture all the same
        (L4, "NVIDIA L4 has compute capability 8.9, and zerogpu needs 8.0 or 9.0"),
        (OLD, "NVIDIA A100-PCIE-40GB has NVIDIA's driver 525.147.05, and zerogpu needs 535 or newer"),
        (A100.replace("550.54.15", "[N/A]"), "NVIDIA A100-SXM4-40GB has NVIDIA's driver [N/A], and zerogpu needs 535 or newer"),
        (A100.replace(", 3", ", [N/A]"), "nvidia-smi does not say how much memory of NVIDIA A100-SXM4-40GB is in use"),
    ],
)
def test_a_gpu_that_does_not_fit_is_named_and_left_alone(smi, tmp_path, line, why):
    smi(line)
    taken = found(tmp_path)
    assert isinstance(taken, card.Software) and taken.driver == "soft" and taken.broker_environment == {}
    assert taken.told.startswith(f"{why}, so the apps share a software card."), taken.told


FAILURE = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


@pytest.mark.parametrize(
    "lines, code, why",
    [
        ([], 0, "nvidia-smi"),
        (["No devices were found"], 0, "nvidia-smi"),
        ([FAILURE, "Make sure that it runs."], 9, f"nvidia-smi ended with 9: {FAILURE}"),
        ([], 9, "nvidia-smi ended with 9: it says nothing"),
    ],
)
def test_no_gpu(smi, tmp_path, lines, code, why):
    smi(*lines, code=code)
    taken = found(tmp_path)
    assert isinstance(taken, card.Software) and taken.told.startswith(f"No NVIDIA GPU answers here ({why}), so")


def test_no_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(tmp_path).told.startswith("No NVIDIA GPU answers here (nvidia-smi: No such file or directory), so")


def test_a_gpu_that_is_gone_ends_the_demo_with_a_sentence(smi, tmp_path):
    smi(H100)
    taken = found(tmp_path)
    for lines, code, why in [
        ([H100.replace(", 7", ", [N/A]")], 0, "nvidia-smi no longer says how much memory of NVIDIA H100 80GB HBM3 is in use"),
        ([], 0, "nvidia-smi no longer says"),
        ([], 15, "NVIDIA H100 80GB HBM3 can't be looked at any more: nvidia-smi ended with 15: it says nothing"),
    ]:
        smi(*lines, code=code)
        with pytest.raises(stage.Failed, match=f"^{why}"):
            taken.used()


def test_of_several_the_first_that_fits_is_taken_and_lent_alone(smi, tmp_path, monkeypatch):
    smi(T4, A100, H100)
    taken = found(tmp_path)
    assert taken.name == "NVIDIA A100-SXM4-40GB" and taken.used() == 3 << 20
    # the broker sees that one alone; the apps see all, whatever the caller has set: the broker tells them which
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen = environments(taken, tmp_path, monkeypatch)
    assert seen["broker"]["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert "CUDA_VISIBLE_DEVICES" not in seen["text-1"]


@pytest.mark.parametrize("gpu, profile", [(A100, "a100-40gb"), (H100, "h100-80gb"), (H200, "h200")])
def test_the_apps_are_shown_the_card_that_is_taken_whatever_comes_first(smi, tmp_path, monkeypatch, gpu, profile):
    smi(T4, gpu)
    monkeypatch.setenv("ZEROGPU_PROFILE", "a100-mig-3g.40gb")
    seen = environments(found(tmp_path), tmp_path, monkeypatch)
    assert seen["text-1"]["ZEROGPU_PROFILE"] == profile


def test_a_software_card_is_lent_and_seen(tmp_path, monkeypatch):
    taken = card.Software(sys.executable, tmp_path / "cards")
    monkeypatch.setattr(taken, "used", lambda: 0)
    for values in environments(taken, tmp_path, monkeypatch).values():
        assert values["SOFTCUDA_CARDS"] == str(tmp_path / "cards") and "CUDA_VISIBLE_DEVICES" not in values


def environments(taken, folder, monkeypatch):
    """What the stage starts the broker and an app with: a command in place of zerogpu writes it down."""
    command = folder / "zerogpu"
    command.write_text('#!/bin/sh\n[ $1 = status ] && echo "[1]" || { env; echo END=; sleep 60; }\n')
    command.chmod(0o755)
    monkeypatch.setattr(stage, "COMMAND", command)

    def environment(name):
        text = (folder / f"{name}.log").read_text()
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    written = lambda url: all("END" in environment(name) for name in ("broker", "text-1"))  # noqa: E731
    monkeypatch.setattr(stage, "answers", written)
    with stage.Stage(taken, folder, sys.executable, [1], False) as made:
        made.start()
        return {name: environment(name) for name in ("broker", "text-1")}


def test_a_name_with_commas_is_one():
    assert card.parsed("GPU-x, A card, of a kind, 8.0, 550.1, 1, 0").name == "A card, of a kind"
