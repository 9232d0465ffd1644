"""Everything the stand-in cluster is made of, healthy until a fault changes it. Plain data; every process builds the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.config.inventory import Inventory
from pytest_h20.rehearsal.all_reduce import AllReduceTruth
from pytest_h20.rehearsal.burn import BurnTruth
from pytest_h20.rehearsal.drills import DrillTruth
from pytest_h20.rehearsal.hang import HangTruth
from pytest_h20.rehearsal.libraries import LibrariesTruth
from pytest_h20.rehearsal.standin import Machine, machine
from pytest_h20.rehearsal.under_load import LoadTruth
from pytest_h20.rehearsal.weights import WeightsTruth


@dataclass
class ImageTruth:
    """What an image holds. ``packages``: Python packages with versions."""

    packages: dict[str, str]
    cuda: str
    nccl: str
    id: str
    absent_on: set[str] = field(default_factory=set)


@dataclass
class NcclTruth:
    """How the serving ranks' NCCL logs look. ``network``: IB or Socket per (node, channel) after faults; ``inside``: the way between
    ranks of one node (empty: P2P in the words of the version). ``stages_across``: the ranks of each stage are spread over the nodes."""

    version: str = "2.21.5"
    network: str = "IB"
    gdr: bool = True
    socket_share: float = 0.0
    unused_hcas: set[str] = field(default_factory=set)
    inside: str = ""
    oob_interface: str = ""
    gid_index: int = 3
    cut_before_collective: bool = False
    no_channels: bool = False
    plugin_line: str = ""
    extra_lines: dict[str, list[str]] = field(default_factory=dict)
    versions_by_node: dict[str, str] = field(default_factory=dict)
    channels: int = 16
    stages_across: bool = False


@dataclass
class EngineTruth:
    """How the engine behaves. Times in model seconds.

    ``ends``: (role, seconds after start, exit code, last lines) of a process that dies while starting. ``hangs_at``: stage after
    which nothing more is printed. ``http``: knobs of the HTTP side (``server.py``). ``weights_s``: time to load.
    """

    start_s: float = 180.0
    hangs_at: str = ""
    dies: dict[str, tuple[float, int, tuple[str, ...]]] = field(default_factory=dict)
    ignores_sigterm: bool = False
    port_taken: bool = False
    dead_after_ready: bool = False
    exits_zero: bool = False
    ray_gpus: dict[str, float] = field(default_factory=dict)
    http: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    oom: bool = False


@dataclass
class TrafficModel:
    """How rail counters move with tokens served. ``share``: per (node, hca) the factor on the even share; ``errors``: per
    thousand tokens; ``under_load``: per run of ``ib_write_bw``. ``priority``: in which the bytes of those runs are counted, else 3."""

    share: dict[tuple[str, str], float] = field(default_factory=dict)
    errors: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    under_load: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    management_share: float = 0.0
    priority: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class World:
    """The stand-in cluster."""

    inventory: Inventory
    machines: dict[str, Machine]
    images: dict[str, ImageTruth]
    nccl: NcclTruth = field(default_factory=NcclTruth)
    engine: EngineTruth = field(default_factory=EngineTruth)
    traffic: TrafficModel = field(default_factory=TrafficModel)
    unreachable: dict[str, str] = field(default_factory=dict)
    daemon_down: dict[str, str] = field(default_factory=dict)
    image_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    start_refused: dict[str, str] = field(default_factory=dict)
    runtimes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    removal_refused: dict[str, str] = field(default_factory=dict)
    weights: dict[str, WeightsTruth] = field(default_factory=dict)
    all_reduce: AllReduceTruth = field(default_factory=AllReduceTruth)
    libraries: LibrariesTruth = field(default_factory=LibrariesTruth)
    burn: BurnTruth = field(default_factory=BurnTruth)
    load: LoadTruth = field(default_factory=LoadTruth)
    client_error: float = 0.0
    drill: DrillTruth = field(default_factory=DrillTruth)
    hang: HangTruth = field(default_factory=HangTruth)

    @property
    def head(self) -> Machine:
        """The machine of rank 0."""
        return next(iter(self.machines.values()))

    @property
    def other(self) -> Machine:
        """The second machine."""
        return list(self.machines.values())[1]


def healthy(inventory: Inventory, images: Mapping[str, ImageTruth]) -> World:
    """The world in which everything is as it must be."""
    machines = {n.name: machine(inventory, n) for n in inventory.nodes}
    return World(inventory, machines, dict(images), weights={name: WeightsTruth() for name in machines})
