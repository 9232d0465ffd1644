"""What is made of a measured cell besides its three figures: further figures, and the service level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.checks.throughput import judge_cell, slo_verdict, why_doubted
from pytest_h20.config.figures import METRIC_FIGURES
from pytest_h20.config.limits import parse_limits
from pytest_h20.core.verdict import Status
from pytest_h20.load import Cell as LoadCell
from pytest_h20.load import CellResult
from pytest_h20.load.metrics import Rates, Summary
from pytest_h20.load.plan import Slo
from pytest_h20.load.result import RequestCounts, Sanity
from pytest_h20.report.model import METRICS, CellRow, Late
from pytest_h20.run.throughput import Load, figures_of, further, lateness
from tests.unit.load.results import GOOD

TIMES = Summary(8, 10.0, 9.0, 1.0, 8.0, 20.0, 12.0, 14.0, 19.0)
MEASURED = replace(
    GOOD, ttft=TIMES, tpot=TIMES, itl=TIMES, e2e=TIMES, whole=Rates(10.0, 1.0, 2.0, 3.0, 4.0), silence_ms=9.0, tokens_per_arrival=1.0
)


def test_every_figure_that_can_be_limited_is_measured() -> None:
    assert METRIC_FIGURES.keys() - METRICS.keys() == further(MEASURED).keys()
    assert further(replace(MEASURED, itl=Summary(0), whole=None)).keys() == {
        m for m in METRIC_FIGURES.keys() - METRICS.keys() if (m.endswith("_ms") and "_itl_" not in m) or m == "tokens_per_arrival"
    }


@pytest.mark.parametrize(("metric", "value"), [("p99_ttft_ms", 19.0), ("p90_itl_ms", 12.0), ("p50_e2e_ms", 9.0)])
def test_a_percentile_is_judged(metric: str, value: float) -> None:
    cell = CellRow(engine="sglang", input_len=1, output_len=1, concurrency=1, more=further(MEASURED), status=Status.PASS)
    for limit, status in ((value, Status.PASS), (value - 1, Status.FAIL)):
        text = f"{{name: x, origin: {{kind: file}}, cells: [{{input: 1, output: 1, concurrency: 1, {metric}: {limit}}}]}}"
        verdict, *_ = judge_cell(cell, parse_limits(text, "x.yaml"))
        assert (verdict.check, verdict.measured, verdict.unit, verdict.status) == (f"throughput.{metric}", value, "ms", status)


@pytest.mark.parametrize(("share", "status"), [(0.995, Status.PASS), (0.98, Status.FAIL), (None, Status.UNKNOWN)])
def test_a_service_level_that_is_given_is_judged(share: float | None, status: Status) -> None:
    verdict = slo_verdict(replace(GOOD, goodput_share=share), Slo(500.0, 50.0), 0.99, "sglang", "load/x.json")
    assert verdict.status is status
    assert "TTFT 500 ms, TPOT 50 ms" in str(verdict.limit and verdict.limit.origin)


def test_how_late_the_machine_was_is_told_per_request_in_model_time() -> None:
    answered = replace(MEASURED, e2e=replace(TIMES, mean=6000.0), whole=replace(MEASURED.whole or Rates(1, 1, 1, 1, 1), seconds=10.0))
    requests, in_flight = answered.requests.complete, answered.flight.mean
    found = lateness(answered, [(0.001, 0.002, 0.004), (0.003, 0.006, 0.02)], 60.0)
    assert (found.first_ms, found.last_ms, found.most_ms, found.worst_ms, found.answer_ms) == pytest.approx(
        (120.0, 240.0, 360.0, 1200.0, 6000.0)
    )
    assert found.client_ms == pytest.approx(max(0.0, 1e4 * in_flight / requests - 6000.0))
    late_client = lateness(replace(answered, flight=replace(answered.flight, mean=0.7 * requests)), [], 60.0)
    assert (late_client.last_ms, late_client.client_ms) == pytest.approx((0.0, 1000.0))


def test_a_doubt_is_told_with_its_cause_where_the_machine_was_late() -> None:
    doubt = Sanity("littles_law", "failed", "4.37 against 3.99")
    late = Late(last_ms=900, answer_ms=6000)
    assert why_doubted([doubt], late).startswith("the stand-in was late by 900 ms a request")
    assert why_doubted([doubt], late).endswith("littles_law: 4.37 against 3.99")
    for other in (None, Late(answer_ms=6000), Late(last_ms=10, answer_ms=6000)):
        assert why_doubted([doubt], other) == "littles_law: 4.37 against 3.99"
    assert why_doubted([], late) == "", "figures that can be believed are judged, however late the machine was"


class Calibrating(Load):
    """A load of which nothing but the outcomes of its measurements is real."""

    outcomes: list[CellResult]
    asked: list[tuple[int, int]]
    repeats: tuple[int, ...] = (1, 2, 3)

    def __init__(self, folder: Path, outcomes: list[CellResult]) -> None:
        self.outcomes, self.asked, self.done, self.said = outcomes, [], 0, ""
        self._folder = folder
        self.write = self.say

    def say(self, text: str) -> None:
        self.said += text

    @property
    def folder(self) -> Path:
        return self._folder

    def run(self, cell: LoadCell, repeat: int = 0, attempt: int = 0) -> CellResult:
        self.asked.append((repeat, attempt))
        (self.folder / f"{cell.id}-r{repeat}.requests.jsonl").write_text(str(len(self.asked)))
        self.done += 1
        return self.outcomes.pop(0)


GOOD_ONE = replace(GOOD, sanity=(Sanity("little", "ok", ""),))
BAD_ONE = replace(GOOD, sanity=(Sanity("little", "failed", "off by 40 %"),))


def test_an_unbelievable_repeat_is_measured_again_and_its_record_kept(tmp_path: Path) -> None:
    load = Calibrating(tmp_path, [GOOD_ONE, BAD_ONE, GOOD_ONE, BAD_ONE, BAD_ONE, BAD_ONE])
    results = list(load.results(GOOD.cell))
    assert [(r is GOOD_ONE, n) for r, n in results] == [(True, 1), (True, 2), (False, 3)]
    assert load.asked == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert load.done == 3
    assert "repeat 2 cannot be believed (little: off by 40 %): measured again" in load.said
    kept = {f.name.removeprefix(GOOD.cell.id): f.read_text() for f in tmp_path.iterdir()}
    assert kept["-r2-unbelievable1.requests.jsonl"] == "2"
    assert kept["-r2.requests.jsonl"] == "3"


def test_a_run_that_judges_measures_once(tmp_path: Path) -> None:
    load = Calibrating(tmp_path, [BAD_ONE])
    load.repeats = (0,)
    assert [n for _, n in load.results(GOOD.cell)] == [0]


def test_a_cell_that_was_cut_off_is_no_row_of_question_marks() -> None:
    assert figures_of(GOOD).startswith("310.3 tok/s, TTFT 1000 ms")
    assert figures_of(replace(GOOD, requests=RequestCounts(64, 64, 0, 64, {}))) == "no request was answered"
