"""Which rank sits on which node, which channel belongs to which communicator, and does it leave the node.

Host names alone do not tell: two containers may share a name, one host may play two nodes (``NCCL_HOSTID``). What NCCL states
(``nNodes``, ``localRank``, bus ids) goes before names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_h20.nccl.model import Channel, Communicator, Device, LogEvidence, Process, RankInit

ProcessKey = tuple[str, str, int]  # source, host, pid


@dataclass
class Group:
    """A communicator while it is being put together."""

    key: str
    comm_id: str | None
    nranks: int | None
    entries: list[tuple[ProcessKey, RankInit]] = field(default_factory=list)
    ambiguous: bool = False
    rank_to_node: dict[int, str] = field(default_factory=dict)
    channel_ranks: set[int] = field(default_factory=set)

    @property
    def nnodes_stated(self) -> int | None:
        """What NCCL's own ``nNodes`` line says."""
        return max((e.nnodes for _, e in self.entries if e.nnodes), default=None)

    @property
    def mnnvl(self) -> bool:
        """Multi-node NVLink: P2P may then cross nodes."""
        return any(e.mnnvl for _, e in self.entries)


@dataclass(frozen=True)
class Placed:
    """The result: communicators and channels with nodes."""

    groups: tuple[Group, ...]
    communicators: tuple[Communicator, ...]
    channels: tuple[Channel, ...]
    node_of: Mapping[ProcessKey, str]
    unresolved: tuple[str, ...]


def place(evidences: Sequence[LogEvidence], names: Mapping[str, str] | None = None) -> Placed:
    """Put the logs of one job together. ``names``: source -> node, where the caller knows from which node a file came."""
    groups = _groups(evidences)
    node_of = _nodes(evidences, groups, names or {})
    for group in groups:
        for key, entry in group.entries:
            if group.rank_to_node.setdefault(entry.rank, _entry_node(node_of, key, entry)) != _entry_node(node_of, key, entry):
                group.ambiguous = True
    owned = _attribute(evidences, groups, node_of)
    for group in groups:
        if group.nranks is None and group.channel_ranks:
            _from_header(group, evidences)
    channels = []
    unresolved: dict[str, None] = {}
    lists = _device_lists(evidences, node_of)
    for evidence, channel, group in owned:
        node = _node(node_of, (evidence.source, channel.host, channel.pid), group, channel.rank)
        hca = None
        if channel.kind == "net" and channel.dev is not None:
            hca = _resolve(channel, (evidence.source, channel.host, channel.pid), node, lists, group)
            if hca is None and channel.family == "ib":
                unresolved.setdefault(f"{node} NET/{channel.network}/{channel.dev}")
        channels.append(replace(channel, comm=group.key, node=node, inter_node=_leaves(channel, group, node), hca=hca))
    communicators = tuple(_freeze(g) for g in groups)
    return Placed(tuple(groups), communicators, tuple(channels), node_of, tuple(unresolved))


def _groups(evidences: Sequence[LogEvidence]) -> list[Group]:
    by_id: dict[str, Group] = {}
    rest: list[tuple[ProcessKey, RankInit]] = []
    for evidence in evidences:
        for entry in evidence.ranks:
            key = (evidence.source, entry.host, entry.pid)
            if entry.comm_id is None:
                rest.append((key, entry))
                continue
            group = by_id.setdefault(f"{entry.comm_id}/{entry.nranks}", Group(entry.comm_id, entry.comm_id, entry.nranks))
            group.entries.append((key, entry))
    by_size: dict[int, Group] = {}
    for key, entry in rest:
        same = [g for g in by_id.values() if g.nranks == entry.nranks]
        # Where NCCL has commIds, only the "nNodes" line lacks one: an Init line without commId is another NCCL, another job.
        if len(same) == 1 and not entry.started and not entry.completed:
            same[0].entries.append((key, entry))
        else:
            size = by_size.setdefault(entry.nranks, Group(f"{entry.nranks} ranks, no commId", None, entry.nranks))
            size.entries.append((key, entry))
    for group in by_size.values():
        owners: dict[int, set[tuple[str, int]]] = defaultdict(set)
        comms: dict[tuple[str, int, int], set[str]] = defaultdict(set)
        for (_, host, pid), entry in group.entries:
            owners[entry.rank].add((host, pid))
            comms[(host, pid, entry.rank)].add(entry.comm)
        # Without commId communicators of one size cannot be told apart once a rank has two owners.
        group.ambiguous = any(len(o) > 1 for o in owners.values())
    return [*by_id.values(), *by_size.values()]


