"""What is asked alone, before the first cell: the form of prompt that a model answers is found, and what it answers in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_h20.checks.under_load import canaries_of, candidates
from pytest_h20.load import LoadPlan, Target, Vocabulary
from pytest_h20.load.canary import EOS, FORMS, Form
from pytest_h20.load.reference import Generation, ReferenceConfig, ReferenceRequest, ReferenceServer
from pytest_h20.run.canaries import ask_alone

WORDS = {question.question: question for question in candidates().values()}
TOKENS = 64


class Model(ReferenceServer):
    """Answers in one form of prompt only. ``knows``: question → answer; a nonce comes back when ``repeats``."""

    def __init__(self, form: Form | None, knows: Callable[[str], str | None], repeats: bool = True) -> None:
        super().__init__(ReferenceConfig(ttft=0.0, tpot=0.0))
        self.form, self.knows, self.repeats = form, knows, repeats
        self.asked: list[dict[str, Any]] = []

    def generation(self, request: ReferenceRequest) -> Generation:
        given = super().generation(request)
        body: dict[str, Any] = request.json()
        self.asked.append(body)
        text: str = body.get("text") or body["prompt"]
        form, stops = self.form, not body.get("sampling_params", body)["ignore_eos"]
        said = None
        if form is not None and text.startswith(form.before) and text.endswith(form.after):
            words = text[len(form.before) : len(text) - len(form.after)]
            said = (words.rpartition(": ")[2] if self.repeats else "so what") if words not in WORDS else self.knows(words)
        if said is None:
            pieces = [" and"] * given.asked_tokens
        else:
            start = [f"hm\n{form.opens}\n\n"] if form is not None and form.opens else []
            pieces = [*start, said]
            if form is None or form.end != EOS:
                stops = False
            if not stops:
                pieces += [form.end if form is not None else EOS, *[" so"] * given.asked_tokens]
        pieces = pieces[: given.asked_tokens]
        told = {**vars(given), "pieces": pieces, "output_tokens": len(pieces), "finish": "stop" if stops else "length", "prompt_tokens": 9}
        return Generation(**told)


@pytest.fixture
def serve() -> Iterator[Callable[[Model, str], Target]]:
    running: list[tuple[Model, threading.Thread]] = []

    def start(model: Model, dialect: str = "sglang") -> Target:
        thread = threading.Thread(target=model.serve_forever, daemon=True)
        thread.start()
        running.append((model, thread))
        return Target(model.url, dialect, "reference", vocabulary=Vocabulary(1000, 30000))

    yield start
    for model, thread in running:
        model.stop()
        thread.join(5)


def right(words: str) -> str:
    return WORDS[words].answer


@pytest.mark.parametrize("dialect", ["sglang", "vllm"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_form_that_a_model_answers_is_found(serve: Callable[..., Target], form: Form, dialect: str) -> None:
    model = Model(form, right)
    alone = ask_alone(serve(model, dialect), LoadPlan(), TOKENS)
    assert (alone.form, alone.right, alone.asked, alone.nonces) == (form, tuple(candidates()), len(candidates()), True)
    made = canaries_of(alone, 3, "seed")
    assert made[0].prompt.startswith(form.before)
    assert made[0].prompt.endswith(form.after)
    exact = [b.get("sampling_params", b)["ignore_eos"] for b in model.asked]
    assert exact[:4] == [True] * 4, "the first are what a cell will send"
    assert not any(exact[-16:]), "the others end where the answer ends"


def test_what_is_wrong_alone_is_not_asked(serve: Callable[..., Target]) -> None:
    alone = ask_alone(serve(Model(FORMS[0], lambda words: "0" if "hex" in words else right(words), repeats=False)), LoadPlan(), TOKENS)
    assert "unit-hex" not in alone.right
    assert len(alone.right) == len(candidates()) - 1
    assert not alone.nonces
    assert {c.kind for c in canaries_of(alone, 9, "seed")} == {"twin", "question"}


def test_an_answer_that_only_just_ends_is_not_asked(serve: Callable[..., Target]) -> None:
    def late(words: str) -> str:
        return f"{'well ' * 90}{right(words)}"

    model = Model(FORMS[0], late)
    assert ask_alone(serve(model), LoadPlan(), 8).form is None, "the end stands behind three quarters of the text"


@pytest.mark.parametrize("form", [None, FORMS[0]], ids=["no form", "nothing right"])
def test_a_model_that_answers_nothing_is_told(serve: Callable[..., Target], form: Form | None) -> None:
    alone = ask_alone(serve(Model(form, lambda words: "no idea")), LoadPlan(), TOKENS)
    assert alone.form is None
    assert "answer: 0 of 4 right, arith-add: " in alone.why
    assert canaries_of(alone, 9, "seed") == ()


def test_a_server_that_refuses_text_is_told(serve: Callable[..., Target]) -> None:
    class Refusing(Model):
        def generation(self, request: ReferenceRequest) -> Generation:
            raise ValueError("token ids only")

    alone = ask_alone(serve(Refusing(None, right)), LoadPlan(), TOKENS)
    assert alone.form is None
    assert "token ids only" in alone.why
