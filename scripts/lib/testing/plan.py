"""The steps of a test run."""

from . import environments
from .places import ROOT, TARGET
from .steps import Step

# In full on each run; the others only as far as the tests marked `core`.
FULL = ("2.4.0", "2.0.1")
CORE = ("2.2.2", "2.1.2")
# With --all only.
MORE = ("2.3.1", "2.11.0")

BUILD = "release build"
COMMAND = TARGET / "dist" / "bin" / "zerogpu"
SHIM = TARGET / "dist" / "lib" / "zerogpu"
FORMAT = Step("cargo fmt", ["cargo", "fmt", "--all", "--check"])
# Programs of scripts/gpu-check that are each about a library: those of its programs/libraries.py.
LIBRARIES = "transformers safetensors diffusers accelerate peft lightning sentence_transformers bitsandbytes".split()
# The environment that steps use which need one, but no certain PyTorch.
ANY = "torch-2.4.0"
OLDEST = "torch-2.0.1"


def plan(everything, quick, named):
    """All steps, in order. `named`: those of --all are there too, but each no fuller than without it."""
    versions = FULL[:1] if quick else FULL + CORE + (MORE if everything or named else ())
    # downloads beside the compiler's work
    steps = [FORMAT, *downloads(versions), *rust()] + checks() + hook() + gpu_check() + once(quick)
    if everything or named:
        steps += more_kernels()
    steps += libraries() + packaging() + browser()
    for version in versions:
        steps += matrix(version, core=not everything and version in CORE, quick=quick)
    return without_twins(steps)


def downloads(versions):
    """The environments, one after the other."""
    steps = [environment(f"torch-{version}") for version in versions]
    for step, before in zip(steps[1:], steps):
        step.after = (before.name,)
    return steps


