"""What a cluster is made of: pure, derived from a few settings, so that it can be taken down from a state file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.places import DEFAULT_CLUSTER, LabError, cluster_dir

MAX_NODES = 16
MAX_RAILS = 8  # of the write-up
USER, UID = "h20", 4220
LOGINS = {"root": "root", "sudo": "h20, with the listed commands by sudo", "docker": "h20, in the group of the daemon's socket alone"}


@dataclass(frozen=True)
class Interface:
    """A net device of a node with its stand-in RDMA device: the write-up's mlx5_0 on xgbe0, mlx5_1 on xgbe1, ..."""

    index: int
    node: int
    net: str

    @property
    def name(self) -> str:
        """Net device as the write-up names it."""
        return f"xgbe{self.index}"

    @property
    def hca(self) -> str:
        """RDMA device as the write-up names it."""
        return f"mlx5_{self.index}"

    @property
    def address(self) -> str:
        """IPv4 address; every rail is a subnet of its own."""
        return f"{self.net}.{self.index}.{self.node}"

    @property
    def mac(self) -> str:
        """Fixed, so that the GIDs are the same in every run; 02: is the locally administered range."""
        return f"02:88:c2:59:{self.index:02x}:{self.node:02x}"

    @property
    def gids(self) -> tuple[tuple[str, str], ...]:
        """(GID, type) in the order of mlx5: link-local v1 and v2, then IPv4 v1 and v2 (index 3, the write-up's)."""
        local, v4 = link_local_gid(self.mac), ipv4_gid(self.address)
        return ((local, "IB/RoCE v1"), (local, "RoCE v2"), (v4, "IB/RoCE v1"), (v4, "RoCE v2"))


@dataclass(frozen=True)
class NodePlan:
    """One node of a cluster."""

    cluster: str
    index: int
    net: str
    rails: int
    gpus: tuple[int, ...] = ()
    """Indices of the machine's GPUs that this node has; empty: the stand-in's."""

    @property
    def name(self) -> str:
        """Host name: node01, node02, ..."""
        return f"node{self.index:02d}"

    @property
    def netns(self) -> str:
        """Its network namespace, also the name of its control group."""
        return f"h20-{self.cluster}-{self.name}"

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Control interface first, then the rails."""
        return tuple(Interface(i, self.index, self.net) for i in range(self.rails + 1))

    @property
    def address(self) -> str:
        """Address of the control interface."""
        return self.interfaces[0].address

    @property
    def folder(self) -> Path:
        """The node's folder on this machine: log, host key, Docker's data."""
        return cluster_dir(self.cluster) / self.name


@dataclass(frozen=True)
class ClusterPlan:
    """The settings of a cluster. Everything else follows from them."""

    name: str = DEFAULT_CLUSTER
    size: int = 2
    rails: int = MAX_RAILS
    net: str = "10.99"
    docker: bool = True
    tmpfs: str = "2G"
    gpus: int = 0
    """Real GPUs of this machine, shared out in order and evenly; 0: GPUs are stood in."""
    login: str = "root"
    """Who logs in, see `LOGINS`."""

    def __post_init__(self) -> None:
        if self.login not in LOGINS or (self.login != "root" and self.gpus):
            raise LabError(f"--login={self.login}: there are {', '.join(LOGINS)}; with --gpus root alone")
        if self.gpus and (self.gpus < self.size or self.gpus % self.size):
            raise LabError(f"--gpus={self.gpus}: {self.size} nodes share them evenly; give a multiple of {self.size}, or another -n")
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise LabError(f"--name={self.name}: a cluster's name is 1 to 8 lower-case letters and digits, letter first")
        if not 1 <= self.size <= MAX_NODES:
            raise LabError(f"-n {self.size}: the lab makes 1 to {MAX_NODES} nodes")
        if not 0 <= self.rails <= MAX_RAILS:
            raise LabError(f"--rails={self.rails}: the write-up's nodes have {MAX_RAILS} rails; give 0 to {MAX_RAILS}")
        if not re.fullmatch(r"10\.(25[0-5]|2[0-4]\d|1?\d?\d)", self.net):
            raise LabError(f"--net={self.net}: give the first two numbers of a private net 10.x, for example 10.98")

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        """The nodes in order."""
        share = self.gpus // self.size
        return tuple(
            NodePlan(self.name, i, self.net, self.rails, tuple(range((i - 1) * share, i * share))) for i in range(1, self.size + 1)
        )

    @property
    def folder(self) -> Path:
        """The cluster's folder on this machine."""
        return cluster_dir(self.name)

    @property
    def switch(self) -> str:
        """The network namespace that holds one bridge per net."""
        return f"h20-{self.name}-sw"

    @property
    def host_interface(self) -> str:
        """This machine's own leg on the control net."""
        return f"h20{self.name}"

    @property
    def host_address(self) -> str:
        """This machine's address on the control net."""
        return f"{self.net}.0.254"

    @property
    def key(self) -> Path:
        """Private key that opens every node."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys."""
        return self.folder / "known_hosts"

    @property
    def state_file(self) -> Path:
        """Written before anything is made, removed when everything is gone."""
        return self.folder / "cluster.json"

    def node(self, name: str) -> NodePlan:
        """The node of this name; raises ``LabError`` naming the nodes there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"{name}: no such node; there are {', '.join(n.name for n in self.nodes)}")

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ClusterPlan:
        """Read what ``to_json`` wrote; raises ``LabError`` when it is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LabError(f"the cluster's state file is damaged ({error}); remove the namespaces h20-* by hand") from None


