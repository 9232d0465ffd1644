#!/usr/bin/python3 -IS
"""runc for the lab's nodes; installed there as ``oci-runtime`` and given to dockerd as its default runtime.

``docker run --privileged`` asks for every capability and ``--ulimit memlock=-1`` for an unlimited hard limit. A root
that holds fewer rights (in a sandbox, without CAP_SYS_RESOURCE) can grant neither, and runc ends with "unable to apply
caps: operation not permitted" or "error setting rlimit type 8". This program takes out of the bundle's config.json
(create, run) or of the process file (exec) only what its own process does not hold, then execs the real runc. On a
machine with full rights that changes nothing. It also gives a container what the lab stands in:

* the files of LAB_OCI_BIND (colon-separated paths), when it shares the node's network, as a real node's /sys would be seen;
* with H20_LAB_MACHINE in the image's environment, the machine's /usr and /opt (Python, torch, CUDA), read-only, as the node shows
  them below /opt/machine;
* the node's GPUs with ``--gpus``, where NVIDIA's container runtime is not there to do it (LAB_OCI_GPUS=wrapper);
* the engine's Python environment at /opt/engine, read-only, when its image says so with H20_LAB_TREE=NAME: the image is
  small, the 3 GB are on the machine's disk once.

Stand-alone and stdlib-only: it runs on the node, started by containerd. LAB_RUNC names another runc, LAB_OCI_LOG a file
in which every change is noted.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import shutil
import stat
import sys
import time
from typing import Any

# Capability numbers, linux/capability.h, in order.
# fmt: off
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)
# fmt: on
UNLIMITED = (1 << 64) - 1
TREE_VARIABLE = "H20_LAB_TREE"
TREES = "/opt/h20-lab/engines"
TREE_IN_CONTAINER = "/opt/engine"
MACHINE_VARIABLE = "H20_LAB_MACHINE"
MACHINE = "/opt/machine"


def held_capabilities(status: str) -> set[str]:
    """Names of the capabilities that a process with this ``/proc/self/status`` may hand on."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    mask = int(fields["CapPrm"], 16) & int(fields["CapBnd"], 16)
    return {"CAP_" + name for i, name in enumerate(CAPABILITIES) if mask >> i & 1}


def fit_process(process: dict[str, Any], held: set[str], hard_limits: dict[str, int], oom_score: int) -> list[str]:
    """Take out of an OCI process what cannot be granted; the notes say what."""
    notes = []
    for kind, names in (process.get("capabilities") or {}).items():
        refused = sorted(set(names or []) - held)
        if refused:
            notes.append(f"{kind} -{','.join(refused)}")
            process["capabilities"][kind] = [name for name in names if name in held]
    if "CAP_SYS_RESOURCE" in held:
        return notes
    for limit in process.get("rlimits") or []:
        top = hard_limits.get(limit["type"], UNLIMITED)
        if limit["hard"] > top or limit["soft"] > top:
            notes.append(f"{limit['type']} {limit['soft']}/{limit['hard']} -> {top}")
            limit["hard"], limit["soft"] = min(limit["hard"], top), min(limit["soft"], top)
    wanted = process.get("oomScoreAdj")
    if wanted is not None and wanted < min(oom_score, 0):
        notes.append(f"oomScoreAdj {wanted} -> {oom_score}")
        process["oomScoreAdj"] = oom_score
    return notes


def fit_bundle(spec: dict[str, Any], held: set[str], binds: list[str]) -> list[str]:
    """Adapt what belongs to the whole container: devices and mounts. ``binds``: paths that exist on the node."""
    notes = []
    linux = spec.get("linux") or {}
    if linux.get("devices") and "CAP_MKNOD" not in held:
        notes.append(f"devices -{len(linux['devices'])}")
        linux["devices"] = []
    mounts = spec.setdefault("mounts", [])
    own_network = any(n["type"] == "network" and not n.get("path") for n in linux.get("namespaces") or [])
    for path in [] if own_network else binds:
        mounts.append({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]})
        notes.append(f"bind {path}")
    for entry in (spec.get("process") or {}).get("env") or []:
        name, _, tree = entry.partition("=")
        if name == TREE_VARIABLE and tree and "/" not in tree:
            source = f"{TREES}/{tree}"
            mounts.append({"destination": TREE_IN_CONTAINER, "type": "bind", "source": source, "options": ["rbind", "ro"]})
            notes.append(f"bind {source}")
    return notes


def environment(spec: dict[str, Any]) -> dict[str, str]:
    """The environment of a container's process."""
    return dict(entry.partition("=")[::2] for entry in (spec.get("process") or {}).get("env") or [])


