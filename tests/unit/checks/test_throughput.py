from __future__ import annotations

import pytest

from pytest_h20.checks.throughput import judge_cell
from pytest_h20.config.limits import LimitFile, parse_limits
from pytest_h20.core.verdict import Status
from pytest_h20.report.model import Cell

PLAIN = """
name: x
origin: {kind: file}
metrics: {output_throughput: {kind: min, unit: tok/s, tolerance: 0.1}, mean_ttft_ms: {kind: info, unit: ms}}
cells: [{input: 128, output: 128, concurrency: 4, output_throughput: 100, mean_ttft_ms: 300}]
"""
CALIBRATED = PLAIN.replace("output_throughput: 100", "output_throughput: {value: 100, n: 5, spread: 0.01, drop: 0.1}")


def limits(text: str = PLAIN) -> LimitFile:
    return parse_limits(text, "x.yaml")


def cell(throughput: float | None = 95.0, **fields: object) -> Cell:
    data = {"engine": "sglang", "input_len": 128, "output_len": 128, "concurrency": 4, "mean_ttft_ms": 1.0, **fields}
    return Cell.model_validate({**data, "output_throughput": throughput, "status": fields.get("status", "pass")})


def outcome(found: Cell, text: str = PLAIN) -> dict[str, Status]:
    return {v.check: v.status for v in judge_cell(found, limits(text))}


def test_tolerance_is_applied_and_told() -> None:
    verdict = judge_cell(cell(89.0), limits())[0]
    assert verdict.status is Status.FAIL
    assert verdict.limit is not None
    assert verdict.limit.value == pytest.approx(90.0)
    assert "100 tok/s less 10 %" in str(verdict.limit.origin)
    assert judge_cell(cell(91.0), limits())[0].status is Status.PASS


def test_a_recorded_figure_never_fails() -> None:
    assert outcome(cell())["throughput.mean_ttft_ms"] is Status.PASS


def test_a_figure_that_is_missing_is_unknown() -> None:
    assert outcome(cell(None))["throughput.output_throughput"] is Status.UNKNOWN


def test_a_cell_that_failed_its_sanity_stays_unknown() -> None:
    doubtful = cell(500.0, status="unknown", reason="client saturated")
    assert set(outcome(doubtful).values()) == {Status.UNKNOWN}


def test_a_cell_without_limits_is_unknown() -> None:
    assert outcome(cell(concurrency=8)) == {"throughput.limit": Status.UNKNOWN}


def test_a_cell_with_recorded_limits_only_is_unknown() -> None:
    text = PLAIN.replace("kind: min, unit: tok/s, tolerance: 0.1", "kind: info")
    assert outcome(cell(), text) == {"throughput.limit": Status.UNKNOWN}


@pytest.mark.parametrize(("figure", "status"), [(99.0, Status.PASS), (90.0, Status.FAIL)])
def test_a_calibrated_limit_is_judged_with_its_noise(figure: float, status: Status) -> None:
    verdict = judge_cell(cell(figure, windows=[figure] * 20), limits(CALIBRATED))[0]
    assert verdict.status is status
    assert "against the baseline" in str(verdict.details["noise"])


def test_the_next_step_names_the_runs_in_the_order_the_command_takes_them() -> None:
    from pytest_h20.cli.compare import _parser

    verdict, _ = judge_cell(cell(10.0), limits())
    *_, first, second = verdict.action.split(" compare ", 1)[1].split()
    args = _parser().parse_args([first, second])
    assert (args.old, args.new) == ("EARLIER", "THIS")
