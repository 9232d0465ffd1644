"""Grading rules, data sets and statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.checks.endpoint.answers import LOWER_BOUND, compare_verdict, needle_number, needle_prompt, score_verdict
from pytest_h20.checks.endpoint.frame import voice
from pytest_h20.checks.endpoint.questions import DEFAULT_LOWER_BOUND, Grade, Question, Score, compare, grade, load_dataset, mixed, shipped
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.endpoint.stats import mcnemar, wilson

CTX = EndpointContext("http://h:1", "vllm", "0.32.0", "m")


def right(rule: str, expected: Any, answer: str) -> bool:
    return grade(Question("q", "?", expected, rule), answer).right


class TestShippedSet:
    def test_size_rules_and_languages(self) -> None:
        questions = shipped()
        assert len(questions) == 64
        assert {q.rule for q in questions} == {"exact_number", "one_of", "regex", "json_equal", "python_value"}
        assert {q.language for q in questions} == {"en", "zh"}
        assert sum(q.language == "zh" for q in questions) >= 10

    def test_every_reference_answer_is_right_and_short(self) -> None:
        for question in shipped():
            assert grade(question, question.answer).right, question
            assert 0 < len(question.reasoning) < 100, question
            assert "think>" not in question.reasoning + question.answer

    def test_no_two_expect_the_same(self) -> None:
        keys = [json.dumps(float(q.expected) if q.rule == "exact_number" else q.expected) for q in shipped()]
        assert len(set(keys)) == len(keys)
        assert len({q.answer for q in shipped()}) == len(keys)

    def test_issue_questions_are_in(self) -> None:
        text = " ".join(q.question for q in shipped())
        assert "17 * 23" in text
        assert "9.11 or 9.8" in text


@pytest.mark.parametrize(
    ("expected", "answer", "ok"),
    [
        (391, "391", True),
        (391, "\n\n**391**", True),
        (391, "The product is $\\boxed{391}$.", True),
        (391, "17 × 23 = 391", True),
        (391, "\\boxed{391} because 17 * 20 = 340", True),
        (391, "It is 391.", True),
        (391, "391.0", True),
        (391, "３９１", True),
        (391, "392", False),
        (391, "3910", False),
        (391, "391 or 392", False),
        (391, "no number", False),
        (391, "", False),
        (86400, "86,400 seconds", True),
        (-57, "-57", True),
        (-57, "−57", True),
        (-57, "57", False),
        ("0.35", "0.35", True),
        ("0.35", ".35", True),
        ("9.8", "9.8 is larger.", True),
        ("9.8", "9.11", False),
        (4096, "4.096e3", True),
        (42, "thoughts 7 #### 42", True),
    ],
)
def test_exact_number(expected: Any, answer: str, ok: bool) -> None:
    assert right("exact_number", expected, answer) is ok


@pytest.mark.parametrize(
    ("rule", "expected", "answer", "ok"),
    [
        ("one_of", ["Paris"], "**Paris**.", True),
        ("one_of", ["Paris"], "paris", True),
        ("one_of", ["Paris"], "\\boxed{\\text{Paris}}", True),
        ("one_of", ["Paris"], "Paris or London", False),
        ("one_of", ["北京", "北京市"], "北京。", True),
        ("regex", r"\d{4}-\d\d", "2025-07", True),
        ("regex", r"\d{4}-\d\d", "in 2025-07", False),
        ("json_equal", {"a": 8}, '```json\n{"a": 8}\n```', True),
        ("json_equal", {"a": 8}, '{"a": 8.0}', True),
        ("json_equal", {"a": 8}, '{"a": "8"}', False),
        ("json_equal", {"a": 1}, '{"a": true}', False),
        ("json_equal", {"a": 8}, '{"a": 8, "b": 1}', False),
        ("json_equal", [1, 2], "[2, 1]", False),
        ("json_equal", [1, 2], "two numbers", False),
        ("python_value", [1, 4], "```python\n[x**2 for x in range(1, 3)]\n```", True),
        ("python_value", [1, 4], "list(x * x for x in range(1, 3))", True),
        ("python_value", [1, 4], "[1, 2]", False),
        ("python_value", 5, "True + 4", True),
        ("python_value", 1, "1 == 1", False),
        ("python_value", [1, 4], "I would write [1, 4]", False),
    ],
)
def test_other_rules(rule: str, expected: Any, answer: str, ok: bool) -> None:
    assert right(rule, expected, answer) is ok


@given(st.text(max_size=200), st.sampled_from(list(shipped())[::7]))
def test_no_answer_breaks_a_rule(answer: str, question: Question) -> None:
    assert grade(question, answer).right in (True, False)


class TestDataSets:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "set.jsonl"
        path.write_text(text, encoding="utf-8")
        return path

    def test_gsm8k_form(self, tmp_path: Path) -> None:
        rows = [{"question": "2+2?", "answer": "2+2 is <<2+2=4>>4.\n#### 4"}, {"question": "?", "answer": "#### 1,234"}]
        first, second = load_dataset(self.write(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n"))
        assert (first.id, first.expected, second.expected) == ("q1", "4", "1234")
        assert grade(first, "The answer is 4").right

    def test_our_form(self, tmp_path: Path) -> None:
        row = {"id": "a", "question": "x", "expected": ["y"], "rule": "one_of", "language": "en"}
        assert load_dataset(self.write(tmp_path, json.dumps(row)))[0].rule == "one_of"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "holds no question"),
            ("{", "set.jsonl:1: not JSON"),
            ("\n[1]", "set.jsonl:2: is a list"),
            ('{"question": 3}', "'question' is 3"),
            ('{"question": "x"}', "'answer' is missing"),
            ('{"question": "x", "answer": "none"}', "no number after"),
            ('{"question": "x", "rule": "exact_number"}', "'expected' is missing"),
            ('{"question": "x", "expected": 1, "rule": "similar"}', "rule 'similar' is unknown; rules are exact_number"),
            ('{"question": "x", "expected": "abc"}', "wants a number"),
            ('{"question": "x", "expected": "abc", "rule": "one_of"}', "wants a list of texts"),
            ('{"question": "x", "expected": "(", "rule": "regex"}', "no regular expression"),
            ('{"question": "x", "answer": [1]}', "'answer' is \\[1\\]"),
            ('{"id": "a", "question": "x", "expected": 1}\n{"id": "a", "question": "y", "expected": 2}', "id 'a' was used at"),
        ],
    )
    def test_mistakes_name_line_and_fix(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            load_dataset(self.write(tmp_path, text))

    def test_missing_file_and_other_encoding(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            load_dataset(tmp_path / "absent.jsonl")
        (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
        with pytest.raises(UsageError, match="not UTF-8"):
            load_dataset(tmp_path / "latin.jsonl")


class TestStatistics:
    @pytest.mark.parametrize(
        ("hits", "n", "low", "high"),
        # Published values of the Wilson score interval: Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_wilson_against_published_values(self, hits: int, n: int, low: float, high: float) -> None:
        assert list(wilson(hits, n)) == pytest.approx([low, high], abs=5e-5)

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_wilson_holds_the_share(self, case: tuple[int, int]) -> None:
        hits, n = case
        low, high = wilson(hits, n)
        assert 0 <= low <= hits / n <= high <= 1

    @pytest.mark.parametrize("case", [(1, 0), (-1, 5), (6, 5)])
    def test_wilson_refuses_nonsense(self, case: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="no proportion"):
            wilson(*case)

    @pytest.mark.parametrize(
        ("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (1, 9, 0.021484375), (10, 2, 0.03857421875)]
    )
    def test_mcnemar_is_the_exact_binomial(self, b: int, c: int, p: float) -> None:
        assert mcnemar(b, c) == pytest.approx(p)
        assert mcnemar(c, b) == pytest.approx(p)


def graded(right_ones: int, n: int, cut: int = 0) -> Score:
    rest = n - right_ones - cut
    return Score(
        tuple(
            [Grade(f"r{k}", True, "") for k in range(right_ones)]
            + [Grade(f"c{k}", False, "cut", "", "length") for k in range(cut)]
            + [Grade(f"w{k}", False, "wrong", "", "stop") for k in range(rest)]
        )
    )


class TestVerdict:
    say = voice("answers.accuracy", "t", "a", CTX)

    def judge(self, score: Score) -> Status:
        questions = tuple(Question(g.id, "?", 1, "exact_number") for g in score.grades)
        return score_verdict(self.say, score, questions).status

    def test_limit_asks_for_57_of_64(self) -> None:
        assert LOWER_BOUND.value == DEFAULT_LOWER_BOUND
        assert self.judge(graded(57, 64)) is Status.PASS
        assert self.judge(graded(56, 64)) is Status.FAIL

    def test_few_questions_prove_little(self) -> None:
        assert self.judge(graded(10, 10)) is Status.FAIL
        assert self.judge(graded(20, 20)) is Status.PASS

    def test_answers_cut_at_the_limit_are_not_known_to_be_wrong(self) -> None:
        assert self.judge(graded(40, 64, cut=24)) is Status.UNKNOWN
        assert self.judge(graded(40, 64, cut=4)) is Status.FAIL
        assert self.judge(graded(60, 64, cut=4)) is Status.PASS

    def test_a_failed_request_is_no_measurement(self) -> None:
        score = Score((*graded(63, 63).grades, Grade("e", False, "boom", "", "error")))
        assert self.judge(score) is Status.UNKNOWN


def test_compare_counts_and_refuses_different_sets() -> None:
    one = Score(tuple(Grade(f"{k}", k < 20, "") for k in range(30)))
    two = Score(tuple(Grade(f"{k}", 8 <= k < 22, "") for k in range(30)))
    found = compare(one, two)
    assert (found.both, found.only_first, found.only_second, found.neither) == (12, 8, 2, 8)
    assert found.p_value == pytest.approx(mcnemar(8, 2))
    with pytest.raises(UsageError, match="same questions"):
        compare(one, Score(two.grades[1:]))
    assert compare_verdict(Api(CTX), "vllm", "sglang", one, two, "shipped").status is Status.PASS
    worse = Score(tuple(Grade(f"{k}", k >= 19, "") for k in range(30)))
    verdict = compare_verdict(Api(CTX), "vllm", "sglang", one, Score(tuple(Grade(g.id, False, "") for g in one.grades)), "shipped")
    assert verdict.status is Status.FAIL
    assert verdict.details["only_first"] == 20
    assert compare(one, worse).both == 1


def test_mixed_tells_a_mix_up_from_a_mistake() -> None:
    questions = shipped()[:3]
    texts = [questions[1].answer, questions[1].answer, "12345"]
    grades = [grade(q, t) for q, t in zip(questions, texts, strict=True)]
    assert len(mixed(questions, grades)) == 1
    assert questions[1].id in mixed(questions, grades)[0]


def test_needle_prompt_hides_exactly_one_number() -> None:
    for depth in (0.1, 0.5, 0.9):
        text = needle_prompt(200, depth)
        assert text.count("secret number is") == 1
        at = text.index("secret number is") / len(text)
        assert abs(at - depth) < 0.05
        assert text.count(str(needle_number(depth))) == 1
