"""The wheel: what goes where in it.

    zerogpu/            __init__.py, __main__.py (python -m zerogpu), include/zerogpu.h
    zerogpu/lib/        the libraries under their SONAMEs; python/spaces, the hook
    spaces.py           what `import spaces` finds outside `zerogpu run`, if nobody else has a package of that name
    *.data/scripts/     the command, which finds zerogpu/lib by itself (src/install.rs)
"""

import re

from . import licences
from .archive import Archive

# scripts/check-binaries sees to the floor of glibc.
TAG = "py3-none-manylinux_2_28_x86_64"
LIBRARIES = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libsoftcuda.so")
PYTHONS = range(8, 14)

METADATA = """\
Metadata-Version: 2.4
Name: zerogpu
Version: {version}
Summary: An unmodified PyTorch program owns a GPU only while a marked call runs
License-Expression: Apache-2.0
License-File: LICENSE
License-File: THIRD-PARTY
Keywords: cuda,gpu,pytorch,gradio,spaces,zerogpu
{classifiers}
Requires-Python: >=3.8
Description-Content-Type: text/markdown

{readme}"""

CLASSIFIERS = [
    "Development Status :: 3 - Alpha",
    "Environment :: Console",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Developers",
    "Intended Audience :: System Administrators",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3 :: Only",
    *(f"Programming Language :: Python :: 3.{minor}" for minor in PYTHONS),
    "Programming Language :: Rust",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: System :: Hardware",
]


class Unfit(Exception):
    """Something that can't be made a wheel of, and what to do."""


def version(root):
    """The version of the workspace."""
    found = re.search(r'^\[workspace\.package\]\nversion = "([^"]+)"$', (root / "Cargo.toml").read_text(encoding="utf-8"), re.M)
    if not found or not re.fullmatch(r"\d+(\.\d+)*", found[1]):
        raise Unfit("Cargo.toml: a version that Python writes in another way; src/install.rs looks for it as it stands")
    return found[1]


def build(root, dist, to):
    """Makes a wheel in the folder `to` of what scripts/build has made in `dist`; gives its path."""
    number = version(root)
    info = f"zerogpu-{number}.dist-info"
    archive = Archive(info)

    def take(name, path, executable=False):
        if not path.is_file():
            raise Unfit(f"{path} is missing: run scripts/build")
        archive.add(name, path.read_bytes(), executable)

    package = root / "packaging" / "python"
    for path in sorted(package.rglob("*.py")):
        take(str(path.relative_to(package)), path)
    take("zerogpu/include/zerogpu.h", root / "shim" / "include" / "zerogpu.h")
    for name in LIBRARIES:
        take(f"zerogpu/lib/{name}", dist / "lib" / "zerogpu" / name, executable=True)
    hook = dist / "lib" / "zerogpu" / "python"
    for path in sorted(hook.rglob("*")):
        if path.suffix == ".py" or path.name == "py.typed":
            take(f"zerogpu/lib/python/{path.relative_to(hook)}", path)
    take(f"zerogpu-{number}.data/scripts/zerogpu", dist / "bin" / "zerogpu", executable=True)

    take(f"{info}/licenses/LICENSE", root / "LICENSE")
    archive.add(f"{info}/licenses/THIRD-PARTY", licences.third_party(root).encode())
    classifiers = "\n".join(f"Classifier: {classifier}" for classifier in CLASSIFIERS)
    readme = (root / "README.md").read_text(encoding="utf-8")
    archive.add(f"{info}/METADATA", METADATA.format(version=number, classifiers=classifiers, readme=readme).encode())
    archive.add(
        f"{info}/WHEEL",
        f"Wheel-Version: 1.0\nGenerator: zerogpu-scripts-wheel ({number})\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode(),
    )
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"zerogpu-{number}-{TAG}.whl"
    archive.write(path)
    return path
