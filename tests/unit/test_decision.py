"""How all verdicts become one answer."""

from __future__ import annotations

from pytest_h20.verdicts import GateName, Status, Verdict, decide


def test_a_gate_that_was_skipped_says_why_and_one_reason_is_told_once() -> None:
    """After a failed bring-up every later gate is skipped for the same reason."""
    down = "the cluster is not up (told once by the first test that needed it): out of memory"
    verdicts = [
        Verdict(check="bringup.ready", status=Status.FAIL, title="The engine became ready in time"),
        *(Verdict(check=f"{gate}.{n}", status=Status.SKIP, title="t", reason=down) for gate in ("rdma", "endpoint") for n in "ab"),
        Verdict(check="endpoint.c", status=Status.SKIP, title="t", reason="only with --h20-x: y"),
    ]
    decision = decide(verdicts, [GateName.BRINGUP, GateName.RDMA, GateName.ENDPOINT])
    assert decision.reason == ("bringup: The engine became ready in time; rdma, endpoint: everything was skipped: the cluster is not up")
