"""Cells after the matrix: what is red, what is told, and what showed nothing."""

from __future__ import annotations

import pytest

from pytest_h20.checks import beyond
from pytest_h20.checks.beyond import Level, Pass, Sought, largest, long_prompts, next_level, shapes
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load.metrics import RequestRecord
from pytest_h20.report.model import CellRow, Late


def overload(put_back: float | None, complete: int = 64) -> Verdict:
    return beyond.overload("sglang", put_back, 1.0, complete, 64, 56_000, "http_error: HTTP 500")


def test_an_overload_is_one_when_the_engines_own_counter_says_so() -> None:
    assert overload(3.0).status is Status.PASS
    for nothing in (0.0, None):
        found = overload(nothing)
        assert found.status is Status.UNKNOWN
        assert "an overload that overloads nothing shows nothing" in found.reason


def test_requests_that_find_no_room_must_wait_and_not_fail() -> None:
    found = overload(3.0, complete=60)
    assert (found.status, found.measured) == (Status.FAIL, 60)
    assert "HTTP 500" in found.reason


def cell(rate: float, **fields: object) -> CellRow:
    data = {"engine": "sglang", "input_len": 128, "output_len": 128, "concurrency": 8, "requests": 8, "seconds": 10.0, **fields}
    return CellRow.model_validate({**data, "output_throughput": rate})


@pytest.mark.parametrize(("rate", "status"), [(91.0, Status.PASS), (89.0, Status.FAIL), (30.0, Status.FAIL)])
def test_after_it_the_first_figure_must_come_again(rate: float, status: Status) -> None:
    found = beyond.recovery("sglang", 100.0, cell(rate), "")
    assert (found.check, found.status, found.looked_at) == ("throughput.recovery", status, 8)


def test_a_recovery_that_cannot_be_believed_is_unknown() -> None:
    assert beyond.recovery("sglang", 100.0, cell(95.0), "clock: it was set").status is Status.UNKNOWN
    late = Late(last_ms=1500, most_ms=1500, answer_ms=9000)
    assert beyond.recovery("sglang", 100.0, cell(89.0, late=late), "").status is Status.UNKNOWN


@pytest.mark.parametrize(("rate", "status"), [(25.0, Status.FAIL), (71.0, Status.PASS)])
def test_the_chat_route_is_held_against_the_engines_own(rate: float, status: Status) -> None:
    assert beyond.chat_route("sglang", cell(100.0), cell(rate), "").status is status


def test_a_chat_route_with_nothing_to_compare_is_unknown() -> None:
    native = cell(1.0).model_copy(update={"output_throughput": None})
    assert beyond.chat_route("sglang", native, cell(71.0), "").status is Status.UNKNOWN


# ---------------------------------------------------------------- shapes


def swept(stall: float, shapes: int = 24, complete: int = 24) -> Pass:
    return Pass(stall, 80.0, shapes, complete, 24, "640 in, 90 out")


def test_a_stall_in_the_first_pass_is_told_and_in_both_is_red() -> None:
    assert shapes("sglang", swept(300.0), swept(300.0)).status is Status.PASS
    told = shapes("sglang", swept(9_000.0), swept(300.0))
    assert (told.status, told.looked_at) == (Status.WARN, 24)
    assert "only a shape that is new stalls" in told.reason
    assert shapes("sglang", swept(9_000.0), swept(9_000.0)).status is Status.FAIL


def test_a_sweep_with_one_shape_shows_nothing() -> None:
    assert shapes("sglang", swept(300.0, shapes=1), swept(300.0, shapes=1)).status is Status.UNKNOWN
    assert shapes("sglang", Pass(0, 0, 0, 24, 24), Pass(0, 0, 0, 24, 24)).status is Status.UNKNOWN


def test_a_sweep_that_was_not_answered_is_red() -> None:
    assert shapes("sglang", swept(300.0), swept(300.0, complete=20)).status is Status.FAIL


def test_a_stall_that_only_lateness_explains_could_not_be_measured() -> None:
    assert shapes("sglang", swept(300.0), swept(3_000.0), Late(worst_ms=700.0)).status is Status.UNKNOWN
    assert shapes("sglang", swept(300.0), swept(9_000.0), Late(worst_ms=700.0)).status is Status.FAIL


def record(ttft: float, silence: float, input_len: int = 128, outcome: str = "ok") -> RequestRecord:
    return RequestRecord(
        0, outcome, "", 200, 0.0, 9.0, ttft, 0.08, 9.0, input_len, 64, input_len, 64, None, None, 64, 0, "length", None, None, False,
        silence_s=silence, arrivals=64,
    )  # fmt: skip


