"""Paints a picture from some words: a Gradio app with progress, a time limit that the visitor chooses, and errors."""

import zlib

import gradio as gr
import numpy as np
import spaces
import torch
from torch import nn

SIZE, BANDS, THEME = 384, 16, 8
# From a place in the picture and a theme to a colour. The weights are random: each theme is an abstract painting.
layers = [nn.Linear(3 + THEME, 1024), nn.Tanh()]
for _ in range(8):
    layers += [nn.Linear(1024, 1024), nn.Tanh()]
network = nn.Sequential(*layers, nn.Linear(1024, 3), nn.Sigmoid())
for weight in network.parameters():
    nn.init.normal_(weight, std=0.05 if weight.shape[-1] == 1024 else 1.0)
network = network.to("cuda").eval()

rows, columns = torch.meshgrid(torch.linspace(-2, 2, SIZE), torch.linspace(-2, 2, SIZE), indexing="ij")
places = torch.stack([rows, columns, (rows**2 + columns**2).sqrt()], -1).to("cuda")


def asked_for(words, seconds, progress):
    """How long the GPU is wanted: told from the call's own arguments, of which Gradio adds the last."""
    return seconds


@spaces.GPU(duration=asked_for)
@torch.inference_mode()
def paint(words, seconds, progress=gr.Progress()):
    if not words.strip():
        raise gr.Error("Say what the picture is about")
    theme = torch.randn(THEME, generator=torch.Generator().manual_seed(zlib.crc32(words.encode()))).to("cuda")
    picture = []
    for band in progress.tqdm(places.split(SIZE // BANDS), desc="Painting"):
        colours = network(torch.cat([band, theme.expand(*band.shape[:2], -1)], -1))
        picture.append((colours * 255).to(torch.uint8).cpu().numpy())
    return np.concatenate(picture)


with gr.Blocks(title="Picture", theme=gr.themes.Default(font="sans-serif", font_mono="monospace")) as page:
    gr.Markdown("# Picture\nAn abstract painting for any words, by a network of random weights.")
    words = gr.Textbox(label="Words", value="autumn in the mountains")
    seconds = gr.Slider(1, 60, value=20, step=1, label="Seconds of GPU, at most")
    button = gr.Button("Paint", variant="primary")
    picture = gr.Image(label="Picture")
    button.click(paint, [words, seconds], picture, api_name="paint")

if __name__ == "__main__":
    page.launch()