def rust():
    """What cargo does: one thing at a time, by its own lock."""
    return [
        Step(
            "cargo clippy",
            ["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
            about="a minute or two the first time",
        ),
        Step(
            "cargo doc",
            ["cargo", "doc", "--workspace", "--lib", "--no-deps", "--document-private-items", "--locked"],
            environment={"RUSTDOCFLAGS": "-D warnings -A rustdoc::private_intra_doc_links"},
            after=("cargo clippy",),
            about="half a minute",
        ),
        # the libraries under test, which are loaded by path: cargo test alone does not make them
        Step(
            "cargo build",
            ["cargo", "build", "--workspace", "--locked"],
            about="a minute or two the first time",
            after=("cargo doc",),
        ),
        Step(BUILD, ["scripts/build"], about="two or three minutes the first time", after=("cargo build",)),
        Step(
            "cargo test",
            ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"],
            counts="cargo",
            needs=("cargo build",),
            after=(BUILD,),
            about="a minute or two the first time",
            alone=True,
        ),
        Step(
            "loom",
            ["cargo", "test", "--release", "--locked", "-p", "zerogpu-gate", "--test", "loom"],
            counts="cargo",
            # other flags, other objects: they would displace the tests'
            environment={"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(TARGET / "loom")},
            after=("cargo test",),
            about="the gate under each order of its threads",
        ),
        Step(
            "loom, trace",
            # only what is made for it: the other tests of the crate are not
            [*"cargo test --release --locked -p zerogpu-trace --lib".split(), "ring::tests::model"],
            counts="cargo",
            environment={"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(TARGET / "loom")},
            after=("loom",),
            about="the trace's ring under each order of its threads",
        ),
        Step("fuzz", ["scripts/fuzz"], after=("loom, trace",), about="what reads bytes from outside"),
    ]


def kernels(name, environment_name, *more):
    """Compares kernel attributes with cuobjdump, which the environment ANY has."""
    build = "cargo build --release --locked -p zerogpu-image --example kernels"
    packages = {of: environments.packages(of) for of in (ANY, environment_name)}
    tools = packages[ANY] / "triton" / "backends" / "nvidia" / "bin"
    command = ["scripts/check-kernels", str(packages[environment_name]), str(TARGET / "release" / "examples" / "kernels")]
    command += ["--cuobjdump", str(tools / "cuobjdump"), "--ptxas", str(tools / "ptxas")]
    command += ["--shim", str(SHIM / "libcuda.so.1"), *more]
    return Step(
        name,
        ["sh", "-c", f'{build} && exec "$@"', "-", *command],
        needs=(environment(ANY).name, environment(environment_name).name, BUILD),
        about="kernel attributes against cuobjdump",
    )


def more_kernels():
    """The same of another architecture, and of CUDA 11.7's libraries: minutes each."""
    steps = [kernels("check-kernels sm_90", ANY, "--arch", "90"), environment(OLDEST)]
    return steps + [kernels("check-kernels CUDA 11.7", OLDEST)]


def checks():
    return [
        Step("check-abi", ["scripts/check-abi"], about="fetches NVIDIA's headers the first time"),
        Step(
            "check-dependencies",
            ["scripts/check-dependencies"],
            after=("cargo clippy",),
            about="fetches cargo-deny the first time",
            skips=3,
        ),
        Step(
            "check-genuine",
            ["scripts/check-genuine"],
            needs=(BUILD,),
            about="fetches a genuine libcuda the first time",
            skips=3,
        ),
        Step("check-binaries", ["scripts/check-binaries"], needs=(BUILD,)),
        environment(ANY),
        kernels("check-kernels", ANY),
    ]


def environment(name):
    if name == "packaging":
        return Step(f"environment {name}", ["scripts/lib/environment", name], about="a few seconds the first time")
    mebibytes = {"torch-2.0.1": 1900, "torch-2.11.0": 2400}.get(name, 2500)
    return Step(
        f"environment {name}",
        ["scripts/lib/environment", name],
        about=f"15 s, and a download of {mebibytes} MB the first time",
    )


def pytest(name, environment_name, arguments, **more):
    python = environments.interpreter(environment_name)
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfEs", "--durations=10", *arguments]
    needs = (environment(environment_name).name, BUILD)
    # its closing lines say why a test failed, as far as the terminal is wide
    return Step(name, command, "pytest", needs, {"COLUMNS": "400", **more})


def hook():
    preload = ":".join(str(SHIM / name) for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"))
    return [
        environment(ANY),
        pytest("hook", ANY, ["tests/python/hook"]),
        pytest("hook with the shim", ANY, ["tests/python/hook"], ZEROGPU_TEST_PRELOAD=preload),
    ]


def gpu_check():
    """The check for machines with a GPU, on softcuda as far as copies go, and its own tests."""
    return [
        pytest("gpu-check tests", ANY, ["tests/python/gpu_check"]),
        on_softcuda("gpu-check on softcuda", ANY),
    ]


def on_softcuda(name, environment_name, *programs):
    """The check with the PyTorch of an environment: these programs, or all that can run there."""
    command = [str(environments.interpreter(environment_name)), "scripts/gpu-check", *programs, "--driver", "soft"]
    return Step(
        name,
        # each program has a time of its own; its own promise for all of them is for a machine that does nothing else
        [*command, "--budget", "1800", "--lib", str(SHIM), "--zerogpu", str(COMMAND)],
        needs=(environment(environment_name).name, BUILD),
    )


def libraries():
    """What people use with PyTorch, and the programs for a GPU of those that no other environment has."""
    return [
        environment("libraries"),
        pytest("libraries", "libraries", ["tests/libraries"]),
        on_softcuda("gpu-check on softcuda, libraries", "libraries", *LIBRARIES),
    ]


def packaging():
    """The wheel, and containers by runc."""
    host = Step("packages for containers", ["scripts/lib/packages", "runc", "golang-github-containers-common"], skips=3)
    step = pytest("packaging", "packaging", ["tests/packaging"])
    step.after = (host.name,)
    # a Space in a container has PyTorch
    step.needs += (environment(ANY).name,)
    return [environment("packaging"), environment(ANY), host, step]


def browser():
    """Clicks in Chromium, and the demo."""
    chromium = Step("chromium", ["scripts/lib/packages", "chromium"], about="a download the first time", skips=3)
    demo = pytest("demo", "torch-2.4.0", ["tests/demo"])
    demo.needs += (environment("demo").name,)
    steps = [chromium, environment("demo"), demo]
    for name, more in (("browser-gradio5", ["test_fastapi.py", "test_timeline.py"]), ("browser-gradio4", [])):
        files = [f"tests/browser/{file}" for file in ("test_gradio.py", *more)]
        steps += [environment(name), pytest(name, name, files)]
        steps[-1].needs += (chromium.name,)
    return steps


def matrix(version, core, quick):
    """The tests of tests/python in one PyTorch version."""
    name = f"torch-{version}"
    return [environment(name), pytest(f"matrix {name}", name, tests("core and not once" if core else "not once", quick))]


def once(quick):
    """Those of them that are not about PyTorch."""
    return [pytest("faults and traces", ANY, tests("once", quick))]


def tests(which, quick):
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "python").glob("test_*.py"))
    return files + ["-m", which] + ["--quick"] * quick


def without_twins(steps):
    """Each step once, where it stands first."""
    seen = {}
    for step in steps:
        seen.setdefault(step.name, step)
    return list(seen.values())


def chosen(steps, names):
    """The steps whose name contains one of the names, and those that they need, in order."""
    by_name = {step.name: step for step in steps}
    wanted = {step.name for step in steps for name in names if name in step.name}
    more = list(wanted)
    while more:
        for need in by_name[more.pop()].needs:
            if need not in wanted:
                wanted.add(need)
                more.append(need)
    return [step for step in steps if step.name in wanted]
