"""What a cluster is once it is up: plain data that any process of the run can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Phase(str, Enum):
    """The states of a cluster, in order; ``broken`` is final until ``down``."""

    OFF = "off"
    LAUNCHING = "launching"
    JOINING = "joining"
    LOADING = "loading"
    READY = "ready"
    BROKEN = "broken"
    DOWN = "down"


@dataclass(frozen=True)
class RoleRef:
    """One process of the engine: where it runs, in which container, and the file its output goes to (on the node)."""

    node: str
    role: str
    rank: int
    container_id: str
    container_name: str
    log_path: str
    command: str


@dataclass(frozen=True)
class EngineVersions:
    """What the image really holds, asked from inside it. Empty text: not present."""

    engine: str
    torch: str = ""
    nccl: str = ""
    cuda: str = ""
    python: str = ""
    ray: str = ""
    image_id: str = ""


@dataclass(frozen=True)
class ClusterState:
    """A cluster that is ready, or that was attached to."""

    run_id: str
    engine: str
    profile: str
    head: str
    url: str
    model: str
    versions: EngineVersions
    roles: tuple[RoleRef, ...] = ()
    node_dirs: dict[str, str] = field(default_factory=dict)
    timeline: tuple[tuple[str, float], ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    attached: bool = False
    worker_health_urls: dict[str, str] = field(default_factory=dict)
    first_completion_s: float | None = None
    proof: str = ""

    def role_nodes(self) -> tuple[str, ...]:
        """The nodes in use, head first."""
        return tuple(dict.fromkeys(r.node for r in self.roles))
