"""Writes text, word by word: a Gradio app with a GPT-2 on the GPU, and a GPU only while it writes."""

import gradio as gr
import spaces
import torch
from transformers import GPT2Config, GPT2LMHeadModel

# As large as the smallest GPT-2 (475 MiB), with random weights instead of a download: what it writes is babble.
model = GPT2LMHeadModel(GPT2Config()).to("cuda").eval()
LETTERS, VOWELS = "bdfgklmnprstvz", "aeiou"


def syllable(token):
    """A token, as something that can be read aloud; every third ends a word."""
    end = " " if token % 3 == 0 else ""
    return LETTERS[token % len(LETTERS)] + VOWELS[token // 7 % len(VOWELS)] + end


@spaces.GPU(duration=60)
@torch.inference_mode()
def write(prompt, syllables):
    if not prompt:
        raise gr.Error("Begin the text with some words")
    tokens, cache = torch.tensor([list(prompt.encode())]).to("cuda"), None
    text = prompt + " "
    for _ in range(int(syllables)):
        answer = model(tokens, past_key_values=cache, use_cache=True)
        cache, logits = answer.past_key_values, answer.logits[:, -1]
        # one of them, as likely as its probability: Gumbel's trick
        tokens = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1, keepdim=True)
        text += syllable(tokens.item())
        yield text


with gr.Blocks(title="Text", theme=gr.themes.Default(font="sans-serif", font_mono="monospace")) as page:
    gr.Markdown("# Text\nA GPT-2 of random weights. It has a GPU while it writes, and none before and after.")
    prompt = gr.Textbox(label="Begin with", value="Once upon a time")
    syllables = gr.Slider(1, 200, value=24, step=1, label="Syllables")
    button = gr.Button("Write", variant="primary")
    text = gr.Textbox(label="Text", lines=6)
    gr.Examples([["The sea is", 20], ["In the year 3000", 60]], [prompt, syllables])
    button.click(write, [prompt, syllables], text, api_name="write", concurrency_limit=2)

if __name__ == "__main__":
    page.launch()
