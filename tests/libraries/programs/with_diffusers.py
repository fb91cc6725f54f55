"""diffusers: a whole pipeline on the device, saved and loaded, and its two kinds of offload to the host."""

import json
import os

import checks
import diffusers
import kept
import launches
import torch
import transformers
from checks import check

FOLDER = os.environ["CHECKS_FOLDER"]
CONVOLUTION = "conv|cudnn|fprop|xmma"
PARTS = ("unet", "vae", "text_encoder")

torch.manual_seed(0)


class HostSteps(diffusers.DDIMScheduler):
    """DDIM whose time steps stay on the host: it looks them up by what it has computed from them."""

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps)


def tokenizer():
    """CLIP's tokenizer, of a vocabulary of single letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    with open(os.path.join(FOLDER, "vocab.json"), "w") as file:
        json.dump({word: number for number, word in enumerate(words)}, file)
    with open(os.path.join(FOLDER, "merges.txt"), "w") as file:
        file.write("#version: 0.2\n")
    return transformers.CLIPTokenizer(file.name.replace("merges.txt", "vocab.json"), file.name, model_max_length=16)


def pipeline():
    """A Stable Diffusion of the smallest size, with random weights."""
    text = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=60, max_position_embeddings=16
    )
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32, 32), norm_num_groups=8, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer(),
        unet=diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        ),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


made = pipeline()
made.save_pretrained(os.path.join(FOLDER, "pipeline"))
ORIGINALS = {part: kept.host_state(getattr(made, part)) for part in PARTS}


def loaded():
    """The pipeline, from its files."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(os.path.join(FOLDER, "pipeline"))
    pipe.scheduler = HostSteps()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe):
    result = pipe("a b c", height=32, width=32, num_inference_steps=2, output_type="pt").images
    assert result.shape == (1, 3, 32, 32)
    return result


def watched(pipe):
    """The layers of each part that computed (kept.watched)."""
    return {part: kept.watched(getattr(pipe, part), ORIGINALS[part]) for part in PARTS}


@check
def a_pipeline_on_the_device_is_whole_after_parks():
    before = kept.claims()
    pipe = loaded().to("cuda")
    whole = [kept.Kept(getattr(pipe, part), ORIGINALS[part]) for part in PARTS]
    assert kept.claims() == before, "loading a pipeline needs no GPU"
    for _ in range(2):
        assert launches.of(lambda: image(pipe), CONVOLUTION).is_cuda
        for part in whole:
            part.require()


@check
def a_pipeline_goes_home_and_back():
    pipe = loaded().to("cuda")
    launches.of(lambda: image(pipe), CONVOLUTION)
    pipe.to("cpu")
    for part in PARTS:
        assert not any(tensor.is_cuda for tensor in getattr(pipe, part).state_dict().values())
        kept.require_same(getattr(pipe, part).state_dict(), ORIGINALS[part])
    assert launches.of(lambda: image(pipe.to("cuda")), CONVOLUTION).is_cuda


@check
def whole_models_are_offloaded_to_the_host():
    pipe = loaded()
    computed = watched(pipe)
    pipe.enable_model_cpu_offload()
    for _ in range(2):
        for layers in computed.values():
            layers.clear()
        launches.of(lambda: image(pipe), CONVOLUTION)
        assert all(computed.values())
        for part in PARTS:
            state = getattr(pipe, part).state_dict()
            assert not any(tensor.is_cuda for tensor in state.values())
            kept.require_same(state, ORIGINALS[part])


@check
def layers_are_offloaded_one_by_one():
    pipe = loaded()
    computed = watched(pipe)
    pipe.enable_sequential_cpu_offload()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        for layers in computed.values():
            layers.clear()
        launches.of(lambda: image(pipe), CONVOLUTION)
        assert all(computed.values())
        assert all(parameter.is_meta for parameter in pipe.unet.parameters())
    weights = sum(tensor.nbytes for part in PARTS for tensor in ORIGINALS[part].values())
    assert torch.cuda.memory_allocated() - before < weights // 2, "the layers stayed on the device"


checks.main()
