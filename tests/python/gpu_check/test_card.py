"""Looking at cards from outside, and what follows from what is seen."""

import json
import os
import subprocess
import sys

import pytest
from gpu_check import card, launch

MIB = 1 << 20

NVML = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = (void *)(0x7fff00000000 + index); return 0; }
int nvmlDeviceGetName(void *card, char *text, unsigned size) { strncpy(text, "Test card", size); return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.1", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *card, memory *m)
{
    m->total = 85899345920; m->used = 5000000000 + (long)card % 2; m->free = m->total - m->used; return 0;
}
"""


def _nvml(compiled, tmp_path, source):
    compiled(source, tmp_path / "libnvidia-ml.so.1")
    script = "from gpu_check import card; v = card.Nvml(); print(v.names, v.driver, v.look())"
    values = dict(os.environ, LD_LIBRARY_PATH=str(tmp_path), PYTHONPATH=str(launch.HERE.parent))
    done = subprocess.run([sys.executable, "-c", script], env=values, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout.decode() + done.stderr.decode()


def test_nvml_is_read(compiled, tmp_path):
    assert (
        _nvml(compiled, tmp_path, NVML) == "['Test card', 'Test card'] 580.1 ({0: 5000000000, 1: 5000000001}, None)\n"
    )


def test_an_error_of_nvml_is_told(compiled, tmp_path):
    broken = NVML.replace("nvmlInit_v2(void) { return 0; }", "nvmlInit_v2(void) { return 9; }")
    assert "NoCard: nvmlInit_v2 of NVIDIA's management library answers 9" in _nvml(compiled, tmp_path, broken)


def test_soft_cards_are_read(tmp_path):
    cards = {"cards": [{"index": 0, "name": "soft", "bytes_used": 7, "contexts": 1, "processes": []}]}
    command = tmp_path / "zerogpu"
    command.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'soft-smi --json' ] && [ $SOFTCUDA_CARDS = file ] && echo '{json.dumps(cards)}'\n"
    )
    command.chmod(0o700)
    view = card.Soft(str(command), "file")
    assert view.names == ["soft"] and view.look() == ({0: 7}, 1)


class Scene(card.View):
    """A card on which the given looks are seen one after the other, the last one for ever."""

    CLAIMED_BYTES = 64 * MIB

    def __init__(self, before, *looks):
        self._looks = [before, before, *looks]

    def look(self):
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


def _parked(bound_by=()):
    state = {"bound_by": list(bound_by), "claims": 1, "last_claim_ms": 2.0, "last_park_ms": 3.0}
    return {"event": "parked", "step": 1, "state": state}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(card.Observer, "WITHIN", 0.1)


def test_a_clean_park():
    observer = card.Observer(Scene(({0: 100 * MIB}, None), ({0: 108 * MIB}, None)))
    observer.answer(_parked())
    assert observer.errors == []
    assert observer.parks == [
        {
            "step": 1,
            "bytes": 8 * MIB,
            "contexts": None,
            "bound_by": [],
            "claims": 1,
            "last_claim_ms": 2.0,
            "last_park_ms": 3.0,
        }
    ]


def test_a_park_that_takes_a_moment():
    observer = card.Observer(Scene(({0: 0}, 0), ({0: 500 * MIB}, 1), ({0: 0}, 0)))
    observer.answer(_parked())
    assert observer.errors == [] and observer.parks[0]["bytes"] == 0


@pytest.mark.parametrize("look", [({0: 8 * MIB + 1}, None), ({0: 0}, 1), ({0: 0, 1: 9 * MIB}, None)])
def test_something_left_on_a_card(look):
    observer = card.Observer(Scene(({0: 0, 1: 0}, 0), look))
    observer.answer(_parked())
    assert len(observer.errors) == 1 and "on the card while parked" in observer.errors[0]


def test_a_bound_process_may_keep_its_context():
    observer = card.Observer(Scene(({0: 0}, 0), ({0: 500 * MIB}, 1)))
    observer.answer(_parked(["a graph"]))
    assert observer.errors == [] and observer.parks[0]["bytes"] == 500 * MIB


@pytest.mark.parametrize(
    "look, seen", [(({0: 600 * MIB}, 1), True), (({0: 5 * MIB}, None), False), (({0: 600 * MIB}, 0), False)]
)
def test_a_claim_must_be_seen(look, seen):
    observer = card.Observer(Scene(({0: 0}, 0), look))
    observer.answer({"event": "claimed"})
    assert observer.claimed_bytes == look[0][0]
    assert (observer.errors == []) == seen
