"""What must hold for a job that is meant to run over RDMA. Pure: a :class:`Job` and plain arguments in, findings out.

``ok`` is True, False, or None when the logs do not show it; None is never a pass. Node names in arguments are compared with the
job's node names without case and domain (``node01.example`` = ``NODE01``); pass ``nodes=`` to :func:`judge_job` to use your own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_h20.nccl.model import Channel, Job, Process, Where, to_json

SHOW = 5  # evidence lines per finding


@dataclass(frozen=True)
class NcclFinding:
    """One check on one subject. ``evidence_lines`` are ``file:line text``."""

    check: str
    ok: bool | None
    subject: str
    measured: str
    expected: str
    reason: str = ""
    action: str = ""
    evidence_lines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return to_json(self)  # type: ignore[no-any-return]


def inter_node_gdr(job: Job) -> list[NcclFinding]:
    """Every channel between nodes is ``NET/IB…/GDRDMA``, per node and direction, and nothing is left open about them."""
    wanted = "every channel between nodes via NET/IB…/GDRDMA"
    links = [c for c in job.channels if c.kind == "net" and c.inter_node is not False]
    if not links:
        return [NcclFinding("channels_gdr", None, "job", "no channel between nodes", wanted, job.reason, _advice(job))]
    out = []
    for node in sorted({c.node for c in links} | set(_expected_nodes(job))):
        mine = [c for c in links if c.node == node]
        bad = [c for c in mine if c.family != "ib" or c.gdr is False]
        open_ = [c for c in mine if c.inter_node is None or c.gdr is None or not c.intact]
        silent = [d for d in ("send", "receive") if d not in {c.direction for c in mine}]
        ok: bool | None = True
        reason = action = ""
        if bad:
            ok = False
            slow = [c for c in bad if c.family == "ib"]
            reason = f"{len(bad)} of {len(mine)} channel lines are not: {bad[0].text()}"
            action = (
                "load nvidia_peermem (or use DMA-BUF), check NCCL_NET_GDR_LEVEL, ACS and that GPU and HCA share a PCIe switch"
                if len(slow) == len(bad)
                else "find out why this node uses TCP: NCCL_IB_DISABLE, NCCL_NET, /dev/infiniband in the container, NCCL_IB_HCA"
            )
        elif silent or open_:
            ok = None
            reason = f"no {' and no '.join(silent)} line" if silent else f"{len(open_)} channel lines are cut or cannot be placed"
            action = _advice(job)
        out.append(NcclFinding("channels_gdr", ok, node or "job", _count(mine), wanted, reason, action, _lines(bad or open_ or mine)))
    if all(f.ok for f in out) and job.verdict != "rdma_proven":
        out.append(NcclFinding("channels_gdr", None, "job", job.verdict, "rdma_proven", job.reason, _advice(job), _deciding(job)))
    return out


@dataclass(frozen=True)
class GpuLinks:
    """How the GPUs of a node are joined. ``names``: PCI address (``0000:1b:00.0``) -> ``GPU0``; ``pairs``: (``GPU0``, ``GPU1``) ->
    ``NV18``, ``PIX``, ``SYS`` ... as ``nvidia-smi topo -m`` says."""

    names: Mapping[str, str]
    pairs: Mapping[tuple[str, str], str]

    @property
    def all_nvlink(self) -> bool:
        """Every GPU is joined to every other one by NVLink: then it does not matter which GPU a rank has."""
        return bool(self.pairs) and all(word.startswith("NV") for word in self.pairs.values())

    @property
    def any_nvlink(self) -> bool:
        """At least two GPUs are joined by NVLink."""
        return any(word.startswith("NV") for word in self.pairs.values())


def inside_nodes(job: Job, node: str, links: GpuLinks) -> NcclFinding | None:
    """Between two ranks of one node whose GPUs have NVLink, every channel is P2P (or NVLS), none goes through host memory or network.

    None: nothing to judge, one rank of the job at most is on this node, or none of its GPUs has NVLink.
    """
    name = _find(job, node)
    ranks = max((sum(n == name for n in c.rank_to_node.values()) for c in job.communicators), default=0) if name is not None else 0
    if not links.any_nvlink or ranks == 1:
        return None
    wanted = "P2P or NVLS where NVLink joins two GPUs"
    mine = [c for c in job.intra_node_channels if c.node == name and c.kind in ("p2p", "shm", "net")]
    told = [p for p in job.processes if name is not None and _node_of(job, p) == name and p.connected]
    if not mine and told and all("NVLS tree" in p.connected for p in told):
        return NcclFinding("inside_nodes", True, node, f"NVLS on {len(told)} processes", wanted)
    if not mine:
        return NcclFinding(
            "inside_nodes",
            None,
            node,
            "no channel inside this node",
            wanted,
            "no channel between its ranks is in the logs",
            "set NCCL_DEBUG=INFO and NCCL_DEBUG_SUBSYS=INIT,ENV,NET,GRAPH, and send one request first",
        )
    counts: dict[str, int] = {}
    bad, words, open_ = [], [], []
    for c in mine:
        kind = "P2P" if c.kind == "p2p" else "SHM" if c.kind == "shm" else f"NET/{c.network}"
        counts[kind] = counts.get(kind, 0) + 1
        if c.kind == "p2p":
            continue
        pair = _gpus_of(job, c, links)
        word = links.pairs.get(pair) if pair else None
        if c.intact and (links.all_nvlink or (word or "").startswith("NV")):
            where = f" ({pair[0]}, {pair[1]}: {word})" if pair and word else " (all GPUs of this node have NVLink)"
            bad.append(c)
            words.append(f"rank {c.src} -> rank {c.dst}{where} via {kind}")
        elif word is None or not c.intact:
            open_.append(c)
    measured = ", ".join(f"{n} x {k}" for k, n in sorted(counts.items()))
    if bad:
        told_once = list(dict.fromkeys(words))
        more = f"; and {len(told_once) - 3} more links" if len(told_once) > 3 else ""
        return NcclFinding(
            "inside_nodes",
            False,
            node,
            measured,
            wanted,
            "; ".join(told_once[:3]) + more,
            "look for NCCL_P2P_DISABLE, NCCL_P2P_LEVEL and NCCL_SHM_DISABLE; let every rank see all GPUs of the node (same "
            "container, ipc: host); nvidia-smi topo -p2p r must say OK for this pair",
            _lines(bad),
        )
    if open_:
        return NcclFinding(
            "inside_nodes",
            None,
            node,
            measured,
            wanted,
            f"which GPUs the ranks of {len(open_)} channel lines have is not shown: {open_[0].text()}",
            "give whole logs of all ranks (one NCCL_DEBUG_FILE a process)",
            _lines(open_),
        )
    return NcclFinding("inside_nodes", True, node, measured, wanted, evidence_lines=_lines(mine))


def _gpus_of(job: Job, channel: Channel, links: GpuLinks) -> tuple[str, str] | None:
    buses = next((c.rank_to_bus for c in job.communicators if c.key == channel.comm), {})
    names = [links.names.get(pci_of(buses[rank])) for rank in (channel.src, channel.dst) if rank in buses]
    return (names[0], names[1]) if len(names) == 2 and names[0] and names[1] else None


def pci_of(bus: str) -> str:
    """NCCL's ``1b000`` is ``0000:1b:00.0``: domain, bus, device and function without their separators."""
    value = int(bus, 16)
    return f"{value >> 20:04x}:{value >> 12 & 0xFF:02x}:{value >> 4 & 0xFF:02x}.{value & 0xF:x}"


