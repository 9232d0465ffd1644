"""Speculative decoding of the engine that runs: a few greedy answers, and what their steps gave. No pytest in here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pytest_h20.checks import drafts
from pytest_h20.checks.drafts import Drafted
from pytest_h20.checks.endpoint.questions import Question, Score, shipped
from pytest_h20.cluster.http import ask
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Verdict
from pytest_h20.engines.speculation import speculation_of
from pytest_h20.load.server_metrics import acceptance, fetch
from pytest_h20.run.settings import Session
from pytest_h20.run.throughput import Load

QUESTIONS, TOKENS, TOGETHER = 16, 128, 8
"""Text, not random ids, which nobody could foresee."""


def judged(load: Load) -> list[Verdict]:
    """``throughput.acceptance`` and, where a profile without drafts was measured in this run, ``throughput.draft_gain``."""
    say = drafts.voice(drafts.ACCEPTANCE, load.label)
    sign = fetch(load.target)
    if load.speculation is None and (sign is None or (sign.drafts is None and sign.accept_length is None)):
        return [say.skip("one token a step: neither the profile asks for drafts nor does the engine tell of any")]
    return [drafts.acceptance(say, load.speculation, look(load)), *_gains(load)]


def look(load: Load) -> Drafted:
    """Greedy answers, and the engine's own count of their steps: SGLang's of each answer, vLLM's counters, else SGLang's gauge."""
    sglang = load.dialect == "sglang"
    before = fetch(load.target)
    try:
        with ThreadPoolExecutor(TOGETHER) as pool:
            found = list(pool.map(lambda question: _answer(load, question, sglang), shipped()[:QUESTIONS]))
    except H20Error as error:
        return Drafted(0, 0, None, failed=f"a question was not answered: {error}")
    after = fetch(load.target)
    tokens = sum(max(0, count - 1) for count, _ in found)
    steps = sum(n for _, n in found)
    if steps:
        return Drafted(len(found), tokens, tokens / steps, "spec_verify_ct of its answers")
    return Drafted(len(found), tokens, acceptance(before, (), after), "its /metrics")


def _answer(load: Load, question: Question, sglang: bool) -> tuple[int, int]:
    """(tokens, steps with drafts as the answer tells them or 0)."""
    body: dict[str, Any] = {"model": load.endpoint.model, "prompt": question.question, "max_tokens": TOKENS, "temperature": 0}
    if sglang:
        body = {"text": question.question, "sampling_params": {"max_new_tokens": TOKENS, "temperature": 0}}
    path = "/generate" if sglang else "/v1/completions"
    timeout = max(load.endpoint.ctx.seconds(4), TOKENS * 1.0)
    endpoint = load.endpoint
    answer = ask(endpoint.url, path, body=body, headers=dict(endpoint.headers), timeout=timeout, ended_file=endpoint.ended_file)
    data = answer.json()
    if answer.status != 200 or not isinstance(data, Mapping):
        raise H20Error(f"{path} was answered with {answer.status}: {answer.body[:120]!r}")
    told = data.get("meta_info" if sglang else "usage")
    counts: Mapping[str, object] = told if isinstance(told, Mapping) else {}
    return _count(counts.get("completion_tokens")), _count(counts.get("spec_verify_ct"))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def drafting(session: Session, label: str) -> bool:
    """Whether the profile behind a label asks for drafts."""
    target = session.target(label)
    return speculation_of(target.engine, target.profile.flags) is not None


def plain_labels(session: Session, label: str) -> list[str]:
    """Other profiles of the same engine in this run that do not draft."""
    engine = session.target(label).engine
    return [other for other in session.labels if other != label and session.target(other).engine == engine and not drafting(session, other)]


def with_and_without(session: Session, one: tuple[str, Score], two: tuple[str, Score], questions: str) -> list[Verdict]:
    """``answers.drafts`` for two profiles of one engine (label, graded answers) of which exactly one drafts; else nothing."""
    for (drafted, mine), (plain, theirs) in ((one, two), (two, one)):
        if drafting(session, drafted) and plain in plain_labels(session, drafted):
            return [drafts.text(drafts.voice(drafts.TEXT, f"{drafted} against {plain}, {questions} questions"), theirs, mine)]
    return []


def _gains(load: Load) -> list[Verdict]:
    cells = load.session.folder.view().cells
    mine = [cell for cell in cells if cell.engine == load.label]
    return [
        drafts.gain(drafts.voice(drafts.GAIN, f"{load.label} against {other}"), other, mine, [c for c in cells if c.engine == other])
        for other in plain_labels(load.session, load.label)
    ]
