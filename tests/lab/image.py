"""A Docker image archive made from this machine's Debian packages: no registry, no network, no daemon needed.

It holds a shell, the usual tools and Debian's Python, about 100 MB. The engine's environment is not in it: the lab's
OCI runtime lays that over /opt/engine, where the image's PATH begins (see ``oci_runtime``). Both nodes load the same
archive, so that the image has the same id on both.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.oci_runtime import TREE_VARIABLE
from tests.lab.places import CONTAINER_TREE, images_dir

# What engines ask of an image: sh, bash, ps, hostname -I, lscpu (thread binding), ip, python3 and its libraries.
# fmt: off
PACKAGES = (
    "base-files", "bash", "ca-certificates", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "iproute2",
    "libnuma1", "libstdc++6", "procps", "python3.11", "sed", "tar", "util-linux",
)
# fmt: on
# Needed to install packages, not to run what is in them.
LEFT_OUT = frozenset({"debconf", "dpkg", "install-info", "init-system-helpers", "media-types", "perl-base"})
NO_FILES = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/usr/share/lintian", "/var")
OWN_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
OWN_FOLDERS = {"dev": 0o755, "proc": 0o755, "sys": 0o755, "mnt": 0o755, "root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}
OWN_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/bin/sh": "dash"}
ENVIRONMENT = {
    "PATH": f"{CONTAINER_TREE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    # There is no way out of a node: nobody must wait for one.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # No compiler in the image: what PyTorch would compile at the first request runs as it is.
    "TORCHDYNAMO_DISABLE": "1",
}
# SGLang's CPU images set it, too: it chooses the platform at import.
ENGINE_ENVIRONMENT = {"sglang": {"SGLANG_USE_CPU_ENGINE": "1"}}


def image_name(engine: str, version: str) -> str:
    """Name of the lab's image, as the inventory has it."""
    return f"h20-lab/{engine}:{version}-cpu"


def closure(wanted: Iterable[str], depends: Mapping[str, str]) -> set[str]:
    """The wanted packages with everything they depend on, among those installed.

    Args:
        wanted: package names.
        depends: installed package -> its ``Pre-Depends`` and ``Depends`` fields, comma-separated.
    """
    found: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in found or name in LEFT_OUT or name not in depends:
            continue
        found.add(name)
        for clause in depends[name].split(","):
            pending += [choice.strip().partition(" ")[0].partition(":")[0] for choice in clause.split("|")]
    return found


def installed() -> dict[str, str]:
    """The Debian packages of this machine with what they depend on."""
    form = "${Package}\t${Pre-Depends}, ${Depends}\n"
    out = subprocess.run(["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True).stdout
    return dict(line.split("\t", 1) for line in out.splitlines())


def files_of(packages: Iterable[str]) -> list[Path]:
    """The files of these packages, and Python's compiled ones, each under its real folder."""
    out = subprocess.run(["dpkg", "-L", *sorted(packages)], check=True, capture_output=True, text=True).stdout
    found: set[Path] = set()
    for line in out.splitlines():
        if not line.startswith("/") or line.startswith(NO_FILES):
            continue
        path = Path(os.path.realpath(os.path.dirname(line)), os.path.basename(line))
        if path.is_file() or path.is_symlink():
            found.add(path)
            if path.suffix == ".py":
                found.update((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))
    return sorted(found)


def layer(files: Iterable[Path], engine_folder: str = CONTAINER_TREE) -> bytes:
    """A root file system as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int = 0o755, text: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if kind == tarfile.SYMTYPE:
                info.linkname = text
            elif kind == tarfile.REGTYPE:
                info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()) if kind == tarfile.REGTYPE else None)

        for name, mode in {**OWN_FOLDERS, "usr/bin": 0o755, engine_folder.lstrip("/"): 0o755}.items():
            add(name, tarfile.DIRTYPE, mode)
        for path in files:
            if str(path).lstrip("/") in {*OWN_LINKS, *OWN_FILES}:
                continue
            tar.add(path, arcname=str(path).lstrip("/"), recursive=False)
        for name, text in OWN_FILES.items():
            add(name, tarfile.REGTYPE, 0o644, text)
        for name, target in OWN_LINKS.items():
            add(name, tarfile.SYMTYPE, 0o777, target)
    return buffer.getvalue()


def archive(name: str, root: bytes, environment: Mapping[str, str]) -> bytes:
    """What ``docker save`` would write for an image of this one layer; the same bytes every time."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2025-04-05T00:00:00Z",
        "config": {"Env": [f"{k}={v}" for k, v in environment.items()], "Cmd": ["/bin/bash"], "Labels": {"h20.lab": "1"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(root).hexdigest()]},
        "history": [{"created": "2025-04-05T00:00:00Z", "created_by": "pytest-h20 tests.lab"}],
    }
    text = json.dumps(config, sort_keys=True).encode()
    config_name = hashlib.sha256(text).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in ((config_name, text), ("layer.tar", root), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def build(engines: Mapping[str, str]) -> list[Path]:
    """Write one archive per engine (name -> version) into the lab's folder; returns their paths."""
    root = layer(files_of(closure(PACKAGES, installed())))
    images_dir().mkdir(parents=True, exist_ok=True)
    written = []
    for engine, version in engines.items():
        environment = {**ENVIRONMENT, **ENGINE_ENVIRONMENT.get(engine, {}), TREE_VARIABLE: engine}
        data = archive(image_name(engine, version), root, environment)
        path = images_dir() / f"{engine}.tar"
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        partial.rename(path)
        written.append(path)
    return written