def hcas_used(job: Job, expected: Mapping[str, Iterable[str]]) -> list[NcclFinding]:
    """On each node every HCA of the list carries a channel between nodes, and no other does."""
    out = []
    for name, wanted_names in expected.items():
        wanted = sorted({w.split(":")[0] for w in wanted_names})
        node = _find(job, name)
        used = list(job.hcas_used.get(node, ())) if node is not None else []
        subject, expects = name, ", ".join(wanted)
        unresolved = [u for u in job.unresolved_devices if node is not None and u.startswith(f"{node} ")]
        if node is None or not used:
            reason = f"no channel line of {name} names a device (nodes in the logs: {', '.join(job.nodes) or 'none'})"
            out.append(NcclFinding("hcas_used", None, subject, "nothing", expects, reason, _advice(job)))
            continue
        absent, extra = sorted(set(wanted) - set(used)), sorted(set(used) - set(wanted))
        mine = [c for c in job.channels if c.node == node and c.kind == "net" and c.inter_node is not False]
        if extra or (absent and not unresolved):
            parts = [f"not used: {', '.join(absent)}"] * bool(absent) + [f"not in the list: {', '.join(extra)}"] * bool(extra)
            odd = [c for c in mine if c.hca and set(_names(c)) & set(extra)]
            out.append(
                NcclFinding(
                    "hcas_used",
                    False,
                    subject,
                    ", ".join(used),
                    expects,
                    "; ".join(parts),
                    "check link and GID of the unused ports; set NCCL_IB_HCA to exactly this list",
                    _lines(odd or mine),
                )
            )
        elif unresolved:
            out.append(
                NcclFinding(
                    "hcas_used",
                    None,
                    subject,
                    ", ".join(used),
                    expects,
                    f'{len(unresolved)} devices have no name because the "NET/IB : Using" list is missing or cut: {unresolved[0]}',
                    "let every process write its own NCCL_DEBUG_FILE",
                    _lines(mine),
                )
            )
        else:
            out.append(NcclFinding("hcas_used", True, subject, ", ".join(used), expects, evidence_lines=_lines(mine)))
    return out