def test_a_wait_is_a_gap_or_a_first_token_that_takes_longer_than_the_usual_one() -> None:
    calm = [record(0.5, 0.2, 128 + i) for i in range(9)]
    assert beyond.seen_in(calm, 80.0, 9).stall_ms == pytest.approx(200.0)
    slow = beyond.seen_in([*calm, record(9.5, 0.2, 640)], 80.0, 10)
    assert slow.stall_ms == pytest.approx(9_000.0)
    assert (slow.where, slow.shapes) == ("640 in, 64 out", 10)
    assert beyond.seen_in([*calm, record(0.5, 9.0, 700)], 80.0, 10).stall_ms == pytest.approx(9_000.0)
    assert beyond.seen_in([record(0.5, 0.2, outcome="reset")], 80.0, 1).complete == 0


# ---------------------------------------------------------------- the largest concurrency


def searched(truth: int, start: tuple[int, ...], most: int = 400) -> tuple[list[Level], int]:
    """The search on an engine that holds the level up to ``truth`` streams; and how many cells it measured."""
    levels = [Level(n, 1.0 if n <= truth else 0.5) for n in start]
    cells = 0
    while (wanted := next_level(levels, 0.99, most)) is not None:
        levels.append(Level(wanted, 1.0 if wanted <= truth else 0.5))
        cells += 1
        assert cells < 12, "it does not end"
    return levels, cells


@pytest.mark.parametrize("truth", [1, 5, 23, 90, 130, 350])
def test_the_largest_concurrency_is_found_with_few_cells(truth: int) -> None:
    levels, cells = searched(truth, (1, 8, 200))
    found = largest("sglang", levels, 0.99, "ttft=2s")
    assert isinstance(found.measured, int)
    assert truth / beyond.CLOSE - 1 <= found.measured <= truth
    assert cells <= 6
    assert found.status is Status.PASS


def test_a_level_that_nothing_keeps_is_told() -> None:
    found = largest("sglang", searched(0, (1, 8))[0], 0.99, "ttft=2s")
    assert (found.status, found.measured) == (Status.WARN, 0)
    assert "not even 1" in found.reason


def test_a_level_that_everything_keeps_says_that_more_was_not_tried() -> None:
    assert "more were not tried" in largest("sglang", searched(10_000, (1, 8), most=16)[0], 0.99, "ttft=2s").reason
    assert largest("sglang", [Level(4, None)], 0.99, "ttft=2s").status is Status.UNKNOWN


# ---------------------------------------------------------------- long work

ALL = (True,) * 20
SHORT = Sought(2_900, ALL)


def read(*seen: Sought, short: Sought = SHORT, must: bool = True) -> Verdict:
    return long_prompts("throughput.long_prompt", "read", "sglang", 155_648, seen, short, must=must)


def without(low: int, high: int) -> tuple[bool, ...]:
    return tuple(not low <= at < high for at in range(20))


def test_a_hole_in_a_long_prompt_is_red_and_told_where() -> None:
    assert read(Sought(155_000, ALL)).status is Status.PASS
    found = read(Sought(155_000, without(3, 9)))
    assert (found.status, found.measured, found.looked_at) == (Status.FAIL, 6, 20)
    assert "none between 15% and 45% of the prompt" in found.reason
    assert read(Sought(155_000, without(9, 20))).status is Status.FAIL, "70,000 usable tokens"


def test_a_slip_of_the_model_is_no_hole() -> None:
    scattered = tuple(at not in (2, 3, 9, 15) for at in range(20))
    assert read(Sought(155_000, scattered)).status is Status.PASS


def test_a_long_prompt_that_is_not_answered_is_red() -> None:
    found = read(Sought(60_000, ALL), Sought(None, failed="reset: connection reset"))
    assert found.status is Status.FAIL
    assert "1 of 2 prompts" in found.reason


def test_what_was_no_long_prompt_or_not_understood_shows_nothing() -> None:
    assert read().status is Status.UNKNOWN
    assert read(Sought(90_000, ALL)).status is Status.UNKNOWN
    silent = Sought(2_900, (False,) * 20)
    assert read(Sought(155_000, without(0, 20)), short=silent).status is Status.UNKNOWN
    assert read(Sought(155_000, without(0, 20)), short=silent, must=False).status is Status.SKIP


@pytest.mark.parametrize(("got", "status"), [(8192, Status.PASS), (2000, Status.FAIL), (None, Status.FAIL)])
def test_a_long_answer_has_all_its_tokens(got: int | None, status: Status) -> None:
    assert beyond.long_answer("sglang", 8192, got, "").status is status
