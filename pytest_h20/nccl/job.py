"""Evidence -> judgement. The rule: proof needs both halves of every link between nodes; everything else is named, not guessed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_h20.nccl.failures import DEVICES
from pytest_h20.nccl.model import (
    Address,
    Channel,
    Communicator,
    Expected,
    Gdr,
    Job,
    LogEvidence,
    NcclError,
    Process,
    RankInit,
    VerdictName,
    Where,
)
from pytest_h20.nccl.placement import Placed, place
from pytest_h20.nccl.reader import ambiguous, family_of

# libfabric providers that are RDMA (cxi: HPE Slingshot); "tcp" and "sockets" are not. Other names (psm3 ...) are not judged.
RDMA_PROVIDERS = frozenset({"efa", "verbs", "verbs;ofi_rxm", "efa-direct", "cxi"})
TCP_PROVIDERS = frozenset({"tcp", "sockets", "tcp;ofi_rxm", "udp", "net"})

RING_SHOWN = 20
"""Ranks of a ring that NCCL prints; of a longer ring it leaves out the rest."""

ASK = (
    "run every rank of every node with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,ENV,NET,GRAPH NCCL_DEBUG_FILE=/somewhere/nccl.%h.%p",
    "send one request (one collective) first: from NCCL 2.22 on channels are made at the first use",
    "give the files of all nodes together: python -m pytest_h20 nccl --job FILE ...",
)


@dataclass
class _Finding:
    verdict: VerdictName
    reason: str
    missing: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    deciding: list[tuple[str, Where]] = field(default_factory=list)


@dataclass(frozen=True)
class _Facts:
    """Everything the decision looks at."""

    evidences: Sequence[LogEvidence]
    placed: Placed
    expected: Expected
    errors: tuple[NcclError, ...]
    one_sided: tuple[Channel, ...]
    effective: Mapping[Channel, str]  # NET channel -> ib | ofi | socket | other

    @property
    def net(self) -> list[Channel]:
        return [c for c in self.placed.channels if c.kind == "net"]

    @property
    def fatal(self) -> list[NcclError]:
        return [e for e in self.errors if e.severity == "fatal"]


def judge_job(evidences: Sequence[LogEvidence], expected: Expected | None = None, nodes: Mapping[str, str] | None = None) -> Job:
    """Judge the logs of one job together. Pass the logs of **all** nodes: one node's half is never proof.

    ``nodes`` maps a log's ``source`` to the node it came from. Give it when you know: containers on two nodes may share one
    host name.
    """
    expected = expected or Expected()
    placed = place(evidences, nodes)
    errors = _sorted_errors(evidences)
    providers = {p for e in evidences for proc in e.processes for p in proc.providers}
    plugins = {p for e in evidences for proc in e.processes for p in proc.plugins}
    effective = {c: _effective(c, providers, plugins) for c in placed.channels if c.kind == "net"}
    facts = _Facts(evidences, placed, expected, errors, _one_sided(placed), effective)
    finding = _decide(facts)
    processes = tuple(p for e in evidences for p in e.processes if p.host or p.pid)
    node_of = placed.node_of
    main = _main(placed.communicators)
    names = tuple(
        sorted({n for c in placed.communicators for n in c.rank_to_node.values() if n} | {n for (_, host, _), n in node_of.items() if host})
    )
    by_node = _by_node(evidences, node_of)
    net = facts.net
    return Job(
        verdict=finding.verdict,
        reason=finding.reason,
        missing=tuple(dict.fromkeys(finding.missing)),
        advice=tuple(dict.fromkeys(finding.advice)),
        deciding=tuple(dict.fromkeys(finding.deciding)),
        gdr=_gdr([c for c in net if c.inter_node] or net),
        communicators=placed.communicators,
        channels=placed.channels,
        nodes=names,
        nranks=main.nranks if main else None,
        nnodes=main.nnodes if main else None,
        hcas_used=_hcas_used(net, effective),
        unresolved_devices=placed.unresolved,
        nccl_versions=_versions(evidences),
        oob=_addresses(by_node, "oob"),
        bootstrap=_addresses(by_node, "bootstrap"),
        env=_env(by_node),
        gid_indexes=_gids(by_node),
        errors=errors,
        one_sided=facts.one_sided,
        completed=any(c.completed_ranks and not c.open_ranks for c in placed.communicators if c is main) if main else False,
        collective=_collective(evidences, net),
        networks={n: tuple(dict.fromkeys(x for p in ps for x in p.networks)) for n, ps in by_node.items()},
        processes=processes,
        node_of_process={f"{s}|{h}|{p}": n for (s, h, p), n in node_of.items()},
        sources=tuple(e.source for e in evidences),
        damaged=sum(len(e.damaged) + len(e.damaged_channels) for e in evidences),
        expected=expected,
    )


# -- the decision ------------------------------------------------------------------------------------------------------------


def _decide(f: _Facts) -> _Finding:
    net = f.net
    single = {c.key for c in f.placed.communicators if c.nnodes == 1}
    leaving = [c for c in net if c.inter_node or (c.inter_node is None and c.comm not in single)]
    sockets = [c for c in leaving if f.effective[c] == "socket"]
    rdma = [c for c in leaving if f.effective[c] in ("ib", "ofi")]
    unknown = [c for c in leaving if f.effective[c] == "other"]
    if sockets and (rdma or unknown):
        names = ", ".join(sorted({c.network for c in leaving}))
        return _Finding(
            "mixed",
            f"channels between ranks use {names} side by side: part of the traffic goes over TCP",
            deciding=_examples(sockets, 3) + _examples(rdma, 3) + _causes(f),
            advice=["make the node or rank whose channels are Socket use InfiniBand: see the lines above for its reason"],
        )
    if sockets:
        placed = any(c.inter_node for c in sockets)
        where = "between nodes" if placed else "between ranks (the log does not show on which nodes they are)"
        return _Finding(
            "sockets",
            f"{len(sockets)} channel lines {where} use NET/{sockets[0].network}, that is TCP; none uses RDMA",
            deciding=_examples(sockets, 4) + _causes(f),
            advice=_cause_advice(f),
        )
    if unknown:
        names = ", ".join(sorted({c.network for c in unknown}))
        return _Finding(
            "undetermined",
            f"the channels use the network {names}, of which this tool does not know whether it is RDMA",
            missing=[f"what network {names} runs on (for libfabric: the line that names the provider)"],
            advice=list(ASK[:1]),
            deciding=_examples(unknown, 4),
        )
    if rdma:
        return _rdma(f, rdma)
    return _no_network_channels(f, net)


def _rdma(f: _Facts, rdma: list[Channel]) -> _Finding:
    missing: list[str] = []
    advice: list[str] = []
    groups = {c.key: c for c in f.placed.communicators}
    spanning = [g for g in groups.values() if g.spans_nodes]
    unplaced = [c for c in rdma if not c.inter_node]
    if unplaced:
        missing.append(f"on which nodes the ranks of {len(unplaced)} channel lines are (first: {unplaced[0].text()})")
        advice += ASK
    judged = sorted({c.comm for c in rdma})
    largest = max((g.nranks or 0 for g in spanning), default=0)
    if f.expected.nranks and not any(groups[k].nranks == f.expected.nranks for k in judged):
        missing.append(f"channels of a communicator with the expected {f.expected.nranks} ranks")
    elif largest > max((groups[k].nranks or 0 for k in judged), default=0):
        missing.append(f"channels of the largest communicator that spans nodes ({largest} ranks)")
        advice.append(ASK[1])
    for key in judged:
        missing += _group_gaps(f, groups[key], [c for c in rdma if c.comm == key and c.inter_node])
    weak = [c for c in rdma if not c.intact]
    damaged = [w for e in f.evidences for w in e.damaged_channels]
    if weak or damaged:
        at = str(damaged[0] if damaged else weak[0].where)
        missing.append(f"{max(len(weak), len(damaged))} channel lines that are cut or spliced (first at {at}) could hide a socket")
        advice.append("let every process write its own file: NCCL_DEBUG_FILE=/somewhere/nccl.%h.%p")
    if f.one_sided:
        missing.append(
            f"the other half of {len(f.one_sided)} links between nodes, seen on one side only "
            f"(first: channel {f.one_sided[0].channel}, {f.one_sided[0].text()})"
        )
        advice.append(ASK[2])
    for e in f.evidences:
        if e.ray_dedup:
            missing.append(f"the lines that Ray swallowed ({e.ray_dedup[0]}: [repeated …x])")
            advice.append("set RAY_DEDUP_LOGS=0")
        if e.overflow:
            missing.append(f"{e.source} shows more channels or processes than this tool keeps")
        for text, where in e.unclear_warnings[:2]:
            missing.append(f"the meaning of an NCCL warning that this tool does not know ({where}: {text[:100]})")
    versions = sorted({v.split("+")[0] for v in _versions(f.evidences).values()})
    if len(versions) > 1:
        missing.append(f"one NCCL version: the logs show {', '.join(versions)}, so several runs or images")
        advice.append("give the logs of one run only; use one image on all nodes")
    networks = {n for e in f.evidences for _, n, _ in e.network_lines}
    others = sorted(n for n in networks if family_of(n) == "socket")
    if others:
        missing.append(f'a reason why another process says "Using network {others[0]}"')
    if f.expected.nnodes and not any(groups[k].nnodes == f.expected.nnodes for k in judged):
        missing.append(f"a communicator over the expected {f.expected.nnodes} nodes")
    fatal = f.fatal
    network = ", ".join(sorted({c.network for c in rdma}))
    if fatal:
        first = fatal[0]
        return _Finding(
            "undetermined",
            f"channels were set up over {network}, but then it failed: {first.label or first.meaning} ({first.where})",
            missing=["a run without a fatal error", *missing],
            advice=[a for a in (first.action,) if a] + advice,
            deciding=[(first.text, first.where), *_examples(rdma, 3)],
        )
    if missing:
        if all(g.nnodes == 1 for g in groups.values() if g.key in judged):
            return _Finding("intra_node_only", f"channels use {network}, but all ranks are on one node", deciding=_examples(rdma, 3))
        return _Finding(
            "undetermined",
            f"every visible channel between ranks uses {network}, but this is not yet proof: missing is {missing[0]}",
            missing=missing,
            advice=advice,
            deciding=_examples(rdma, 4),
        )
    gdr = _gdr(rdma)
    word = {
        "all": "all with GPUDirect RDMA",
        "none": "none with GPUDirect RDMA (data is copied through host memory)",
        "mixed": "only some with GPUDirect RDMA",
        "unknown": "GPUDirect not shown",
    }[gdr]
    nodes = sorted({c.node for c in rdma})
    return _Finding(
        "rdma_proven",
        f"all {len(rdma)} channel lines between {len(nodes)} nodes use {network}, {word}; both halves of every link are there, the "
        "communicator finished, nothing fatal follows",
        deciding=_per_node(rdma),
    )


def _group_gaps(f: _Facts, group: Communicator, links: list[Channel]) -> list[str]:
    gaps = []
    if group.ambiguous:
        gaps.append(f"what tells the communicators of {group.nranks} ranks apart (no commId before NCCL 2.16)")
    if group.nranks is None:
        gaps.append('the communicator line ("… rank R nranks N … Init COMPLETE")')
    if group.nnodes is None:
        gaps.append(f"how many nodes the communicator {group.key} has")
    nodes = set(group.rank_to_node.values())
    if group.nnodes and len(nodes) < group.nnodes:
        gaps.append(f"the logs of {group.nnodes - len(nodes)} of {group.nnodes} nodes")
    one_way = all(c.conn == 1 for c in links)  # of sends and receives alone (a pipeline): its last stage sends nothing
    for node in sorted(nodes):
        seen = {c.direction for c in links if c.node == node}
        who = node or "the node without a name"
        if not (one_way and seen):
            gaps += [f"{d} channels between nodes as {who} prints them" for d in ("send", "receive") if d not in seen]
    if group.nranks is not None:
        if group.open_ranks:
            gaps.append(f'"Init COMPLETE" of rank {min(group.open_ranks)}')
        silent = nodes - {group.rank_to_node[r] for r in group.completed_ranks if r in group.rank_to_node}
        if silent:
            gaps.append(f'"Init COMPLETE" of any rank on {min(silent)}')
        absent = set(range(group.nranks)) - group.completed_ranks
        if absent and not silent:
            gaps.append(f'"Init COMPLETE" of rank {min(absent)}')
    gaps += _filtered(f, group)
    return gaps if group.mnnvl else gaps + (_holes(group, links) or _broken(f, group, links))


def _broken(f: _Facts, group: Communicator, links: Sequence[Channel]) -> list[str]:
    """A link between nodes that the rings (or the trees) need and no line shows, though others of them are there.

    Rank 0 tells the order of the rings, each rank its neighbours in the trees. Which of the two NCCL connects depends on what it uses.
    """
    node = group.rank_to_node
    seen = {(c.channel, c.src, c.dst) for c in links if c.conn == 0}
    rings: dict[int, list[set[tuple[int, int, int]]]] = defaultdict(list)
    for channel, order in dict.fromkeys(ring for e in f.evidences for ring in e.rings):
        told = min(group.nranks or 0, RING_SHOWN)
        if len(order) == told and set(order) <= set(node):  # several communicators of one size may have rings of their own
            after = (*order[1:], *(order[:1] if told == group.nranks else ()))
            rings[channel].append({(channel, a, b) for a, b in zip(order, after, strict=False) if node[a] != node[b]})
    trees: dict[int, list[set[tuple[int, int, int]]]] = {}
    for rank, channel, other in ((r.rank, *near) for r in _ranks(f, group) for near in r.trees):
        if node.get(rank, "") != node.get(other, ""):
            trees.setdefault(channel, [set()])[0].update({(channel, rank, other), (channel, other, rank)})
    own = [{link for ways in wanted.values() for way in ways for link in way} for wanted in (rings, trees)]
    for wanted, mine, others in ((rings, own[0], own[1]), (trees, own[1], own[0])):
        if not seen & (mine - others):
            continue  # not one of them was connected
        for channel, ways in sorted(wanted.items()):
            missing = min((way - seen for way in ways), key=len)
            if missing:
                _, a, b = min(missing)
                return [f"the link {a} -> {b} of channel {channel}, which its ring or tree takes from node to node"]
    whole = len({r.rank for r in _ranks(f, group) if r.trees}) == group.nranks and (group.nranks or 0) <= RING_SHOWN
    if group.nnodes == 2 and rings and whole:
        return _broken_nvls(seen, own[0] | own[1])
    return []


def _broken_nvls(seen: set[tuple[int, int, int]], told: set[tuple[int, int, int]]) -> list[str]:
    """A link of the NVLS tree that is gone on both sides: with two nodes each GPU has its pair on all of the NVLS channels.

    No line tells these links: they are those that neither rings nor trees ask for (``told``).
    """
    more = seen - told
    for channel in range(max((channel for channel, _, _ in more), default=-1) + 1):
        for a, b in sorted({(a, b) for _, a, b in more}):
            if (channel, a, b) not in seen:
                return [f"the link {a} -> {b} of channel {channel}, which NVLS takes from node to node as it does on other channels"]
    return []


def _holes(group: Communicator, links: Sequence[Channel]) -> list[str]:
    """Channels that do not lead into or out of a node, though every ring and every tree visits all nodes.

    Lines that are gone on both sides show in nothing else: each half of a link is missed by the other half only.
    """
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for c in links:
        if c.conn == 0:
            seen[(c.node, c.direction)].add(c.channel)
    top = max((n for numbers in seen.values() for n in numbers), default=-1) + 1
    if top and group.channels and top not in group.channels:
        told = " or ".join(map(str, sorted(group.channels)))
        return [f"the lines of all channels between nodes: of {told} that the communicator has, numbers 0 to {top - 1} are there"]
    for (node, direction), numbers in sorted(seen.items()):
        if absent := set(range(top)) - numbers:
            return [f"a {direction} line of channel {min(absent)} of {top} between nodes as {node or 'the node without a name'} prints it"]
    return []


def _ranks(f: _Facts, group: Communicator) -> list[RankInit]:
    return [r for e in f.evidences for r in e.ranks if (r.comm_id, r.nranks) == (group.comm_id, group.nranks)]


def _filtered(f: _Facts, group: Communicator) -> list[str]:
    """What stands in every log besides channels: without it somebody picked lines, and did not pick others."""
    ranks = {(r.where.source, r.host, r.pid) for r in _ranks(f, group)}
    mine = [p for e in f.evidences for p in e.processes if (e.source, p.host, p.pid) in ranks]
    headless = [p for p in mine if not (p.networks or p.devices or p.bootstrap)]
    gaps = []
    if headless:
        gaps.append(f'the beginning of the log of {headless[0].host}:{headless[0].pid} ("Bootstrap : Using …", "Using network …")')
    unconnected = [p for p in mine if not p.connected]
    if unconnected and len(unconnected) < len(mine):
        gaps.append(f'"Connected all rings" or "… trees" of {unconnected[0].host}:{unconnected[0].pid}, as other processes print it')
    return gaps


def _no_network_channels(f: _Facts, net: list[Channel]) -> _Finding:
    comms = [c for c in f.placed.communicators if (c.nranks or 2) > 1]
    local = [c for c in f.placed.channels if c.kind in ("p2p", "shm")]
    networks: dict[str, Where] = {}
    for e in f.evidences:
        for _, name, where in e.network_lines:
            networks.setdefault(name, where)
    families = {family_of(n) for n in networks}
    two_nodes = any(c.spans_nodes for c in comms)
    chosen = [(f"Using network {n}", w) for n, w in list(networks.items())[:3]]
    fatal = f.fatal
    damaged = any(e.damaged_channels or e.ray_dedup or e.overflow for e in f.evidences)
    ask = list(ASK)
    nvlink = [c for c in local if c.network.startswith("P2P/MNNVL")]
    if nvlink and not net:
        return _Finding(
            "undetermined",
            f"{len(nvlink)} channel lines use P2P/MNNVL, that is NVLink between nodes, and none a network: says nothing about RDMA",
            missing=["channels over a network"],
            advice=["to see the network, run once with NCCL_MNNVL_ENABLE=0"],
            deciding=_examples(nvlink, 3) + chosen,
        )
    if net or local:
        single = bool(comms) and all(c.nnodes == 1 and not c.ambiguous for c in comms)
        if single and not damaged:
            how = "P2P and shared memory" if not net else f"{', '.join(sorted({c.network for c in net}))} (inside one node)"
            return _Finding(
                "intra_node_only",
                f"all ranks are on one node; channels use {how}: says nothing about the network between nodes",
                deciding=_examples(local or net, 3) + chosen,
            )
        what = "every visible channel stays inside a node" if not net else "it is not shown whether the channels leave the node"
        gap = "the logs of the other nodes" if two_nodes else "how many nodes the job has"
        return _Finding(
            "undetermined",
            f"{what}, and {gap} {'are' if two_nodes else 'is'} not shown",
            missing=[gap],
            advice=ask,
            deciding=_examples(local or net, 3) + chosen,
        )
    if fatal:
        first = fatal[0]
        return _Finding(
            "undetermined",
            f"no channel line, and it failed: {first.label or first.meaning} ({first.where})",
            missing=["a run without a fatal error", "channel lines"],
            advice=[a for a in (first.action,) if a] + ask,
            deciding=[(first.text, first.where), *chosen],
        )
    offload = [c for c in f.placed.channels if c.kind == "collnet"]
    if offload:
        return _Finding(
            "undetermined",
            f"reductions in the switches are set up (COLLNET/{offload[0].network}), but no channel line shows "
            "what carries everything else between nodes",
            missing=['channel lines ("via NET/…")'],
            advice=ask,
            deciding=_examples(offload, 3) + chosen,
        )
    if two_nodes and families == {"socket"}:
        return _Finding(
            "sockets",
            f'"Using network {next(iter(networks))}" in a job over more than one node: NCCL has no '
            "later way to InfiniBand (no channel line confirms it)",
            deciding=chosen + _causes(f),
            advice=_cause_advice(f),
        )
    if two_nodes and families and families <= {"ib", "ofi"}:
        return _Finding(
            "undetermined",
            f'"Using network {next(iter(networks))}" on more than one node is probable RDMA, but no channel line proves it',
            missing=['channel lines ("via NET/…")'],
            advice=ask,
            deciding=chosen,
        )
    if any(c.nranks == 1 for c in f.placed.communicators) and not comms:
        return _Finding(
            "undetermined",
            "the communicator has one rank: nothing is transported",
            missing=["a job with several ranks"],
            advice=ask,
            deciding=chosen,
        )
    if not any(e.processes or e.channels for e in f.evidences):
        return _Finding("undetermined", "no NCCL line at all", missing=["NCCL log lines"], advice=ask)
    said = f'"Using network {next(iter(networks))}" names what would be used' if networks else "the network chosen is not shown"
    return _Finding(
        "undetermined",
        f'no channel line ("via NET/…"): {said}, not what carries data between nodes',
        missing=['channel lines ("via NET/…")'],
        advice=ask,
        deciding=chosen + _causes(f)[:2],
    )


# -- parts -------------------------------------------------------------------------------------------------------------------


def _effective(channel: Channel, providers: set[str], plugins: set[str]) -> str:
    if ambiguous(channel.network):
        verbs = any(p.startswith("IBext") for p in plugins) and not any(p.upper().startswith("UCX") for p in plugins)
        return "ib" if verbs else "other"
    if channel.family != "ofi":
        return "other" if channel.family in ("local", "unknown") else channel.family
    if providers and providers <= RDMA_PROVIDERS:
        return "ofi"
    if providers and providers <= TCP_PROVIDERS:
        return "socket"
    return "other"


def _one_sided(placed: Placed) -> tuple[Channel, ...]:
    halves: dict[tuple[str, int, int, int, int], set[str]] = defaultdict(set)
    first: dict[tuple[str, int, int, int, int], Channel] = {}
    for c in placed.channels:
        if c.kind == "net" and c.inter_node is not False:
            key = (c.comm, c.channel, c.conn, c.src, c.dst)
            halves[key].add(c.direction)
            first.setdefault(key, c)
    return tuple(first[k] for k, seen in halves.items() if len(seen & {"send", "receive"}) < 2)


def _main(communicators: Sequence[Communicator]) -> Communicator | None:
    """The communicator the job is about: the widest one."""
    return max(communicators, key=lambda c: (c.spans_nodes, c.nranks or 0), default=None)


def _gdr(channels: Sequence[Channel]) -> Gdr:
    seen = {c.gdr for c in channels}
    if not channels or None in seen:
        return "mixed" if {True, False} <= seen else "unknown"
    return "mixed" if len(seen) == 2 else "all" if True in seen else "none"


def _examples(channels: Sequence[Channel], count: int) -> list[tuple[str, Where]]:
    return [(f"channel {c.channel}: {c.text()}" + (f" ({c.hca})" if c.hca else ""), c.where) for c in channels[:count]]


def _per_node(channels: Sequence[Channel]) -> list[tuple[str, Where]]:
    seen: dict[tuple[str, str], Channel] = {}
    for c in channels:
        seen.setdefault((c.node, c.direction), c)
    return [(f"{node}: {_examples([c], 1)[0][0]}", c.where) for (node, _), c in sorted(seen.items())]


_CAUSES: tuple[tuple[str, str], ...] = (
    ("NCCL_IB_DISABLE set by environment to 1", "unset NCCL_IB_DISABLE (or set it to 0)"),
    ("NCCL_NET set by environment to Socket", "unset NCCL_NET"),
    ("No device found", DEVICES),
    ("Failed to open libibverbs", "install libibverbs (rdma-core) in the image"),
    ("Failed to initialize NET plugin IB", "check /dev/infiniband and NCCL_IB_HCA inside the container"),
    ("devices() returned 0 devices", "check /dev/infiniband and NCCL_IB_HCA inside the container"),
    ("IBEXT_DISABLE set", "unset IBEXT_DISABLE"),
)


def _cause_notes(f: _Facts) -> list[tuple[str, str, Where]]:
    out = []
    for wanted, action in _CAUSES:
        for e in f.evidences:
            found = next(((t, w) for p in e.processes for t, w in p.notes if wanted in t), None)
            if found:
                out.append((found[0], action, found[1]))
                break
    return out


def _causes(f: _Facts) -> list[tuple[str, Where]]:
    return [(text, where) for text, _, where in _cause_notes(f)]


def _cause_advice(f: _Facts) -> list[str]:
    return [action for _, action, _ in _cause_notes(f)] or [
        'look for the reason with NCCL_DEBUG_SUBSYS=INIT,ENV,NET: NCCL_IB_DISABLE, NCCL_NET, "No device found", libibverbs'
    ]


def _sorted_errors(evidences: Sequence[LogEvidence]) -> tuple[NcclError, ...]:
    order = {"fatal": 0, "retry": 1, "note": 2}
    errors = [e for evidence in evidences for e in evidence.errors]
    return tuple(sorted(errors, key=lambda e: (order[e.severity], not e.primary)))  # stable: file order within


def _versions(evidences: Sequence[LogEvidence]) -> dict[str, str]:
    out = {}
    for e in evidences:
        for p in e.processes:
            if p.nccl_version:
                out[f"{p.host}:{p.pid}"] = p.nccl_version
        # Up to 2.21 only rank 0 prints the version, without a head: it belongs to the file, not to a process.
        for i, version in enumerate(e.bare_versions):
            out[f"{e.source or '<log>'} (rank 0{', run ' + str(i + 1) if i else ''})"] = version
    return out


def _by_node(evidences: Sequence[LogEvidence], node_of: Mapping[tuple[str, str, int], str]) -> dict[str, list[Process]]:
    by_node: dict[str, list[Process]] = defaultdict(list)
    for e in evidences:
        for p in e.processes:
            node = node_of.get((e.source, p.host, p.pid), p.host)
            by_node[node].append(p)
    return dict(by_node)


def _addresses(by_node: Mapping[str, Sequence[Process]], what: str) -> dict[str, tuple[Address, ...]]:
    out = {}
    for node, processes in by_node.items():
        seen: dict[tuple[str, str | None], Address] = {}
        for p in processes:
            address: Address | None = getattr(p, what)
            if address:
                seen.setdefault((address.interface, address.address), address)
        if seen:
            out[node] = tuple(seen.values())
    return out


def _env(by_node: Mapping[str, Sequence[Process]]) -> dict[str, dict[str, tuple[str, ...]]]:
    out: dict[str, dict[str, tuple[str, ...]]] = {}
    for node, processes in by_node.items():
        values: dict[str, dict[str, None]] = {}
        for p in processes:
            for key, value in p.env.items():
                values.setdefault(key, {}).setdefault(value)
        if values:
            out[node] = {k: tuple(v) for k, v in sorted(values.items())}
    return out


def _gids(by_node: Mapping[str, Sequence[Process]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """GID indexes per node: ``""`` is NCCL_IB_GID_INDEX of the environment, other keys are devices as the lines name them."""
    out: dict[str, dict[str, tuple[int, ...]]] = {}
    for node, processes in by_node.items():
        seen: dict[str, set[int]] = defaultdict(set)
        for p in processes:
            value = p.env.get("NCCL_IB_GID_INDEX", "")
            if value.lstrip("-").isdigit() and int(value) >= 0:
                seen["environment"].add(int(value))
            for device, indexes in p.gid_indexes.items():
                seen[f"device {device}" if device else "in use"].update(indexes)
        if seen:
            out[node] = {k: tuple(sorted(v)) for k, v in seen.items()}
    return out


def _hcas_used(net: Sequence[Channel], effective: Mapping[Channel, str]) -> dict[str, tuple[str, ...]]:
    used: dict[str, set[str]] = defaultdict(set)
    for c in net:
        if c.inter_node is not False and effective[c] in ("ib", "ofi") and c.hca:
            used[c.node].update(part.split(":")[0] for part in c.hca.split("+"))
    return {node: tuple(sorted(names)) for node, names in used.items()}


def _collective(evidences: Sequence[LogEvidence], net: Sequence[Channel]) -> bool:
    """True when a line shows that data was moved: rings or trees connected, an opCount line, or network channels."""
    return bool(net) or any(p.collective or p.connected for e in evidences for p in e.processes)
