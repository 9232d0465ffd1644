"""All facts of a run, and the view of one node that checks get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.config.expect import Expect
from pytest_h20.config.inventory import Inventory, NodeSpec, Profile, Rail
from pytest_h20.nodes.base import DaemonInfo, ImageInfo
from pytest_h20.probes.clock import ClockOffset
from pytest_h20.probes.gid import Gid
from pytest_h20.probes.gpu import Driver, FabricManager, GpuOwner, Gpus, NvLinks
from pytest_h20.probes.host import Disk, Limits, Names, Proxies, SharedFile, System, Tools, Tuning
from pytest_h20.probes.image import Devices, EngineAddress, ModelFolder, Versions
from pytest_h20.probes.kernel_log import KernelLog
from pytest_h20.probes.net import Connect, Firewall, Listener, Network, Ping
from pytest_h20.probes.rdma import PciDevice, PcieHints, Qos, RdmaFacts
from pytest_h20.probes.script import HINT_RIGHTS, Missing, in_words
from pytest_h20.probes.wire import NcclSettings, NetDevice


@dataclass(frozen=True)
class NodeFacts:
    """What one node told. Every fact is itself or ``Missing`` with the reason. ``evidence``: probe name -> recorded section.
    ``without_rights``: probe name -> the commands in it that ran without root's rights, and why.

    The ``image_*`` facts come from inside a container of the engine's image; ``container`` is that container's limits.
    """

    name: str
    system: System | Missing
    tuning: Tuning | Missing
    limits: Limits | Missing
    nccl_shm: tuple[SharedFile, ...] | Missing
    names: Names | Missing
    proxies: Proxies | Missing
    disks: Mapping[str, Disk] | Missing
    tools: Tools | Missing
    gpus: Gpus | Missing
    nvlinks: NvLinks | Missing
    gpu_owners: Mapping[int, GpuOwner] | Missing
    driver: Driver | Missing
    fabric_manager: FabricManager | Missing
    topology: Mapping[tuple[str, str], str] | Missing
    kernel_log: KernelLog | Missing
    rdma: RdmaFacts | Missing
    ibdev2netdev: Mapping[tuple[str, int], tuple[str, bool]] | Missing
    show_gids: tuple[Gid, ...] | Missing
    qos: Mapping[str, Qos] | Missing
    pcie_hints: PcieHints | Missing
    pci: Mapping[str, PciDevice] | Missing
    wires: Mapping[str, NetDevice] | Missing
    network: Network | Missing
    firewall: Firewall | Missing
    listeners: tuple[Listener, ...] | Missing
    clock: ClockOffset | Missing
    daemon: DaemonInfo | Missing
    image: ImageInfo | Missing
    image_versions: Versions | Missing
    image_devices: Devices | Missing
    image_limits: Limits | Missing
    image_names: Names | Missing
    image_proxies: Proxies | Missing
    model_folder: ModelFolder | Missing
    engine_addresses: tuple[EngineAddress, ...] | Missing
    nccl_settings: NcclSettings | Missing
    host_model: Disk | Missing
    evidence: Mapping[str, str] = field(default_factory=dict)
    without_rights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Reach:
    """TCP from one node to another's engine address. ``asked`` 0 = an ephemeral port; else one the engine will use."""

    source: str
    target: str
    asked: int
    result: Connect | Missing


@dataclass(frozen=True)
class RailPing:
    """One rail pinged from its own interface to the same rail of the peer, unfragmented at its MTU."""

    node: str
    hca: str
    peer: str
    result: Ping | Missing


@dataclass(frozen=True)
class Facts:
    """Everything that was gathered, with what it is held against."""

    inventory: Inventory
    engine: str
    profile: Profile | None
    nodes: Mapping[str, NodeFacts]
    reach: tuple[Reach, ...] = ()
    pings: tuple[RailPing, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)

    def of(self, node: str) -> View:
        """The view of one node that checks take."""
        spec = next(n for n in self.inventory.nodes if n.name == node)
        return View(self, self.nodes[node], spec, self.inventory.expect_of(spec))

    @property
    def views(self) -> tuple[View, ...]:
        """Every node that has facts, in inventory order."""
        return tuple(self.of(n.name) for n in self.inventory.nodes if n.name in self.nodes)

    def ping(self, node: str, hca: str) -> RailPing | None:
        """The ping of one rail."""
        return next((p for p in self.pings if (p.node, p.hca) == (node, hca)), None)


