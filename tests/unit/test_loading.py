"""What is made of a measured cell besides its three figures: further figures, and the service level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.figures import METRIC_FIGURES
from pytest_h20.limits import parse_limits
from pytest_h20.load.metrics import Rates, Summary
from pytest_h20.load.plan import Slo
from pytest_h20.loading import further, slo_verdict
from pytest_h20.report.judge import judge_cell
from pytest_h20.report.model import METRICS, Cell
from pytest_h20.verdicts import Status
from tests.unit.load.test_judging import GOOD

TIMES = Summary(8, 10.0, 9.0, 1.0, 8.0, 20.0, 12.0, 14.0, 19.0)
MEASURED = replace(GOOD, ttft=TIMES, tpot=TIMES, itl=TIMES, e2e=TIMES, whole=Rates(10.0, 1.0, 2.0, 3.0, 4.0))


def test_every_figure_that_can_be_limited_is_measured() -> None:
    assert METRIC_FIGURES.keys() - METRICS.keys() == further(MEASURED).keys()
    assert further(replace(MEASURED, itl=Summary(0), whole=None)).keys() == {
        m for m in METRIC_FIGURES.keys() - METRICS.keys() if m.endswith("_ms") and "_itl_" not in m
    }


@pytest.mark.parametrize(("metric", "value"), [("p99_ttft_ms", 19.0), ("p90_itl_ms", 12.0), ("p50_e2e_ms", 9.0)])
def test_a_percentile_is_judged(metric: str, value: float) -> None:
    cell = Cell(engine="sglang", input_len=1, output_len=1, concurrency=1, more=further(MEASURED), status=Status.PASS)
    for limit, status in ((value, Status.PASS), (value - 1, Status.FAIL)):
        text = f"{{name: x, origin: {{kind: file}}, cells: [{{input: 1, output: 1, concurrency: 1, {metric}: {limit}}}]}}"
        (verdict,) = judge_cell(cell, parse_limits(text, "x.yaml"))
        assert (verdict.check, verdict.measured, verdict.unit, verdict.status) == (f"throughput.{metric}", value, "ms", status)


@pytest.mark.parametrize(("share", "status"), [(0.995, Status.PASS), (0.98, Status.FAIL), (None, Status.UNKNOWN)])
def test_a_service_level_that_is_given_is_judged(share: float | None, status: Status) -> None:
    verdict = slo_verdict(replace(GOOD, goodput_share=share), Slo(500.0, 50.0), 0.99, "sglang", "load/x.json")
    assert verdict.status is status
    assert "TTFT 500 ms, TPOT 50 ms" in str(verdict.limit and verdict.limit.origin)
