"""``python -m pytest_h20 nccl LOG ...``: does this job run over RDMA, why, and which lines say so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pytest_h20.cli import positive
from pytest_h20.cli.logs import in_runs, once, opened
from pytest_h20.core.errors import UsageError
from pytest_h20.lang import labelled, listed, local, told
from pytest_h20.lang.arguments import Parser
from pytest_h20.nccl.job import judge_job
from pytest_h20.nccl.labels import labels
from pytest_h20.nccl.model import Expected, Job, LogEvidence
from pytest_h20.nccl.reader import parse_log

TITLES = {
    "rdma_proven": "RDMA PROVEN",
    "sockets": "TCP SOCKETS, not RDMA",
    "mixed": "MIXED: RDMA and TCP sockets side by side",
    "intra_node_only": "INTRA-NODE ONLY: nothing here crosses nodes",
    "undetermined": "UNDETERMINED: not proven either way",
}
PIECE = 1 << 20


def main(argv: Sequence[str]) -> int:
    """0: logs explained (with ``--job``: RDMA proven). 1: ``--job`` and RDMA is not proven. 2: wrong use."""
    parser = Parser(
        prog="python -m pytest_h20 nccl",
        description="Explain NCCL logs: what carries the data between nodes, and which lines prove it.",
        epilog="Exit status 0: explained; with --job: RDMA proven. 1: --job, and RDMA is not proven. 2: wrong use.",
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a log file, the folder of a run, or - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object per file (with --job: one for the job) on a line")
    parser.add_argument("--job", action="store_true", help="judge all files together as the logs of one job")
    parser.add_argument("--ranks", type=positive, help="ranks that the job must have, for example 16")
    parser.add_argument("--nodes", type=positive, help="nodes that the job must have, for example 2")
    options = parser.parse_args(list(argv))
    try:
        once("nccl", options.logs)
        options.logs = in_runs(options.logs, "evidence/nodes/*/nccl.*")
        expected = Expected(nranks=options.ranks, nnodes=options.nodes)
        if options.job:
            evidences = [read(name) for name in options.logs]
            job = judge_job(evidences, expected)
            if options.json:
                print(json.dumps({"files": options.logs, **job.to_dict()}))
            else:
                print(explain(job, evidences))
            return 0 if job.verdict == "rdma_proven" else 1
        for i, name in enumerate(options.logs):
            evidence = read(name)
            job = judge_job([evidence], expected)
            if options.json:
                print(json.dumps(summary(name, evidence, job)), flush=True)
            else:
                print(("\n" if i else "") + (f"== {name}\n" if len(options.logs) > 1 else "") + explain(job, [evidence]))
    except UsageError as error:
        print(told(f"pytest_h20 nccl: {error}"), file=sys.stderr)
        return 2
    return 0


def read(name: str) -> LogEvidence:
    """Stream one file. Raises :class:`UsageError` when it cannot be read."""
    with opened(name) as log:
        return parse_log(_pieces(log), "<stdin>" if name == "-" else name)


def _pieces(log: BinaryIO) -> Iterator[bytes]:
    while piece := log.read(PIECE):
        yield piece


def summary(name: str, evidence: LogEvidence, job: Job) -> dict[str, Any]:
    """One JSON object for one file: the corpus' label keys, then the judgement."""
    full = job.to_dict()
    more = (
        "verdict",
        "reason",
        "missing",
        "advice",
        "nodes",
        "hcas_used",
        "nccl_versions",
        "oob",
        "bootstrap",
        "env",
        "gid_indexes",
        "networks",
        "completed",
        "collective",
        "damaged",
    )
    return {
        "file": name,
        **labels(evidence, job),
        **{key: full[key] for key in more},
        "gdr_channels": job.gdr,
        "deciding": [{"text": text, "file": where.source, "line": where.line} for text, where in job.deciding],
        "failures": [e.to_dict() for e in job.errors],
        "communicators": [c.to_dict() for c in job.communicators],
        "channel_lines": {
            "inter_node": len(job.inter_node_channels),
            "intra_node": len(job.intra_node_channels),
            "unplaced": len(job.unplaced_channels),
            "one_sided": len(job.one_sided),
        },
    }


def explain(job: Job, evidences: Sequence[LogEvidence]) -> str:
    """For a human at night: verdict, why, the lines that decide, what went wrong, what to add. Lines of a log stay as they are."""
    out = [local(TITLES[job.verdict]), f"  {labelled('why', job.reason)}"]
    size = [f"{job.nranks} ranks" if job.nranks else "", f"{job.nnodes} nodes" if job.nnodes else ""]
    versions = sorted({v.split("+")[0] for v in job.nccl_versions.values()})
    size.append("NCCL " + " and ".join(versions) if versions else "")
    size.append(f"{sum(e.lines for e in evidences)} lines read")
    out.append("  " + local("job: " + ", ".join(s for s in size if s)))
    if job.deciding:
        out.append("  " + local("deciding lines:"))
        out += [f"    {where}  {text}" for text, where in job.deciding]
    for node in job.nodes:
        parts = []
        if node in job.hcas_used:
            parts.append(f"HCAs {', '.join(job.hcas_used[node])}")
        if job.networks.get(node):
            parts.append(f"network {', '.join(job.networks[node])}")
        address = job.oob.get(node) or job.bootstrap.get(node)
        if address:
            parts.append("bootstrap " + ", ".join(f"{a.interface}:{a.address or '?'}" for a in address))
        if parts:
            out.append(f"  {labelled(node, listed(parts))}")
    fatal = [e for e in job.errors if e.severity != "note"]
    if fatal:
        out.append("  " + local("failures, likely first cause on top:"))
        for e in fatal[:8]:
            times = f" (x{e.count})" if e.count > 1 else ""
            seen = f"{local(e.label or e.severity)}{times} ({e.host or local('unknown host')})"
            out.append(f"    {e.where}  {labelled(seen, e.meaning)}")
            if e.action:
                out.append("      " + local(f"do: {e.action}"))
        if len(fatal) > 8:
            out.append("    " + local(f"and {len(fatal) - 8} more"))
    if job.one_sided:
        first = job.one_sided[0]
        out.append("  " + local(f"seen on one side only: {len(job.one_sided)} links, first {first.text()} ({first.where})"))
    if job.missing:
        out.append("  " + local("missing for proof:"))
        out += [f"    - {local(item)}" for item in job.missing[:8]]
    if job.advice:
        out.append("  " + local("what to do:"))
        out += [f"    - {local(item)}" for item in job.advice[:6]]
    return "\n".join(out)
