"""The short answer about one file, in the words of the labelled corpus (keys of ``labels`` in its index).

These say what the file *shows*; whether that is proof is the job's verdict.
"""

from __future__ import annotations

from typing import Any

from pytest_h20.nccl.job import judge_job
from pytest_h20.nccl.model import Communicator, Job, LogEvidence
from pytest_h20.nccl.reader import family_of

GPUS_PER_NODE = 8  # a log that shows more ranks than this, but not all of them on one host, speaks of several nodes


def labels(evidence: LogEvidence, job: Job | None = None) -> dict[str, Any]:
    """``transport``, ``roce``, ``gdr``, ``hcas``, ``oob_*``, ``errors``, ``nranks``, ``nnodes``, ``network_selected``,
    ``confirmed_by_channels``.
    """
    job = job or judge_job([evidence])
    nranks = count_ranks(evidence)
    nnodes = count_nodes(evidence, job, nranks)
    transport, confirmed = _transport(evidence, job, nranks, nnodes)
    oob = evidence.first_oob
    return {
        "transport": transport,
        "roce": None if len(evidence.links) != 1 else "RoCE" in evidence.links,
        "gdr": _gdr(evidence),
        "hcas": [port for device in evidence.devices for port in device.ports],
        "oob_interface": oob.interface if oob else None,
        "oob_address": oob.address if oob else None,
        "errors": list(dict.fromkeys(e.label for e in evidence.errors if e.label and e.severity == "fatal")),
        "nranks": nranks,
        "nnodes": nnodes,
        "network_selected": evidence.first_network,
        "confirmed_by_channels": confirmed,
    }


def count_ranks(evidence: LogEvidence) -> int | None:
    """Ranks of the largest communicator; failing that a complete nccl-tests header, ring or set of launcher tags."""
    if evidence.nranks_seen:
        return max(evidence.nranks_seen)
    linked = {r for c in evidence.channels if c.intact for r in (c.src, c.dst)}
    ring = set(evidence.ring_ranks) if linked and linked == set(evidence.ring_ranks) else set()
    for ranks in (set(evidence.test_ranks), ring, {p.mpi_rank for p in evidence.processes if p.mpi_rank is not None}):
        if len(ranks) > 1 and ranks == set(range(len(ranks))):
            return len(ranks)
    return None


def count_nodes(evidence: LogEvidence, job: Job, nranks: int | None) -> int | None:
    """NCCL's own count; failing that a count of hosts that nothing in the file contradicts; None when it stays open."""
    if evidence.nnodes_seen:
        return max(evidence.nnodes_seen)
    comms = [c for c in job.communicators if (c.nranks or 2) > 1]
    known = [c.nnodes for c in comms if c.nnodes and not c.ambiguous and (c.nnodes > 1 or _settled(c, evidence))]
    if known and (len(known) == len(comms) or max(known) > 1):
        return max(known)
    if nranks == 2 and _other_rank_is_away(evidence, job):
        return 2
    hosts = evidence.hosts
    linked = any((c.nranks or 0) > 1 for c in job.communicators) or any(c.kind == "net" for c in evidence.channels)
    linked = linked or len(evidence.ring_ranks) > 1 or len(evidence.test_ranks) > 1 or _ranks_continue(evidence)
    if len(hosts) > 1 and linked and all(_fits(c, len(hosts)) for c in job.communicators):
        if nranks is not None and len(hosts) > nranks:
            return None
        return len(hosts)
    return None


def _ranks_continue(evidence: LogEvidence) -> bool:
    """Local channels of several hosts whose ranks do not overlap: one job, for separate ones would all count from 0."""
    ranks: dict[str, set[int]] = {}
    for c in evidence.channels:
        if c.host and c.intact:
            ranks.setdefault(c.host, set()).update((c.src, c.dst))
    return len(ranks) > 1 and sum(map(len, ranks.values())) == len(set().union(*ranks.values()))