def lend_machine(spec: dict[str, Any], paths: list[str]) -> list[str]:
    """Mount these paths of the machine where they are there, below what the container mounts itself."""
    if not environment(spec).get(MACHINE_VARIABLE):
        return []
    more = [{"destination": p, "type": "bind", "source": MACHINE + p, "options": ["rbind", "ro"]} for p in paths]
    spec["mounts"] = more + spec.get("mounts", [])
    return [f"machine {' '.join(paths)}"]


def lend_gpus(spec: dict[str, Any], devices: list[tuple[str, int, int]]) -> list[str]:
    """Give a container that asked for GPUs these device files: (path, major, minor)."""
    if environment(spec).get("NVIDIA_VISIBLE_DEVICES", "void") in ("", "void", "none"):
        return []
    linux = spec.setdefault("linux", {})
    have = {device["path"] for device in linux.get("devices") or []}
    allowed = linux.setdefault("resources", {}).setdefault("devices", [])
    linux["devices"] = list(linux.get("devices") or [])
    notes = []
    for path, major, minor in devices:
        if path not in have:
            number = {"type": "c", "major": major, "minor": minor}
            linux["devices"].append({"path": path, **number, "fileMode": 0o666, "uid": 0, "gid": 0})
            allowed.append({"allow": True, **number, "access": "rwm"})
            notes.append(path)
    return notes


def machine_paths() -> list[str]:
    """What of the machine a container gets: /usr, everything in /opt but the place of the engine, how libraries are found."""
    opt = [f"/opt/{name}" for name in sorted(os.listdir(MACHINE + "/opt"))] if os.path.isdir(MACHINE + "/opt") else []
    wanted = ["/usr", *(p for p in opt if p != TREE_IN_CONTAINER), "/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl"]
    return [path for path in wanted if os.path.exists(MACHINE + path)]


def gpu_devices() -> list[tuple[str, int, int]]:
    """The GPU device files of this node."""
    found = []
    for path in sorted(glob.glob("/dev/nvidia*") + glob.glob("/dev/nvidia-caps/*")):
        status = os.stat(path)
        if stat.S_ISCHR(status.st_mode):
            found.append((path, os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found


def hard_limits() -> dict[str, int]:
    """This process's hard limits by OCI name."""
    tops = {name: resource.getrlimit(getattr(resource, name))[1] for name in dir(resource) if name.startswith("RLIMIT_")}
    return {name: UNLIMITED if top == resource.RLIM_INFINITY else top for name, top in tops.items()}


def option(args: list[str], *names: str) -> str | None:
    """The value of ``--name V``, ``--name=V`` or ``-n V`` among the arguments."""
    for i, arg in enumerate(args):
        for name in names:
            if arg == name and i + 1 < len(args):
                return args[i + 1]
            if name.startswith("--") and arg.startswith(name + "="):
                return arg[len(name) + 1 :]
    return None


def adapt(path: str, whole: bool) -> None:
    """Rewrite one JSON file in place: a bundle's config (``whole``) or a bare process."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    with open("/proc/self/status", encoding="utf-8") as file:
        held = held_capabilities(file.read())
    with open("/proc/self/oom_score_adj", encoding="utf-8") as file:
        oom_score = int(file.read())
    process = spec.get("process") if whole else spec
    notes = fit_process(process, held, hard_limits(), oom_score) if process else []
    if whole:
        binds = [p for p in os.environ.get("LAB_OCI_BIND", "").split(":") if p and os.path.exists(p)]
        notes += lend_machine(spec, machine_paths())
        if os.environ.get("LAB_OCI_GPUS") == "wrapper":
            notes += lend_gpus(spec, gpu_devices())
        notes += fit_bundle(spec, held, binds)
    if not notes:
        return
    with open(path + ".lab", "w", encoding="utf-8") as file:
        json.dump(spec, file)
    os.chmod(path + ".lab", os.stat(path).st_mode & 0o7777)
    os.rename(path + ".lab", path)
    log = os.environ.get("LAB_OCI_LOG")
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {path}: {'; '.join(notes)}\n")


def main() -> None:
    """Adapt the bundle or process file of this call, then become runc."""
    args = sys.argv[1:]
    verb = next((arg for arg in args if arg in ("create", "run", "exec", "restore")), None)
    if verb in ("create", "run", "restore"):
        adapt(os.path.join(option(args, "--bundle", "-b") or ".", "config.json"), whole=True)
    elif verb == "exec":
        path = option(args, "--process", "-p")
        if path:
            adapt(path, whole=False)
    runc = os.environ.get("LAB_RUNC") or shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, [runc, *args])


if __name__ == "__main__":
    main()
