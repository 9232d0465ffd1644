"""The stand-in answers canaries as a healthy engine does, and each way to be wrong is red by its own check and no other."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_h20.checks.under_load import Alone, canaries_of, candidates, is_right, seen, verdicts
from pytest_h20.load.canary import EOS, FORMS, CanaryAnswer, TextCounts, answer_of
from pytest_h20.rehearsal.canaries import CanaryAnswers
from pytest_h20.rehearsal.language import Language

TOKENS = 128
ALONE = Alone(FORMS[0], tuple(candidates()), len(candidates()), True)


def asked(count: int, streams: int = 200, **knobs: object) -> list[CanaryAnswer]:
    """So many canaries, with so many requests in flight from first to last."""
    stand = CanaryAnswers(Language(lambda name: bool(knobs.get(name))), knobs)
    answers = []
    for number, canary in enumerate(canaries_of(ALONE, count, "seed")):
        pieces = stand.pieces(canary.prompt, TOKENS, streams, number, number)
        stand.took_off(canary.prompt)
        assert len(pieces) == TOKENS
        text, ended, period = answer_of(canary, "".join(pieces))
        answers.append(CanaryAnswer(number, canary.id, canary.kind, "ok", "", text, ended, TOKENS, period))
    return answers


def red(answers: list[CanaryAnswer]) -> set[str]:
    return {v.check for v in verdicts(seen(answers, TextCounts()), "all") if v.status.blocks}


@pytest.mark.parametrize("wordy", [False, True], ids=["alike", "other words, same meaning"])
def test_healthy_answers_are_right(wordy: bool) -> None:
    answers = asked(300, wordy=wordy)
    assert len({a.text for a in answers if a.kind == "twin"}) == (2 if wordy else 1)
    assert all(a.ended and is_right(a.id, a.text) for a in answers)
    assert red(answers) == set()


@pytest.mark.parametrize(
    ("knobs", "check"),
    [
        ({"rubbish_above": 100}, "answers"),
        ({"rubbish_after": 150}, "answers"),
        ({"rubbish_replica": 16}, "answers"),
        ({"swap_every": 250}, "swapped"),
        ({"twins_differ": True}, "agreement"),
        ({"never_ends_after": 250}, "cut"),
        ({"blank_above": 100}, "text"),
        ({"flood_above": 100}, "text"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_fault_by_its_own_check(knobs: dict[str, Any], check: str) -> None:
    count = 57 if "twins_differ" in knobs else 600  # from 20 questions on some of them are in flight twice, too
    assert red(asked(count, **knobs)) == {f"throughput.{check}"}


def test_two_users_swapped_at_one_in_500_are_seen_in_a_full_run() -> None:
    assert red(asked(505, swap_every=500)) == {"throughput.swapped"}
    few = verdicts(seen(asked(60), TextCounts()), "all")
    told = next(v for v in few if v.check == "throughput.swapped")
    assert "a swap in 13 answers or fewer would have been seen" in str(told.details["said"])


def test_few_streams_see_nothing_of_what_needs_many() -> None:
    for knob in ("rubbish_above", "blank_above", "flood_above"):
        assert red(asked(30, streams=8, **{knob: 100})) == set()


def test_what_it_does_not_understand_it_rambles_on() -> None:
    stand = CanaryAnswers(Language(lambda name: False), {})
    for form in FORMS[1:]:
        assert not is_right("arith-add", "".join(stand.pieces(form.prompt("What is 4827 + 1396?"), 64, 1, 0, 0)).partition(EOS)[0])
    assert stand.ordinary(1000, 4) is None
