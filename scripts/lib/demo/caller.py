"""Calls the two apps of the demo: the first, both at once, the second. Writes a line of JSON for what comes back."""

import concurrent.futures
import json
import sys
import threading
import time

from gradio_client import Client

PROMPTS = ["Once upon a time", "The sea is", "In the year 3000", "My neighbour says"]
SYLLABLES = 20
# Seconds in which nobody calls, so that one sees a card that is free.
PAUSE = 1.5
# print() writes a line and its end one after the other: another thread's line could come between.
OUTPUT = threading.Lock()


def say(**news):
    with OUTPUT:
        print(json.dumps(news), flush=True)


def call(app, clients, prompt):
    """One call, its answer piece by piece."""
    say(app=app, call="begins", text=prompt)
    job = clients[app].submit(prompt, SYLLABLES, api_name="/write")
    for text in job:
        say(app=app, call="goes on", text=text)
    say(app=app, call="ends", text=job.result())


def main():
    clients = [Client(url, verbose=False) for url in sys.argv[1:]]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for apps, prompts in (([0], PROMPTS[:1]), ([0, 1], PROMPTS[1:3]), ([1], PROMPTS[3:])):
            time.sleep(PAUSE)
            list(pool.map(lambda app, prompt: call(app, clients, prompt), apps, prompts))
    time.sleep(PAUSE)


main()
