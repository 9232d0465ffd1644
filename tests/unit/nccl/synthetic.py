"""Complete synthetic jobs in the wording of each NCCL generation (shapes: research note, section 3, read in NCCL's sources).

A job has two nodes with ``per_node`` ranks each and one ring per channel: 0 -> 1 -> ... -> n-1 -> 0, so two links cross nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.unit.nccl.lines import FATAL

NODES = ("h20-a", "h20-b")


@dataclass(frozen=True)
class Shape:
    """How one range of versions words things."""

    version: str

    @property
    def minor(self) -> int:
        """The 12 of 2.12."""
        return int(self.version.split(".")[1])

    def bootstrap(self, interface: str, address: str) -> str:
        """The Bootstrap line."""
        if self.minor <= 8:
            return f"Bootstrap : Using [0]{interface}:{address}<0>"
        return f"Bootstrap : Using {interface}:{address}<0>" if self.minor < 24 else f"Bootstrap: Using {interface}:{address}<0>"

    def devices(self, names: Sequence[str], link: str, oob: str) -> str:
        """The ``NET/IB : Using`` line."""
        suffix = ":0:1" if self.minor >= 30 else ""
        listed = " ".join(f"[{i}]{n}:1{suffix}/{link}" for i, n in enumerate(names))
        return f"NET/IB : Using {listed} ; OOB {oob}" if self.minor < 12 else f"NET/IB : Using {listed} [RO]; OOB {oob}"

    def channel(self, number: int, src: int, dst: int, per_node: int) -> str:
        """The head of a channel line up to the ranks."""
        if self.minor <= 4:
            return f"Ring {number:02d} : {src} -> {dst}"
        word = "Ring" if self.minor <= 6 else "Channel"
        conn = "/0" if self.minor >= 12 else ""

        def rank(r: int) -> str:
            return f"{r}[{r % per_node}]" if self.minor >= 18 else f"{r}[{0x1D000 + 0x1000 * (r % per_node):x}]"

        return f"{word} {number:02d}{conn} : {rank(src)} -> {rank(dst)}"

    def local(self, number: int, src: int, dst: int, per_node: int) -> str:
        """A channel inside a node."""
        via = "P2P/CUMEM/read" if self.minor >= 18 else "P2P/IPC"
        head = self.channel(number, src, dst, per_node)
        return f"{head if self.minor >= 14 else head.replace('/0 :', ' :')} via {via}"

    def counts(self, channels: int) -> str:
        """How many channels the communicator has."""
        more = ", 0 collnet channels, 0 nvls channels" if self.minor >= 20 else ", 0 nvls channels" if self.minor >= 18 else ""
        return f"{channels} coll channels{more}, {channels} p2p channels, 2 p2p channels per peer"

    def comm(self, rank: int, nranks: int, per_node: int, state: str) -> str:
        """Init START or COMPLETE."""
        gpu = rank % per_node
        call = "ncclCommInitRank " if self.minor >= 21 else ""
        head = f"[Rank {rank}] " if self.minor >= 29 and state == "START" else ""
        nvml = f" nvmlDev {gpu}" if self.minor >= 16 else ""
        ident = " commId 0xabc123def4567890" if self.minor >= 16 else ""
        bus = f"{0x1D000 + 0x1000 * gpu:x}"
        return f"{head}{call}comm 0x55aa{rank:02x}00 rank {rank} nranks {nranks} cudaDev {gpu}{nvml} busId {bus}{ident} - Init {state}"


Network = Callable[[int], str]  # rank -> "IB", "Socket", ...


@dataclass(frozen=True)
class Synthetic:
    """A whole job; ``logs()`` gives one log per rank."""

    version: str = "2.21.5"
    per_node: int = 2
    channels: int = 2
    network: Network = lambda rank: "IB"
    gdr: Callable[[int, str], bool] = lambda rank, direction: True
    hosts: tuple[str, str] = NODES
    link: str = "RoCE"
    hcas: tuple[str, ...] = ("mlx5_0", "mlx5_1")
    interface: str = "bond0"
    last: tuple[str, ...] = ()
    trees: bool = False

    @property
    def nranks(self) -> int:
        """Ranks of the job."""
        return 2 * self.per_node

    def logs(self) -> list[bytes]:
        """One log per rank, as NCCL_DEBUG_FILE gives them."""
        return [self.rank(r) for r in range(self.nranks)]

    def node(self, index: int) -> bytes:
        """All ranks of one node in one file."""
        return b"".join(self.logs()[index * self.per_node : (index + 1) * self.per_node])

    def all(self) -> bytes:
        """The whole job in one file."""
        return b"".join(self.logs())

    def rank(self, rank: int) -> bytes:
        """The log of one rank."""
        shape = Shape(self.version)
        node, gpu = divmod(rank, self.per_node)
        host, pid = self.hosts[node], 1000 + gpu if self.hosts[0] != self.hosts[1] else 1000 + rank
        head = f"{host}:{pid}:{pid + 500} [{gpu}] NCCL INFO "
        address = f"192.168.8.{249 + node}"
        network = self.network(rank)
        lines = [shape.bootstrap(self.interface, address)]
        if shape.minor >= 22:
            lines.append(f"NCCL version {self.version}+cuda12.4")
        if network.startswith("IB"):
            lines.append(shape.devices(self.hcas, self.link, f"{self.interface}:{address}<0>"))
        else:
            lines += ["NET/IB : No device found.", f"NET/Socket : Using [0]{self.interface}:{address}<0>"]
        lines += [f"Using network {network}"] if shape.minor >= 6 or shape.minor <= 3 else []
        start = [shape.comm(rank, self.nranks, self.per_node, "START")] if shape.minor >= 18 else []
        start += (
            [f"comm 0x55aa{rank:02x}00 rank {rank} nRanks {self.nranks} nNodes 2 localRanks {self.per_node} localRank {gpu} MNNVL 0"]
            if shape.minor >= 20
            else []
        )
        order = "".join(f"{r:5d}" for r in range(min(self.nranks, 20)))  # NCCL prints no more of a ring
        rings = [f"Channel {number:02d}/{self.channels:02d} :{order}" for number in range(self.channels)]
        links = rings if rank == 0 and shape.minor >= 5 else []
        links = [*links, shape.counts(self.channels)] if shape.minor >= 7 else [*links]
        # A tree per channel: 0 is the top, and reaches the other node at its first rank.
        below = {0: f"1/{self.per_node}/-1", self.per_node: f"{self.per_node + 1}/-1/-1"}.get(rank, "-1/-1/-1")
        above = {0: -1, 1: 0, self.per_node: 0, self.per_node + 1: self.per_node}.get(rank, rank - 1)
        tree = shape.minor >= 8 and self.trees
        if tree:
            links.append("Trees" + "".join(f" [{number}] {below}->{rank}->{above}" for number in range(self.channels)))
        before, after = (rank - 1) % self.nranks, (rank + 1) % self.nranks
        for number in range(self.channels):
            dev = number % len(self.hcas)
            if before // self.per_node != node:
                links.append(f"{shape.channel(number, before, rank, self.per_node)} [receive] via {self.via(rank, 'receive', dev)}")
            if after // self.per_node != node:
                links.append(f"{shape.channel(number, rank, after, self.per_node)} [send] via {self.via(rank, 'send', dev)}")
            else:
                links.append(shape.local(number, rank, after, self.per_node))
            if tree and gpu == 0:
                other = self.per_node - rank
                links.append(f"{shape.channel(number, other, rank, self.per_node)} [receive] via {self.via(rank, 'receive', dev)}")
                links.append(f"{shape.channel(number, rank, other, self.per_node)} [send] via {self.via(rank, 'send', dev)}")
        if shape.minor >= 8:
            links.append("Connected all rings" + (", use ring PXN 0 GDR 1" if shape.minor >= 24 else ""))
        done = [shape.comm(rank, self.nranks, self.per_node, "COMPLETE")]
        told = [line for line in links if " via " not in line and not line.startswith("Connected")]
        links = links[len(told) :]
        # Lazy connect: from 2.22 on the channels come at the first collective.
        lines += [*start, *told, *(done + links if shape.minor >= 22 else links + done)]
        text = "".join(f"{head}{line}\n" for line in lines)
        if rank == 0 and shape.minor < 22:
            text = f"NCCL version {self.version}+cuda12.4\n" + text
        return (text + "".join(f"\n{host}:{pid}:{pid + 600} [{gpu}] {line}\n" for line in self.last)).encode()

    def via(self, rank: int, direction: str, dev: int) -> str:
        """``NET/IB/0/GDRDMA``."""
        network = self.network(rank)
        if network.startswith("IB") and self.gdr(rank, direction):
            return f"NET/{network}/{dev}/GDRDMA" + ("(PCI)" if int(self.version.split(".")[1]) >= 26 else "")
        return f"NET/{network}/{dev if network.startswith('IB') else 0}"


def base_logs() -> list[bytes]:
    """Jobs that are not proven, for reasons that are spread over the whole log."""
    single = (
        Synthetic("2.21.5", hosts=("solo", "solo"))
        .all()
        .replace(b"nNodes 2 localRanks 2 localRank 0", b"nNodes 1 localRanks 4 localRank 0")
        .replace(b"nNodes 2 localRanks 2 localRank 1", b"nNodes 1 localRanks 4 localRank 1")
    )
    out = [single]
    for version in ("2.7.8", "2.12.12", "2.21.5", "2.28.9"):
        out += [
            Synthetic(version, network=lambda rank: "Socket").all(),
            Synthetic(version, network=lambda rank: "IB" if rank < 2 else "Socket").all(),
            Synthetic(version, network=lambda rank: "FasTrak").all(),
            Synthetic(version).node(0),
            Synthetic(version).node(1),
            Synthetic(version, last=(FATAL[3][0], FATAL[6][0])).all(),
        ]
    return out


BASES = base_logs()
