"""Compares texts over HTTP: FastAPI, and a network on the GPU. Run it with: python -m uvicorn app:app"""

import spaces
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from torch import nn

app = FastAPI()
# 64 MiB of random weights
embedding = nn.EmbeddingBag(256, 65536, mode="mean").to("cuda").eval()


class Texts(BaseModel):
    texts: list[str]


@app.exception_handler(RuntimeError)
async def no_gpu(request: Request, error: RuntimeError):
    """No GPU was free in time, or the call took too long: the message says which."""
    return JSONResponse({"error": str(error)}, status_code=503)


@torch.inference_mode()
def vector(text):
    return embedding(torch.tensor([list(text.encode())]).to("cuda"))[0, :8].cpu().tolist()


@app.post("/vectors")
@spaces.GPU(duration=10)
def vectors(wanted: Texts):
    return {"vectors": [vector(text) for text in wanted.texts]}


@spaces.GPU(duration=10)
async def one_by_one(texts):
    for text in texts:
        yield f"{vector(text)}\n"


@app.post("/stream")
def stream(wanted: Texts):
    return StreamingResponse(one_by_one(wanted.texts), media_type="text/plain")
