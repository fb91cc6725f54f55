"""The wheel: what is in it, how it is installed, what `import spaces` finds, and that nothing of it stays."""

import ast
import base64
import email
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from places import DIST, PROGRAMS, ROOT, clean
from testing import environments, lacking

PYTHONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
# The original package; it is not asked to work, only to be found.
ORIGINAL = "spaces==0.30.4"


def run(*command, **more):
    """What a command that ends well prints."""
    settings = dict(dict(env=clean(), cwd="/", timeout=300), **more)
    ended = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)
    assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


# What installing takes; Debian has ensurepip in python3.x-venv.
MODULES = "ssl, ctypes, venv, ensurepip"


def usual():
    """The Python that scripts/test asks for."""
    path = environments.find_python()
    if not environments.answers([path, "-c", f"import {MODULES}"]):
        lacking.skip(f"{path} lacks one of {MODULES}")
    return path


def python(version):
    """A Python of this version; another than the usual one may be missing, under --strict too."""
    if pathlib.Path(usual()).name == f"python{version}":
        return usual()
    versions = pathlib.Path.home() / ".pyenv" / "versions"
    found = [shutil.which(f"python{version}"), *sorted(map(str, versions.glob(f"{version}.*/bin/python{version}")))]
    for path in filter(None, found):
        if environments.answers([path, "-c", f"import {MODULES}, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"]):
            return path
    pytest.skip(f"there is no Python {version} with {MODULES} here")


@pytest.fixture(scope="session")
def pip(tmp_path_factory):
    """The pip that a Python brings along, as the beginning of a command that ends with the Python to install for. It is unpacked
    once: into each environment would take long."""

    @functools.lru_cache(maxsize=None)
    def of(path):
        folder = tmp_path_factory.mktemp("pip")
        run(path, "-m", "venv", folder)
        return folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "--python"

    return of


def tree(folder):
    """Every file and folder below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Venv:
    """A fresh environment of one Python, and that Python's own pip."""

    def __init__(self, folder, path, pip):
        self.folder = folder
        self.python = folder / "bin" / "python"
        run(path, "-m", "venv", "--without-pip", folder)
        self._pip = [*pip(path), self.python]
        (self.site,) = folder.glob("lib/python3*/site-packages")
        self._before = tree(folder)

    def pip(self, *arguments):
        return run(*self._pip, *arguments)

    def install(self, wheel):
        self.pip("install", "--no-index", wheel)

    def left(self):
        """What is there and was not before the first installation."""
        return sorted(tree(self.folder) - self._before)

    def app(self, *before, **more):
        """What app.py finds, started by these words."""
        return json.loads(run(*before, self.python, PROGRAMS / "app.py", **more))

    def run_app(self, **more):
        """What it finds under `zerogpu run`."""
        environment = dict(clean(), ZEROGPU_SOCKET="none", SOFTCUDA_CARDS=str(self.folder.parent / "cards"))
        return self.app(self.folder / "bin" / "zerogpu", "run", "--driver", "soft", "--", env=environment, **more)


@pytest.fixture
def venv(tmp_path, pip):
    return lambda version=None: Venv(tmp_path / "venv", python(version) if version else usual(), pip)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The original package's wheel."""
    to = tmp_path_factory.mktemp("original")
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", to, ORIGINAL)
    (made,) = to.iterdir()
    return made


def is_ours(found, marked):
    return "/zerogpu/lib/python/spaces/__init__.py" in found["file"] and found["marked"] is marked


# what is in it