def _nodes(evidences: Sequence[LogEvidence], groups: Iterable[Group], names: Mapping[str, str]) -> dict[ProcessKey, str]:
    node_of: dict[ProcessKey, str] = {}
    for evidence in evidences:
        told = names.get(evidence.source)
        for process in evidence.processes:
            node_of[(evidence.source, process.host, process.pid)] = told or process.host
        for channel in evidence.channels:
            node_of.setdefault((evidence.source, channel.host, channel.pid), told or channel.host)
    for group in groups:
        by_host: dict[str, list[tuple[ProcessKey, RankInit]]] = defaultdict(list)
        for key, entry in group.entries:
            if key[0] not in names:
                by_host[key[1]].append((key, entry))
        stated = group.nnodes_stated
        for host, entries in by_host.items():
            if stated == 1 or not _shares_name(entries):
                continue
            sources = {key[0] for key, _ in entries}
            if len(sources) > 1 and not any(_shares_name([e for e in entries if e[0][0] == s]) for s in sources):
                for evidence in evidences:
                    for process in evidence.processes:
                        if process.host == host and evidence.source in sources:
                            node_of[(evidence.source, host, process.pid)] = f"{host}@{evidence.source}"
                continue
            if all(e.local_rank is not None for _, e in entries):
                sizes: list[int] = []
                for key, entry in sorted(entries, key=lambda e: e[1].rank):
                    index = next((i for i, n in enumerate(sizes) if n == entry.local_rank), len(sizes))
                    if index == len(sizes):
                        sizes.append(0)
                    sizes[index] += 1
                    node_of[key] = f"{host}#{index}"
    return node_of


def _shares_name(entries: Sequence[tuple[ProcessKey, RankInit]]) -> bool:
    """Two nodes hide behind one host name: a local rank or a GPU's bus id occurs for two ranks of one communicator."""
    seen_local: dict[int, int] = {}
    seen_bus: dict[str, int] = {}
    for _, entry in entries:
        if entry.local_rank is not None and seen_local.setdefault(entry.local_rank, entry.rank) != entry.rank:
            return True
        if entry.bus_id and entry.nnodes != 1 and seen_bus.setdefault(entry.bus_id, entry.rank) != entry.rank:
            return True
    return False


def _entry_node(node_of: Mapping[ProcessKey, str], key: ProcessKey, entry: RankInit) -> str:
    return node_of.get(key, entry.host)


def _node(node_of: Mapping[ProcessKey, str], key: ProcessKey, group: Group, rank: int) -> str:
    return group.rank_to_node.get(rank) or node_of.get(key, key[1])


def _attribute(
    evidences: Sequence[LogEvidence], groups: list[Group], node_of: Mapping[ProcessKey, str]
) -> list[tuple[LogEvidence, Channel, Group]]:
    by_comm: dict[tuple[ProcessKey, str], list[Group]] = defaultdict(list)
    by_process: dict[ProcessKey, list[tuple[Group, RankInit]]] = defaultdict(list)
    for group in groups:
        for key, entry in group.entries:
            by_comm[(key, entry.comm)].append(group)
            by_process[key].append((group, entry))
    implicit: dict[str, Group] = {}
    owned = []
    for evidence in evidences:
        for channel in evidence.channels:
            key = (evidence.source, channel.host, channel.pid)
            group = _owner(channel, key, by_comm, by_process, groups) or implicit.setdefault("", Group("no communicator line", None, None))
            owned.append((evidence, channel, group))
            group.channel_ranks.update((channel.src, channel.dst))
            node = node_of.get(key, channel.host)
            if channel.host and (channel.direction or channel.kind != "net"):
                known = group.rank_to_node.setdefault(channel.rank, node)
                if known != node and channel.intact:
                    group.ambiguous = True
    groups.extend(implicit.values())
    # P2P and SHM stay inside a node (unless NVLink spans nodes): the peer of a placed rank is placed too.
    for _ in range(2):
        for _, channel, group in owned:
            if channel.kind in ("p2p", "shm") and channel.intact and not group.mnnvl:
                for known_rank, other in ((channel.src, channel.dst), (channel.dst, channel.src)):
                    if known_rank in group.rank_to_node:
                        group.rank_to_node.setdefault(other, group.rank_to_node[known_rank])
    return owned


