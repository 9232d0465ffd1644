"""What NCCL writes on each serving rank, in the wording of its version.

Line shapes: the project's research note on NCCL logs (read in NCCL's sources 2.3 … 2.30, recorded for 2.28.9). One ring per
channel: a channel leaves its node on one rail, so that channel ``c`` belongs to rail ``c`` modulo the number of rails. A rank of a
pipeline has a communicator of its stage and one with its fellows of the other stages, which leaves the node on the rail beside its GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def _ras(head: str, gpu: int) -> list[str]:
    """NCCL's status service wants one port of each host: the first process gets it, the others warn (recorded: 2.28.9, 2.29)."""
    if gpu == 0:
        return [f"{head}NCCL INFO RAS client listening socket at 127.0.0.1<28028>"]
    return [
        f"{head}ras/client_support.cc:160 NCCL WARN Call to bind failed: Address already in use",
        f"{head}NCCL INFO RAS failed to establish a client listening socket at localhost:28028",
    ]


@dataclass(frozen=True)
class NcclNode:
    """One node as NCCL sees it. ``hcas`` with port: ``mlx5_1:1``."""

    name: str
    hcas: tuple[str, ...]
    interface: str
    address: str
    first_pid: int
    gids: tuple[str, ...] = ()


@dataclass(frozen=True)
class NcclJob:
    """A job of ``per_node`` ranks on each node. ``truth``: the fields of ``world.NcclTruth`` as a mapping. ``tensor``: ranks of a stage
    of its pipeline, or of a copy; 0: it has one. ``joined``: all ranks have a communicator besides, for the experts of all copies."""

    nodes: tuple[NcclNode, ...]
    truth: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    per_node: int = 8
    tensor: int = 0
    joined: bool = False

    @property
    def nranks(self) -> int:
        """Ranks of the job."""
        return self.per_node * len(self.nodes)

    def version(self, node: NcclNode) -> str:
        """NCCL's version on a node."""
        return str(self.truth["versions_by_node"].get(node.name, self.truth["version"]))

    def name(self, rank: int) -> str:
        """``nccl.HOST.PID``, as NCCL_DEBUG_FILE with %h and %p."""
        node = self.nodes[rank // self.per_node]
        return f"nccl.{node.name}.{node.first_pid + rank % self.per_node}"

    # ------------------------------------------------------------------ one rank
    def log(self, rank: int) -> str:
        """The whole log of one rank."""
        at, gpu = divmod(rank, self.per_node)
        node, truth = self.nodes[at], self.truth
        minor = int(self.version(node).split(".")[1])
        pid = node.first_pid + gpu
        head = f"{node.name}:{pid}:{pid} [{gpu}] NCCL INFO "
        lines = [f"{head}{line}" for line in self._early(node, minor)]
        extra = [*truth["extra_lines"].get(node.name, []), *truth["extra_lines"].get("*", [])]
        for number, members in enumerate(self.groups(rank)):
            order = self._communicator(rank, node, minor, number, members, extra if number == 0 else [])
            thread = pid + 400 + number  # each is set up by a thread of its own
            lines += [f"{node.name}:{pid}:{thread} [{gpu}] NCCL INFO {line}" for line in order]
        if minor >= 24:
            lines += _ras(f"{node.name}:{pid}:{pid + 400} [{gpu}] ", gpu)
        if rank == 0 and minor < 22:
            lines.insert(1, f"NCCL version {self.version(node)}+cuda12.4")
        return "".join(f"{line}\n" for line in lines)

    def groups(self, rank: int) -> list[tuple[int, ...]]:
        """The members of each communicator of a rank: of its stage (or copy), of its place in all stages, of all copies."""
        size = self.tensor or self.nranks
        if size == self.nranks:
            return [tuple(range(self.nranks))]
        stages = self.nranks // size
        if self.truth["stages_across"]:  # as if nodes were filled in turn
            return [tuple(range(rank % stages, self.nranks, stages)), tuple(range(rank - rank % stages, rank - rank % stages + stages))]
        found = [tuple(range(rank - rank % size, rank - rank % size + size)), tuple(range(rank % size, self.nranks, size))]
        return [*found, tuple(range(self.nranks))] if self.joined else found

    def _communicator(
        self, rank: int, node: NcclNode, minor: int, number: int, members: tuple[int, ...], extra: Sequence[str]
    ) -> list[str]:
        """The lines of one communicator of a rank: its start, its channels, its end."""
        truth, gpu, at = self.truth, rank % self.per_node, rank // self.per_node
        call = "ncclCommInitRank " if minor >= 21 else ""
        bus = f"{0x1B000 + 0x8000 * gpu:x}"
        mine, own = [r for r in members if r // self.per_node == at], members.index(rank)
        nodes = len({r // self.per_node for r in members})
        address = f"0x55d0c{rank:02x}{number}00"
        comm = f"comm {address} rank {own} nranks {len(members)} cudaDev {gpu} nvmlDev {gpu} busId {bus}"
        ident = f"commId {0x6A1F3C9D27B5E840 + (0 if len(members) == self.nranks else 64 * members[0] + len(members)):#x}"
        prefix = f"[Rank {own}] " if minor >= 29 else ""
        start = [f"Using network {truth['network']}", f"{prefix}{call}{comm} {ident} - Init START"]
        if minor >= 20:
            start.append(
                f"comm {address} rank {own} nRanks {len(members)} nNodes {nodes} "
                f"localRanks {len(mine)} localRank {mine.index(rank)} MNNVL 0"
            )
        start += extra
        links = []
        if not truth["no_channels"]:
            links = self._channels(rank, node, minor, members)
            links.append("Connected all rings" + (", use ring PXN 0 GDR " + str(int(truth["gdr"])) if minor >= 24 else ""))
        done = f"{call}{comm} {ident} - Init COMPLETE"
        if truth["cut_before_collective"]:
            return start
        # Lazy connect: from 2.22 on channels come at the first collective.
        return [*start, done, *links] if minor >= 22 else [*start, *links, done]

    def _early(self, node: NcclNode, minor: int) -> list[str]:
        truth = self.truth
        interface = truth["oob_interface"] or node.interface
        colon = "Bootstrap :" if minor < 24 else "Bootstrap:"
        lines = [f"{colon} Using {interface}:{node.address}<0>"]
        if minor >= 22:
            lines.append(f"NCCL version {self.version(node)}+cuda{'13.0' if minor >= 28 else '12.4'}")
        for key, value in sorted(self.env.items()):
            if key.startswith("NCCL_") and key not in ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"):
                text = str(truth["gid_index"]) if key == "NCCL_IB_GID_INDEX" else value
                lines.append(f"{key} set by environment to {text}.")
        plugin = truth["plugin_line"]
        internal = ["NET/Plugin: No plugin found (libnccl-net.so)", "NET/Plugin: Using internal network plugin."]
        lines += [plugin] if plugin else internal
        if truth["network"] == "IB":
            suffix = ":0:1" if minor >= 30 else ""
            listed = " ".join(f"[{i}]{h}{suffix}/RoCE" for i, h in enumerate(node.hcas))
            relaxed = "[RO]; " if minor >= 12 else "; "
            lines.append(f"NET/IB : Using {listed} {relaxed}OOB {interface}:{node.address}<0>")
            on = "Enabled" if truth["gdr"] else "Disabled"
            lines += [f"NET/IB : GPU Direct RDMA {on} for HCA {i} '{h.split(':')[0]}'" for i, h in enumerate(node.hcas)]
        else:
            lines += ["NET/IB : No device found.", f"NET/Socket : Using [0]{interface}:{node.address}<0>"]
        return lines

    def _ring(self, channel: int, members: Sequence[int]) -> list[int]:
        """The ranks of a channel's ring: each node is entered at the GPU beside the channel's rail."""
        ring: list[int] = []
        for node in sorted({r // self.per_node for r in members}):
            mine = [r for r in members if r // self.per_node == node]
            ring += [mine[(channel + k) % len(mine)] for k in range(len(mine))]
        return ring

    def rail_of(self, channel: int, node: NcclNode) -> int:
        """Index of the HCA a channel uses: unused ones are passed over."""
        usable = [i for i, h in enumerate(node.hcas) if h.split(":")[0] not in self.truth["unused_hcas"]]
        return usable[channel % len(usable)] if usable else 0

    def _channels(self, rank: int, node: NcclNode, minor: int, members: tuple[int, ...]) -> list[str]:
        truth, lines = self.truth, list[str]()
        mine = [r for r in members if r // self.per_node == rank // self.per_node]
        channels = int(truth["channels"]) if len(mine) > 1 else 2
        on_sockets = round(channels * float(truth["socket_share"]))

        def who(r: int) -> str:
            gpu, own = r % self.per_node, members.index(r)
            return f"{own}[{gpu}]" if minor >= 18 else f"{own}[{0x1B000 + 0x8000 * gpu:x}]"

        for channel in range(channels):
            ring = self._ring(channel, members)
            at = ring.index(rank)
            before, after = ring[at - 1], ring[(at + 1) % len(ring)]
            name = f"Channel {channel:02d}/0 :"
            dev = self.rail_of(channel if len(mine) > 1 else rank % self.per_node, node)
            socket = truth["network"] != "IB" or channel >= channels - on_sockets
            gdr = "/GDRDMA" + ("(PCI)" if minor >= 26 else "") if truth["gdr"] else ""
            via = "NET/Socket/0" if socket else f"NET/IB/{dev}{gdr}"
            inside = truth["inside"] or ("P2P/CUMEM/read" if minor >= 18 else "P2P/IPC")
            if before // self.per_node != rank // self.per_node:
                lines.append(f"{name} {who(before)} -> {who(rank)} [receive] via {via}")
            elif inside.startswith("NET/"):
                lines.append(f"{name} {who(before)} -> {who(rank)} [receive] via {inside}")
            if after // self.per_node != rank // self.per_node:
                lines.append(f"{name} {who(rank)} -> {who(after)} [send] via {via}")
            else:
                lines.append(f"{name} {who(rank)} -> {who(after)} {'[send] ' * inside.startswith('NET/')}via {inside}")
        return lines


def job_of(
    inventory: Mapping[str, Any],
    node_names: Sequence[str],
    truth: Mapping[str, Any],
    env: Mapping[str, str],
    tensor: int = 0,
    joined: bool = False,
) -> NcclJob:
    """The job of an inventory (its JSON form) on these nodes. ``tensor``, ``joined``: of ``NcclJob``."""
    nodes = []
    for i, name in enumerate(node_names):
        spec = next(n for n in inventory["nodes"] if n["name"] == name)
        hcas = tuple(f"{r['hca']}:{r['port']}" for r in spec["rails"])
        nodes.append(NcclNode(name, hcas, spec["control_interface"], spec["host_ip"] or spec["address"], 9000 + 1000 * i + 100))
    return NcclJob(tuple(nodes), truth, env, tensor=tensor, joined=joined)