def gid_index(job: Job, expected: Mapping[str, int]) -> list[NcclFinding]:
    """The GID index in use on each node, from ``GID n`` of the connection lines or NCCL_IB_GID_INDEX of the environment."""
    out = []
    for name, index in expected.items():
        node = _find(job, name)
        seen = dict(job.gid_indexes.get(node, {})) if node is not None else {}
        in_use = {k: v for k, v in seen.items() if k != "environment"}
        judged = in_use or seen
        values = {i for indexes in judged.values() for i in indexes}
        lines = _env_lines(job, node, "NCCL_IB_GID_INDEX")
        if not values:
            out.append(
                NcclFinding(
                    "gid_index",
                    None,
                    name,
                    "not shown",
                    str(index),
                    "the job runs over sockets: no connection has a GID"
                    if job.verdict == "sockets"
                    else "neither NCCL_IB_GID_INDEX nor a GID of a connection is in the logs (from 2.21 NCCL chooses it itself)",
                    _advice(job) if job.verdict == "sockets" else _more_told(job, node, "INIT", "ENV", "NET"),
                )
            )
            continue
        ok = values == {index}
        shown = "; ".join(f"{k}: {', '.join(map(str, v))}" for k, v in sorted(seen.items()))
        reason = "" if ok else f"another GID index than the inventory's {index} is used"
        action = "" if ok else "set NCCL_IB_GID_INDEX to the RoCE v2 IPv4 GID of that node (show_gids), or correct the inventory"
        out.append(NcclFinding("gid_index", ok, name, shown, str(index), reason, action, lines))
    return out


def control_interface(job: Job, expected: Mapping[str, str]) -> list[NcclFinding]:
    """Bootstrap and OOB of every process of a node run on its control interface."""
    out = []
    for name, interface in expected.items():
        node = _find(job, name)
        seen = {a.interface: a for table in (job.oob, job.bootstrap) for a in (table.get(node, ()) if node is not None else ())}
        if not seen:
            out.append(
                NcclFinding(
                    "control_interface",
                    None,
                    name,
                    "not shown",
                    interface,
                    "no Bootstrap or OOB line of this node",
                    _more_told(job, node, "INIT", "BOOTSTRAP", "ENV", "NET"),
                )
            )
            continue
        ok = set(seen) == {interface}
        reason = "" if ok else "the processes found another interface first: bootstrap traffic leaves the control network"
        action = "" if ok else f"set NCCL_SOCKET_IFNAME=={interface} (with two equal signs: exactly this one) on that node"
        lines = tuple(f"{a.where} {a.interface}:{a.address or '?'}" for a in seen.values())
        out.append(NcclFinding("control_interface", ok, name, ", ".join(sorted(seen)), interface, reason, action, lines[:SHOW]))
    return out


def no_sockets(job: Job) -> NcclFinding:
    """No channel between ranks runs over sockets."""
    net = [c for c in job.channels if c.kind == "net"]
    bad = [c for c in net if c.family == "socket" and c.inter_node is not False]
    if bad or job.verdict in ("sockets", "mixed"):
        return NcclFinding(
            "no_sockets",
            False,
            "job",
            f"{len(bad)} channel lines over sockets",
            "none",
            job.reason,
            _advice(job),
            _lines(bad) or _deciding(job),
        )
    doubt = [c for c in net if c.inter_node is not False and c.family not in ("ib", "ofi")]
    if not any(c.inter_node for c in net) or doubt or job.damaged or job.one_sided:
        return NcclFinding("no_sockets", None, "job", f"{len(net)} network channel lines", "none over sockets", job.reason, _advice(job))
    return NcclFinding(
        "no_sockets", True, "job", f"{len(net)} network channel lines, none over sockets", "none over sockets", evidence_lines=_lines(net)
    )


