"""From verdicts to the one answer that people sign."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_h20.core.verdict import Decision, GateName, Status, Verdict, decide

P, W, F, U, S = Status.PASS, Status.WARN, Status.FAIL, Status.UNKNOWN, Status.SKIP


def decided(*told: tuple[str, Status], required: Sequence[str] = ("rdma",), acceptance: bool = True) -> Decision:
    verdicts = [Verdict(check=f"{gate}.x", status=status, title="It holds", reason=f"why {status.value}") for gate, status in told]
    return decide(verdicts, [GateName(name) for name in required], acceptance=acceptance)


@pytest.mark.parametrize(
    ("statuses", "gate", "green"),
    [
        ([P], P, True),
        ([P, S], P, True),
        ([W], W, True),
        ([P, W], W, True),
        ([P, F], F, False),
        ([P, U], U, False),
        ([F, U], F, False),
        ([U, F], F, False),
        ([S], U, False),
        ([S, S], U, False),
        ([], U, False),
    ],
    ids=lambda value: "-".join(s.value for s in value) or "nothing" if isinstance(value, list) else "",
)
def test_a_required_gate(statuses: list[Status], gate: Status, green: bool) -> None:
    decision = decided(*(("rdma", s) for s in statuses))
    (result,) = decision.gates
    assert (result.name, result.status, result.required) == (GateName.RDMA, gate, True)
    assert (decision.green, decision.accepted) == (green, green)
    assert result.counts == {s.value: statuses.count(s) for s in set(statuses)}


def test_a_gate_that_is_not_required_is_red_all_the_same_and_may_be_skipped() -> None:
    assert decided(("rdma", P), ("fabric", F)).green is False
    skipped = decided(("rdma", P), ("fabric", S))
    assert (skipped.green, [g.status for g in skipped.gates]) == (True, [S, P])
    assert [g.name for g in decided(("rdma", P)).gates] == [GateName.RDMA], "what nobody asked for and nobody measured is not told"


def test_nothing_at_all_is_not_green() -> None:
    decision = decided(required=())
    assert (decision.green, decision.accepted, decision.reason, decision.gates) == (False, False, "nothing was measured", ())
    assert decided(("fabric", S), required=()).reason == "nothing was measured"


def test_what_cannot_be_an_acceptance_may_be_green() -> None:
    decision = decided(("rdma", P), acceptance=False)
    assert (decision.green, decision.accepted, decision.reason) == (True, False, "every gate holds")


def test_one_reason_of_several_gates_is_told_once_and_gates_stand_in_their_order() -> None:
    decision = decided(("rdma", U), ("fabric", U), ("weights", F))
    assert [g.name.value for g in decision.gates] == ["fabric", "weights", "rdma"]
    assert decision.reason == "fabric, rdma: why unknown; weights: why fail"
