"""What this machine has for a GPU lab: device files, NVIDIA's tools and libraries, what is mounted where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from tests.lab.places import LabError

Lender = Literal["nvidia", "wrapper"]
"""Who gives containers their GPUs: NVIDIA's container runtime, or the lab's OCI runtime (``oci_runtime``)."""
HOOK = "nvidia-container-runtime-hook"
"""What dockerd runs for ``--gpus``, when it finds a program of this name in its PATH (moby, daemon/nvidia_linux.go)."""
RUNTIME = "nvidia-container-runtime"
DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
SHARED_DEVICES = frozenset({"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"})


def gpu_indices(names: Iterable[str]) -> tuple[int, ...]:
    """The GPUs among the names in /dev (nvidia0, nvidia1, ...; nvidiactl and nvidia-uvm are none)."""
    return tuple(sorted(int(match[1]) for name in names if (match := re.fullmatch(r"nvidia(\d+)", name))))


def devices_of(gpus: Iterable[int], names: Iterable[str]) -> list[str]:
    """The device files among ``names`` that a node with these GPUs sees: its own and those that all GPUs share."""
    own = {f"nvidia{index}" for index in gpus}
    return sorted(name for name in names if name in own or name in SHARED_DEVICES or name.startswith("nvidia-caps/"))


def device_names(dev: Path = Path("/dev")) -> list[str]:
    """NVIDIA's files below /dev."""
    return [str(path.relative_to(dev)) for pattern in ("nvidia*", "nvidia-caps/*") for path in dev.glob(pattern) if not path.is_dir()]


def inner_mounts(mounts: str, lab: str) -> list[str]:
    """What is mounted below /usr and /opt (a driver's squashfs, a data disk), from /proc/self/mounts, less the lab's own."""
    places = [line.split()[1].replace("\\040", " ") for line in mounts.splitlines() if len(line.split()) > 1]
    return [place for place in dict.fromkeys(places) if re.match(r"/(usr|opt)/", place) and not f"{place}/".startswith(f"{lab}/")]


def driver_folders(environment: Mapping[str, str], has_library: Iterable[str] | None = None) -> list[str]:
    """Folders with libnvidia-ml.so.1. ``has_library``: the folders that have it (default: those of this machine)."""
    wanted = dict.fromkeys([*filter(None, environment.get("LD_LIBRARY_PATH", "").split(":")), *DRIVER_FOLDERS])
    if has_library is None:
        has_library = [folder for folder in wanted if Path(folder, "libnvidia-ml.so.1").exists()]
    there = set(has_library)
    return [folder for folder in wanted if folder in there]


def container_runtime(debian: bool, path: str) -> Lender:
    """NVIDIA's where its toolkit is installed, hook and runtime, and a node's root is the machine's own."""
    return "nvidia" if not debian and all(shutil.which(name, path=path) for name in (HOOK, RUNTIME)) else "wrapper"


def daemon_options(lender: Lender, path: str) -> list[str]:
    """What a node's dockerd is told, so that it tells the same to whoever asks."""
    return [f"--add-runtime=nvidia={shutil.which(RUNTIME, path=path)}"] if lender == "nvidia" else []


def lender(info: str) -> Lender:
    """Who gives a node's containers their GPUs, from its ``docker info --format '{{json .}}'``."""
    try:
        runtimes = json.loads(info)["Runtimes"] or {}
    except (ValueError, KeyError, TypeError):
        runtimes = {}
    if "lab" not in runtimes:
        raise LabError(f"docker info says {info.strip()[:200]!r}, and no runtime of the lab's; see /run/lab/dockerd.log on the node")
    return "nvidia" if "nvidia" in runtimes else "wrapper"