def one_version(job: Job, nranks: int | None = None) -> NcclFinding:
    """All processes run one NCCL version. From NCCL 2.22 every process prints it; before, only rank 0 does: not measurable."""
    versions = sorted(set(job.nccl_versions.values()))
    own = [p for p in job.processes if p.nccl_version]
    measured = ", ".join(f"{v} ({sum(x == v for x in job.nccl_versions.values())} processes)" for v in versions) or "not shown"
    if len(versions) > 1:
        return NcclFinding(
            "one_version", False, "job", measured, "one version", "the ranks run different NCCL versions", "use one image on all nodes"
        )
    ranked = {(p.source, p.host, p.pid) for p in job.processes if p.networks or p.devices or p.connected or p.bootstrap}
    told = {(p.source, p.host, p.pid) for p in own}
    if not versions or ranked - told or (nranks is not None and len(own) < nranks):
        return NcclFinding(
            "one_version",
            None,
            "job",
            measured,
            "one version, told by every process",
            f"{len(own)} of {nranks or len(ranked) or 'all'} processes tell it (before NCCL 2.22 only rank 0 does)",
            "compare the NCCL version inside the containers of all nodes",
        )
    return NcclFinding("one_version", True, "job", measured, "one version")


def no_failures(job: Job) -> list[NcclFinding]:
    """No fatal line and no retry. One finding per failure, primary first; one passing finding when there is none."""
    bad = [e for e in job.errors if e.severity in ("fatal", "retry")]
    if bad:
        return [
            NcclFinding(
                "no_failures",
                False,
                f"{e.host or 'unknown host'} pid {e.pid}",
                e.label or e.meaning,
                "no failure",
                ("" if e.primary else "follow-up of another failure: ") + e.meaning,
                e.action,
                (f"{e.where} {e.text[:200]}",),
            )
            for e in bad
        ]
    if not any(p.networks or p.bootstrap or p.connected for p in job.processes) and not job.channels:
        return [NcclFinding("no_failures", None, "job", "no NCCL line", "no failure", job.reason, _advice(job))]
    return [NcclFinding("no_failures", True, "job", "none", "no failure")]


def log_complete(job: Job, nranks: int | None = None, groups: int = 1) -> NcclFinding:
    """The logs reach from start-up to the first collective on all ranks, and nothing in them is damaged.

    ``groups``: how many communicators of ``nranks`` ranks span nodes: one of a tensor-parallel job, one a GPU of a stage of a pipeline.
    """
    if groups > 1 and nranks:
        return _groups_complete(job, nranks, groups)
    main = max(job.communicators, key=lambda c: (c.spans_nodes, c.nranks or 0), default=None)
    wanted = f"Init COMPLETE of {nranks or 'all'} ranks, then a collective"
    if main is None or main.nranks is None:
        return NcclFinding("log_complete", None, "job", "no communicator line", wanted, "the logs hold no communicator", _advice(job))
    size = nranks or main.nranks
    measured = f"{len(main.completed_ranks)} of {size} ranks complete, collective {'reached' if job.collective else 'not seen'}"
    if main.nranks != size:
        return NcclFinding(
            "log_complete",
            False,
            "job",
            f"a communicator of {main.nranks} ranks",
            wanted,
            "the job has another number of ranks",
            "check the launch arguments on all nodes",
        )
    if len(main.completed_ranks) < size or not job.collective or job.damaged:
        absent = sorted(set(range(size)) - main.completed_ranks)
        reason = (
            f"no Init COMPLETE of rank {absent[0]}"
            if absent
            else "no collective was reached: channels are made at the first use"
            if not job.collective
            else f"{job.damaged} damaged records"
        )
        return NcclFinding("log_complete", None, "job", measured, wanted, reason, "send one request, then collect all nodes' files")
    return NcclFinding("log_complete", True, "job", measured, wanted)


def _groups_complete(job: Job, nranks: int, groups: int) -> NcclFinding:
    wanted = f"Init COMPLETE of all ranks of {groups} communicators of {nranks} ranks between nodes, then a collective"
    mine = [c for c in job.communicators if c.spans_nodes and c.nranks == nranks]
    whole = [c for c in mine if len(c.completed_ranks) >= nranks]
    measured = f"{len(whole)} complete, collective {'reached' if job.collective else 'not seen'}"
    if not mine and any(c.spans_nodes for c in job.communicators):
        widest = max(c.nranks or 0 for c in job.communicators if c.spans_nodes)
        reason, action = "the job spans nodes with another number of ranks", "check the parallel sizes in the launch arguments on all nodes"
        return NcclFinding("log_complete", False, "job", f"a communicator of {widest} ranks", wanted, reason, action)
    if len(whole) < groups or not job.collective or job.damaged:
        reason = (
            f"{len(whole)} of {groups} are complete in the logs"
            if len(whole) < groups
            else "no collective was reached: channels are made at the first use"
            if not job.collective
            else f"{job.damaged} damaged records"
        )
        return NcclFinding("log_complete", None, "job", measured, wanted, reason, "send one request, then collect all nodes' files")
    return NcclFinding("log_complete", True, "job", measured, wanted)


