"""The parts: each measures something beside its alternative and gives rows of the table."""

import os
import pathlib
import subprocess
import time
from statistics import median

from testing.places import ROOT

from .table import Row

PROGRAMS = ROOT / "tests" / "bench" / "programs"
# Calls of tests/bench/src/calls.rs, each as what the table calls it. The default stream is the one that PyTorch uses.
ANSWERED = {
    "cuCtxGetCurrent": "`cuCtxGetCurrent`",
    "cuStreamIsCapturing": "`cuStreamIsCapturing`",
    "cuStreamIsCapturing(0)": "`cuStreamIsCapturing` of the default stream",
}
FORWARDED = {
    "cuLaunchKernel": "`cuLaunchKernel` (one thread, two parameters)",
    "cuLaunchKernel(0)": "`cuLaunchKernel` in the default stream",
    "cuMemsetD8Async": "`cuMemsetD8Async` (4 bytes)",
    "cuStreamQuery": "`cuStreamQuery` (an idle stream)",
}


def imports(setting):
    """`import torch` from its byte code, in processes that alternate, the best of each: what else runs only adds. The first pair compiles."""
    seconds = {False: [], True: []}
    cache = {"PYTHONPYCACHEPREFIX": str(setting.scratch / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    for _ in range(16):
        for preload in seconds:
            start = time.perf_counter()
            subprocess.run([setting.python, "-c", "import torch"], env=setting.environment(preload, **cache), check=True)
            seconds[preload].append(time.perf_counter() - start)
    without, with_shim = (min(values[1:]) for values in seconds.values())
    return [Row.ratio("`import torch`", "without the shim", without, with_shim, 1.05, "{:.3f} s")]


def calls(setting):
    """Answered calls; forwarded ones against the same in softcuda; and both with a trace. Of each side the best process's median."""
    sides = {"shim": [], "softcuda": [], "traced": [], "bursts": []}
    for _ in range(40):
        sides["shim"].append(setting.ask(setting.program, "calls", setting.shim))
        sides["softcuda"].append(setting.ask(setting.program, "calls", setting.softcuda))
    for _ in range(3):
        trace = f"json,file={setting.scratch}/calls.jsonl,ring=/dev/shm"
        sides["traced"].append(setting.ask(setting.program, "calls", setting.shim, ZEROGPU_TRACE=trace))
        sides["bursts"].append(setting.ask(setting.program, "bursts", setting.shim, ZEROGPU_TRACE=trace))
    shim, direct, traced, bursts = ({name: min(run[name] for run in runs) for name in runs[0]} for runs in sides.values())
    nanoseconds = "{:.1f} ns"
    rows = [
        Row.absolute(f"{what}, answered", "the same in softcuda", direct[name], shim[name], 10, nanoseconds)
        for name, what in ANSWERED.items()
    ]
    rows += [
        Row.difference(f"{what}, forwarded while claimed", "directly in softcuda", direct[name], shim[name], 25, nanoseconds)
        for name, what in FORWARDED.items()
    ]
    for name in ("cuCtxGetCurrent", "cuLaunchKernel"):
        off = nanoseconds.format(shim[name])
        # without a pause the calls wait for the writer thread; in bursts the ring takes them, as a program's do
        rows += [
            Row(f"`{name}`, traced to a file, without a pause", "tracing off", off, nanoseconds.format(traced[name])),
            Row(f"`{name}`, traced to a file, in bursts that fit the ring", "tracing off", off, nanoseconds.format(bursts[name])),
        ]
    return rows


def start(setting):
    """A program that does nothing, 1000 times with the three objects preloaded and 1000 times without."""
    found = setting.ask(setting.program, "start", 1000, setting.preload)
    without, with_shim = found["without_us"] / 1e3, found["with_us"] / 1e3
    return [Row.difference("start and end of `/bin/true`", "without the preload", without, with_shim, 1, "{:.3f} ms")]


def copies(setting):
    """Copies between host and virtual device beside clone()."""
    mib = size(4096, 3)
    found = setting.ask(setting.python, PROGRAMS / "copies.py", mib, 5, preload=True)
    clone, to, cpu = (median(found[name]) for name in ("clone", "to", "cpu"))
    gib = f"{mib / 1024:g} GiB"
    return [
        Row.ratio(f"`.to('cuda')` of {gib}", "`clone()`", clone, to, 1.15, "{:.2f} s"),
        Row.ratio(f"`.cpu()` of {gib}", "`clone()`", clone, cpu, None, "{:.2f} s"),
    ]


def memory(setting):
    """Peak memory of a program that moves a tensor, less that of one that only has the tensor and its imports."""
    mib = size(2048, 2)
    base = peak(setting, mib)
    most = peak(setting, mib, "--cuda", preload=True)
    over = (most - base) / 2**20 - mib
    given = f"tensors + {over:.0f} MiB"
    return [Row(f"peak PSS with {mib} MiB on the device", f"tensors: {mib} MiB", "", given, "tensors + 64 MiB", over <= 64)]


def peak(setting, mib, *words, **how):
    """The most bytes that memory.py has at any time."""
    command = [str(setting.python), str(PROGRAMS / "memory.py"), str(mib), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=setting.environment(**how), stdin=pipe, stdout=pipe) as process:
        most = 0
        os.set_blocking(process.stdout.fileno(), False)
        while not process.stdout.read():
            if process.poll() is not None:
                raise subprocess.CalledProcessError(process.returncode, command)
            most = max(most, held(process.pid))
            time.sleep(0.02)
        most = max(most, held(process.pid))
        process.stdin.close()
        return most


def held(pid):
    """Bytes of a process: its share of what it maps, and what its memory files hold without being mapped."""
    shares = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split(":")
        shares[name] = int(amount.split()[0]) * 1024
    files = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(entry.path).startswith("/memfd:"):
                file = os.stat(entry.path)
                files[file.st_ino] = file.st_blocks * 512
        except FileNotFoundError:
            # closed meanwhile
            continue
    return shares["Pss"] - shares["Pss_Shmem"] + max(shares["Pss_Shmem"], sum(files.values()))


def parks(setting):
    """Claims and parks over softcuda, whose card is host memory."""
    rows = []
    for mib, rounds in ((64, 15), (1024, 5)):
        found = setting.ask(setting.program, "park", setting.shim, mib, rounds)
        for what in ("claim", "park"):
            milliseconds = found[f"{what}_ms"]
            rate = mib * 2**20 / milliseconds / 1e6
            rows.append(Row(f"{what} with {mib} MiB (softcuda: host memory, no card)", "", "", f"{milliseconds:.1f} ms, {rate:.1f} GB/s"))
    return rows


def node(setting):
    """Leases of the node broker, by 64 clients that speak the protocol by hand; and claims and parks through it."""
    ask = lambda *words: setting.ask(setting.node, *words)
    grown = lambda found: (found["resident_after"] - found["resident_before"]) / 2**20
    found = ask("rounds", 64, 4, 1_000_000, 0)
    rate, kept = found["rounds_per_s"], grown(found)
    # of three clients one has no room on the cards: bytes of others leave for it
    moved = ask("rounds", 64, 4, 20_000, 2 << 20)
    warm = ask("warm", 2000)
    rows = [
        Row("lease round trips, 64 clients, 4 cards", "", "", f"{rate:.0f} /s", "at least 10000 /s", rate >= 10_000),
        Row(f"broker's memory over {found['rounds']} leases", "", "", f"{kept:+.1f} MiB", "flat", kept < 4),
        Row("the same, each client with 2 MiB that are copied in", "", "", f"{moved['rounds_per_s']:.0f} /s"),
        Row(f"broker's memory over {moved['rounds']} such leases", "", "", f"{grown(moved):+.1f} MiB", "flat", grown(moved) < 4),
        Row.absolute("what the broker adds to a warm claim of 256 MiB", "", 0, warm["median_us"], 200, "{:.0f} us"),
    ]
    for mib in (256, size(1024, 8)):
        times = ask("memory", mib)["times"]
        solo = times.pop("without a broker")
        for name, ours in times.items():
            for what in ("claim", "park"):
                beside, here = solo[f"{what}_ms"], ours[f"{what}_ms"]
                rows.append(Row.ratio(f"{what} with {mib} MiB, {name}", "without a broker", beside, here, None, "{:.1f} ms"))
    return rows


def size(mib, copies):
    """As many MiB as wished, or the largest half, quarter, ... of that of which `copies` fit into three quarters of the free memory."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) // 1024
    while mib * copies > free * 3 // 4:
        mib //= 2
    return mib


PARTS = {"import": imports, "calls": calls, "start": start, "copies": copies, "memory": memory, "park": parks, "node": node}
