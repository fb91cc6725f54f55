"""Models of transformers and diffusers, made from a configuration: whole after parks, tied weights still tied."""

import copy
import threading

import checks
import diffusers
import shim
import spaces
import torch
import transformers
from checks import check

PARKS = 5

torch.manual_seed(0)
gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=1000)).eval()
unet = diffusers.UNet2DConditionModel(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=8,
    norm_num_groups=8,
).eval()
originals = {model: copy.deepcopy(model.state_dict()) for model in (gpt2, unet)}
gpt2.to("cuda")
unet.to("cuda", torch.float32)


@spaces.GPU
@torch.no_grad()
def score(tokens):
    result = gpt2(input_ids=tokens.to("cuda")).logits
    torch.cuda.synchronize()
    return result.shape, shim.on_card()


@spaces.GPU
@torch.no_grad()
def denoise(image, text):
    result = unet(image.to("cuda"), torch.tensor([7]).to("cuda"), encoder_hidden_states=text.to("cuda")).sample
    torch.cuda.synchronize()
    return result.shape, shim.on_card()


def same_weights(model):
    state = model.state_dict()
    assert state.keys() == originals[model].keys()
    for name, tensor in state.items():
        assert tensor.is_cuda and torch.equal(tensor.cpu(), originals[model][name]), name


@check
def loading_needs_no_gpu():
    state = shim.state()
    assert state["claims"] == 0, state
    same_weights(gpt2)
    same_weights(unet)


@check
def gpt2_is_whole_after_parks():
    address = gpt2.transformer.wte.weight.data_ptr()
    for _ in range(PARKS):
        shape, (used, contexts) = score(torch.randint(0, 1000, (2, 16)))
        assert shape == (2, 16, 1000) and used > 0 and contexts == 1
        shim.require_empty()
        same_weights(gpt2)
    assert gpt2.lm_head.weight.data_ptr() == gpt2.transformer.wte.weight.data_ptr() == address


@check
def text_is_generated_outside_of_marked_calls():
    """As at module scope, and from any thread: each step reads back, so a GPU is borrowed, and given back."""
    before = shim.state()["borrows"]
    steps = []

    class Enough(Exception):
        pass

    def count(tokens, scores, **more):
        # the kernels of a software card do nothing, so generate itself never finds the end
        steps.append(tokens.shape[1])
        if steps.count(6):
            raise Enough
        return torch.zeros(1, dtype=torch.bool).to("cuda")

    def generate():
        steps.clear()
        prompt = torch.tensor([[1, 2, 3]]).to("cuda")
        try:
            gpt2.generate(prompt, max_new_tokens=3, pad_token_id=0, stopping_criteria=[count])
        except Enough:
            pass
        assert steps and steps == list(range(4, 4 + len(steps))), steps
        results.append(len(steps))

    results = []
    generate()
    thread = threading.Thread(target=generate)
    thread.start()
    thread.join()
    assert len(results) == 2, results
    checks.until(shim.parked, "the borrowed GPU is given back")
    shim.require_empty()
    assert shim.state()["borrows"] > before
    same_weights(gpt2)


@check
def a_unet_is_whole_after_parks():
    for _ in range(PARKS):
        shape, (used, contexts) = denoise(torch.randn(1, 4, 16, 16), torch.randn(1, 8, 32))
        assert shape == (1, 4, 16, 16) and used > 0 and contexts == 1
        shim.require_empty()
        same_weights(unet)


@check
def tied_weights_and_views_share_their_memory():
    view = gpt2.transformer.wte.weight[10:20]
    with torch.no_grad():
        gpt2.lm_head.weight[15].copy_(torch.full((64,), 2.5))
    score(torch.randint(0, 1000, (1, 4)))
    assert (view.cpu()[5] == 2.5).all()
    assert view.data_ptr() == gpt2.lm_head.weight[10:].data_ptr()


checks.main()
