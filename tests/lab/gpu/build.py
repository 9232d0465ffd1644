"""What of a GPU lab is made where it runs: the engine's image, and programs borrowed from the Debian tree."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import image
from tests.lab.gpu.pack import Engine, engines_there
from tests.lab.oci_runtime import MACHINE_VARIABLE, TREE_VARIABLE
from tests.lab.places import CONTAINER_TREE, debian_dir, images_dir, lab_dir

COMPILERS = ("CC", "CXX", "CUDAHOSTCXX", "TORCH_CUDA_ARCH_LIST")
BORROWED = ("ip", "ssh", "ssh-keygen")
FOLDERS = {"usr": 0o755, "opt": 0o755, "etc": 0o755, "run": 0o755, "var": 0o755, "etc/alternatives": 0o755, "etc/ssl": 0o755}


def image_environment(engine: Engine, machine: Mapping[str, str], python: str) -> dict[str, str]:
    """An image's environment: the engine's folder first, then this Python, CUDA and the driver where the machine has them."""
    folders = (f"{CONTAINER_TREE}/bin", os.path.dirname(python), "/usr/local/cuda/bin", "/usr/local/nvidia/bin")
    return {
        "PATH": ":".join((*folders, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        "PYTHONPATH": f"{CONTAINER_TREE}/site",
        "LD_LIBRARY_PATH": machine.get("LD_LIBRARY_PATH") or "/usr/local/nvidia/lib64:/usr/local/nvidia/lib",
        "CUDA_HOME": "/usr/local/cuda",
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        MACHINE_VARIABLE: "1",
        TREE_VARIABLE: engine.tree,
        **{name: machine[name] for name in COMPILERS if machine.get(name)},
        # NVLink multicast stays as the machine's owner has it.
        **{name: value for name, value in machine.items() if name.startswith(("NCCL_NVLS", "TORCH_SYMM_MEM", "NVSHMEM_DISABLE"))},
    }


def layer() -> bytes:
    """A root file system that is all mount points: the machine lends /usr and /opt (see ``oci_runtime``)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in {**FOLDERS, **image.OWN_FOLDERS, CONTAINER_TREE.lstrip("/"): 0o755}.items():
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for name, text in {**image.OWN_FILES, "etc/ld.so.cache": ""}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in image.OWN_LINKS.items():
            if not name.startswith("usr/"):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                tar.addfile(info)
    return buffer.getvalue()


def make_images() -> list[Path]:
    """Write the archives of the engines' images for the nodes to load."""
    images_dir().mkdir(parents=True, exist_ok=True)
    paths = []
    for engine in engines_there():
        path = images_dir() / f"{engine.tree}.tar"
        path.write_bytes(image.archive(engine.image, layer(), image_environment(engine, os.environ, sys.executable)))
        paths.append(path)
    return paths


def borrow(programs: Sequence[str] = BORROWED) -> list[str]:
    """Make those of the programs that this machine lacks runnable from the Debian tree, in the lab's own bin; returns their names."""
    libraries = debian_dir() / "usr/lib/x86_64-linux-gnu"
    made = []
    for name in programs:
        program = debian_dir() / "usr/bin" / name
        if shutil.which(name) or not program.exists():
            continue
        wrapper = lab_dir() / "bin" / name
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} {program} "$@"\n')
        wrapper.chmod(0o755)
        made.append(name)
    return made
