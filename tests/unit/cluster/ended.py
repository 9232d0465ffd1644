"""An engine of two ranks that ended, and what its nodes say of it: logs of a real one (vLLM 0.24.0 on two H200, its worker killed)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pytest_h20.cluster.state import ClusterState, EngineVersions, RoleRef
from pytest_h20.nodes import Node
from pytest_h20.nodes.local import LocalNode

DATA = Path(__file__).parent / "data" / "worker-killed"
NOBODY = "http://127.0.0.1:9"


class Box:
    """A journal, and nodes whose containers are told to run or not."""

    def __init__(self, **running: bool) -> None:
        self.running = running
        self.kept: dict[str, bytes | str] = {}

    def event(self, kind: str, **data: Any) -> None:
        """Nothing is asked of events here."""

    def evidence(self, name: str, data: bytes | str) -> str:
        self.kept[name] = data
        return f"evidence/{name}"

    def inspect(self, container: str) -> object:
        return SimpleNamespace(running=self.running[container], oom_killed=False, exit_code=0 if self.running[container] else 137)

    def node(self, name: str) -> Node:
        local = LocalNode(name)
        return cast("Node", SimpleNamespace(name=name, run=local.run, get=local.get, containers=self))

    def nodes(self) -> dict[str, Node]:
        return {name: self.node(name) for name in ("node01", "node02")}


def cluster(folder: Path, *, roles: bool = True) -> ClusterState:
    refs = (
        RoleRef("node01", "rank0", 0, "c0", "h20-c0", str(folder / "rank0.log"), "vllm serve"),
        RoleRef("node02", "rank1", 1, "c1", "h20-c1", str(folder / "rank1.log"), "vllm serve"),
    )
    node_dirs = dict.fromkeys(("node01", "node02"), str(folder)) if roles else {}
    return ClusterState(
        "r", "vllm", "p", "node01", NOBODY, "m", EngineVersions("0.24.0"), refs if roles else (), node_dirs, attached=not roles
    )


def logs(folder: Path, *, dead: bool) -> Path:
    for name, source in (("rank0.log", "rank0.tail.log"), ("rank1.log", "rank1.log")):
        (folder / name).write_bytes((DATA / source).read_bytes() if dead else b"INFO: Application startup complete.\n")
    return folder
