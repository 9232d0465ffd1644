"""Speculative decoding: the fault, what looks like it, and nothing seen."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_h20.checks import drafts
from pytest_h20.checks.drafts import ACCEPTANCE, GAIN, TEXT, Drafted, voice
from pytest_h20.checks.endpoint.questions import Grade, Score
from pytest_h20.core.verdict import Status
from pytest_h20.engines.speculation import Speculation, speculation_of
from pytest_h20.report.model import CellRow

MTP = Speculation("EAGLE", 4)


@pytest.mark.parametrize(
    ("engine", "flags", "told"),
    [
        (
            "sglang",
            {"speculative-algorithm": "EAGLE", "speculative-num-steps": 3, "speculative-num-draft-tokens": 4},
            Speculation("EAGLE", 4),
        ),
        # a tree: sixteen drafts, of which one path of five is taken
        (
            "sglang",
            {"--speculative_algorithm": "EAGLE3", "speculative-num-steps": "5", "speculative-num-draft-tokens": 16},
            Speculation("EAGLE3", 6),
        ),
        ("sglang", {"speculative-algorithm": "NGRAM", "speculative-num-draft-tokens": 12}, Speculation("NGRAM", 12)),
        ("sglang", {"speculative-algorithm": "EAGLE"}, Speculation("EAGLE")),
        ("sglang", {"speculative-num-steps": 3}, None),
        ("sglang", {"speculative-algorithm": "NONE"}, None),
        ("sglang", {}, None),
        ("vllm", {"speculative-config": {"method": "mtp", "num_speculative_tokens": 1}}, Speculation("mtp", 2)),
        ("vllm", {"speculative_config": '{"method": "ngram", "num_speculative_tokens": 5}'}, Speculation("ngram", 6)),
        ("vllm", {"spec-method": "mtp", "spec-tokens": 2}, Speculation("mtp", 3)),
        ("vllm", {"speculative-config": "no JSON"}, Speculation("speculative-config")),
        ("vllm", {"speculative-config": None}, None),
        ("vllm", {}, None),
    ],
)
def test_what_a_profile_asks_for(engine: str, flags: dict[str, Any], told: Speculation | None) -> None:
    assert speculation_of(engine, flags) == told


@pytest.mark.parametrize(
    ("seen", "status", "why"),
    [
        (Drafted(16, 2000, 2.4, "counters"), Status.PASS, ""),
        (Drafted(16, 2000, 1.0, "counters"), Status.FAIL, "2000 tokens in 2000 steps"),
        (Drafted(16, 2000, 1.39, "counters"), Status.FAIL, "EAGLE, at most 4 tokens a step"),
        (Drafted(16, 2000, None), Status.UNKNOWN, "neither /metrics nor its answers tell"),
        (Drafted(16, 30, 2.0, "counters"), Status.UNKNOWN, "15 steps of 16 answers are too few"),
        (Drafted(0, 0, None, failed="a question was not answered: 500"), Status.UNKNOWN, "a question was not answered"),
    ],
)
def test_acceptance_has_a_floor_and_nothing_seen_is_unknown(seen: Drafted, status: Status, why: str) -> None:
    verdict = drafts.acceptance(voice(ACCEPTANCE, "sglang"), MTP, seen)
    assert verdict.status is status
    assert why in verdict.text()
    if status is Status.PASS:
        assert verdict.looked_at == 833


def cell(name: str, tpot: float, reason: str = "") -> CellRow:
    streams = int(name.removeprefix("c"))
    return CellRow(engine="x", input_len=128, output_len=128, concurrency=streams, mean_tpot_ms=tpot, reason=reason)


def test_the_gain_is_stated_over_the_cells_that_both_measured() -> None:
    say = voice(GAIN, "mtp against tp16")
    mine, theirs = (
        [cell("c1", 20.0), cell("c8", 30.0), cell("c64", 60.0)],
        [cell("c1", 36.0), cell("c8", 33.0), cell("c64", 1.0, "too busy")],
    )
    verdict = drafts.gain(say, "sglang:tp16", mine, theirs)
    assert (verdict.status, verdict.measured, verdict.looked_at) == (Status.PASS, 1.8, 2)
    assert "1.80 times as fast at in128-out128-c1, 1.10 times at in128-out128-c8 (2 cells)" in str(verdict.details["told"])
    slower = drafts.gain(say, "sglang:tp16", [cell("c1", 40.0)], theirs)
    assert slower.status is Status.WARN
    assert "0.90 times as fast" in slower.reason
    assert drafts.gain(say, "sglang:tp16", mine, []).status is Status.SKIP


def score(*answers: tuple[str, bool, str]) -> Score:
    return Score(tuple(Grade(name, right, "", text, "stop") for name, right, text in answers))


QUESTIONS = [f"q{n}" for n in range(20)]
PLAIN = score(*((name, True, f"It is {name}.") for name in QUESTIONS))


def test_the_same_text_is_the_same() -> None:
    verdict = drafts.text(voice(TEXT, "a against b"), PLAIN, PLAIN)
    assert (verdict.status, verdict.looked_at) == (Status.PASS, 20)
    assert "20 of 20 greedy texts are equal" in str(verdict.details["told"])


def test_other_words_for_the_same_answer_are_no_fault() -> None:
    other = score(*((name, True, f"The answer is {name}.") for name in QUESTIONS))
    verdict = drafts.text(voice(TEXT, "a against b"), PLAIN, other)
    assert verdict.status is Status.PASS
    assert "0 of 20 greedy texts are equal, 0 of the others are wrong" in str(verdict.details["told"])


def test_answers_that_are_lost_by_drafts_are_red_and_a_single_one_is_told() -> None:
    lost = {"q1", "q4", "q7", "q11", "q13"}
    garbled = score(*((name, name not in lost, "x" if name in lost else f"It is {name}.") for name in QUESTIONS))
    verdict = drafts.text(voice(TEXT, "a against b"), PLAIN, garbled)
    assert verdict.status is Status.FAIL
    assert "5 of the others are wrong with drafts only" in verdict.text()
    one = score(*((name, name != "q1", f"It is {name}.") for name in QUESTIONS))
    told = drafts.text(voice(TEXT, "a against b"), PLAIN, one)
    assert told.status is Status.PASS
    assert told.details["lost"] == ["q1"]


def test_no_common_question_is_no_comparison() -> None:
    failed = Score(tuple(Grade(name, False, "500", "", "error") for name in QUESTIONS))
    assert drafts.text(voice(TEXT, "a against b"), PLAIN, failed).status is Status.UNKNOWN
    assert drafts.text(voice(TEXT, "a against b"), Score(()), PLAIN).status is Status.UNKNOWN
