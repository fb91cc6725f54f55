"""peft: LoRA adapters on a model on the device: added, trained, saved, loaded, switched, merged."""

import os

import checks
import kept
import launches
import peft
import shim
import torch
import transformers
from checks import check

FOLDER = os.environ["CHECKS_FOLDER"]
GEMM = "gemm|gemv|cutlass"
WORDS = 500

torch.manual_seed(0)
base = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=WORDS)).eval()
ORIGINALS = kept.host_state(base)
base.to("cuda")
whole = kept.Kept(base, ORIGINALS)
addresses = {tensor.data_ptr() for tensor in base.parameters()}
model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights="gaussian"))


def tokens():
    return torch.randint(0, WORDS, (2, 12)).to("cuda")


def adapter(name):
    """An adapter's tensors, on the host."""
    return {key: tensor.cpu() for key, tensor in peft.get_peft_model_state_dict(model, adapter_name=name).items()}


def require_whole_base():
    """The base weights, under the names that they had before there were adapters."""
    names = {tensor.data_ptr(): name for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert addresses <= names.keys()
    state = {name.replace("base_model.model.", "").replace(".base_layer", ""): t for name, t in model.state_dict().items()}
    kept.require_same({name: tensor for name, tensor in state.items() if "lora_" not in name}, ORIGINALS)


@check
def an_adapter_is_added():
    assert all(parameter.is_cuda for parameter in model.parameters())
    require_whole_base()
    with torch.no_grad():
        for _ in range(2):
            assert launches.of(lambda: model(input_ids=tokens()).logits, GEMM).shape == (2, 12, WORDS)
            require_whole_base()


@check
def only_the_adapter_is_trained():
    """The optimizer's kernels get the adapter's addresses; the base has no gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 4 and not addresses & {parameter.data_ptr() for parameter in trained}
    optimizer = torch.optim.AdamW(trained)
    model.train()
    launches.of(lambda: model(input_ids=tokens()).logits.float().mean().backward(), GEMM)
    _, made = launches.during(optimizer.step, "[Aa]dam|multi_tensor")
    model.eval()
    seen = b"".join(bytes.fromhex(launch["params"]) for launch in made)
    assert all(parameter.data_ptr().to_bytes(8, "little") in seen for parameter in trained)
    assert all(parameter.grad.is_cuda for parameter in trained)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    require_whole_base()


@check
def an_adapter_is_saved_and_loaded():
    before, before_claims = adapter("default"), kept.claims()
    model.save_pretrained(os.path.join(FOLDER, "adapter"))
    model.load_adapter(os.path.join(FOLDER, "adapter"), adapter_name="again")
    kept.require_same(adapter("again"), before)
    assert kept.claims() == before_claims, "files need no GPU"
    for name in ("again", "default"):
        model.set_adapter(name)
        assert model.active_adapter == name
        with torch.no_grad():
            launches.of(lambda: model(input_ids=tokens()), GEMM)
        kept.require_same(adapter("again"), before)
        kept.require_same(adapter("default"), before)
    require_whole_base()


@check
def an_adapter_is_switched_off():
    with torch.no_grad(), model.disable_adapter():
        _, without = launches.during(lambda: model(input_ids=tokens()), GEMM)
    with torch.no_grad():
        _, with_adapter = launches.during(lambda: model(input_ids=tokens()), GEMM)
    assert len(without) < len(with_adapter)


@check
def an_adapter_is_merged_and_taken_out_again():
    """Merging is arithmetic: here it is launched, at the addresses of the base."""
    before = adapter("default")
    _, made = launches.during(lambda: model.merge_adapter(["default"]), GEMM)
    seen = b"".join(bytes.fromhex(launch["params"]) for launch in made)
    merged = [layer.base_layer.weight for layer in model.modules() if isinstance(layer, peft.tuners.lora.LoraLayer)]
    assert len(merged) == 2 and all(weight.data_ptr().to_bytes(8, "little") in seen for weight in merged)
    kept.require_same(adapter("default"), before)
    model.unmerge_adapter()
    checks.until(shim.parked, "parked")
    kept.require_same(adapter("default"), before)
    untouched = {name: tensor for name, tensor in base.state_dict().items() if "c_attn.base_layer.weight" not in name and "lora_" not in name}
    untouched = {name.replace(".base_layer", ""): tensor for name, tensor in untouched.items()}
    kept.require_same(untouched, {name: ORIGINALS[name] for name in untouched})


@check
def what_is_merged_is_a_plain_model():
    plain = launches.of(lambda: model.merge_and_unload(adapter_names=["default"]), GEMM)
    assert isinstance(plain, transformers.GPT2LMHeadModel) and plain.state_dict().keys() == ORIGINALS.keys()
    assert {tensor.data_ptr() for tensor in plain.parameters()} == addresses


checks.main()
