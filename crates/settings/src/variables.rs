//! The table of environment variables.

/// One environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is unset or empty, in words or as a value.
    pub default: &'static str,
    /// What may be written.
    pub values: &'static str,
    /// What it does.
    pub what: &'static str,
}

const fn variable(name: &'static str, default: &'static str, values: &'static str, what: &'static str) -> Variable {
    Variable { name, default, values, what }
}

/// Each variable that zerogpu or softcuda reads.
pub const VARIABLES: &[Variable] = &[
    variable(
        "ZEROGPU_DRIVER",
        "auto",
        "auto, soft, none, or a path",
        "The driver below the virtual device: the machine's own, the software driver, none at all, or this library.",
    ),
    variable(
        "ZEROGPU_PROFILE",
        "the machine's card, else a100-40gb",
        "a100-40gb, a100-mig-3g.40gb, h100-80gb, h200",
        "Which card the virtual device looks like.",
    ),
    variable(
        "ZEROGPU_VRAM",
        "the profile's; at most 40 GB where that is the machine's own card",
        "a size, as in 40GiB",
        "Memory of the virtual device, at most 127 GiB. Allocations beyond it are out of memory.",
    ),
    variable(
        "ZEROGPU_TRACE",
        "off",
        "see docs/trace.md",
        "What to trace, in which form, to which file.",
    ),
    variable(
        "ZEROGPU_OUTSIDE",
        "defer",
        "defer, borrow, error",
        "GPU work outside any marked call: record it and replay it at the next claim, claim a GPU at once, or refuse it.",
    ),
    variable(
        "ZEROGPU_RECORD",
        "64MiB",
        "a size",
        "How many bytes of deferred work are kept before a GPU is borrowed to do it.",
    ),
    variable(
        "ZEROGPU_IDLE",
        "200ms",
        "a duration, as in 200ms or 2s",
        "How long a borrowed GPU is kept with nothing running on it.",
    ),
    variable(
        "ZEROGPU_HASH",
        "256MiB",
        "a size, or off",
        "Without a broker: device memory from which on a park copies only what a hash, made by the card, says has changed. Less is copied whole.",
    ),
    variable(
        "ZEROGPU_SOCKET",
        "none",
        "a path, or none",
        "Socket of the node broker that lends GPUs; none: a GPU is claimed without asking anyone. zerogpu run sets it where a broker answers.",
    ),
    variable(
        "ZEROGPU_WAIT",
        "60s",
        "a duration, as in 60s or 5min",
        "How long a claim waits in the broker's queue before it fails.",
    ),
    variable(
        "ZEROGPU_NAME",
        "the script's name",
        "up to 64 bytes",
        "What the broker's status and log call this program.",
    ),
    variable(
        "ZEROGPU_LIB",
        "../lib/zerogpu as seen from the command, or the wheel's",
        "a folder",
        "Folder of libcuda.so.1, libcuda.so, libnvidia-ml.so.1 and libsoftcuda.so.",
    ),
    variable(
        "CUDA_VISIBLE_DEVICES",
        "all",
        "as CUDA reads it",
        "Whether the virtual device is seen. NVIDIA's driver below reads it too: leave it unset for programs, and set it for `zerogpu broker` to lend only these cards.",
    ),
    variable(
        "SOFTCUDA_CARDS",
        "$XDG_RUNTIME_DIR/softcuda-cards, else /dev/shm/softcuda-UID",
        "a path",
        "File that holds the software cards of this machine; processes that name the same file share them. Its first user decides what they are.",
    ),
    variable("SOFTCUDA_COUNT", "as in the file of the cards, else 1", "0 to 16", "How many software cards there are."),
    variable("SOFTCUDA_VRAM", "as in the file of the cards, else the profile's", "a size, as in 40GiB", "Memory of each software card, at most 127 GiB."),
    variable(
        "SOFTCUDA_PROFILE",
        "as in the file of the cards, else a100-40gb",
        "a100-40gb, a100-mig-3g.40gb, h100-80gb, h200",
        "Which card a software card looks like.",
    ),
    variable(
        "SOFTCUDA_POISON",
        "0",
        "0 or 1",
        "With 1, fresh shareable physical memory is filled with 0xA5: a driver does not promise zeros, and who counts on them fails.",
    ),
    variable(
        "SOFTCUDA_GBPS",
        "0",
        "a number, 0: as fast as memory",
        "Bandwidth of a software card's copy engines, in 10^9 bytes a second.",
    ),
    variable("SOFTCUDA_CONTEXT_MS", "0", "a number", "How long making a context takes, in milliseconds."),
    variable("SOFTCUDA_LAUNCH_US", "0", "a number", "How long a launch takes, in microseconds."),
    variable(
        "SOFTCUDA_LAUNCH_LOG",
        "none",
        "a path",
        "File to which each launch is appended as a line of JSON: kernel, grid, block, parameter bytes, and what the JIT compiler was told of its module.",
    ),
    variable(
        "SOFTCUDA_CALL_LOG",
        "none",
        "a path",
        "File to which the name of each driver function is appended when it is called, one a line.",
    ),
    variable(
        "SOFTCUDA_FAULT",
        "none",
        "function[:nth]=code,...",
        "Driver calls that fail with this CUDA result: the nth call of the function, or each one.",
    ),
    variable(
        "SOFTCUDA_OBSTACLE",
        "none",
        "address[:calls]",
        "A page that something else maps at this address just before addresses are reserved (cuMemAddressReserve): it is gone after each of the first calls, or, without a number, stays.",
    ),
    variable(
        "SOFTCUDA_FORK",
        "none",
        "function,...",
        "Driver functions each call of which forks a child that ends at once, and waits for it: NVIDIA's driver runs a program of its own where a device node is missing.",
    ),
    variable(
        "SOFTCUDA_STRICT_LOG",
        "none",
        "a path",
        "File to which violations are appended, such as the use of a handle whose context is gone, or an unmap under work.",
    ),
    variable(
        "SOFTCUDA_STRICT_PINS",
        "0",
        "0 or 1",
        "With 1, a page that is punched out of a file while it is registered (cuMemHostRegister) is noted as a violation, at the next copy there and when it is unregistered.",
    ),
];
