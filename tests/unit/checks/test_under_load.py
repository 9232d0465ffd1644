"""What canaries come to: the failures of issue 11, the look-alikes, and the cases in which nothing was seen."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pytest_h20.checks.endpoint.answers import LOWER_BOUND
from pytest_h20.checks.endpoint.questions import Grade, Score, shipped
from pytest_h20.checks.under_load import (
    AFTER,
    NONCE,
    Alone,
    after_load,
    allowed,
    canaries_of,
    candidates,
    count_of,
    nonce_of,
    ordinary_text,
    reading,
    seen,
    together,
    verdicts,
    voice,
)
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load.canary import FORMS, CanaryAnswer, TextCounts
from pytest_h20.report.model import Canaries

ALONE = Alone(FORMS[0], tuple(candidates()), len(candidates()), True)
NONE = TextCounts()


def right(id: str) -> str:
    question = candidates().get(id)
    return id if question is None else question.answer


def said(id: str, kind: str, text: str, *, ended: bool = True, period: int = 0, outcome: str = "ok") -> CanaryAnswer:
    return CanaryAnswer(0, id, kind, outcome, "HTTP 503" if outcome != "ok" else "", text, ended, 128, period)


def healthy(count: int = 30) -> list[CanaryAnswer]:
    return [said(c.id, c.kind, right(c.id)) for c in canaries_of(ALONE, count, "seed")]


def judged(answers: Sequence[CanaryAnswer], texts: TextCounts = NONE) -> dict[str, Verdict]:
    found = verdicts(seen(answers, texts), "sglang in128-out128-c200", "load/x.json")
    assert len({v.check for v in found}) == len(found)
    return {v.check.split(".")[1]: v for v in found}


def red(answers: Sequence[CanaryAnswer], texts: TextCounts = NONE) -> set[str]:
    return {name for name, v in judged(answers, texts).items() if v.status.blocks}


# ---------------------------------------------------------------- who is asked what


def test_a_cell_gets_nonces_twins_and_questions_and_the_same_seed_gives_the_same() -> None:
    made = canaries_of(ALONE, 12, "a")
    assert [c.kind for c in made] == ["nonce", "twin", "question"] * 4
    assert len({c.prompt for c in made if c.kind == "twin"}) == 1
    assert len({c.prompt for c in made if c.kind != "twin"}) == 8
    assert all(NONCE.fullmatch(c.id) for c in made if c.kind == "nonce")
    twin = next(c.id for c in made if c.kind == "twin")
    assert twin not in {c.id for c in made if c.kind == "question"}
    assert canaries_of(ALONE, 12, "a") == made != canaries_of(ALONE, 12, "b")
    assert made[0].prompt.startswith("<｜User｜>")


def test_only_what_was_right_alone_is_asked() -> None:
    some = Alone(FORMS[2], ("arith-add", "unit-hex"), 20, nonces=False)
    made = canaries_of(some, 9, "a")
    assert {c.id for c in made} == {"arith-add", "unit-hex"}
    assert canaries_of(Alone(None), 9, "a") == ()


def test_every_expected_answer_is_another_number() -> None:
    assert len({str(q.expected) for q in candidates().values()}) == len(candidates()) >= 16
    assert {q.rule for q in candidates().values()} == {"exact_number"}


def test_how_many() -> None:
    assert count_of(0.05, 4, 100) == 0
    assert count_of(0.0, 8, 100) == 0
    assert count_of(0.05, 8, 8) == 2
    assert count_of(0.05, 1024, 2048) == 102
    assert count_of(1.0, 8, 8) == 8


def test_what_chance_allows_is_the_exact_tail() -> None:
    assert [allowed(n) for n in (0, 1, 2, 10, 100, 1000, 20_000)] == [0, 1, 1, 2, 4, 13, 132]


# ---------------------------------------------------------------- what was said


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (said("arith-add", "question", "6223"), "right"),
        (said("arith-add", "question", "The answer is **6,223**."), "right"),
        (said("arith-add", "question", "6224"), "wrong"),
        (said("arith-add", "question", "xqzt bnvw"), "wrong"),
        (said("arith-add", "question", "720"), "swapped"),
        (said("arith-add", "question", "K7-tigerlemon-4410"), "swapped"),
        (said("K7-tigerlemon-4410", "nonce", "K7-tigerlemon-4410"), "right"),
        (said("K7-tigerlemon-4410", "nonce", "Sure: `K7-tigerlemon-4410`"), "right"),
        (said("K7-tigerlemon-4410", "nonce", "K7-tigerlemon-4411"), "wrong"),
        (said("K7-tigerlemon-4410", "nonce", "B3-stoneriver-9021"), "swapped"),
        (said("K7-tigerlemon-4410", "nonce", "6223"), "swapped"),
        (said("K7-tigerlemon-4410", "nonce", "of the house and so on"), "lost"),
        (said("arith-add", "twin", ""), "blank"),
        (said("arith-add", "twin", "", ended=False), "blank"),
        (said("arith-add", "twin", "!" * 128, ended=False, period=1), "flood"),
        (said("arith-add", "twin", "the answer is " * 9, ended=False, period=14), "loop"),
        (said("arith-add", "twin", "Let me think. 4827", ended=False), "cut"),
        (said("arith-add", "twin", "", outcome="http_error"), "failed"),
    ],
)
def test_one_word_for_each(answer: CanaryAnswer, word: str) -> None:
    assert reading(answer, {"arith-add", "arith-factorial", "K7-tigerlemon-4410", "B3-stoneriver-9021"}) == word


def test_each_is_counted_once() -> None:
    found = seen([*healthy(9), said("arith-add", "question", "1"), said("arith-add", "question", "", outcome="cut")], TextCounts(90, 1, 2))
    assert (found.asked, found.questions, found.right, found.nonces, found.back, found.twins, found.alike) == (11, 4, 3, 3, 3, 3, 3)
    assert (found.failed, found.graded, found.wrong, found.texts_one_token) == (1, 7, 1, 2)
    assert found.words == "11 canaries: 3 of 4 right, 3 of 3 nonces back, 3 of 3 alike, 1 failed"
    assert together([found, found]).asked == 22
    assert Canaries().words == ""


# ---------------------------------------------------------------- judgement


def test_healthy_is_green_whatever_the_words() -> None:
    wordy = [said(a.id, a.kind, f"The answer is {a.text}.") for a in healthy()]
    for answers in (healthy(), healthy(2), wordy, healthy(500)):
        found = judged(answers)
        assert {v.status for v in found.values()} == {Status.PASS}, {v.check: v.reason for v in found.values()}
    assert "10 of 10 say" in str(judged(healthy())["agreement"].details["said"])


def test_one_slip_is_no_fault() -> None:
    answers = healthy()
    answers[2] = said(answers[2].id, "question", "12345")
    assert red(answers) == set()


@pytest.mark.parametrize(
    ("text", "ended", "period", "check"),
    [
        ("xqzt bnvw", True, 0, "answers"),
        ("", True, 0, "text"),
        ("!" * 128, False, 1, "text"),
        ("and so on and " * 9, False, 14, "text"),
        ("Let me think about that", False, 0, "cut"),
    ],
    ids=["rubbish", "blank", "flood", "loop", "endless"],
)
def test_each_fault_is_red_by_its_own_check(text: str, ended: bool, period: int, check: str) -> None:
    for bad in (10, 30):
        answers = [said(a.id, a.kind, text, ended=ended, period=period) if i < bad else a for i, a in enumerate(healthy())]
        assert red(answers) == {check}, bad


def test_identical_prompts_that_disagree() -> None:
    answers = [said(a.id, a.kind, f"{a.text}1") if a.kind == "twin" and i % 2 else a for i, a in enumerate(healthy())]
    assert red(answers) == {"agreement"}


def test_one_of_sixteen_replicas() -> None:
    answers = [said(a.id, a.kind, "xqzt bnvw") if i % 16 == 0 else a for i, a in enumerate(healthy(330))]
    assert red(answers) == {"answers"}


@pytest.mark.parametrize("other", ["B3-stoneriver-9021", "of the house and so on"], ids=["another canary's", "the ordinary load's"])
def test_two_users_answers_swapped_once_in_500(other: str) -> None:
    answers = healthy(501)
    at = next(i for i, a in enumerate(answers) if a.kind == "nonce" and i > 200)
    answers[at] = said(answers[at].id, "nonce", other)
    assert red(answers) == {"swapped"}
    assert "belong to somebody else" in judged(answers)["swapped"].reason


def test_how_small_a_rate_of_swaps_could_be_seen_is_told() -> None:
    assert "a swap in 6 answers or fewer would have been seen with 95 %" in str(judged(healthy())["swapped"].details["said"])


def test_nothing_sent_and_nothing_compared_is_no_pass() -> None:
    assert red([]) == {"answers"}
    assert judged([])["answers"].status is Status.UNKNOWN
    # one endless, one blank: neither is enough to be red, and there is nothing to grade
    mixed = [said("arith-add", "twin", ""), said("K7-tigerlemon-4410", "nonce", "well, well", ended=False)]
    assert judged(mixed)["answers"].status is Status.UNKNOWN


def test_failed_requests_are_told_by_sanity() -> None:
    answers = [said(a.id, a.kind, "", outcome="http_error") for a in healthy(6)]
    found = judged(answers)
    assert {v.status for v in found.values()} == {Status.SKIP}
    assert "throughput.sanity" in found["answers"].reason


def test_the_ordinary_loads_text_is_told_and_does_not_decide() -> None:
    assert judged(healthy(), TextCounts(100, 0, 95))["text"].status is Status.WARN
    assert judged(healthy(), TextCounts(100, 95, 0))["text"].status is Status.WARN
    assert judged(healthy(), TextCounts(100, 40, 40))["text"].status is Status.PASS
    assert ordinary_text(Canaries(texts=4, texts_empty=4)) == "", "too few to tell"


# ---------------------------------------------------------------- after the last cell


def score(wrong: int, finish: str = "stop") -> Score:
    grades = [Grade(q.id, i >= wrong, "" if i >= wrong else "said 0", "", finish if i < wrong else "stop") for i, q in enumerate(shipped())]
    return Score(tuple(grades))


def test_after_the_load() -> None:
    say = voice(AFTER, "sglang, shipped set")
    assert after_load(say, score(0), score(0), LOWER_BOUND, 26).status is Status.PASS
    assert after_load(say, score(3), score(2), LOWER_BOUND, 26).status is Status.PASS
    assert after_load(say, None, score(64), LOWER_BOUND, 26).status is Status.FAIL
    lost = after_load(say, score(0), score(7, "length"), LOWER_BOUND.model_copy(update={"value": 0.5}), 26)
    assert lost.status is Status.FAIL, "the limit holds, and yet seven answers were lost and none won"
    assert "7 more are cut while thinking" in lost.reason
    assert after_load(say, None, score(1, "error"), LOWER_BOUND, 26).status is Status.UNKNOWN


def test_nonces_differ() -> None:
    dice = random.Random(1)
    assert len({nonce_of(dice) for _ in range(5000)}) == 5000