@dataclass(frozen=True)
class View:
    """One node: its facts, its place in the inventory, what is expected of it."""

    all: Facts
    node: NodeFacts
    spec: NodeSpec
    expect: Expect

    @property
    def name(self) -> str:
        """The node's name in the inventory."""
        return self.spec.name

    @property
    def silence(self) -> str:
        """Why this node told nothing at all; empty when it told anything."""
        n = self.node
        lost = [fact.reason for fact in (n.system, n.limits, n.tools, n.network, n.kernel_log) if isinstance(fact, Missing)]
        return lost[0] if len(lost) == 5 and len(set(lost)) == 1 else ""

    @property
    def head(self) -> bool:
        """True for the node that rank 0 runs on."""
        profile = self.all.profile
        specs = self.all.inventory.nodes_of(profile) if profile else self.all.inventory.nodes
        return bool(specs) and specs[0].name == self.name

    def unread(self, probe: str, command: str) -> Missing | None:
        """What this command (or those that begin so) would have told but for root's rights; None when it ran with them."""
        lacking = {c: why for c, why in self.node.without_rights.get(probe, {}).items() if c.startswith(command)}
        return Missing(in_words(lacking), HINT_RIGHTS) if lacking else None

    def evidence(self, *probes: str) -> tuple[str, ...]:
        """The recorded sections of these probes."""
        return tuple(self.node.evidence[p] for p in probes if p in self.node.evidence)

    def rail(self, hca: str) -> RailView:
        """One rail by its HCA."""
        index = next(i for i, r in enumerate(self.spec.rails) if r.hca == hca)
        return RailView(self, self.spec.rails[index], index)

    @property
    def rails(self) -> tuple[RailView, ...]:
        """All rails, in inventory order."""
        return tuple(RailView(self, r, i) for i, r in enumerate(self.spec.rails))


@dataclass(frozen=True)
class RailView:
    """One rail of one node; ``peer`` is the rail of the same place in the list of the next node."""

    view: View
    rail: Rail
    index: int

    @property
    def subject(self) -> str:
        """As reports name it."""
        return f"{self.view.name} {self.rail.hca}"

    @property
    def peer(self) -> RailView | None:
        """The rail it is cabled to in thought: same place in the list, next node; None on a single node."""
        views = self.view.all.views
        if len(views) < 2:
            return None
        other = views[(views.index(self.view) + 1) % len(views)]
        return RailView(other, other.spec.rails[self.index], self.index) if self.index < len(other.spec.rails) else None

    @property
    def ends(self) -> tuple[View, ...]:
        """The nodes at both ends."""
        return (self.view,) if self.peer is None else (self.view, self.peer.view)

    @property
    def address(self) -> str:
        """Its IPv4 address: the inventory's, else the interface's first; empty when neither is known."""
        if self.rail.address:
            return self.rail.address
        network = self.view.node.network
        interface = None if isinstance(network, Missing) else network.interface(self.rail.interface)
        return str(interface.ipv4[0].ip) if interface and interface.ipv4 else ""

    @property
    def rate_gbps(self) -> float | None:
        """Line rate: the inventory's, else the port's."""
        if self.rail.rate_gbps:
            return self.rail.rate_gbps
        rdma = self.view.node.rdma
        port = None if isinstance(rdma, Missing) else rdma.port(self.rail.hca, self.rail.port)
        return port.rate_gbps if port else None

    @property
    def software(self) -> bool:
        """The device is known and on no PCIe bus (rxe, siw): what it carries, and how fast, is the CPU's doing."""
        rdma = self.view.node.rdma
        hca = None if isinstance(rdma, Missing) else rdma.hca(self.rail.hca)
        return hca is not None and not hca.pci
