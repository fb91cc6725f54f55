"""Programs that serve: many threads at once, and streams of items."""

import concurrent.futures
import threading

from .registry import COPIES, program


@program("threads", soft=COPIES + ", and what each thread copied to the device and back")
def threads(check):
    """Four threads serve calls at once, parked whenever none is inside"""
    torch, nn = check.torch, check.torch.nn
    model = check.load(nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 32)))
    requests = [torch.randn(16, 256) for _ in range(24)]
    call = check.gpu(model)

    def serve(request):
        x = request.to(check.device)
        return x.cpu(), call(x).cpu()

    check.step(model, requests[0].to(check.device))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for request, (copied, answer) in zip(requests, pool.map(serve, requests)):
            check.same(copied, request)
            check.save(answer)
    check.park()


@program("generator")
def generator(check):
    """A generator streams tokens, each step on another thread; another is closed half way"""
    torch, nn = check.torch, check.torch.nn
    embed, cell, head = (check.load(layer) for layer in (nn.Embedding(50, 32), nn.GRUCell(32, 64), nn.Linear(64, 50)))
    first = check.put(torch.tensor([1]))

    @check.gpu
    def stream(count):
        token, state = first, None
        for _ in range(count):
            state = cell(embed(token), state)
            token = head(state).argmax(-1)
            yield token.item()

    def on_a_thread(function, *arguments):
        results = []
        thread = threading.Thread(target=lambda: results.append(function(*arguments)))
        thread.start()
        thread.join()
        check.require(results, "a step of the generator failed on its thread")
        return results[0]

    check.save(check.step(embed, first))
    for _ in range(2):
        tokens = stream(12)
        check.save(torch.tensor([on_a_thread(next, tokens) for _ in range(12)]))
        check.require(on_a_thread(next, tokens, "end") == "end", "the generator does not end")
        check.park()
    abandoned = stream(12)
    check.save(torch.tensor([next(abandoned), next(abandoned)]))
    abandoned.close()
    check.park()