def ipv4_gid(address: str) -> str:
    """The IPv4-mapped GID of an address, as the kernel prints it."""
    a, b, c, d = (int(part) for part in address.split("."))
    return f"0000:0000:0000:0000:0000:ffff:{a:02x}{b:02x}:{c:02x}{d:02x}"


def link_local_gid(mac: str) -> str:
    """The EUI-64 link-local GID of a MAC address, as the kernel prints it."""
    m = [int(part, 16) for part in mac.split(":")]
    return f"fe80:0000:0000:0000:{m[0] ^ 2:02x}{m[1]:02x}:{m[2]:02x}ff:fe{m[3]:02x}:{m[4]:02x}{m[5]:02x}"


def network_commands(plan: ClusterPlan) -> tuple[list[Sequence[str]], dict[str, list[str]]]:
    """How the cluster's network is made.

    Returns:
        Commands to run in order, and per namespace the lines for ``ip -n NAMESPACE -batch -`` to run after them.

    The switch is a namespace with a bridge per net: this machine's packet filter and any Docker here have no say in
    it, and no packet can leave the machine (the nodes have no default route).
    """
    nets = range(plan.rails + 1)
    commands: list[Sequence[str]] = [["ip", "netns", "add", name] for name in [plan.switch, *(n.netns for n in plan.nodes)]]
    batches: dict[str, list[str]] = {plan.switch: []}
    for i in nets:
        batches[plan.switch] += [f"link add br{i} mtu {mtu(i)} type bridge", f"link set br{i} up"]
    commands += [
        ["ip", "link", "add", plan.host_interface, "type", "veth", "peer", "name", "host", "netns", plan.switch],
        ["ip", "addr", "add", f"{plan.host_address}/24", "dev", plan.host_interface],
        ["ip", "link", "set", plan.host_interface, "up"],
    ]
    batches[plan.switch].append("link set host master br0 up")
    for node in plan.nodes:
        lines = batches.setdefault(node.netns, ["link set lo up"])
        for nic in node.interfaces:
            port = f"n{node.index}e{nic.index}"
            batches[plan.switch] += [
                f"link add {port} mtu {mtu(nic.index)} type veth peer name {nic.name} netns {node.netns}",
                f"link set {port} master br{nic.index} up",
            ]
            lines += [
                f"link set {nic.name} address {nic.mac} mtu {mtu(nic.index)}",
                f"addr add {nic.address}/24 dev {nic.name}",
                f"link set {nic.name} up",
            ]
    return commands, batches


def mtu(index: int) -> int:
    """Rails carry jumbo frames, as RoCE with a 4096-byte MTU needs; the control net is plain Ethernet."""
    return 9000 if index else 1500
