from __future__ import annotations

import pytest

from pytest_h20.checks.throughput import judge_cell
from pytest_h20.config.limits import LimitFile, parse_limits
from pytest_h20.core.verdict import Status
from pytest_h20.report.model import CellRow, Late

PLAIN = """
name: x
origin: {kind: file}
metrics: {output_throughput: {kind: min, unit: tok/s, tolerance: 0.1}, mean_ttft_ms: {kind: info, unit: ms}}
cells: [{input: 128, output: 128, concurrency: 4, output_throughput: 100, mean_ttft_ms: 300}]
"""
CALIBRATED = PLAIN.replace("output_throughput: 100", "output_throughput: {value: 100, n: 5, spread: 0.01, drop: 0.1}")


def limits(text: str = PLAIN) -> LimitFile:
    return parse_limits(text, "x.yaml")


def cell(throughput: float | None = 95.0, **fields: object) -> CellRow:
    data = {"engine": "sglang", "input_len": 128, "output_len": 128, "concurrency": 4, "mean_ttft_ms": 1.0, **fields}
    return CellRow.model_validate({**data, "output_throughput": throughput, "status": fields.get("status", "pass")})


def outcome(found: CellRow, text: str = PLAIN) -> dict[str, Status]:
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
    from pytest_h20.cli.compare import LAST, _parser

    verdict, _ = judge_cell(cell(10.0), limits(), "h20-runs/today")
    args = _parser().parse_args(verdict.action.split(" compare ", 1)[1].split())
    assert (args.old, args.new) == (LAST, "h20-runs/today")


# ---------------------------------------------------------------- the machine of a rehearsal was late

ALL = """
name: x
origin: {kind: file}
cells: [{input: 128, output: 128, concurrency: 4, output_throughput: 100, mean_ttft_ms: 300, mean_tpot_ms: 40, p99_ttft_ms: 400}]
metrics:
  output_throughput: {kind: min, unit: tok/s}
  mean_ttft_ms: {kind: max, unit: ms}
  mean_tpot_ms: {kind: max, unit: ms}
  p99_ttft_ms: {kind: max, unit: ms}
"""
LATE = Late(first_ms=60, last_ms=700, most_ms=900, answer_ms=6000)


def late(late: Late | None = LATE, throughput: float = 92.0, tpot: float = 44.0) -> CellRow:
    """A cell that misses every limit by about as much as its machine was late."""
    return cell(throughput, requests=4, seconds=6.0, mean_ttft_ms=340.0, mean_tpot_ms=tpot, more={"p99_ttft_ms": 1100.0}, late=late)


def test_what_only_lateness_explains_could_not_be_measured() -> None:
    found = judge_cell(late(), limits(ALL))
    assert {v.check.removeprefix("throughput."): v.status for v in found} == dict.fromkeys(
        ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "p99_ttft_ms"), Status.UNKNOWN
    )
    assert found[0].reason == "the stand-in was late by 700 ms a request (mean E2E 6000 ms): this machine is too busy to measure"
    assert "rehearse again" in found[0].action
    assert found[0].measured == 92.0, "the figure itself stays"


def test_a_miss_that_is_larger_than_the_lateness_fails() -> None:
    slow = outcome(late(throughput=60.0, tpot=90.0), ALL)
    assert slow["throughput.output_throughput"] is slow["throughput.mean_tpot_ms"] is Status.FAIL


def test_a_machine_that_kept_its_time_excuses_nothing() -> None:
    for kept in (None, Late(answer_ms=6000)):
        assert set(outcome(late(late=kept), ALL).values()) == {Status.FAIL}


def test_what_holds_on_a_late_machine_holds() -> None:
    assert outcome(cell(101.0, late=LATE))["throughput.output_throughput"] is Status.PASS


def test_a_drop_against_a_baseline_is_excused_alike() -> None:
    assert outcome(cell(85.0), CALIBRATED)["throughput.output_throughput"] is Status.FAIL
    late = {"late": Late(last_ms=900, answer_ms=6000), "requests": 4, "seconds": 6.0}
    assert outcome(cell(85.0, **late), CALIBRATED)["throughput.output_throughput"] is Status.UNKNOWN
    assert outcome(cell(60.0, **late), CALIBRATED)["throughput.output_throughput"] is Status.FAIL


