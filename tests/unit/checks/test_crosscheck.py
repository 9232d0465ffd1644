"""Two generators on one server: what differs, and when it cannot be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.checks.crosscheck import agreement
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Status
from pytest_h20.load import CellResult
from pytest_h20.load.metrics import Rates
from tests.unit.load.results import GOOD

SAY = Say("throughput.crosscheck", "agrees", "c16")


def at(rate: float, generator: str = "pytest-h20") -> CellResult:
    """A cell at an output rate."""
    return replace(GOOD, generator=generator, whole=Rates(10.0, rate, rate, 2 * rate, 1.0))


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [
        ((100.0, 101.0), (98.0,), Status.PASS),
        ((100.0, 101.0), (90.0,), Status.FAIL),
        ((100.0, 90.0), (80.0,), Status.FAIL),  # farther away than our own two runs are from each other
        ((100.0, 90.0), (90.0,), Status.UNKNOWN),
        ((100.0, 94.0), (97.0,), Status.UNKNOWN),  # by luck
        ((100.0, 80.0, 100.0, 80.0), (91.0, 89.0, 90.0), Status.PASS),  # more rounds tell what one cannot
        ((100.0, 80.0, 100.0, 80.0), (81.0, 80.0, 79.0), Status.FAIL),
        ((100.0, 80.0, 100.0, 80.0), (60.0, 110.0, 100.0), Status.UNKNOWN),
    ],
)
def test_agreement(ours: tuple[float, ...], theirs: tuple[float, ...], status: Status) -> None:
    verdict = agreement(SAY, [at(rate) for rate in ours], [at(rate, "vllm-bench") for rate in theirs])
    assert verdict.status is status
    if status is Status.UNKNOWN:
        assert "uncertain by" in verdict.reason
    column = verdict.details["output tokens/s"]
    assert isinstance(column, list)
    assert column[::2] == list(ours)
    assert column[1::2] == list(theirs)


def test_a_rate_that_is_not_known_is_no_agreement() -> None:
    nothing = replace(at(1.0, "vllm-bench"), whole=None)
    assert agreement(SAY, [at(100.0), at(100.0)], [nothing]).status is Status.UNKNOWN
