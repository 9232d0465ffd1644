"""Canaries among random ids: the load stays the named one, the figures are without them, and what they said is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.load import Cell, LoadPlan, Target, Vocabulary, run_cell
from pytest_h20.load.canary import EOS, FORMS, KEPT, Canary, answer_of, kept, period, places
from pytest_h20.load.dialects import RequestEncoder
from pytest_h20.load.prompts import Prompt
from pytest_h20.load.reference import Generation, ReferenceConfig, ReferenceRequest, ReferenceServer
from pytest_h20.load.run import processes_for
from pytest_h20.load.share import ShareJob
from pytest_h20.report.requests import figures, read_requests

Serve = Callable[..., ReferenceServer]
ASKED = tuple(Canary(f"q{i}", "question", f"What is {i}?", EOS) for i in range(4))


class Answering(ReferenceServer):
    """Says the number that is asked for, then the end, then goes on; the slower the prompt is text, so that it would show."""

    def generation(self, request: ReferenceRequest) -> Generation:
        given = super().generation(request)
        body: dict[str, Any] = request.json()
        text = body.get("text", body.get("prompt"))
        if not isinstance(text, str):
            return given
        where = body.get("sampling_params", body)
        assert where["skip_special_tokens"] is False
        assert where["ignore_eos"] is True
        pieces = [f"It is {text[8:-1]}", EOS, *[" and"] * given.output_tokens][: given.output_tokens]
        return Generation(**{**vars(given), "pieces": pieces, "prompt_tokens": 9})


def target(server: ReferenceServer, dialect: str) -> Target:
    return Target(server.url, dialect, "reference", vocabulary=Vocabulary(1000, 30000))


@pytest.mark.parametrize("stamps", [True, False], ids=["kernel", "clock"])
@pytest.mark.parametrize("dialect", ["sglang", "vllm"])
def test_canaries_are_answered_counted_and_out_of_the_figures(serve: Serve, tmp_path: Path, dialect: str, stamps: bool) -> None:
    server = serve(Answering(ReferenceConfig(ttft=0.01, tpot=0.001)))
    plan = LoadPlan(canaries=ASKED, kernel_stamps=stamps, warmup=0, records_path=str(tmp_path / "r.jsonl"))
    result = run_cell(target(server, dialect), Cell(32, 24, 8), plan)
    assert (result.requests.sent, result.requests.complete) == (32, 32)
    assert [(a.id, a.text, a.ended) for a in sorted(result.canaries, key=lambda a: a.id)] == [
        (f"q{i}", f"It is {i}", True) for i in range(4)
    ]
    assert (result.ttft.count, result.tpot.count, result.e2e.count) == (28, 28, 28)
    assert result.itl.count == 28 * 23
    assert result.tokens.output == 32 * 24, "the rates are of everything that the server made"
    assert result.tokens.wrong_input == result.tokens.wrong_output == 0
    assert result.mean_input_len == 32
    assert server.peak_in_flight == 8
    assert {f.rule: f.status for f in result.sanity if f.rule in ("finished", "usage")} == {
        "finished": "ok",
        "usage": "ok",
    }
    again = figures(read_requests(tmp_path / "r.jsonl"))
    assert again["mean_ttft_ms"] == pytest.approx(result.mean_ttft_ms)
    assert again["output_throughput"] == pytest.approx(result.output_throughput)
    assert type(result).from_json(result.to_json()) == result


def test_canaries_are_shared_between_processes(serve: Serve) -> None:
    server = serve(Answering(ReferenceConfig(ttft=0.01, tpot=0.001)))
    plan = LoadPlan(canaries=ASKED, processes=2, warmup=0)
    assert processes_for(plan, Cell(32, 24, 8)) == 2
    result = run_cell(target(server, "sglang"), Cell(32, 24, 8), plan)
    assert sorted(answer.text for answer in result.canaries) == [f"It is {i}" for i in range(4)]
    assert result.texts.seen == 28


def test_the_text_of_the_ordinary_load_is_looked_at(serve: Serve) -> None:
    cell = Cell(32, 24, 8)
    for dialect in ("sglang", "vllm"):
        for text, empty, one_token in ((" the and was for not", 0, 0), ("!", 0, 32)):
            result = run_cell(target(serve(text=text), dialect), cell, LoadPlan(warmup=0))
            assert (result.texts.seen, result.texts.empty, result.texts.one_token) == (32, empty, one_token), (dialect, text)
    blank = run_cell(target(serve(text=""), "sglang"), cell, LoadPlan(warmup=0))
    assert (blank.requests.complete, blank.tokens.wrong_output) == (32, 0), "usage is right"
    assert (blank.texts.seen, blank.texts.empty) == (32, 32)
    several = run_cell(target(serve(tokens_per_event=4), "vllm"), cell, LoadPlan(warmup=0))
    assert (several.texts.seen, several.texts.one_token) == (32, 0)
    unseen = run_cell(target(serve(incremental=True), "sglang"), cell, LoadPlan(warmup=0))
    assert unseen.texts.seen == 0, "only the last piece is at hand"


def test_a_job_travels_with_its_canaries() -> None:
    job = ShareJob(Target("http://h:1", "sglang", "m", vocabulary=Vocabulary(3, 300)), Cell(16, 16, 8), LoadPlan(canaries=ASKED))
    assert ShareJob.from_json(job.to_json()) == job


def test_they_are_spread_over_the_whole_cell() -> None:
    assert sorted(places(ASKED, 32)) == [4, 12, 20, 28]
    assert sorted(places(ASKED, 4)) == [0, 1, 2, 3]
    assert list(places(ASKED, 2).values()) == list(ASKED[:2]), "no more than there are requests"
    assert places((), 8) == {}
    assert len(places(ASKED, None)) == 4
    assert len(places(tuple(ASKED * 50), 201)) == 200


def test_where_an_answer_ends() -> None:
    closed, thinking = (Canary("a", "question", form.prompt("?"), form.end, form.opens) for form in FORMS[:2])
    assert answer_of(closed, f" 391{EOS}What") == ("391", True, 0)
    assert answer_of(closed, f"{EOS}What") == ("", True, 0)
    assert answer_of(closed, "391 and so") == ("391 and so", False, 0)
    assert answer_of(thinking, f"17 * 20\n</think>\n\n391{EOS}") == ("391", True, 0)
    assert answer_of(thinking, f"17 * 20 {EOS}") == (f"17 * 20 {EOS}", False, 0), "it never stopped thinking"
    text, ended, again = answer_of(closed, "Well. " + "ab" * 400)
    assert (ended, again) == (False, 2)
    assert len(text) <= KEPT + 3


def test_floods_and_loops() -> None:
    assert period("!" * 30) == 1
    assert period("no no no no no no no no no no") == 3
    assert period("the quick brown fox " * 4) == 20
    assert period("the quick brown fox jumps over the lazy dog") == 0
    assert period("!!!!") == 0, "too short to tell"
    assert period(" " * 30) == 1
    assert kept("x" * 10) == "x" * 10


def test_only_canaries_ask_for_special_tokens() -> None:
    for dialect in ("sglang", "vllm"):
        encoder = RequestEncoder(Target("http://h:1", dialect, "m"), 0.0, True, False)
        assert b"special" not in encoder.encode(Prompt(3, 4, ids=(1, 2, 3)))
        assert b'"skip_special_tokens":false' in encoder.encode(Prompt(0, 4, text="hi"), special=True)
