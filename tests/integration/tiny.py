"""A cluster of one node that takes seconds: a real sshd, a real dockerd, and an image whose engine is a shell script.

The engine says what vLLM says while it starts, answers ``/health``, ``/v1/models`` and one completion, and ends on SIGTERM. A
script of the caller's can take its place (an engine that dies, an image that attacks).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pytest_h20.config.inventory import Inventory, load_inventory
from tests.integration.dockerd import Dockerd
from tests.integration.sshd import Sshd, free_port

IMAGE = "h20-test/tiny:1"
MODEL = "/models/tiny"

# What the version probe asks python3 for, as the wheel would answer; nothing else of Python is there.
_PYTHON = """#!/bin/sh
[ "$1" = -m ] && exec /bin/vllm "$@"
[ "$1" = - ] && printf 'python=3.11.2\\npackage\\tvllm\\t0.11.0\\npackage\\ttorch\\t2.8.0+cpu\\ncuda=\\nnccl=2.27.3\\n'
exit 0
"""
_ENGINE = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = --port ] && port=$2; shift; done
echo "INFO 04-05 12:00:00 [api_server.py:1839] vLLM API server version 0.11.0"
sleep 1
echo "INFO 04-05 12:00:01 [default_loader.py:267] Loading weights took 0.50 seconds"
sleep 1
echo "INFO 04-05 12:00:02 [api_server.py:1912] Starting vLLM API server 0 on http://0.0.0.0:$port"
nc -ll -p $port -e /bin/answer &
p=$!
trap 'kill $p; exit 0' TERM
echo "INFO:     Application startup complete."
wait $p
"""
_ANSWER = """#!/bin/sh
read -r method path rest
length=0
while read -r name value; do
  value=${value%?}
  case $name in [Cc]ontent-[Ll]ength:) length=$value;; ?) break;; esac
done
[ "$length" = 0 ] || head -c $length >/dev/null
case $path in
  /health) body=;;
  /v1/models) body='{"object": "list", "data": [{"id": "/models/tiny", "object": "model", "max_model_len": 4096}]}';;
  *) body='{"id": "x", "object": "text_completion", "choices": [{"index": 0, "text": "1", "finish_reason": "length"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}';;
esac
printf 'HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %s\\r\\nConnection: close\\r\\n\\r\\n%s' ${#body} "$body"
"""  # noqa: E501


class Tiny:
    """The cluster and its inventory. ``close`` ends everything that it started."""

    def __init__(self, engine: str = _ENGINE) -> None:
        self.dockerd = Dockerd()
        self.folder = Path(tempfile.mkdtemp(prefix="h20-tiny-", dir="/tmp"))
        try:
            self.sshd = Sshd(self.folder / "sshd")
            self.base = self.folder / "base"
            self.port = free_port()
            (self.folder / "models/tiny").mkdir(parents=True)
            self.image(IMAGE, engine)
            self.inventory_file = self.inventory("tiny")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End sshd and dockerd, remove the folder."""
        import shutil

        if hasattr(self, "sshd"):
            self.sshd.stop()
        self.dockerd.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def image(self, name: str, engine: str = _ENGINE, labels: Mapping[str, str] | None = None, python: str = _PYTHON) -> None:
        """Load an image whose ``vllm`` and ``python3`` are these scripts, with these labels of its own."""
        client = self.docker()
        changes = [f'LABEL {key}="{value}"' for key, value in (labels or {}).items()]
        repository, _, tag = name.partition(":")
        client.import_image_from_data(_layer(engine, python), repository=repository, tag=tag, changes=changes)
        client.close()

    def docker(self) -> Any:
        """A client of the daemon, as somebody else on the node has one."""
        import docker

        return docker.APIClient(base_url=f"unix://{self.dockerd.socket}", version="auto", timeout=60)

    def containers(self) -> dict[str, str]:
        """Name → state of every container of the daemon."""
        client = self.docker()
        found = {c["Names"][0].lstrip("/"): str(c["State"]) for c in client.containers(all=True)}
        client.close()
        return found

    def inventory(self, name: str, **changes: Any) -> Path:
        """An inventory of this node. ``changes`` go over the profile's fields; ``top`` over the file's."""
        top = changes.pop("top", {})
        profile = {
            "image": IMAGE,
            "version": "0.11.0",
            "mode": "native",
            "tensor_parallel": 1,
            "http_port": self.port,
            "ready_timeout": 60,
            "container": {"gpus": None, "privileged": False, "ulimits": {}, "cap_add": [], "security_opt": []},
            "load": {"limit": "none"},
            **changes,
        }
        data = {
            "name": name,
            "kind": "lab",
            "ssh": {
                "user": "root",
                "port": self.sshd.port,
                "key": str(self.sshd.key),
                "known_hosts": str(self.sshd.known_hosts),
                "use_agent": False,
                "use_config": False,
                "docker_socket": str(self.dockerd.socket),
            },
            "nodes": [{"name": "node01", "address": "127.0.0.1", "control_interface": "lo"}],
            "model": {"host_path": str(self.folder / "models"), "mount": "/models", "path": MODEL, "kind": "other"},
            "engines": {"vllm": {"default": "tiny", "profiles": {"tiny": profile}}},
            "gates": ["bringup"],
            "run_dir_on_node": str(self.base),
            **top,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    def loaded(self) -> Inventory:
        """The inventory, read."""
        return load_inventory(self.inventory_file)

    def argv(self, *args: str, inventory: Path | None = None) -> list[str]:
        """The command line of a run. Nothing on this machine is an H20, so the engine is brought up by force."""
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:flask", "-p", "no:django", "--engine=vllm"]
        return [*words, f"--nodes={inventory or self.inventory_file}", "--h20-force", "--h20-history=none", *args]

    def run(
        self, folder: Path, *args: str, inventory: Path | None = None, timeout: float = 120, env: Mapping[str, str] | None = None
    ) -> Ran:
        """A run to its end, in a folder."""
        argv = self.argv(*args, inventory=inventory)
        environment = {**clean_environment(), **(env or {})}
        return Ran(subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False))

    def reap(self, *args: str, **env: str) -> Ran:
        """``python -m pytest_h20 reap``."""
        argv = [sys.executable, "-m", "pytest_h20", "reap", "--nodes", str(self.inventory_file), *args]
        environment = {**clean_environment(), **env}
        return Ran(subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False))


class Ran:
    """A process that ended: ``rc`` and all it printed."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.rc, self.output = done.returncode, done.stdout + done.stderr


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to the pytest that runs this test."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "GITHUB_", "H20_"))}


def _layer(engine: str, python: str) -> bytes:
    applets: Sequence[str] = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    path = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True).stdout.strip()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(path, "bin/busybox")
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                tar.addfile(link)
        for name, text in (("python3", python), ("vllm", engine), ("answer", _ANSWER)):
            info = tarfile.TarInfo(f"bin/{name}")
            info.mode, info.size = 0o755, len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for name in ("tmp", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
    return data.getvalue()
