"""Containers as Docker and podman make them, without either: a root of Debian packages, and runc.

A container here has an unprivileged user without capabilities who can't get any, namespaces of its own (pid, ipc, mount,
uts, network), a read-only root with a tmpfs on /tmp, and the engines' default seccomp profile and masks of /proc and /sys.
"""

import fcntl
import hashlib
import inspect
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

import seccomp
from testing.places import CACHE

# On the machine that runs the tests.
HOST_PACKAGES = ("runc", "golang-github-containers-common")
PROFILE = pathlib.Path("/usr/share/containers/seccomp.json")
# In the root, with all that they depend on.
ROOT_PACKAGES = ("dash", "coreutils", "libc-bin", "python3", "python3-venv")
UID = 1000
# The group whose members may use the broker.
GROUP = 4242

MASKED = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
READ_ONLY = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def debian():
    """A root of Debian's packages, unpacked and not configured, made once on this machine. It is not to be changed."""
    release = pathlib.Path("/etc/os-release").read_text()
    mark = hashlib.sha256(repr((ROOT_PACKAGES, release, inspect.getsource(_unpack))).encode()).hexdigest()[:12]
    place = CACHE / "roots" / f"debian-{mark}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as work:
                _unpack(_download(pathlib.Path(work)), pathlib.Path(work) / "root")
                os.rename(pathlib.Path(work) / "root", place)
    return place


def _download(work):
    """The packages and what they depend on, chosen by apt as if nothing were installed here."""
    for folder in ("archives/partial", "state"):
        (work / folder).mkdir(parents=True)
    os.chmod(work, 0o755)
    (work / "status").touch()
    options = {"Dir::State::status": work / "status", "Dir::Cache::archives": work / "archives", "APT::Sandbox::User": "root"}
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = [*command, "install", "--download-only", "--yes", "--no-install-recommends", *ROOT_PACKAGES]
    if subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        # the lists may be missing or old
        subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True, stdin=subprocess.DEVNULL)
        subprocess.run(install, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return sorted((work / "archives").glob("*.deb"))


def _unpack(packages, root):
    root.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        reader = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--directory", root, "--exclude=./usr/share/doc"],
            stdin=reader.stdout,
            check=True,
        )
        assert reader.wait() == 0, package
    for name in ("app", "dev", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    # runc gives a mount the mode of what it covers
    (root / "tmp").chmod(0o1777)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nspace:x:{UID}:{UID}::/tmp:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:0:\nspace:x:{UID}:\n")


class Runtime:
    """Makes containers of one root, and ends them."""

    def __init__(self, folder, root):
        self._folder = pathlib.Path(folder)
        self._root = root
        self._command = ["runc", "--root", str(self._folder / "runc")]
        self._containers = []

    def start(self, name, *arguments, environment, mounts=(), limit=None, folder="/"):
        """Starts a program in a container of its own. `mounts`: (path here, path there, may be written)."""
        bundle = self._folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.config(name, arguments, environment, mounts, limit, folder)))
        # the prefix keeps containers of several test runs apart in the control groups
        identity = f"zerogpu-{os.getpid()}-{name}"
        made = Container(self._command, identity, bundle)
        self._containers.append(made)
        return made

    def close(self):
        for container in self._containers:
            container.close()

    def config(self, name, arguments, environment, mounts, limit, folder):
        """What runc is told."""
        flags = ["nosuid", "nodev", "noexec"]

        def tmpfs(place, *options):
            return {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": list(options)}

        memory = {"memory": {"limit": limit}} if limit else {}
        return {
            "ociVersion": "1.0.2",
            "hostname": name,
            "root": {"path": str(self._root), "readonly": True},
            "process": {
                "user": {"uid": UID, "gid": UID, "additionalGids": [GROUP]},
                "args": list(arguments),
                "env": [f"{key}={value}" for key, value in environment.items()],
                "cwd": folder,
                "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
                "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 8 << 20, "hard": 8 << 20}],
                "noNewPrivileges": True,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
                tmpfs("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
                tmpfs("/dev/shm", *flags, "mode=1777", "size=65536k"),
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*flags, "ro"]},
                tmpfs("/tmp", "nosuid", "nodev", "mode=1777", "size=65536k"),
                *(
                    {"destination": there, "type": "bind", "source": str(here), "options": ["rbind", "rw" if rw else "ro"]}
                    for here, there, rw in mounts
                ),
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
                "resources": {"devices": [{"allow": False, "access": "rwm"}], **memory},
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "seccomp": seccomp.oci(PROFILE.read_text()),
            },
        }


class Container:
    """A container and what its program says, a line of JSON each time."""

    def __init__(self, runc, name, bundle):
        self._runc, self._name, self._log = runc, name, bundle / "log"
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [*runc, "run", "--bundle", str(bundle), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def hear(self, what):
        """The next line about `what`; those in between are given as well."""
        lines = []
        for text in self.process.stdout:
            lines.append(json.loads(text))
            if lines[-1]["what"] == what:
                return lines
        raise AssertionError(f"{self._name} ended with {self.process.wait()}: {self._log.read_text()}")

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def output(self):
        """All that it printed, when it has ended, and how."""
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out, self._log.read_text()

    def pid(self):
        """The process of its program, as it is called here."""
        state = subprocess.run([*self._runc, "state", self._name], check=True, stdout=subprocess.PIPE).stdout
        return json.loads(state)["pid"]

    def kill(self):
        """Ends it as the kernel does, at once; gives the time at which its process was dead."""
        process = os.pidfd_open(self.pid())
        try:
            subprocess.run([*self._runc, "kill", self._name, "KILL"], check=True)
            assert select.select([process], [], [], 10)[0], f"{self._name} does not die"
            return time.monotonic()
        finally:
            os.close(process)

    def close(self):
        """Ends it, if it is there."""
        subprocess.run([*self._runc, "delete", "--force", self._name], stderr=subprocess.DEVNULL)
        self.process.communicate(timeout=60)


def missing():
    """Why there can be no containers here; "" if there can."""
    if os.geteuid() != 0:
        return "containers need root here: run these tests as root"
    for name in ("runc", "dpkg-deb", "apt-get"):
        if not shutil.which(name):
            return f"{name} is missing: scripts/lib/packages {' '.join(HOST_PACKAGES)}"
    return "" if PROFILE.exists() else f"{PROFILE} is missing: scripts/lib/packages {HOST_PACKAGES[1]}"
