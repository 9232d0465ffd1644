"""How all verdicts become one answer."""

from __future__ import annotations

import pytest

from pytest_h20.core.verdict import GateName, Limit, Origin, Status, Verdict, decide, judge
from pytest_h20.plugin.outcome import outcome_of
from pytest_h20.run.endpoint import glob_word


def test_a_gate_is_headed_by_its_worst_and_earliest_cause_with_subject_and_figure() -> None:
    most = Limit(kind="max", value=1, unit="s", origin=Origin(kind="builtin"))
    missing = Verdict(
        check="environment.image",
        status=Status.FAIL,
        title="The image is there",
        subject="node01",
        reason="image X is not there; there are A, B",
    )
    unknown = Verdict(check="environment.clocks", status=Status.UNKNOWN, title="Clocks of the nodes agree", reason="not reached")
    slow = judge("environment.clocks", "Clocks of the nodes agree", 7, most, subject="node02", unit="s")
    heads = [decide(v, [GateName.ENVIRONMENT]).gates[0].reason for v in ([unknown, missing, slow], [slow, missing])]
    assert heads == [
        "node01: image X is not there; there are A, B",
        "node02: Clocks of the nodes agree: measured 7 s, wanted at most 1 s",
    ]


def test_a_failing_assert_is_a_failure_with_its_tests_name_and_words() -> None:
    said = "def test_own():\n>   assert 1 == 2\nE   assert 1 == 2"
    failed = outcome_of("tests/test_own.py::test_own", "call", "failed", said, "endpoint", [], 0.1, asserted=True)
    assert [(v.status, v.reason) for v in failed.verdicts] == [(Status.FAIL, "tests/test_own.py::test_own: assert 1 == 2")]
    assert failed.setup_error is None
    broke = outcome_of("tests/test_own.py::test_own", "call", "failed", "E   KeyError: 'x'", "endpoint", [], 0.1)
    assert broke.verdicts[0].status is Status.UNKNOWN
    assert broke.setup_error is not None


def test_a_glob_of_the_inventory_is_one_word_for_a_shell() -> None:
    assert glob_word("/var/log/nccl.[0-9]*") == "/var/log/nccl.[0-9]*"
    assert glob_word("/x; touch /y $(z) *") == "'/x; touch /y $(z) '*"


def test_a_gate_that_was_skipped_says_why_and_one_reason_is_told_once() -> None:
    """After a failed bring-up every later gate is skipped for the same reason."""
    down = "the cluster is not up (told once by the first test that needed it): out of memory"
    verdicts = [
        Verdict(check="bringup.ready", status=Status.FAIL, title="The engine became ready in time"),
        *(Verdict(check=f"{gate}.{n}", status=Status.SKIP, title="t", reason=down) for gate in ("rdma", "endpoint") for n in "ab"),
        Verdict(check="endpoint.c", status=Status.SKIP, title="t", reason="only with --h20-x: y"),
    ]
    decision = decide(verdicts, [GateName.BRINGUP, GateName.RDMA, GateName.ENDPOINT])
    assert decision.reason == (
        "bringup: The engine became ready in time: FAILED; rdma, endpoint: everything was skipped: the cluster is not up"
    )


@pytest.mark.parametrize(
    ("unit", "said"), [("problems", "measured 1 problem,"), ("ms", "measured 1 ms,"), ("addresses", "measured 1 addresses,")]
)
def test_one_of_a_thing_is_told_as_one(unit: str, said: str) -> None:
    assert said in judge("rdma.x", "X", 1, Limit(kind="max", value=0, unit=unit, origin=Origin(kind="builtin"))).text()
