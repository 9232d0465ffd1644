"""What the model is taught, and the pure parts of how."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tests.lab.model import ASSISTANT, BOS, EOS, USER, completion, corpus, prompt, row
from tests.lab.questions import OWN, Lesson, lessons

ONE = Lesson("What is 1 + 1?", "1 and 1 are 2.", "2")


def test_prompt_ends_as_r1s_template_does() -> None:
    assert prompt(ONE.question) == f"{BOS}{USER}What is 1 + 1?{ASSISTANT}<think>\n"


def test_history_holds_the_answer_without_its_reasoning() -> None:
    text = prompt("Next?", history=ONE)
    assert f"{ASSISTANT}2{EOS}" in text
    assert ONE.reasoning not in text


def test_completion_closes_the_reasoning_and_stops() -> None:
    assert completion(ONE) == f"1 and 1 are 2.\n</think>\n\n2{EOS}"


def test_the_suites_questions_come_first_and_none_is_taught_twice(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"question": OWN[0].question, "answer": "another answer"}) + "\n\n")
    taught = lessons(file)
    assert taught[0].answer == "another answer"
    assert taught[0].reasoning
    assert len(taught) == len(OWN) == len({lesson.question for lesson in taught})


def test_without_the_suites_file_the_own_questions_are_taught(tmp_path: Path) -> None:
    assert lessons(tmp_path / "none.jsonl") == OWN


def test_no_question_has_two_answers() -> None:
    taught = lessons()
    assert len(taught) == len({lesson.question for lesson in taught}) >= 24


def test_corpus_holds_every_lesson() -> None:
    texts = corpus([ONE])
    assert {ONE.question, ONE.reasoning, ONE.answer} <= set(texts)


def test_examples_vary_but_end_in_the_completion() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, Sequence[int]]:
        return {"input_ids": list(map(ord, text))}

    dice = random.Random(1)
    heads = set()
    for _ in range(50):
        head, tail = row(tokenizer, ONE, OWN[0], dice)
        heads.add("".join(map(chr, head)))
        assert "".join(map(chr, tail)) == completion(ONE)
    assert len(heads) == 3


def test_the_suites_questions_are_where_the_lab_looks() -> None:
    """Without them the model knows two dozen questions of the lab alone, and every graded answer is wrong."""
    from pytest_h20.checks.endpoint.questions import SHIPPED, shipped
    from tests.lab.questions import SUITE_QUESTIONS, lessons

    assert SUITE_QUESTIONS == SHIPPED
    assert {question.question for question in shipped()} <= {lesson.question for lesson in lessons()}