def _other_rank_is_away(evidence: LogEvidence, job: Job) -> bool:
    """Two ranks, one of them silent and reached over NET: NCCL takes the network only where P2P and SHM cannot be used."""
    disabled = {"NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_P2P_LEVEL"}
    if any(disabled & set(p.env) for p in evidence.processes):
        return False
    placed = {rank for c in job.communicators for rank in c.rank_to_node}
    return len(placed) == 1 and any(c.kind == "net" for c in evidence.channels)


def _settled(comm: Communicator, evidence: LogEvidence) -> bool:
    """A single node counts as shown only when its ranks connected; up to "Init START" others may still join the picture."""
    ranks = set(range(comm.nranks or 0))
    return (comm.nranks or 0) > 1 and (comm.completed_ranks >= ranks or any(c.intact for c in evidence.channels))


def _fits(comm: Communicator, hosts: int) -> bool:
    """Could all ranks of this communicator live on the visible hosts, in blocks? Else more nodes exist than are visible."""
    if hosts != 2 or comm.nranks is not None:
        return True
    blocks: dict[str, set[int]] = {}
    for rank, node in comm.rank_to_node.items():
        blocks.setdefault(node, set()).add(rank)
    return len(blocks) < 2 or not _boundaries_beyond(comm)


def _boundaries_beyond(comm: Communicator) -> bool:
    nodes = list(dict.fromkeys(comm.rank_to_node.values()))
    ranks = sorted(comm.rank_to_node.items())
    # Blocks of ranks per node; a NET link into a block from a rank outside both blocks needs a third node.
    spans = {n: (min(r for r, m in ranks if m == n), max(r for r, m in ranks if m == n)) for n in nodes}
    low = min(s[0] for s in spans.values())
    return low > 0 and len(nodes) == 2 and low >= GPUS_PER_NODE


def _transport(evidence: LogEvidence, job: Job, nranks: int | None, nnodes: int | None) -> tuple[str, bool]:
    net = [c for c in evidence.channels if c.kind == "net"]
    if net:
        families = {c.family for c in net}
        for family in ("socket", "ib", "ofi"):
            if family in families:
                return family, True
        return "undetermined", True
    if any(c.kind == "collnet" and c.family == "ib" for c in evidence.channels):
        return "ib", True
    local = [c for c in evidence.channels if c.kind in ("p2p", "shm")]
    if local:
        return ("undetermined", False) if _more_nodes(evidence, job, nranks, nnodes) else ("p2p_shm_only", True)
    if any("status" in e.details or e.label.startswith(("async", "communicator fatal")) for e in evidence.errors):
        return "ib", False  # NET/IB reports completions and device events of its own queue pairs: it was in use
    if evidence.queue_pairs:
        return "ib", False
    networks = {name for _, name, _ in evidence.network_lines}
    families = {family_of(n) for n in networks}
    fatal = any(e.severity == "fatal" for e in evidence.errors)
    several = (nnodes or 0) > 1 or (nnodes is None and families == {"socket"} and _more_nodes(evidence, job, nranks, nnodes))
    if len(families) == 1 and several and not fatal:
        family = families.pop()
        finished = any(c.completed_ranks for c in job.communicators)
        if family == "socket" or (family in ("ib", "ofi") and finished):
            return family, False
    return "undetermined", False


def _more_nodes(evidence: LogEvidence, job: Job, nranks: int | None, nnodes: int | None) -> bool:
    """Does anything show a second node behind channels that all stay inside one?"""
    if nnodes is not None:
        return nnodes > 1
    seen = {r for c in evidence.channels for r in (c.src, c.dst)} | {r.rank for r in evidence.ranks}
    size = max(nranks or 0, max(seen, default=0) + 1, evidence.highest_rank + 1)
    return size > GPUS_PER_NODE and len(seen) < size


def _gdr(evidence: LogEvidence) -> bool | None:
    net = {c.gdr for c in evidence.channels if c.kind in ("net", "collnet")}
    if True in net:
        return True
    if False in net:
        return False
    if net:
        return None
    if evidence.gdr_hcas:
        return None if any(evidence.gdr_hcas.values()) else False
    return False if evidence.gdr_pairs == {False} else None