def test_the_same_build_gives_the_same_bytes(wheel, tmp_path):
    copy = tmp_path / "dist"
    shutil.copytree(DIST, copy, symlinks=True)
    for number, path in enumerate(sorted(copy.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, (number, number))
            path.chmod(path.stat().st_mode | 0o020)
    run(ROOT / "scripts" / "wheel", "--dist", copy, "--to", tmp_path / "again", umask=0o007)
    (again,) = (tmp_path / "again").iterdir()
    assert again.name == wheel.name and again.read_bytes() == wheel.read_bytes()


def test_another_date_is_taken_from_the_environment(wheel, tmp_path):
    run(ROOT / "scripts" / "wheel", "--dist", DIST, "--to", tmp_path, env=dict(os.environ, SOURCE_DATE_EPOCH="1700000000"))
    dates = {entry.date_time for entry in zipfile.ZipFile(tmp_path / wheel.name).infolist()}
    assert dates == {(2023, 11, 14, 22, 13, 20)}


def test_it_holds_the_release_build(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        lib = DIST / "lib" / "zerogpu"
        for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libsoftcuda.so"):
            assert archive.read(f"zerogpu/lib/{name}") == (lib / name).read_bytes()
        (command,) = [name for name in names if name.endswith(".data/scripts/zerogpu")]
        assert archive.read(command) == (DIST / "bin" / "zerogpu").read_bytes()
        assert archive.read("zerogpu/include/zerogpu.h") == (ROOT / "shim/include/zerogpu.h").read_bytes()
        hook = ROOT / "shim" / "python"
        for path in hook.rglob("*.py*"):
            if path.suffix != ".pyc":
                assert archive.read(f"zerogpu/lib/python/{path.relative_to(hook)}") == path.read_bytes()
    tops = {name.split("/")[0] for name in names}
    assert {re.sub(r"-[0-9.]+\.", ".", top) for top in tops} == {"zerogpu", "spaces.py", "zerogpu.data", "zerogpu.dist-info"}


def test_its_record_and_metadata_are_right(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        record = [line.split(",") for line in archive.read(f"{info}/RECORD").decode().splitlines()]
        assert [name for name, _, _ in record] == names and names[-1] == f"{info}/RECORD"
        for name, digest, size in record[:-1]:
            content = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={expected}", str(len(content)))
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        described = email.message_from_bytes(archive.read(f"{info}/WHEEL"))
        licences = archive.read(f"{info}/licenses/THIRD-PARTY").decode()
    assert (metadata["Name"], metadata["License-Expression"], metadata["Requires-Python"]) == ("zerogpu", "Apache-2.0", ">=3.8")
    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text()
    assert metadata.get_all("License-File") == ["LICENSE", "THIRD-PARTY"]
    assert described["Tag"] == "py3-none-manylinux_2_28_x86_64" and described["Root-Is-Purelib"] == "false"
    assert re.search(r"^nix \d.*: MIT$", licences, re.M) and "Permission is hereby granted" in licences
    assert "proptest" not in licences, "only what is linked"


def test_the_checkers_are_content(wheel):
    tools = pathlib.Path(sys.executable).parent
    run(tools / "twine", "check", "--strict", wheel)
    # W009: two names at the top; spaces.py is the second one, and says why it is a module
    run(tools / "check-wheel-contents", "--ignore", "W009", wheel)
    # for the tag itself libcuda.so.1 stands in the way, which libcuda.so needs and auditwheel does not find in the wheel
    shown = " ".join(run(tools / "auditwheel", "show", wheel).split())
    least = re.search(r'This constrains the platform tag to "manylinux_2_(\d+)_x86_64"', shown)
    assert least and int(least[1]) <= 28, shown


@pytest.mark.parametrize("path", sorted((ROOT / "packaging/python").rglob("*.py")) + sorted((ROOT / "shim/python").rglob("*.py")))
def test_the_oldest_python_can_read_it(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


# how it is installed


@pytest.mark.parametrize("version", PYTHONS)
def test_it_works_and_leaves_nothing(wheel, venv, version):
    made = venv(version)
    made.install(wheel)
    doctor = run(made.folder / "bin" / "zerogpu", "doctor", "--json", env=dict(clean(), ZEROGPU_DRIVER="soft", ZEROGPU_SOCKET="none"))
    assert json.loads(doctor)["ok"], doctor
    assert str(made.site / "zerogpu" / "lib") in doctor
    under, plain = made.run_app(), made.app()
    assert is_ours(under, marked=True) and under["called"] == 2
    assert under["device"] == ["NVIDIA A100-SXM4-40GB", "0123456789"]
    assert is_ours(plain, marked=False) and plain["called"] == 2 and plain["submodule"] == "spaces"
    version_line = run(made.python, "-m", "zerogpu", "--version")
    assert version_line == run(made.folder / "bin" / "zerogpu", "--version")
    made.pip("uninstall", "--yes", "zerogpu")
    assert not made.left()


def test_for_a_user(wheel, pip, tmp_path):
    """`pip install --user`: the folder of a user's packages."""
    base = tmp_path / "base"
    environment = dict(clean(), PYTHONUSERBASE=str(base), SOFTCUDA_CARDS=str(tmp_path / "cards"), ZEROGPU_SOCKET="none")
    # Debian's own Python refuses packages that Debian did not make, but for this
    environment["PIP_BREAK_SYSTEM_PACKAGES"] = "1"
    system = usual()
    run(*pip(system), system, "install", "--user", "--no-index", "--ignore-installed", wheel, env=environment)
    found = json.loads(run(base / "bin/zerogpu", "run", "--driver", "soft", "--", system, PROGRAMS / "app.py", env=environment))
    assert is_ours(found, marked=True) and found["file"].startswith(str(base))
    assert run(system, "-m", "zerogpu", "--version", env=environment).startswith("zerogpu ")
    run(*pip(system), system, "uninstall", "--yes", "zerogpu", env=environment)
    assert [path for path in base.rglob("*") if path.is_file()] == []


def test_into_a_folder(wheel, pip, tmp_path):
    """`pip install --target`: the folder holds packages and bin, and PYTHONPATH names it."""
    to = tmp_path / "to"
    system = usual()
    run(*pip(system), system, "install", "--target", to, "--no-index", wheel)
    environment = dict(clean(), PYTHONPATH=str(to), SOFTCUDA_CARDS=str(tmp_path / "cards"), ZEROGPU_SOCKET="none")
    for command in ([to / "bin/zerogpu"], [system, "-m", "zerogpu"]):
        found = json.loads(run(*command, "run", "--driver", "soft", "--", system, PROGRAMS / "app.py", env=environment))
        assert is_ours(found, marked=True) and found["device"][1] == "0123456789"


def test_by_uv_as_a_tool(wheel, tmp_path):
    """`uv tool install`, and so pipx: an environment of its own, and a link to the command elsewhere."""
    uv = environments.find_uv()
    if not uv:
        lacking.skip("uv can't be had")
    places = {"UV_TOOL_DIR": tmp_path / "tools", "UV_TOOL_BIN_DIR": tmp_path / "bin", "UV_CACHE_DIR": tmp_path / "cache"}
    environment = dict(clean(), SOFTCUDA_CARDS=str(tmp_path / "cards"), ZEROGPU_SOCKET="none", **{k: str(v) for k, v in places.items()})
    system = usual()
    run(uv, "tool", "install", "--quiet", "--no-index", "--python", system, wheel, env=environment)
    command = tmp_path / "bin" / "zerogpu"
    assert command.is_symlink()
    found = json.loads(run(command, "run", "--driver", "soft", "--", system, PROGRAMS / "app.py", env=environment))
    assert is_ours(found, marked=True) and found["file"].startswith(str(tmp_path / "tools"))
    run(uv, "tool", "uninstall", "--quiet", "zerogpu", env=environment)
    assert [path for name in ("bin", "tools") for path in (tmp_path / name).rglob("*") if path.name == "zerogpu"] == []


# what `import spaces` finds


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_original_comes_first_outside(wheel, original, venv, order):
    made = venv()
    for archive in [original, wheel] if order == "before" else [wheel, original]:
        made.pip("install", "--no-index", "--no-deps", archive)
    theirs = str(made.site / "spaces" / "__init__.py")
    assert where(made) == theirs
    assert is_ours(made.run_app(), marked=True)
    # each goes without the other
    first, second = ("spaces", "zerogpu") if order == "before" else ("zerogpu", "spaces")
    made.pip("uninstall", "--yes", first)
    if first == "spaces":
        assert is_ours(made.app(), marked=False) and is_ours(made.run_app(), marked=True)
    else:
        assert where(made) == theirs
    made.pip("uninstall", "--yes", second)
    assert not made.left()


def test_the_original_in_another_folder_comes_first_too(wheel, original, venv, tmp_path):
    """As with --system-site-packages: ours is found before it, and steps back."""
    made = venv()
    made.install(wheel)
    elsewhere = tmp_path / "elsewhere"
    made.pip("install", "--no-index", "--no-deps", "--target", elsewhere, original)
    (made.site / "elsewhere.pth").write_text(f"{elsewhere}\n")
    assert where(made) == str(elsewhere / "spaces" / "__init__.py")
    assert is_ours(made.run_app(), marked=True)


def test_ours_twice_is_ours(wheel, venv, tmp_path):
    made = venv()
    made.install(wheel)
    made.pip("install", "--no-index", "--target", tmp_path / "again", wheel)
    (made.site / "again.pth").write_text(f"{tmp_path / 'again'}\n")
    assert is_ours(made.app(), marked=False)


def test_a_folder_of_that_name_is_no_package(wheel, venv, tmp_path):
    made = venv()
    made.install(wheel)
    (tmp_path / "work" / "spaces").mkdir(parents=True)
    shutil.copy(PROGRAMS / "app.py", tmp_path / "work")
    found = json.loads(run(made.python, tmp_path / "work" / "app.py", cwd=tmp_path / "work"))
    assert is_ours(found, marked=False)


def test_threads_that_import_it_at_once_see_the_whole(wheel, venv):
    made = venv()
    made.install(wheel)
    code = """
import sys, threading
sys.setswitchinterval(1e-6)
barrier, seen = threading.Barrier(8), []
def look():
    barrier.wait()
    import spaces
    seen.append(spaces.GPU and spaces.aoti_load and spaces.gradio_auto_wrap)
threads = [threading.Thread(target=look) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(seen))
"""
    for _ in range(5):
        assert run(made.python, "-c", code).strip() == "8"


def where(venv):
    """Which file `import spaces` runs, whether it ends well or misses what the original needs."""
    code = """
import os, traceback
try:
    import spaces
    print(spaces.__file__)
except ImportError as error:
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    print(next(name for name in frames if name.endswith("spaces/__init__.py")))
"""
    return run(venv.python, "-c", code).strip()