def stages_inside(job: Job, tensor: int, stages: int) -> NcclFinding:
    """The ranks of each stage of a pipeline, which reduce with each other after every layer, are on one node.

    ``tensor``: ranks of a stage; ``stages``: how many there are.
    """
    wanted = f"{stages} communicators of {tensor} ranks, each inside one node"
    mine = [c for c in job.communicators if c.nranks == tensor and not c.ambiguous]
    across = [c for c in mine if c.spans_nodes]
    inside = [c for c in mine if not c.spans_nodes and c.rank_to_node]
    measured = f"{len(inside)} inside a node, {len(across)} over several"
    if across and len(inside) < stages:
        nodes = sorted(set(across[0].rank_to_node.values()))
        reason = f"the {tensor} ranks of a stage are spread over {', '.join(nodes)}: every all-reduce crosses the network"
        action = (
            "give each node the ranks of one stage: node ranks in the order of the inventory, as many GPUs visible as a stage has ranks"
        )
        return NcclFinding("stages_inside", False, "job", measured, wanted, reason, action)
    if len(inside) < stages:
        reason = f"{len(inside)} of {stages} communicators of a stage are in the logs"
        return NcclFinding(
            "stages_inside", None, "job", measured, wanted, reason, "give whole logs of all ranks (one NCCL_DEBUG_FILE a process)"
        )
    return NcclFinding("stages_inside", True, "job", measured, wanted)


def _find(job: Job, name: str) -> str | None:
    if name in job.nodes:
        return name
    short = name.split(".")[0].lower()
    same = [n for n in job.nodes if n.split("@")[0].split(".")[0].lower() == short]
    return same[0] if len(same) == 1 else None


def _expected_nodes(job: Job) -> Sequence[str]:
    main = max((c for c in job.communicators if c.spans_nodes), key=lambda c: c.nranks or 0, default=None)
    return sorted(set(main.rank_to_node.values())) if main else ()


def _names(channel: Channel) -> list[str]:
    return [part.split(":")[0] for part in (channel.hca or "").split("+")]


def _lines(channels: Sequence[Channel]) -> tuple[str, ...]:
    return tuple(f"{c.where} channel {c.channel}: {c.text()}" for c in channels[:SHOW])


def _deciding(job: Job) -> tuple[str, ...]:
    return tuple(f"{where} {text}" for text, where in job.deciding[:SHOW])


def _count(channels: Sequence[Channel]) -> str:
    kinds: dict[str, int] = {}
    for c in channels:
        name = f"NET/{c.network}" + ("/GDRDMA" if c.gdr else "")
        kinds[name] = kinds.get(name, 0) + 1
    return ", ".join(f"{n} x {k}" for k, n in sorted(kinds.items())) or "no channel line"


def _advice(job: Job) -> str:
    return job.advice[0] if job.advice else ""


def _more_told(job: Job, node: str | None, *needed: str) -> str:
    """How to make NCCL tell what is missing: its subsystems, unless they are set already."""
    notes = [text for p in job.processes for text, _ in p.notes if node is None or _node_of(job, p) == node]
    told = next((text for text in notes if text.startswith("NCCL_DEBUG_SUBSYS")), "").upper()
    if told and all(re.search(rf"\b({name}|ALL)\b", told) for name in needed):
        return "its subsystems are on already: send one request, then give whole logs of all ranks (one NCCL_DEBUG_FILE a process)"
    return f"set NCCL_DEBUG=INFO and NCCL_DEBUG_SUBSYS={','.join(needed)}"


def _env_lines(job: Job, node: str | None, key: str) -> tuple[str, ...]:
    out: list[tuple[str, Where]] = []
    for p in job.processes:
        if node is not None and _node_of(job, p) == node:
            out += [(text, where) for text, where in p.notes if text.startswith(key)]
    return tuple(f"{where} {text}" for text, where in out[:SHOW])


def _node_of(job: Job, process: Process) -> str:
    return job.node_of_process.get(f"{process.source}|{process.host}|{process.pid}", process.host)
