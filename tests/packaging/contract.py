"""What packaging/container and docs/containers.md say of a container: read from the files themselves, for the tests to follow."""

import json
import re
import shlex

from places import ROOT

FOLDER = ROOT / "packaging" / "container"
PAGE = ROOT / "docs" / "containers.md"
# Where the app of packaging/container serves.
PORT = 7860


class Dockerfile:
    """The steps of the Dockerfile, and what they leave for the container."""

    def __init__(self):
        text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
        lines = text.replace("\\\n", " ").splitlines()
        self.steps = [tuple(line.split(None, 1)) for line in lines if line.strip()]
        self.environment = dict(word.split("=", 1) for text in self.of("ENV") for word in shlex.split(text))
        (self.user,) = self.of("USER")
        (self.folder,) = self.of("WORKDIR")
        (entry,), (command,) = self.of("ENTRYPOINT"), self.of("CMD")
        self.entry, self.command = json.loads(entry), json.loads(command)

    def of(self, word):
        """What stands behind each instruction of this kind."""
        return [text for kind, text in self.steps if kind == word]

    def runs(self):
        """The shell commands of RUN, each with its mounts: {target: source}, sources in packaging/container."""
        for text in self.of("RUN"):
            mounts = {}
            while text.startswith("--mount="):
                option, text = text.split(None, 1)
                values = dict(pair.split("=", 1) for pair in option[len("--mount=") :].split(","))
                assert values["type"] == "bind", option
                mounts[values["target"]] = values["source"]
            yield " ".join(text.split()), mounts


def podman():
    """The words of `podman run` in docs/containers.md, and its options: {name: [values]}."""
    (line,) = re.findall(r"^    (podman run --rm.*?space)$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    words = shlex.split(line.replace("\\\n", " "))[2:-1]
    options = {}
    while words:
        name = words.pop(0)
        assert name.startswith("--"), name
        options.setdefault(name[2:], []).append(words.pop(0) if words and not words[0].startswith("--") else None)
    return options


def compose():
    """The keys of each service of compose.yaml: {key: text}. As YAML as that file is, without a reader of all of it."""
    text = re.sub(r"^ *#.*\n", "", (FOLDER / "compose.yaml").read_text(), flags=re.MULTILINE)
    shared, services = text.split("services:\n")
    keys = dict(re.findall(r"^  (\w+):(.*(?:\n    .*)*)", shared, re.MULTILINE))
    names = re.findall(r"^  (\w+):\n    <<: \*space\n", services, re.MULTILINE)
    return {key: " ".join(value.split()) for key, value in keys.items()}, names
