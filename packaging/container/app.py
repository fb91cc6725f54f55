"""A small Space: a model on the device, and an answer for each POST of a list of 1024 numbers as JSON."""

import http.server
import json

import spaces
import torch

model = torch.nn.Linear(1024, 4).to("cuda")


@spaces.GPU(duration=10)
def answer(numbers):
    with torch.no_grad():
        return model(torch.tensor(numbers, dtype=torch.float32).to("cuda")).tolist()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        numbers = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(answer(numbers)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


http.server.ThreadingHTTPServer(("", 7860), Handler).serve_forever()