def _owner(
    channel: Channel,
    key: ProcessKey,
    by_comm: Mapping[tuple[ProcessKey, str], Sequence[Group]],
    by_process: Mapping[ProcessKey, Sequence[tuple[Group, RankInit]]],
    groups: Sequence[Group],
) -> Group | None:
    top = max(channel.src, channel.dst)
    if channel.comm:
        named = [g for g in by_comm.get((key, channel.comm), ()) if g.nranks is None or g.nranks > top]
        if named:
            return named[-1]
    mine = [
        (group, entry)
        for group, entry in by_process.get(key, ())
        if entry.nranks > top
        and entry.rank in (channel.src, channel.dst)
        and (not channel.direction or entry.rank == channel.rank)
        and (entry.cuda_dev is None or channel.cuda_dev is None or entry.cuda_dev == channel.cuda_dev)
    ]
    if mine:
        wide = [g for g, _ in mine if (g.nnodes_stated or 2) > 1] if channel.kind == "net" else []
        # A rank of a pipeline is in a communicator of its stage and in one between stages: the network joins what is apart, the rest
        # what is together.
        leaves = channel.kind == "net"
        candidates = wide or [g for g, _ in mine]
        fitting = [g for g in candidates if (g.rank_to_node.get(channel.src) != g.rank_to_node.get(channel.dst)) is leaves or g.mnnvl]
        pool = fitting or candidates
        return max(pool, key=lambda g: g.nranks or 0)
    if by_process.get(key):
        return None
    fitting = [g for g in groups if g.nranks is not None and g.nranks > top]
    return fitting[0] if len(fitting) == 1 else None


def _from_header(group: Group, evidences: Sequence[LogEvidence]) -> None:
    """nccl-tests lists all ranks with their hosts; used where no communicator line survived."""
    ranks: dict[int, str] = {}
    for evidence in evidences:
        ranks.update(evidence.test_ranks)
    if ranks and sorted(ranks) == list(range(len(ranks))) and max(group.channel_ranks) < len(ranks):
        group.nranks = len(ranks)
        for rank, host in ranks.items():
            group.rank_to_node.setdefault(rank, host)


def _leaves(channel: Channel, group: Group, node: str) -> bool | None:
    if channel.kind == "collnet":
        return None  # between an adapter and a switch: it has no rank at its other end
    if channel.kind in ("p2p", "shm"):
        if not group.mnnvl:
            return False
        a, b = group.rank_to_node.get(channel.src), group.rank_to_node.get(channel.dst)
        return None if a is None or b is None else a != b
    if group.nnodes_stated == 1:
        return False
    a, b = group.rank_to_node.get(channel.src), group.rank_to_node.get(channel.dst)
    if a is not None and b is not None and not group.ambiguous:
        return a != b
    own = next((e for _, e in group.entries if e.rank == channel.rank and e.local_ranks), None)
    if own and (a is None) != (b is None):
        local = sum(1 for n in group.rank_to_node.values() if n == node)
        if local >= (own.local_ranks or 0):
            return True
    return None


DeviceLists = tuple[Mapping[ProcessKey, Process], Mapping[str, Sequence[Process]]]


def _device_lists(evidences: Sequence[LogEvidence], node_of: Mapping[ProcessKey, str]) -> DeviceLists:
    own: dict[ProcessKey, Process] = {}
    by_node: dict[str, list[Process]] = defaultdict(list)
    for evidence in evidences:
        for process in evidence.processes:
            key = (evidence.source, process.host, process.pid)
            if process.devices or process.virtual_devices or process.socket_interfaces:
                own[key] = process
                by_node[node_of.get(key, process.host)].append(process)
    return own, by_node


def _resolve(channel: Channel, key: ProcessKey, node: str, lists: DeviceLists, group: Group) -> str | None:
    own, by_node = lists
    owner = key
    if channel.pxn is not None and channel.pxn != channel.rank:  # the device number counts in the proxy's list
        owner = next((k for k, e in group.entries if e.rank == channel.pxn), key)
    process = own.get(owner)
    found = _name(process, channel) if process else None
    if found:
        return found
    names = {_name(p, channel) for p in by_node.get(node, ())} - {None}
    return names.pop() if len(names) == 1 else None


def _name(process: Process, channel: Channel) -> str | None:
    if channel.family == "socket":
        interfaces = process.socket_interfaces
        return interfaces[channel.dev] if channel.dev is not None and channel.dev < len(interfaces) else None
    for devices in (process.virtual_devices, process.devices):
        found: Device | None = next((d for d in devices if d.index == channel.dev), None)
        if found:
            return found.name
    return None


def _freeze(group: Group) -> Communicator:
    nodes = set(group.rank_to_node.values())
    stated = group.nnodes_stated
    whole = group.nranks is not None and set(group.rank_to_node) >= set(range(group.nranks))
    counted = len(nodes) if whole and not group.ambiguous else None
    completed = frozenset(e.rank for _, e in group.entries if e.completed)
    started = frozenset(e.rank for _, e in group.entries)
    return Communicator(
        key=group.key,
        comm_id=group.comm_id,
        nranks=group.nranks,
        nnodes=stated or counted,
        rank_to_node=dict(sorted(group.rank_to_node.items())),
        completed_ranks=completed,
        open_ranks=started - completed,
        ambiguous=group.ambiguous,
        mnnvl=group.mnnvl,
        channels=frozenset(n for _, e in group.entries for n in e.channels),
        rank_to_bus={} if group.ambiguous else {e.rank: e.bus_id for _, e in group.entries if e.bus_id},
    )