def test_a_client_that_was_late_is_named() -> None:
    words = Late(client_ms=500, answer_ms=6000).words
    assert words == "this client was late by 500 ms a request (mean E2E 6000 ms): this machine is too busy to measure"
    turns = cell(60.0, requests=40, seconds=65.0)
    assert Late(client_ms=500, answer_ms=6000).without("output_throughput", 60.0, turns) == pytest.approx(65.0), "ten turns of each stream"
    assert Late(answer_ms=6000).without("output_throughput", 60.0, cell(60.0)) == 60.0


def test_the_latest_of_a_wave_ends_it() -> None:
    wave = cell(60.0, requests=4, seconds=10.0)
    assert Late(last_ms=500, most_ms=4000, answer_ms=6000).without("output_throughput", 60.0, wave) == pytest.approx(100.0)


# ---------------------------------------------------------------- tails, and how tokens arrive

TAILS = PLAIN.replace("metrics: {", "metrics: {p99_ttft_ms: {of: mean_ttft_ms, factor: 10}, ")


def test_p99_is_derived_from_a_written_mean_and_says_so() -> None:
    *_, verdict = judge_cell(cell(more={"p99_ttft_ms": 3001.0}), limits(TAILS))
    assert (verdict.check, verdict.status) == ("throughput.p99_ttft_ms", Status.FAIL)
    assert str(verdict.limit and verdict.limit.origin) == "derived: 10 x mean_ttft_ms 300 (file)"
    assert outcome(cell(more={"p99_ttft_ms": 2999.0}), TAILS)["throughput.p99_ttft_ms"] is Status.PASS
    assert outcome(cell(), TAILS)["throughput.p99_ttft_ms"] is Status.UNKNOWN, "not measured is no pass"


def test_a_row_that_names_the_figure_itself_is_not_derived() -> None:
    own = TAILS.replace("mean_ttft_ms: 300}]", "mean_ttft_ms: 300, p99_ttft_ms: 100}]")
    assert outcome(cell(more={"p99_ttft_ms": 101.0}), own)["throughput.p99_ttft_ms"] is Status.FAIL


def flowing(silence: float, lump: float, pause: float = 50.0) -> dict[str, Status]:
    more = {"longest_silence_ms": silence, "tokens_per_arrival": lump, "median_tpot_ms": pause}
    return {name.removeprefix("throughput."): status for name, status in outcome(cell(more=more)).items()}


def test_silence_and_lumps_are_judged_without_a_limit_in_the_file() -> None:
    assert flowing(10_000.0, 1.0)["longest_silence_ms"] is Status.FAIL
    assert flowing(4_900.0, 1.0)["longest_silence_ms"] is Status.PASS
    assert flowing(9_000.0, 1.0, pause=918.0)["longest_silence_ms"] is Status.PASS, "1,024 streams: an ordinary gap is a second"
    assert flowing(100.0, 64.0)["tokens_per_arrival"] is Status.FAIL
    assert flowing(100.0, 8.0)["tokens_per_arrival"] is Status.PASS, "drafts of speculative decoding"


def test_the_file_may_be_stricter_about_them() -> None:
    text = PLAIN.replace("output_throughput: 100", "output_throughput: 100, longest_silence_ms: 200")
    assert outcome(cell(more={"longest_silence_ms": 300.0}), text)["throughput.longest_silence_ms"] is Status.FAIL


def test_a_silence_that_only_lateness_explains_could_not_be_measured() -> None:
    silent = cell(more={"longest_silence_ms": 6_000.0}, late=Late(worst_ms=1_500.0, answer_ms=60_000))
    assert outcome(silent)["throughput.longest_silence_ms"] is Status.UNKNOWN
    assert outcome(silent.model_copy(update={"late": Late(worst_ms=500.0)}))["throughput.longest_silence_ms"] is Status.FAIL
    lumps = cell(more={"tokens_per_arrival": 30.0}, late=Late(client_ms=500.0, answer_ms=6_000))
    assert outcome(lumps)["throughput.tokens_per_arrival"] is Status.UNKNOWN
