"""Memory that a broker lent, and that the driver would not take or give back: what lies there next is lent anew.

SOFTCUDA_FAULT says what is refused. A call may find no GPU, or no memory, for that; its bytes are right afterwards.
"""

import os

import checks
import driver
import shim
import spaces._shim

MIB = 1 << 20
REGIONS = spaces._shim.find()

driver.start()
empty = driver.made("cuModuleGetFunction", driver.image(), b"empty")
memory, refused = {}, []


def take(name, size):
    """Memory with bytes that nobody else has."""
    at = driver.made("cuMemAlloc_v2", size)
    memory[name] = at, os.urandom(size)
    driver.upload(*memory[name])


def free(name):
    driver.call("cuMemFree_v2", memory.pop(name)[0])


def require_bytes():
    for name, (at, data) in memory.items():
        got = driver.download(at, len(data))
        wrong = [i for i in range(len(data) // MIB) if got[i * MIB :][:MIB] != data[i * MIB :][:MIB]]
        assert not wrong, f"{name} has other bytes in these MiB of {len(data) // MIB}: {wrong}"


def tried(work):
    """Whether something worked; a refusal is noted."""
    try:
        work()
    except driver.CudaError as error:
        refused.append(str(error))
        return False
    return True


def call(work):
    """A marked call: does something with a GPU."""
    region = REGIONS.begin(60.0)
    done = tried(lambda: (driver.launch(empty), work()))
    assert REGIONS.end(region) == 0
    return done


def twice():
    """Takes memory; what is refused at first, once more."""
    tried(lambda: take("b", 6 * MIB)) or tried(lambda: take("b", 6 * MIB))
    require_bytes()


for name, size in dict(a=4, gap=2, c=16).items():
    take(name, size * MIB)
free("gap")
call(twice)
require_bytes()
free("a")
for _ in range(3):
    if call(lambda: (take("a", 4 * MIB), "b" in memory or twice(), require_bytes())):
        break
    # a refused claim, or memory that was refused twice
    memory.pop("a", None)
    checks.until(lambda: not shim.state()["left"], "all is given back")
assert set(memory) == set("abc"), refused
require_bytes()
assert call(require_bytes)
require_bytes()
checks.until(lambda: not shim.state()["left"], "all is given back")
checks.tell("refused", refused=refused)
