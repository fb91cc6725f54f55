"""An asynchronous call waits for its GPU beside the event loop.

A claim waits inside a driver call. In a coroutine that call is made on the loop's thread, and for as long as it waits
in the broker's queue the loop serves nobody. So such a call claims before it begins, on a thread of its own, and the loop goes on
meanwhile. Without a broker there is no queue, and a claim is as lazy as ever; so it is under other loops than asyncio's.
"""

import sys
import threading

from ._shim import BROKER


async def claimed(shim, region):
    """Waits until a GPU is claimed for the region; why there is none, "" if there is one."""
    loop = _loop()
    if loop is None:
        return ""
    answer = loop.create_future()

    def claim():
        refusal = shim.reason() if shim.claim(region) else ""
        try:
            loop.call_soon_threadsafe(lambda: answer.done() or answer.set_result(refusal))
        except RuntimeError:  # the loop has ended meanwhile
            pass

    threading.Thread(target=claim, name="spaces-claim", daemon=True).start()
    return await answer


def _loop():
    """The event loop that this call is in, if it is to wait beside it."""
    asyncio = sys.modules.get("asyncio")
    return asyncio._get_running_loop() if BROKER and asyncio else None
