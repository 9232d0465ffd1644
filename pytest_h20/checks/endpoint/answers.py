"""The answers themselves: the shipped set, a user's set, a needle in a long prompt, and two engines against each other."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from pytest_h20.checks.endpoint.frame import CheckList, voice, with_evidence
from pytest_h20.checks.endpoint.questions import DEFAULT_LOWER_BOUND, Grade, PairedAnswers, Question, Score, compare, grade, mixed, shipped
from pytest_h20.checks.frame import Say
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.reply import prompt_tokens

CHECKS = CheckList("answers")

NEEDLE_MIN_CONTEXT = 8192
"""Tokens of context below which no needle is hidden: what fits then is no long prompt."""
NEEDLE_MAX_PROMPT = 32_768
SIGNIFICANCE = 0.05

LOWER_BOUND = Limit(
    kind="min",
    value=DEFAULT_LOWER_BOUND,
    origin=Origin(kind="derived", detail="57 of 64: an R1 misses it in < 0.1 % of runs, a model at 0.75 meets it in < 1 %"),
)
ACTION = "wrong answers from a healthy engine: compare the weights on all nodes (F46: a missing shard), then the chat template"


def ask_all(api: Api, questions: Sequence[Question]) -> Score:
    """Ask every question once, greedily, ``parallel`` at a time, and grade. A failed request is a wrong answer with its error."""
    most = api.budget(api.ctx.answer_tokens)
    patience = {"deadline_s": api.ctx.seconds(10)}

    def work(question: Question) -> Grade:
        try:
            choice = api.chat(question.question, max_tokens=most, how=patience).choice
        except H20Error as error:
            return Grade(question.id, False, str(error), "", "error")
        return grade(question, choice.content, choice.finish or "")

    return Score(tuple(api.together(work, list(questions), workers=api.ctx.parallel)))


def score_verdict(say: Say, score: Score, questions: Sequence[Question]) -> Verdict:
    """A graded set against the limit on its lower bound. Pure.

    When requests failed, or so many answers were cut at the token limit that they decide, nothing is known about the answers.
    """
    failed = [g for g in score.grades if g.finish == "error"]
    if failed:
        return say.unknown(f"{len(failed)} of {score.n} requests failed, the first: {failed[0].why}", "see endpoint.parallel")
    low, high = score.interval
    wrong: list[JsonValue] = [f"{g.id}: {g.why}" for g in score.grades if not g.right]
    limit = say.limits.get(say.check, LOWER_BOUND)
    if limit.accepts(low) is False and limit.accepts(Score(tuple(_forgiven(score))).interval[0]):
        return say.unknown(f"{score.right} of {score.n} right, but {score.cut} were cut at the token limit", "raise answer_tokens")
    return say.judge(
        round(low, 4),
        limit,
        of=score.n,
        reason=f"{score.right} of {score.n} right ({score.share:.1%}, 95 % interval {low:.1%} to {high:.1%}); "
        + "; ".join(str(w) for w in wrong[:3]),
        n=score.n,
        right=score.right,
        score=round(score.share, 4),
        interval=[round(low, 4), round(high, 4)],
        cut=score.cut,
        wrong=wrong[:200],
        mixed=list[JsonValue](mixed(questions, score.grades)),
    )


def _forgiven(score: Score) -> Sequence[Grade]:
    return [Grade(g.id, g.right or g.finish == "length", g.why) for g in score.grades]


def accuracy(api: Api, questions: Sequence[Question], check: str, title: str, subject: str = "") -> tuple[list[Verdict], Score]:
    """Ask, grade, judge, keep every answer as evidence. The score, for a comparison of engines, is empty when nothing was asked."""
    say = voice(check, title, ACTION, api.ctx).about(subject)
    scores: list[Score] = []

    def body(api: Api, say: Say) -> Verdict:
        scores.append(ask_all(api, questions))
        return score_verdict(say, scores[0], questions)

    verdicts = with_evidence(api, say, body)
    if not scores:
        return verdicts, Score(())
    lines = "".join(
        json.dumps({"id": g.id, "right": g.right, "finish": g.finish, "why": g.why, "answer": g.answer}, ensure_ascii=False) + "\n"
        for g in scores[0].grades
    )
    path = api.ctx.evidence(f"{check}.jsonl", lines.encode())
    return [v.model_copy(update={"evidence": (*v.evidence, path)}) if path else v for v in verdicts], scores[0]


def check_accuracy(api: Api) -> tuple[list[Verdict], Score]:
    """``answers.accuracy``: the shipped set."""
    return accuracy(api, shipped(), "answers.accuracy", "The graded questions are answered rightly", "shipped set")


def check_dataset(api: Api, path: str | Path, questions: Sequence[Question]) -> tuple[list[Verdict], Score]:
    """``answers.dataset``: a user's file (``--h20-accuracy``), read by :func:`pytest_h20.checks.endpoint.questions.load_dataset`."""
    return accuracy(api, questions, "answers.dataset", "The user's questions are answered rightly", Path(path).name)


