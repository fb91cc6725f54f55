"""The seccomp profile of Docker and podman as a container's configuration has it, for a container without capabilities."""

import json
import platform


def oci(profile):
    """The `linux.seccomp` of an OCI configuration, from the text of a profile: each rule that holds here."""
    known = json.loads(profile)
    architectures = next(
        [entry["architecture"], *entry["subArchitectures"]]
        for entry in known["archMap"]
        if entry["architecture"] == "SCMP_ARCH_X86_64"
    )
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        for rule in known["syscalls"]
        if holds(rule)
    ]
    more = {"defaultErrnoRet": known["defaultErrnoRet"]} if known.get("defaultErrnoRet") is not None else {}
    return {"defaultAction": known["defaultAction"], "architectures": architectures, "syscalls": rules, **more}


def holds(rule):
    """Whether a rule is for this machine, and for who has no capability."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    kernel = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if includes.get("caps") or "amd64" in (excludes.get("arches") or ()):
        return False
    if includes.get("arches") and "amd64" not in includes["arches"]:
        return False
    least = includes.get("minKernel")
    return not least or kernel >= tuple(int(part) for part in least.split("."))
