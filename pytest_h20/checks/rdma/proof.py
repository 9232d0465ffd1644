"""The first fact of the RDMA proof: NCCL's own logs of the serving processes, held against the inventory. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from pytest_h20.checks.frame import Say
from pytest_h20.checks.rdma import nccl_log
from pytest_h20.checks.rdma.nccl_log import GpuLinks, NcclFinding
from pytest_h20.checks.rdma.ownership import why_not
from pytest_h20.checks.rdma.traffic import nothing_crosses
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.nccl import Expected, Job, LogEvidence, judge_job
from pytest_h20.nccl.model import LogsOfNode
from pytest_h20.probes.facts import NodeFacts
from pytest_h20.probes.log_owners import Claim, LogOwners
from pytest_h20.probes.script import Missing

_ORIGIN = Origin(kind="inventory", detail="rails and control interface")
_TITLES = {
    "job": "The job runs over RDMA between the nodes",
    "channels_gdr": "Every channel between the nodes is NET/IB with GPUDirect RDMA",
    "no_sockets": "No channel between the nodes fell back to TCP",
    "hcas_used": "Every HCA of the inventory is used, and no other",
    "gid_index": "The RoCE v2 GID index of the inventory is used",
    "control_interface": "Bootstrap runs on the control interface",
    "one_version": "Every rank runs the same NCCL",
    "no_failures": "NCCL reports no failure and no retry",
    "log_complete": "The logs reach the first collective on every rank",
    "inside_nodes": "Ranks of one node talk over NVLink where it is there",
    "stages_inside": "The ranks of each stage of the pipeline are on one node",
    "logs_of_running_ranks": "The NCCL logs are those of the ranks that run now",
}


@dataclass(frozen=True)
class NodeLog:
    """A log that was read. ``path``: on the node; ``source``: in the run folder."""

    node: str
    path: str
    source: str
    evidence: LogEvidence

    @property
    def claim(self) -> Claim:
        """Who wrote it by its own words: the processes with ranks or channels; where there are none, all that say anything."""
        told: dict[int, dict[str, None]] = {}
        for rank in self.evidence.ranks:
            told.setdefault(rank.pid, {}).update({rank.comm: None} if re.fullmatch("0x[0-9a-f]{1,16}", rank.comm) else {})
        for channel in self.evidence.channels:
            told.setdefault(channel.pid, {})
        for process in () if told else self.evidence.processes:
            told.setdefault(process.pid, {})
        return Claim(self.path, {pid: tuple(addresses) for pid, addresses in told.items() if pid > 0})


def job_of(
    target: LaunchTarget, logs: Sequence[NodeLog], owners: Mapping[str, LogOwners | Missing] | None = None, trusted: bool = False
) -> Job:
    """The job of a target as these logs tell it.

    ``owners``: by node, what it tells of the processes that the logs name (``probes.log_owners``); a log of others says nothing of
    the job that runs and is left out. None: this run started the ranks and made their folder.
    """
    left: dict[str, str] = {}
    if owners is not None:
        for log in logs:
            why = why_not(log.claim, owners.get(log.node, Missing("it was not asked")), trusted=trusted)
            left |= {log.source: why} if why else {}
    taken = [log for log in logs if log.source not in left]
    expected = Expected(
        nranks=target.layout.spanning or None,
        nnodes=target.layout.spanning_nodes,
        hcas={n.name: tuple(r.hca for r in n.rails) for n in target.nodes},
    )
    job = judge_job([log.evidence for log in taken], expected, nodes={log.source: log.node for log in taken})
    if owners is None:
        return job
    by_node = {
        node.name: LogsOfNode(
            tuple(log.source for log in taken if log.node == node.name),
            {log.source: left[log.source] for log in logs if log.node == node.name and log.source in left},
        )
        for node in target.nodes
    }
    return replace(job, logs=by_node)


def gpu_links(node: NodeFacts | None) -> GpuLinks | Missing:
    """How the GPUs of a node are joined, from its facts."""
    if node is None:
        return Missing("the node was not asked")
    if isinstance(node.topology, Missing):
        return node.topology
    pairs = {(a, b): word for (a, b), word in node.topology.items() if a != b and a.startswith("GPU") and b.startswith("GPU")}
    gpus = () if isinstance(node.gpus, Missing) else node.gpus.gpus
    return GpuLinks({_pci(g.bus_id): f"GPU{g.index}" for g in gpus}, pairs)


def _pci(bus_id: str) -> str:
    """nvidia-smi's ``00000000:1B:00.0`` as the kernel writes it."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


