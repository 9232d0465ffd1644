from __future__ import annotations

from datetime import datetime, timezone

import pytest

from pytest_h20.checks.throughput import judge_cell
from pytest_h20.config.limits import coverage, parse_limits
from pytest_h20.core.errors import MeasurementError
from pytest_h20.core.verdict import Status
from pytest_h20.report.calibrate import calibrate, left_out, merge_repeats, repeats_of
from pytest_h20.report.model import CellRow
from tests.unit.conftest import Sample
from tests.unit.report import samples


def repeats(n: int = 5, noise: float = 0.01) -> list[list[CellRow]]:
    limits = samples.sglang_limits()
    return [samples.make_cells("sglang", "default", limits, noise=noise, seed=40 + i) for i in range(n)]


def test_what_is_written_can_be_read_and_covers_every_cell() -> None:
    text = calibrate(repeats(), name="mine", engine="sglang", source="h20-2node", when=datetime(2026, 4, 5, tzinfo=timezone.utc))
    limits = parse_limits(text, "mine.yaml")
    assert coverage((c.name for c in repeats(1)[0]), limits).problems == []
    baseline = limits.baseline("in128-out128-c64", "output_throughput")
    assert baseline is not None
    assert baseline.n == 5
    assert 0 < baseline.spread < 0.03
    assert baseline.mean == pytest.approx(290.74 * 1.06, rel=0.02)
    limit = limits.cell("in128-out128-c64")["output_throughput"]
    assert "5 repeats on 2026-04-05, h20-2node" in str(limit.origin)
    assert limits.cell("in128-out128-c64")["mean_ttft_ms"].kind == "info"


def test_the_same_cluster_passes_its_calibration_and_a_slower_one_does_not() -> None:
    limits = parse_limits(calibrate(repeats(), name="mine"), "mine.yaml")

    def failed(level: float) -> int:
        cells = samples.make_cells("sglang", "default", samples.sglang_limits(), level=1.06 * level, noise=0.005, seed=99)
        return sum(any(v.status is Status.FAIL for v in judge_cell(cell, limits)) for cell in cells)

    assert failed(1.0) == 0
    assert failed(0.85) == 26


def test_noise_too_large_for_the_gate_is_told_in_the_file() -> None:
    assert "TOO NOISY" in calibrate(repeats(noise=0.05), name="mine")
    assert "TOO NOISY" not in calibrate(repeats(noise=0.002), name="mine")


def test_a_recorded_calibration_gives_its_limits(sample: Sample) -> None:
    runs = repeats_of(sample("calibration").cells, "sglang")
    assert [len(run) for run in runs] == [26] * 5
    assert len(parse_limits(calibrate(runs, name="mine"), "mine.yaml").cells) == 26
    assert repeats_of(sample("clean").cells, "sglang") == []


def test_two_repeats_are_not_enough() -> None:
    with pytest.raises(MeasurementError, match="at least 3 repeats"):
        calibrate(repeats(2), name="mine")


def doubted(cell: CellRow) -> CellRow:
    return cell.model_copy(update={"status": Status.UNKNOWN, "reason": "client: saturated"})


def test_a_cell_with_too_few_good_repeats_is_named_and_the_others_are_written() -> None:
    runs = repeats(3)
    runs[1].pop()
    runs[2][0] = doubted(runs[2][0])
    text = calibrate(runs, name="mine")
    limits = parse_limits(text, "mine.yaml")
    assert len(limits.cells) == 24
    lost = left_out(runs)
    assert list(lost) == ["in128-out128-c1", "in256-out256-c1024"]
    assert "2 of 3 repeats" in lost["in128-out128-c1"]
    assert "repeat 3 could not be measured (client: saturated)" in lost["in128-out128-c1"]
    assert "not measured in the others" in lost["in256-out256-c1024"]
    assert all(f"#   {cell}: {why}" in text for cell, why in lost.items())
    assert "NOT CALIBRATED" not in calibrate(repeats(3), name="mine")


def test_a_doubtful_repeat_does_not_count_where_enough_others_are_good() -> None:
    runs = repeats(5)
    runs[2][0] = doubted(runs[2][0]).model_copy(update={"output_throughput": 1e5})
    limits = parse_limits(calibrate(runs, name="mine"), "mine.yaml")
    baseline = limits.baseline("in128-out128-c1", "output_throughput")
    assert baseline is not None
    assert (baseline.n, baseline.mean < 30) == (4, True)
    assert left_out(runs) == {}


def test_no_good_cell_is_an_error() -> None:
    runs = [[doubted(run[0])] for run in repeats(3)]
    with pytest.raises(MeasurementError, match=r"in128-out128-c1: 0 of 3 .*nothing to calibrate"):
        calibrate(runs, name="mine")


def test_the_file_says_what_it_was_measured_on() -> None:
    text = calibrate(repeats(3), name="mine", engine="sglang", profile="tuned", model="deepseek-r1", kind="lab")
    limits = parse_limits(text, "mine.yaml")
    assert limits.unfit(engine="sglang", profile="tuned", model=("deepseek-r1",), kind="lab") == []
    assert len(limits.unfit(engine="vllm", profile="other", model=("qwen",), kind="hardware")) == 4


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="nothing to calibrate"):
        calibrate([[], [], []], name="mine")


def test_a_name_with_quotes_survives() -> None:
    assert parse_limits(calibrate(repeats(3), name='a "b": #c'), "x.yaml").name == 'a "b": #c'


def test_repeats_become_one_cell_with_an_interval() -> None:
    cell = repeats(1)[0][0]
    group = [cell.model_copy(update={"repeat": i, "output_throughput": v}) for i, v in ((1, 10.0), (2, 12.0), (3, 14.0))]
    merged = merge_repeats(group)
    assert len(merged) == 1
    assert merged[0].output_throughput == 12.0
    low, high = merged[0].intervals["output_throughput"]
    assert 10.0 <= low < 12.0 < high <= 14.0


def test_one_doubtful_repeat_makes_the_merged_cell_doubtful() -> None:
    cell = repeats(1)[0][0]
    doubtful = cell.model_copy(update={"repeat": 2, "status": Status.UNKNOWN, "reason": "x", "output_throughput": None})
    merged = merge_repeats([cell.model_copy(update={"repeat": 1}), doubtful])[0]
    assert merged.status is Status.UNKNOWN
    assert merged.output_throughput is None
