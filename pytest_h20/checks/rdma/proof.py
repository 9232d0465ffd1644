"""The first fact of the RDMA proof: NCCL's own logs of the serving processes, held against the inventory. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_h20.checks.rdma import nccl_log
from pytest_h20.checks.rdma.nccl_log import Finding
from pytest_h20.cluster.launch import Target
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.nccl import Job

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
}


@dataclass(frozen=True)
class NcclVerdicts:
    """The job as NCCL's logs tell it, and what must hold. ``image_nccl``: node → NCCL version inside its image."""

    job: Job
    target: Target
    image_nccl: Mapping[str, str] = field(default_factory=dict)

    def verdict(self, finding: Finding) -> Verdict:
        """A finding of the log reader as a verdict of the gate."""
        status = {True: Status.PASS, False: Status.FAIL, None: Status.UNKNOWN}[finding.ok]
        return Verdict(
            check=f"rdma.{finding.check}",
            status=status,
            title=_TITLES[finding.check],
            subject=finding.subject if finding.subject != "job" else "",
            measured=finding.measured,
            limit=Limit(kind="equal", value=finding.expected, origin=_ORIGIN),
            reason="" if status is Status.PASS else finding.reason,
            action="" if status is Status.PASS else finding.action,
            evidence=tuple(dict.fromkeys(line.split(":", 1)[0] for line in finding.evidence_lines if ":" in line)),
            details={"lines": list(finding.evidence_lines)},
        )

    def _all(self, findings: Sequence[Finding]) -> list[Verdict]:
        return [self.verdict(f) for f in findings]

    def job_verdict(self) -> Verdict:
        """The whole job in one word."""
        job = self.job
        ok = {"rdma_proven": True, "undetermined": None}.get(job.verdict, False)
        measured = job.verdict if job.verdict != "rdma_proven" else f"rdma_proven ({len(job.inter_node_channels)} channel lines)"
        advice = job.advice[0] if job.advice else ""
        lines = tuple(f"{where} {text}" for text, where in job.deciding[:5])
        return self.verdict(Finding("job", ok, "job", measured, "rdma_proven", job.reason, advice, lines)).model_copy(
            update={"measured": job.verdict, "details": {"lines": list(lines), "channels": len(job.inter_node_channels)}}
        )

    def gdrdma(self) -> list[Verdict]:
        """Per node: all inter-node channels are GDRDMA."""
        return self._all(nccl_log.inter_node_gdr(self.job))

    def no_sockets(self) -> list[Verdict]:
        """No TCP between nodes."""
        return [self.verdict(nccl_log.no_sockets(self.job))]

    def hcas(self) -> list[Verdict]:
        """Per node: exactly the inventory's HCAs."""
        return self._all(nccl_log.hcas_used(self.job, {n.name: [r.hca for r in n.rails] for n in self.target.nodes}))

    def gid_index(self) -> list[Verdict]:
        """Per node: the inventory's GID index."""
        wanted = {n.name: {n.rail_gid_index(r) for r in n.rails} for n in self.target.nodes}
        single = {name: next(iter(values)) for name, values in wanted.items() if len(values) == 1}
        return self._all(nccl_log.gid_index(self.job, {name: index for name, index in single.items() if index is not None}))

    def bootstrap(self) -> list[Verdict]:
        """Per node: the control interface."""
        return self._all(nccl_log.control_interface(self.job, {n.name: n.control_interface for n in self.target.nodes}))

    def one_version(self) -> list[Verdict]:
        """One NCCL. Before 2.22 only rank 0 tells its version: then the images' own answer decides."""
        finding = nccl_log.one_version(self.job, self.target.profile.tensor_parallel)
        held = {v for v in self.image_nccl.values() if v}
        if finding.ok is None and len(held) == 1 and len(self.image_nccl) == len(self.target.nodes):
            version = held.pop()
            told = {v.split("+")[0] for v in self.job.nccl_versions.values()}
            ok = told <= {version}
            reason = "" if ok else f"rank 0 prints {', '.join(sorted(told))}, the images hold {version}"
            finding = Finding("one_version", ok, "job", f"{version} in every image", "one version", reason, finding.action)
        return [self.verdict(finding)]

    def no_errors(self) -> list[Verdict]:
        """No failure, no retry."""
        return self._all(nccl_log.no_failures(self.job))

    def complete(self) -> list[Verdict]:
        """The logs are whole."""
        return [self.verdict(nccl_log.log_complete(self.job, self.target.profile.tensor_parallel))]
