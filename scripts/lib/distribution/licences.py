"""The licences of the crates that are linked into what we give away."""

import json
import pathlib
import re
import subprocess

# The packages whose products are in the wheel.
GIVEN = ("zerogpu", "zerogpu-shim", "zerogpu-alias", "zerogpu-nvml", "softcuda")
TARGET = "x86_64-unknown-linux-gnu"
TEXTS = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.I)


def third_party(root):
    """One text with the licences of the foreign crates in the workspace at `root`. Their sources must be there."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    known = json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in known["packages"]}
    foreign = [packages[number] for number in linked(known) if packages[number]["source"]]
    foreign.sort(key=lambda package: (package["name"], package["version"]))
    holders = {}
    for package in foreign:
        for text in texts(package):
            holders.setdefault(text, []).append(f"{package['name']} {package['version']}")
    head = "The binaries of zerogpu contain the following crates, and parts of Rust's standard library (MIT OR Apache-2.0).\n\n"
    table = "".join(f"{p['name']} {p['version']}: {p['license']}\n" for p in foreign)
    parts = [f"{', '.join(names)}\n\n{text}\n" for text, names in sorted(holders.items(), key=lambda item: item[1])]
    line = "\n" + "-" * 80 + "\n\n"
    return head + table + line + line.join(parts)


def linked(known):
    """The ids of all packages that are linked into the given ones, but for what only builds or tests them."""
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    names = {package["name"]: package["id"] for package in known["packages"] if not package["source"]}
    macros = {p["id"] for p in known["packages"] if any("proc-macro" in target["kind"] for target in p["targets"])}
    wanted = {names[name] for name in GIVEN}
    todo = list(wanted)
    while todo:
        for need in nodes[todo.pop()]["deps"]:
            if need["pkg"] not in wanted | macros and any(kind["kind"] is None for kind in need["dep_kinds"]):
                wanted.add(need["pkg"])
                todo.append(need["pkg"])
    return wanted


def texts(package):
    """The texts that a crate brings. Where there is a choice with the Apache licence, ours, that one will do."""
    folder = pathlib.Path(package["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and TEXTS.match(path.name))
    apache = [path for path in files if "apache" in path.name.lower()]
    chosen = apache if apache and " OR " in package["license"].replace("/", " OR ") else files
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in chosen]
