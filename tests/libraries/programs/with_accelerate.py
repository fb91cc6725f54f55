"""accelerate: device maps, offload to host and disk, and a training step by its Accelerator."""

import os

import accelerate
import checks
import kept
import launches
import safetensors.torch
import torch
import transformers
from checks import check

FOLDER = os.environ["CHECKS_FOLDER"]
GEMM = "gemm|gemv|cutlass"
WORDS = 500

torch.manual_seed(0)
CONFIGURATION = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=WORDS
)
made = transformers.LlamaForCausalLM(CONFIGURATION).eval()
ORIGINALS = kept.host_state(made)
CHECKPOINT = os.path.join(FOLDER, "model.safetensors")
safetensors.torch.save_file(made.state_dict(), CHECKPOINT)
del made


def model():
    """A model without weights: whatever it gets, it gets from the file."""
    with accelerate.init_empty_weights():
        return transformers.LlamaForCausalLM(CONFIGURATION).eval()


# how many linear layers it has
LINEAR = 4 * 7 + 1


@torch.no_grad()
def answer(model):
    result = model(input_ids=torch.randint(0, WORDS, (2, 12)).to("cuda")).logits
    assert result.shape == (2, 12, WORDS)


@check
def a_device_map_of_one_device():
    for device_map in ("cuda", {"": 0}, "auto", "sequential"):
        before = kept.claims()
        if device_map == "cuda":
            device_map = {"": "cuda"}
        there = accelerate.load_checkpoint_and_dispatch(model(), CHECKPOINT, device_map=device_map)
        whole = kept.Kept(there, ORIGINALS)
        assert kept.claims() == before, "loading a model needs no GPU"
        for _ in range(2):
            launches.of(lambda: answer(there), GEMM)
            whole.require()


@check
def a_model_that_lies_on_device_host_and_disk():
    places = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": "disk"}
    places.update({"model.layers.3": "cpu", "model.norm": 0, "model.rotary_emb": 0, "lm_head": 0})
    there = model()
    seen = kept.watched(there, ORIGINALS)
    accelerate.load_checkpoint_and_dispatch(
        there, CHECKPOINT, device_map=places, offload_folder=os.path.join(FOLDER, "offloaded")
    )
    for _ in range(3):
        seen.clear()
        launches.of(lambda: answer(there), GEMM)
        assert len(seen) == LINEAR
        state = there.state_dict()
        kinds = {name: tensor.device.type for name, tensor in state.items()}
        assert kinds["model.layers.0.mlp.up_proj.weight"] == "cuda" and kinds["model.layers.2.mlp.up_proj.weight"] == "meta"
        kept.require_same(
            {name: tensor for name, tensor in state.items() if kinds[name] == "cuda"},
            {name: tensor for name, tensor in ORIGINALS.items() if kinds[name] == "cuda"},
        )


@check
def memory_that_is_too_small_for_the_model():
    """The map follows what the device is said to have."""
    room = sum(tensor.nbytes for tensor in ORIGINALS.values()) // 2
    places = accelerate.infer_auto_device_map(
        model(), max_memory={0: room, "cpu": "1GiB"}, no_split_module_classes=["LlamaDecoderLayer"]
    )
    assert 0 in places.values() and "cpu" in places.values(), places
    free = accelerate.utils.get_max_memory()[0]
    assert 0 < free <= torch.cuda.mem_get_info()[1]


@check
def everything_is_offloaded():
    weights = sum(tensor.nbytes for tensor in ORIGINALS.values())
    for offload in (accelerate.cpu_offload, accelerate.disk_offload):
        there = accelerate.load_checkpoint_and_dispatch(model(), CHECKPOINT, device_map={"": "cpu"})
        seen = kept.watched(there, ORIGINALS)
        folder = {"offload_dir": os.path.join(FOLDER, "all")} if offload is accelerate.disk_offload else {}
        offload(there, execution_device=torch.device("cuda"), **folder)
        before = torch.cuda.memory_allocated()
        for _ in range(2):
            seen.clear()
            launches.of(lambda: answer(there), GEMM)
            assert len(seen) == LINEAR
        assert torch.cuda.memory_allocated() - before < weights // 2


@check
def models_that_take_turns():
    """cpu_offload_with_hook: each brings itself to the device and sends the one before home."""
    models = [accelerate.load_checkpoint_and_dispatch(model(), CHECKPOINT, device_map={"": "cpu"}) for _ in range(2)]
    for there in models:
        accelerate.hooks.remove_hook_from_module(there, recurse=True)
    first, first_hook = accelerate.cpu_offload_with_hook(models[0], torch.device("cuda"))
    second, second_hook = accelerate.cpu_offload_with_hook(models[1], torch.device("cuda"), prev_module_hook=first_hook)
    for _ in range(2):
        launches.of(lambda: answer(first), GEMM)
        kept.Kept(first, ORIGINALS)
        launches.of(lambda: answer(second), GEMM)
        kept.Kept(second, ORIGINALS)
        assert not any(parameter.is_cuda for parameter in first.parameters())
        kept.require_same(first.state_dict(), ORIGINALS)
        second_hook.offload()
        kept.require_same(second.state_dict(), ORIGINALS)


@check
def an_accelerator_trains():
    for precision in ("no", "fp16", "bf16"):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(mixed_precision=precision)
        assert accelerator.device.type == "cuda"
        layers = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 4))
        rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 32)), batch_size=4)
        layers, optimizer, rows = accelerator.prepare(layers, torch.optim.AdamW(layers.parameters()), rows)

        def epoch():
            for (row,) in rows:
                assert row.is_cuda
                accelerator.backward(layers(row).float().square().mean())
                optimizer.step()
                optimizer.zero_grad()

        for _ in range(2):
            # with fp16 the step depends on a value: whether a gradient is finite
            launches.of(epoch, GEMM if precision == "fp16" else "[Aa]dam|multi_tensor")
        assert all(parameter.is_cuda for parameter in layers.parameters())


checks.main()
