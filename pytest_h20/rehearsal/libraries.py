"""What the ranks of the stand-in engine have loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

_WHEELS = "/usr/local/lib/python3.12/dist-packages"
_USR = "/usr/lib/x86_64-linux-gnu"


@dataclass
class LibrariesTruth:
    """What a fault changes, by node. ``other``: a build of NCCL that is not the image's. ``conf``: a file left in the image. ``env``:
    variables that its ranks have instead of those given. ``blind``: its processes cannot be looked at. ``version``: of the NCCL that all
    ranks have loaded, instead of the image's.
    """

    other: dict[str, str] = field(default_factory=dict)
    conf: dict[str, dict[str, str]] = field(default_factory=dict)
    env: dict[str, dict[str, str]] = field(default_factory=dict)
    blind: set[str] = field(default_factory=set)
    version: str = ""


def printed(truth: LibrariesTruth, node: str, env: Mapping[str, str], nccl: str, kind: str, ranks: int) -> str:
    """The answer of one container."""
    extension = f"{_WHEELS}/vllm/_C.abi3.so" if kind == "vllm" else f"{_WHEELS}/sgl_kernel/common_ops.abi3.so"
    versions = {
        f"{_WHEELS}/nvidia/nccl/lib/libnccl.so.2": truth.version or nccl,
        f"{_WHEELS}/nvidia/cuda_runtime/lib/libcudart.so.12": "12",
        f"{_USR}/libcuda.so.535.216.03": "535.216.03",
        f"{_USR}/libibverbs.so.1.14.39.0": "1.14.39.0",
        f"{_USR}/libmlx5.so.1.24.39.0": "1.24.39.0",
        extension: "",
    }
    files = {}
    for path, version in versions.items():
        build = truth.other.get(node, "") if "libnccl" in path else ""
        digest = hashlib.sha256(f"{path} {version} {build}".encode()).hexdigest()
        files[path] = {"sha256": digest, "size": 1 << 20, "version": version}
    mine = {key: value for key, value in {**env, **truth.env.get(node, {})}.items() if key.startswith("NCCL_")}
    processes = [{"pid": 300 + rank, "name": "python3", "paths": sorted(versions), "env": mine} for rank in range(ranks)]
    if node in truth.blind:
        processes = []
    conf = {"/etc/nccl.conf": truth.conf[node]} if node in truth.conf else {}
    told = {"libraries": 1, "processes": processes, "files": files, "conf": conf, "unread": ranks if node in truth.blind else 0}
    return json.dumps(told) + "\n"