@CHECKS.add(
    "answers.needle",
    "A number hidden in a long prompt is found",
    action="the model does not read its whole prompt: compare rope scaling and context settings with the model's config.json",
)
def check_needle(api: Api, say: Say) -> Sequence[Verdict] | Verdict:
    """A line with a number among filler, at 10, 50 and 90 % of a prompt near the limit. The number must be the answer."""
    if api.max_len < NEEDLE_MIN_CONTEXT:
        return say.skip(f"a context of {api.max_len} tokens is too short to hide something in (from {NEEDLE_MIN_CONTEXT} on)")
    most = api.budget(api.ctx.answer_tokens)
    room = min(api.max_len - most, NEEDLE_MAX_PROMPT)
    few, many = (prompt_tokens(api.chat(needle_prompt(lines, 0.5), max_tokens=1)) for lines in (10, 60))
    lines = int(0.9 * (room - few) / max(1.0, (many - few) / 50))
    depths = (0.1, 0.5, 0.9)
    replies = api.together(
        lambda depth: api.chat(needle_prompt(lines, depth), max_tokens=most, how={"deadline_s": api.ctx.seconds(10)}), depths
    )
    verdicts = []
    for depth, reply in zip(depths, replies, strict=True):
        question = Question("needle", "", needle_number(depth), "exact_number")
        given = grade(question, reply.choice.content, reply.choice.finish or "")
        here = say.about(f"depth {depth:.0%}")
        if not given.right and given.finish == "length":
            verdicts.append(here.unknown("cut at the token limit", "raise answer_tokens"))
        else:
            verdicts.append(here.problems([] if given.right else [given.why], of=1, prompt_tokens=reply.counts.prompt))
    return verdicts


def needle_number(depth: float) -> int:
    """The hidden number for one depth."""
    return random.Random(f"needle {depth}").randrange(10_000, 99_999)


def needle_prompt(lines: int, depth: float) -> str:
    """Numbered filler of so many lines with one line to find. Pure."""
    filler = [
        f"Entry {k}: rack {k % 42} reports a temperature of {20 + k * 7 % 13} degrees and a load of {k * 31 % 100} percent."
        for k in range(lines)
    ]
    filler.insert(int(lines * depth), f"Entry X: the secret number is {needle_number(depth)}.")
    return "Read this log.\n\n" + "\n".join(filler) + "\n\nWhat is the secret number in the log? Reply with the number only."


def compare_verdict(api: Api, first: str, second: str, one: Score, two: Score, subject: str) -> Verdict:
    """``answers.compare``: McNemar's exact test on the questions that only one of two engines got right. Pure."""
    action = "see the answers that only one engine got right"
    say = voice("answers.compare", "Both engines answer alike", action, api.ctx).about(f"{first} and {second}, {subject}")
    found: PairedAnswers = compare(one, two)
    limit = Limit(kind="min", value=SIGNIFICANCE, unit="p", origin=Origin(kind="derived", detail="McNemar's exact test at the 5 % level"))
    return say.judge(
        round(found.p_value, 6),
        limit,
        of=found.both + found.only_first + found.only_second + found.neither,
        reason=f"only {first} right: {found.only_first}, only {second} right: {found.only_second}",
        both=found.both,
        only_first=found.only_first,
        only_second=found.only_second,
        neither=found.neither,
    )
