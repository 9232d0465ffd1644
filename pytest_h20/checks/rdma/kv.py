"""What carries the KV cache of a prefill/decode split, from the logs of its servers. Pure."""

from __future__ import annotations

from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.diagnosis.kv_transfer import KvTransfer

CHECK = "rdma.kv_transfer"
TITLE = "The KV cache goes from prefill to decode over RDMA"
EXPECTED = Limit(kind="equal", value="rdma_proven", origin=Origin(kind="inventory", detail="attach.kv_logs"))


def judged(found: KvTransfer, files: int, subject: str, evidence: tuple[str, ...]) -> Verdict:
    """The reader's verdict as one of ours: not proven is not passed, and not seen is not measured."""
    say = Say(CHECK, TITLE, subject, evidence, found.advice)
    if not files:
        return say.unknown("attach.kv_logs names no file that is there", "correct the pattern, or keep the servers' output in a file")
    if found.verdict in ("undetermined", "intra_node_only"):
        return say.unknown(found.reason, found.advice or "give the logs of servers on two nodes")
    return say.judge(
        found.verdict,
        EXPECTED,
        of=files,
        what="logs",
        reason=found.reason,
        details={
            "told": found.reason,
            "devices": list(found.devices),
            "gid_indexes": list(found.gid_indexes),
            "deciding": [str(line) for line in found.deciding],
            "failures": [str(line) for line in found.failures],
        },
    )
