"""What NCCL logs show, as frozen dataclasses. No judgement here; every ``to_dict`` is JSON-safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Family = Literal["ib", "socket", "ofi", "other", "local", "unknown"]
Kind = Literal["net", "p2p", "shm", "collnet"]
VerdictName = Literal["rdma_proven", "sockets", "mixed", "intra_node_only", "undetermined"]
Gdr = Literal["all", "none", "mixed", "unknown"]
Link = Literal["IB", "RoCE", ""]
Direction = Literal["send", "receive", ""]


def to_json(value: Any) -> Any:
    """Dataclasses, tuples, sets and mappings as plain JSON values; mapping keys become strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value) if f.metadata.get("json", True)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return [to_json(v) for v in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


@dataclass(frozen=True)
class Where:
    """A place in a log: file name as given by the caller and the 1-based physical line."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source or '<log>'}:{self.line}"


@dataclass(frozen=True)
class Device:
    """One RDMA port of a ``NET/IB : Using`` list. ``index`` is the number that channel lines use (``NET/IB/<index>``).

    ``members`` names the ports behind a fused NIC (NCCL 2.20-2.23 ``[0]={...}``, virtual devices from 2.24).
    """

    index: int
    name: str
    port: int | None = 1
    link: Link = ""
    members: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[str, ...]:
        """``mlx5_0:1`` forms, one per physical port."""
        return self.members or (f"{self.name}:{self.port}" if self.port is not None else self.name,)


@dataclass(frozen=True)
class Channel:
    """One connection as one rank printed it: a sender prints only ``send``, a receiver only ``receive``.

    ``intact`` is false for a record that was cut, spliced or joined over lines: good enough to name the network, not to prove.
    ``inter_node`` is None until a job places the ranks, and stays None when the log does not place them.
    """

    src: int
    dst: int
    channel: int
    conn: int
    direction: Direction
    kind: Kind
    network: str
    family: Family
    dev: int | None
    gdr: bool | None
    pxn: int | None
    shared: bool
    host: str
    pid: int
    tid: int
    cuda_dev: int | None
    intact: bool
    where: Where
    comm: str = ""
    node: str = ""
    inter_node: bool | None = None
    hca: str | None = None

    @property
    def rank(self) -> int:
        """The rank that printed the line."""
        return self.dst if self.direction == "receive" else self.src

    def text(self) -> str:
        """Short form for people."""
        way = f" [{self.direction}]" if self.direction else ""
        device = "" if self.dev is None else f"/{self.dev}"
        return f"{self.src} -> {self.dst}{way} via {self.network}{device}{'/GDRDMA' if self.gdr else ''}"


@dataclass(frozen=True)
class RankInit:
    """What one process printed about its rank in one communicator."""

    host: str
    pid: int
    comm: str
    comm_id: str | None
    rank: int
    nranks: int
    nnodes: int | None
    local_rank: int | None
    local_ranks: int | None
    cuda_dev: int | None
    bus_id: str | None
    started: bool
    completed: bool
    tids: tuple[int, ...]
    where: Where
    mnnvl: bool = False
    channels: tuple[int, ...] = ()
    """How many channels it says the communicator has: for rings and trees, and for NVLS where there is any."""
    trees: tuple[tuple[int, int], ...] = ()
    """Channel and rank beside it there in a tree."""


@dataclass(frozen=True)
class Communicator:
    """One communicator of a job, put together from the processes that printed about it. ``rank_to_bus``: its GPU's PCI address as NCCL
    writes it (hexadecimal without separators: ``1b000``), of ranks that told it."""

    key: str
    comm_id: str | None
    nranks: int | None
    nnodes: int | None
    rank_to_node: Mapping[int, str]
    completed_ranks: frozenset[int]
    open_ranks: frozenset[int]
    ambiguous: bool
    mnnvl: bool = False
    channels: frozenset[int] = frozenset()
    rank_to_bus: Mapping[int, str] = field(default_factory=dict)

    @property
    def spans_nodes(self) -> bool:
        """More than one node, stated by NCCL or seen in the rank map."""
        return (self.nnodes or len(set(self.rank_to_node.values()))) > 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {**to_json(self), "spans_nodes": self.spans_nodes}


@dataclass(frozen=True)
class NcclError:
    """One failure or warning, told once however often it is printed.

    ``label`` is the short word used in reports and in the corpus; empty for follow-ups that only repeat another failure.
    ``count`` is how many different lines told it; repeats of one identical line count once.
    ``severity``: ``fatal`` ends the job, ``retry`` is trouble that NCCL tried to ride out, ``note`` is harmless.
    """

    label: str
    severity: Literal["fatal", "retry", "note"]
    primary: bool
    meaning: str
    action: str
    text: str
    host: str
    pid: int
    count: int
    where: Where
    details: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return to_json(self)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Address:
    """Interface and address of the bootstrap or OOB path. The address is None when the poster blanked it or it was cut."""

    interface: str
    address: str | None
    where: Where


@dataclass(frozen=True)
class Process:
    """Everything one process printed that is not a channel, a communicator or an error."""

    host: str
    pid: int
    source: str
    nccl_version: str | None = None
    devices: tuple[Device, ...] = ()
    virtual_devices: tuple[Device, ...] = ()
    devices_complete: bool = True
    devices_where: Where | None = None
    socket_interfaces: tuple[str, ...] = ()
    oob: Address | None = None
    bootstrap: Address | None = None
    networks: tuple[str, ...] = ()
    network_where: Where | None = None
    plugins: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gdr_hcas: Mapping[str, bool] = field(default_factory=dict)
    gid_indexes: Mapping[str, frozenset[int]] = field(default_factory=dict)
    local_gids: frozenset[str] = frozenset()
    notes: tuple[tuple[str, Where], ...] = ()
    connected: frozenset[str] = frozenset()
    collective: Where | None = None
    mpi_rank: int | None = None


@dataclass(frozen=True)
class LogEvidence:
    """What one log shows. Size depends on how many distinct things it shows, not on its length."""

    source: str
    lines: int
    bytes: int
    processes: tuple[Process, ...]
    ranks: tuple[RankInit, ...]
    channels: tuple[Channel, ...]
    errors: tuple[NcclError, ...]
    devices: tuple[Device, ...]
    links: frozenset[str]
    first_oob: Address | None
    first_network: str | None
    network_lines: tuple[tuple[str, str, Where], ...]
    gdr_hcas: Mapping[str, bool]
    gdr_pairs: frozenset[bool]
    bare_versions: tuple[str, ...]
    engine_versions: tuple[str, ...]
    test_ranks: Mapping[int, str]
    ring_ranks: frozenset[int]
    nranks_seen: frozenset[int]
    nnodes_seen: frozenset[int]
    damaged: tuple[Where, ...]
    damaged_channels: tuple[Where, ...]
    ray_dedup: tuple[Where, ...]
    unclear_warnings: tuple[tuple[str, Where], ...]
    overflow: bool
    rings: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """The rings as rank 0 tells them: channel, and the ranks in their order."""
    highest_rank: int = -1
    """The highest rank that a tree names, whoever printed it; -1: no tree."""
    queue_pairs: bool = False
    """The InfiniBand transport says that it connected (no channel line needed for that)."""

    @property
    def hosts(self) -> frozenset[str]:
        """Host names seen in record heads."""
        return frozenset(p.host for p in self.processes if p.host)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return to_json(self)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Expected:
    """What the operator knows about the job; every part is optional. ``hcas``: node name to the HCA names it must use."""

    nranks: int | None = None
    nnodes: int | None = None
    hcas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LogsOfNode:
    """The logs of one node, where it was asked whose they are. ``taken``: of processes that run now; ``left_out``: the others, and why."""

    taken: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """The judgement of one job from all its logs.

    ``verdict`` is ``rdma_proven`` only when every node shows its half of every link between nodes on an RDMA network, the
    communicator finished and nothing fatal followed. ``missing`` lists what stands between ``undetermined`` and proof. ``logs``: by
    node, whose logs they are; empty where nobody had to ask (this run made their folder and started the ranks).
    """

    verdict: VerdictName
    reason: str
    missing: tuple[str, ...]
    advice: tuple[str, ...]
    deciding: tuple[tuple[str, Where], ...]
    gdr: Gdr
    communicators: tuple[Communicator, ...]
    channels: tuple[Channel, ...]
    nodes: tuple[str, ...]
    nranks: int | None
    nnodes: int | None
    hcas_used: Mapping[str, tuple[str, ...]]
    unresolved_devices: tuple[str, ...]
    nccl_versions: Mapping[str, str]
    oob: Mapping[str, tuple[Address, ...]]
    bootstrap: Mapping[str, tuple[Address, ...]]
    env: Mapping[str, Mapping[str, tuple[str, ...]]]
    gid_indexes: Mapping[str, Mapping[str, tuple[int, ...]]]
    errors: tuple[NcclError, ...]
    one_sided: tuple[Channel, ...]
    completed: bool
    collective: bool
    networks: Mapping[str, tuple[str, ...]]
    processes: tuple[Process, ...]
    node_of_process: Mapping[str, str]
    sources: tuple[str, ...]
    damaged: int
    expected: Expected | None = None
    logs: Mapping[str, LogsOfNode] = field(default_factory=dict)

    @property
    def inter_node_channels(self) -> tuple[Channel, ...]:
        """NET channels whose two ranks lie on different nodes."""
        return tuple(c for c in self.channels if c.inter_node)

    @property
    def intra_node_channels(self) -> tuple[Channel, ...]:
        """Channels whose two ranks lie on one node."""
        return tuple(c for c in self.channels if c.inter_node is False)

    @property
    def unplaced_channels(self) -> tuple[Channel, ...]:
        """NET channels of which the logs do not show whether they leave the node."""
        return tuple(c for c in self.channels if c.inter_node is None and c.kind != "collnet")

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return to_json(self)  # type: ignore[no-any-return]