@dataclass(frozen=True)
class NcclVerdicts:
    """The job as NCCL's logs tell it, and what must hold. ``image_nccl``: node → NCCL version inside its image; ``nodes``: facts."""

    job: Job
    target: LaunchTarget
    image_nccl: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)

    @property
    def nothing(self) -> str:
        """Why nothing crosses the network, where the logs show no way between nodes either; "" where something must, or may."""
        layout, head = self.target.layout, self.nodes.get(self.target.nodes[0].name)
        why = "" if head is None or isinstance(head.model_folder, Missing) else nothing_crosses(head.model_folder.config, layout)
        if not why or any(c.kind == "net" for c in self.job.channels):
            return ""
        alone = layout.copy.ranks == 1 and not self.job.channels
        return why if alone or self.job.verdict == "intra_node_only" else ""

    def _between(self, check: str, findings: Sequence[NcclFinding]) -> list[Verdict]:
        """What holds for the way between nodes, where there is one."""
        return [Say(f"rdma.{check}", _TITLES[check]).skip(self.nothing)] if self.nothing else self._all(findings)

    def verdict(self, finding: NcclFinding) -> Verdict:
        """A finding of the log reader as a verdict of the gate."""
        status = {True: Status.PASS, False: Status.FAIL, None: Status.UNKNOWN}[finding.ok]
        evidence = tuple(dict.fromkeys(line.split(":", 1)[0] for line in finding.evidence_lines if ":" in line))
        say = Say(f"rdma.{finding.check}", _TITLES[finding.check], finding.subject if finding.subject != "job" else "", evidence)
        return say.plain(
            status,
            "" if status is Status.PASS else finding.reason + (self._left_out if status is Status.UNKNOWN else ""),
            action="" if status is Status.PASS else finding.action,
            measured=finding.measured,
            limit=Limit(kind="equal", value=finding.expected, origin=_ORIGIN),
            details={"lines": list(finding.evidence_lines)},
        )

    @property
    def _left_out(self) -> str:
        left = [why for held in self.job.logs.values() for why in held.left_out.values()]
        return f"; {len(left)} logs that are not those of the running ranks were left out ({left[0]})" if left else ""

    def running(self) -> list[Verdict]:
        """Per node: the logs are those of processes that run now. Nobody has to ask that of the folder of an own run."""
        check, title = "rdma.logs_of_running_ranks", _TITLES["logs_of_running_ranks"]
        if not self.job.logs:
            why = "this run started the ranks: their logs lie in the folder that was made for them"
            return [Say(check, title).skip(why)]
        verdicts = []
        for node, held in self.job.logs.items():
            told = [f"{source.rsplit('/', 1)[-1]}: {why}" for source, why in held.left_out.items()]
            more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
            looked = f"{len(told)} logs were looked at, none is of a process that runs: {'; '.join(told[:3])}{more}"
            action = "start the engine with NCCL_DEBUG=INFO NCCL_DEBUG_FILE=/logs/nccl.%h.%p, and name these files in attach.nccl_logs"
            verdicts.append(
                Say(check, title, node, (*held.taken, *held.left_out)[:10], action).plain(
                    Status.PASS if held.taken else Status.UNKNOWN,
                    "" if held.taken else looked if told else "no NCCL log was found on this node",
                    measured=len(held.taken),
                    unit="logs of running processes",
                    details={"left out": [*told]} if told else None,
                )
            )
        return verdicts

    def all(self) -> list[Verdict]:
        """Every verdict that the logs allow."""
        return [
            self.job_verdict(),
            *self.gdrdma(),
            *self.no_sockets(),
            *self.hcas(),
            *self.gid_index(),
            *self.bootstrap(),
            *self.inside(),
            *self.one_version(),
            *self.no_errors(),
            *self.complete(),
            *self.stages(),
            *self.running(),
        ]

    def _all(self, findings: Sequence[NcclFinding]) -> list[Verdict]:
        return [self.verdict(f) for f in findings]

    def job_verdict(self) -> Verdict:
        """The whole job in one word."""
        job = self.job
        if self.nothing:
            layout = self.target.layout
            limit = Limit(kind="equal", value="nothing between nodes", origin=Origin(kind="derived", detail=self.nothing))
            told: dict[str, JsonValue] = {"channels": len(job.channels), "verdict": job.verdict}
            measured = "nothing between nodes"
            say = Say("rdma.job", "What runs on several nodes shares nothing between them")
            return say.plain(Status.PASS, measured=measured, limit=limit, of=layout.replicas, unit="copies", details=told)
        ok = {"rdma_proven": True, "undetermined": None}.get(job.verdict, False)
        measured = job.verdict if job.verdict != "rdma_proven" else f"rdma_proven ({len(job.inter_node_channels)} channel lines)"
        advice = job.advice[0] if job.advice else ""
        lines = tuple(f"{where} {text}" for text, where in job.deciding[:5])
        return self.verdict(NcclFinding("job", ok, "job", measured, "rdma_proven", job.reason, advice, lines)).model_copy(
            update={"measured": job.verdict, "details": {"lines": list(lines), "channels": len(job.inter_node_channels)}}
        )

    def gdrdma(self) -> list[Verdict]:
        """Per node: all inter-node channels are GDRDMA."""
        return self._between("channels_gdr", nccl_log.inter_node_gdr(self.job))

    def no_sockets(self) -> list[Verdict]:
        """No TCP between nodes."""
        return self._between("no_sockets", [nccl_log.no_sockets(self.job)])

    def hcas(self) -> list[Verdict]:
        """Per node: exactly the inventory's HCAs."""
        return self._between("hcas_used", nccl_log.hcas_used(self.job, {n.name: [r.hca for r in n.rails] for n in self.target.nodes}))

    def gid_index(self) -> list[Verdict]:
        """Per node: the inventory's GID index."""
        wanted = {n.name: {n.rail_gid_index(r) for r in n.rails} for n in self.target.nodes}
        single = {name: next(iter(values)) for name, values in wanted.items() if len(values) == 1}
        return self._between(
            "gid_index", nccl_log.gid_index(self.job, {name: index for name, index in single.items() if index is not None})
        )

    def bootstrap(self) -> list[Verdict]:
        """Per node: the control interface."""
        return self._between(
            "control_interface", nccl_log.control_interface(self.job, {n.name: n.control_interface for n in self.target.nodes})
        )

    def inside(self) -> list[Verdict]:
        """Per node: NVLink where it is there."""
        verdicts = []
        for node in self.target.nodes:
            links = gpu_links(self.nodes.get(node.name))
            if isinstance(links, Missing):
                reason, hint = f"how its GPUs are joined is not known: {links}", "see that nvidia-smi topo -m works on the node"
                verdicts.append(self.verdict(NcclFinding("inside_nodes", None, node.name, "not known", "", reason, hint)))
                continue
            by_itself = bool(self.nothing) and self.target.layout.copy.ranks == 1
            found = None if by_itself else nccl_log.inside_nodes(self.job, node.name, links)
            if found is not None:
                verdicts.append(self.verdict(found))
                continue
            why = "one rank of the job is on this node" if links.any_nvlink else "no two of its GPUs are joined by NVLink"
            verdicts.append(Say("rdma.inside_nodes", _TITLES["inside_nodes"], node.name).skip(f"{why}: not judged"))
        return verdicts

    def one_version(self) -> list[Verdict]:
        """One NCCL. Before 2.22 only rank 0 tells its version: then the images' own answer decides."""
        finding = nccl_log.one_version(self.job, self.target.layout.ranks)
        held = {v for v in self.image_nccl.values() if v}
        if finding.ok is None and len(held) == 1 and len(self.image_nccl) == len(self.target.nodes):
            version = held.pop()
            told = {v.split("+")[0] for v in self.job.nccl_versions.values()}
            ok = told <= {version}
            reason = "" if ok else f"rank 0 prints {', '.join(sorted(told))}, the images hold {version}"
            finding = NcclFinding("one_version", ok, "job", f"{version} in every image", "one version", reason, finding.action)
        return [self.verdict(finding)]

    def no_errors(self) -> list[Verdict]:
        """No failure, no retry."""
        found = nccl_log.no_failures(self.job)
        return self._all(found) if self.job.processes else self._between("no_failures", found)

    def complete(self) -> list[Verdict]:
        """The logs are whole."""
        layout = self.target.layout
        return self._between("log_complete", [nccl_log.log_complete(self.job, layout.spanning or None, layout.spanning_groups)])

    def stages(self) -> list[Verdict]:
        """A stage of a pipeline that fits on a node is on one."""
        layout = self.target.layout
        if layout.pipeline < 2 or layout.tensor < 2 or layout.nodes_per_stage > 1:
            why = "no pipeline" if layout.pipeline < 2 else f"a stage is made to span {layout.nodes_per_stage} nodes"
            why = "a stage has one rank" if layout.tensor < 2 <= layout.pipeline else why
            title = _TITLES["stages_inside"]
            return [Say("rdma.stages_inside", title).skip(f"{layout}: {why}")]
        return [self.verdict(nccl_log.stages_inside(self.job, layout.tensor, layout.pipeline * layout.replicas))]
