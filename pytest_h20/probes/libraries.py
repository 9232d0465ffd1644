"""What the processes of an engine have in their memory: libraries by content, and the settings of NCCL that they run with. Text in,
dataclasses out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_h20.probes.script import ProbeError

MARK = "h20-ask: libraries"


@dataclass(frozen=True)
class Library:
    """A file that was loaded. ``version``: of NCCL as the file spells it, else what its name says; "" unknown."""

    path: str
    sha256: str
    size: int
    version: str = ""


@dataclass(frozen=True)
class LoadedProcess:
    """A process of the engine that holds a GPU. ``paths``: what it has mapped. ``env``: its NCCL_* variables."""

    pid: int
    name: str
    paths: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Loaded:
    """What one container told. ``conf``: file to the settings in it. ``unread``: processes whose memory could not be looked at."""

    processes: tuple[LoadedProcess, ...]
    files: Mapping[str, Library]
    conf: Mapping[str, Mapping[str, str]]
    unread: int = 0

    @property
    def ranks(self) -> tuple[LoadedProcess, ...]:
        """SGLang's schedulers, where they say so: its server and its detokenizer hold the GPU open and take no part. Else all."""
        return tuple(p for p in self.processes if p.name.startswith("sglang::sched")) or self.processes


# Runs in the engine's container, with the image's Python: processes that have a GPU's device file mapped. A title (setproctitle) is written
# over the start of /proc/PID/environ; what it hid is the parent's.
SCRIPT = r"""# h20-ask: libraries
import glob, hashlib, json, os, re
wanted = re.compile(
    r"/(libnccl|libmlx5|libibverbs|libcudart|libcuda\.so)[^/]*$|/(vllm|sglang|sgl_kernel|flashinfer|deep_gemm|deep_ep)/.*\.so$"
)
def environ(pid):
    with open("/proc/%s/environ" % pid, "rb") as file:
        data = file.read()
    own = dict(word.split("=", 1) for word in data.decode("utf-8", "replace").split("\0") if word.startswith("NCCL_") and "=" in word)
    if data[:1] != b"\0":
        return own
    try:
        with open("/proc/%s/stat" % pid) as file:
            return {**environ(file.read().rpartition(")")[2].split()[1]), **own}
    except OSError:
        return own


found, files, unread = [], {}, 0
for place in glob.glob("/proc/[0-9]*"):
    try:
        with open(place + "/maps") as file:
            paths = set(line.split(None, 5)[5].strip() for line in file if line.count(" ") > 4 and "/" in line)
    except (OSError, IndexError):
        unread += os.path.isdir(place)
        continue
    if not any(re.match(r"/dev/nvidia[0-9]", path) for path in paths):
        continue
    try:
        with open(place + "/comm") as file:
            name = file.read().strip()
        env = environ(place[6:])
    except OSError:
        name, env = "", {}
    mine = sorted(path for path in paths if wanted.search(path))
    found.append({"pid": int(place[6:]), "name": name, "paths": mine, "env": env})
    for path in mine:
        files.setdefault(path, place + "/root" + path.replace(" (deleted)", ""))
told = {}
for path, real in files.items():
    version = re.search(r"\.so\.([0-9][0-9.]*)$", os.path.realpath(real))
    version = version.group(1) if version else ""
    try:
        digest, size, tail = hashlib.sha256(), 0, b""
        with open(real, "rb") as file:
            for block in iter(lambda: file.read(1 << 22), b""):
                digest.update(block)
                size += len(block)
                if "/libnccl.so" in path:
                    seen = re.search(rb"NCCL version ([0-9]+\.[0-9]+\.[0-9]+)", tail + block)
                    version = seen.group(1).decode() if seen else version
                    tail = block[-64:]
        told[path] = {"sha256": digest.hexdigest(), "size": size, "version": version}
    except OSError as error:
        told[path] = {"sha256": "", "size": 0, "version": str(error)}
conf = {}
for path in ("/etc/nccl.conf", os.path.expanduser("~/.nccl.conf")):
    try:
        with open(path) as file:
            lines = [line.split("#")[0].strip() for line in file]
        conf[path] = dict(line.split("=", 1) for line in lines if "=" in line)
    except OSError:
        continue
print(json.dumps({"libraries": 1, "processes": found, "files": told, "conf": conf, "unread": unread}))
"""


def libraries_command() -> tuple[str, ...]:
    """What is run in a container of the engine."""
    return ("python3", "-c", SCRIPT)


def parse_loaded(text: str) -> Loaded:
    """The one JSON line of ``SCRIPT``. Raises ``ProbeError`` when it is not there or has another form."""
    line = next((line for line in text.splitlines() if line.startswith('{"libraries"')), "")
    try:
        data = json.loads(line)
        files = {
            str(path): Library(str(path), str(file["sha256"])[:64], int(file["size"]), str(file["version"])[:60])
            for path, file in data["files"].items()
        }
        processes = tuple(
            LoadedProcess(int(p["pid"]), str(p["name"])[:60], tuple(map(str, p["paths"])), {str(k): str(v) for k, v in p["env"].items()})
            for p in data["processes"]
        )
        conf = {str(path): {str(k).strip(): str(v).strip() for k, v in keys.items()} for path, keys in data["conf"].items()}
        return Loaded(processes, files, conf, int(data["unread"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProbeError(f"the engine's processes did not tell what they have loaded: {type(error).__name__}") from None


def family(path: str) -> str:
    """Which library a file is: ``libnccl`` for ``/usr/lib/libnccl.so.2.28.9``, ``vllm/_C.abi3.so`` for an extension; "" none of ours, and
    what every node compiled for itself (``~/.cache/flashinfer``), of which no two are the same."""
    if "/.cache/" in path or "/cached_ops/" in path:
        return ""
    name = path.removesuffix(" (deleted)").rpartition("/")[2]
    if re.match(r"libnccl[-_]", name):
        return "nccl plugin"
    for known in ("libnccl", "libmlx5", "libibverbs", "libcudart", "libcuda"):
        if re.match(rf"{known}(\.so|-[0-9a-f]+\.so)", name):
            return known
    inside = re.search(r"/((vllm|sglang|sgl_kernel|flashinfer|deep_gemm|deep_ep)/.*\.so)$", path)
    return inside[1] if inside else ""
