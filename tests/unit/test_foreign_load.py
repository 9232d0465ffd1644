"""The cross-check's judgement: what differs, and whether this machine is quiet enough to tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.foreign_load import agreement
from pytest_h20.load import CellResult
from pytest_h20.load.metrics import Rates
from pytest_h20.loading import doubts, sanity_verdict
from pytest_h20.verdicts import Status
from tests.unit.load.test_judging import GOOD


def at(rate: float, generator: str = "pytest-h20") -> CellResult:
    """A cell at an output rate."""
    return replace(GOOD, generator=generator, whole=Rates(10.0, rate, rate, 2 * rate, 1.0))


@pytest.mark.parametrize(
    ("before", "theirs", "after", "status"),
    [
        (100.0, 98.0, 101.0, Status.PASS),
        (100.0, 90.0, 101.0, Status.FAIL),
        (100.0, 80.0, 90.0, Status.UNKNOWN),  # our own two runs differ by more than the limit: the machine is not quiet
        (100.0, 96.0, 94.0, Status.PASS),  # what both agree on is no difference, however unquiet
    ],
)
def test_agreement(before: float, theirs: float, after: float, status: Status) -> None:
    verdict = agreement("agrees", "c16", at(before), at(theirs, "vllm-bench"), at(after))
    assert verdict.status is status
    if status is Status.UNKNOWN:
        assert "our own two runs around it differ by 10.53 %" in verdict.reason


def test_a_rate_that_is_not_known_is_no_agreement() -> None:
    nothing = replace(at(1.0, "vllm-bench"), whole=None)
    assert agreement("agrees", "c16", at(100.0), nothing, at(100.0)).status is Status.UNKNOWN


def test_a_benchmark_without_a_self_check_is_believed_by_who_chose_it() -> None:
    """Its own error is not known, which a run says elsewhere (no acceptance); every other rule counts."""
    from pytest_h20.load.sanity import judged

    theirs = judged(replace(GOOD, generator="vllm-bench", selfcheck=None), 9.6)
    ours = judged(replace(GOOD, selfcheck=None), 9.6)
    assert [f.rule for f in theirs.blockers] == [f.rule for f in ours.blockers] == ["client"]
    assert doubts(theirs) == []
    assert sanity_verdict(theirs, "vllm", "f").status is Status.PASS
    assert sanity_verdict(ours, "vllm", "f").status is Status.UNKNOWN
    lost = judged(replace(theirs, tokens=replace(GOOD.tokens, wrong_output=3)), 9.6)
    assert [f.rule for f in doubts(lost)] == ["usage"]
