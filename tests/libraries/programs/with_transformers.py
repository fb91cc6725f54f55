"""transformers: models, half precision, safetensors files, a pipeline, a cache of keys, its Trainer."""

import os

import checks
import kept
import launches
import safetensors.torch
import shim
import tokenizers
import torch
import transformers
from checks import check

FOLDER = os.environ["CHECKS_FOLDER"]
GEMM = "gemm|gemv|cutlass"
WORDS = 500

torch.manual_seed(0)


def small(kind, **more):
    return kind(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=WORDS, **more)


CONFIGURATIONS = {
    transformers.BertModel: small(transformers.BertConfig),
    transformers.LlamaForCausalLM: small(transformers.LlamaConfig, num_key_value_heads=2),
    transformers.T5EncoderModel: transformers.T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=WORDS),
    transformers.ViTModel: small(transformers.ViTConfig, image_size=32, patch_size=8),
}


def saved(kind):
    """A model's folder, as save_pretrained writes it, and its tensors."""
    folder = os.path.join(FOLDER, kind.__name__)
    model = kind(CONFIGURATIONS[kind])
    model.save_pretrained(folder)
    return folder, kept.host_state(model)


def inputs(kind):
    if kind is transformers.ViTModel:
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    return {"input_ids": torch.randint(0, WORDS, (2, 12))}


@torch.no_grad()
def answer(model, **arguments):
    return model(**{name: tensor.to("cuda") for name, tensor in arguments.items()})


@check
def models_of_four_kinds_are_loaded_and_whole_after_parks():
    for kind in CONFIGURATIONS:
        folder, originals = saved(kind)
        before = kept.claims()
        model = kind.from_pretrained(folder, device_map="cuda").eval()
        whole = kept.Kept(model, originals)
        assert kept.claims() == before, "loading a model needs no GPU"
        for _ in range(3):
            result = launches.of(lambda: answer(model, **inputs(kind)), GEMM)
            assert result[0].shape[0] == 2 and result[0].is_cuda
            whole.require()


@check
def half_precision_straight_from_a_file():
    folder, originals = saved(transformers.LlamaForCausalLM)
    for dtype in (torch.float16, torch.bfloat16):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, device_map="cuda").eval()
        whole = kept.Kept(model, {name: tensor.to(dtype) for name, tensor in originals.items()})
        for _ in range(2):
            launches.of(lambda: answer(model, **inputs(type(model))), GEMM)
            whole.require()


@check
def a_model_is_saved_from_the_device():
    folder, originals = saved(transformers.BertModel)
    model = transformers.BertModel.from_pretrained(folder, device_map="cuda").eval()
    launches.of(lambda: answer(model, **inputs(type(model))), GEMM)
    before = shim.state()
    model.save_pretrained(folder + "-again", safe_serialization=True)
    kept.require_same(safetensors.torch.load_file(folder + "-again/model.safetensors"), originals)
    there = safetensors.torch.load_file(folder + "-again/model.safetensors", device="cuda")
    assert all(tensor.is_cuda for tensor in there.values())
    kept.require_same(there, originals)
    after = shim.state()
    assert (after["claims"], after["borrows"]) == (before["claims"], before["borrows"])


@check
def a_pipeline_answers():
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "gpu", "only", "while", "it", "computes"])}
    words_of = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    words_of.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words_of, unk_token="[UNK]", pad_token="[PAD]")
    model = transformers.BertForSequenceClassification(small(transformers.BertConfig, num_labels=3)).eval()
    originals = kept.host_state(model)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=0)
    assert pipeline.device == torch.device("cuda", 0)
    whole = kept.Kept(model, originals)
    for _ in range(2):
        answers = launches.of(lambda: pipeline(["a gpu only while it computes", "unknown words"], batch_size=2), GEMM)
        assert [sorted(one) for one in answers] == [["label", "score"]] * 2
        whole.require()


@check
def a_cache_of_keys_outlives_parks():
    folder, originals = saved(transformers.LlamaForCausalLM)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cuda").eval()
    whole = kept.Kept(model, originals)
    cache = transformers.DynamicCache()

    def tensors():
        return cache.key_cache + cache.value_cache

    def step(count):
        answer_now = model(input_ids=torch.randint(0, WORDS, (1, count)).to("cuda"), past_key_values=cache, use_cache=True)
        assert answer_now.past_key_values is cache
        return [tensor.cpu() for tensor in tensors()]

    for length, count in ((6, 6), (7, 1), (8, 1)):
        with torch.no_grad():
            inside = launches.of(lambda: step(count), GEMM)
        assert cache.get_seq_length() == length
        addresses = [tensor.data_ptr() for tensor in tensors()]
        kept.require_same(dict(enumerate(tensors())), dict(enumerate(inside)))
        # a call of something else, meanwhile
        launches.of(lambda: answer(model, **inputs(type(model))), GEMM)
        assert [tensor.data_ptr() for tensor in tensors()] == addresses
        kept.require_same(dict(enumerate(tensors())), dict(enumerate(inside)))
    whole.require()


@check
def its_trainer_starts():
    model = transformers.BertForSequenceClassification(small(transformers.BertConfig))
    rows = [{"input_ids": torch.randint(0, WORDS, (8,)), "labels": torch.tensor(number % 2)} for number in range(8)]
    arguments = transformers.TrainingArguments(
        os.path.join(FOLDER, "trainer"), max_steps=2, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True
    )
    assert arguments.device == torch.device("cuda", 0)
    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    ended = launches.of(trainer.train, "[Aa]dam|multi_tensor")
    assert ended.global_step == 2 and all(parameter.is_cuda for parameter in model.parameters())


checks.main()
