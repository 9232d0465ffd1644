"""What the cells after the write-up's own come to: overload and recovery, a sweep of shapes, the chat route, a level that was promised.

Pure: figures in, verdicts out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_h20.checks.frame import Say
from pytest_h20.checks.throughput import AGAIN, judge_figure
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.load.metrics import RequestRecord, percentile
from pytest_h20.report.model import CellRow, Late

OVERLOAD, RECOVERY, SHAPES, CHAT, LEVEL = (
    f"throughput.{name}" for name in ("overload", "recovery", "shapes", "chat_route", "largest_concurrency")
)

# ---------------------------------------------------------------- overload

OVER = 1.25
"""Times its KV pool that an overload asks for: enough that an engine which admits by what is there has to put requests back."""

RECOVERED = 0.9
"""Part of the first figure that must come again: the tolerance of the write-up's own rows."""


def overload(subject: str, put_back: float | None, kv_use: float | None, complete: int, planned: int, pool: int, why: str) -> Verdict:
    """The overload itself. It is one only if the engine's own counter says that it put requests back.

    ``why``: what failed first, when not all were answered. ``pool``: tokens that the engine's KV cache holds.
    """
    title = "Pushed past its KV cache, the engine puts requests back and answers them all"
    fill = "" if kv_use is None else f", at most {kv_use:.0%} of the KV cache in use"
    if complete < planned:
        return judge(
            OVERLOAD,
            title,
            complete,
            Limit(kind="equal", value=planned, unit="requests answered", origin=Origin(kind="builtin", detail="a queue")),
            subject=subject,
            reason=f"{why}; the pool holds {pool} tokens, {OVER:g} times as many were asked for{fill}",
            action="read the engine's log: a request that finds no room must wait",
            looked_at=planned,
        )
    if not put_back:
        said = "its counter of requests put back did not move" if put_back is not None else "it does not tell how many it puts back"
        return Say(OVERLOAD, title, subject).plain(
            Status.UNKNOWN,
            f"{said}: an overload that overloads nothing shows nothing ({planned} requests, {OVER:g} x {pool} tokens{fill})",
            action="raise the engine's limit of running requests, or leave it out: load.beyond in the inventory",
            measured=put_back,
            unit="requests put back",
            of=planned,
        )
    limit = Limit(kind="min", value=1, unit="requests put back", origin=Origin(kind="builtin", detail="else it was no overload"))
    return judge(
        OVERLOAD, title, put_back, limit, subject=subject, reason=f"all {planned} answered{fill}", looked_at=planned, unit=limit.unit
    )


def recovery(subject: str, first: float, again: CellRow, doubts: str) -> Verdict:
    """The same cell as before the overload, against its own figure of then. ``doubts``: why it cannot be believed; empty when it can."""
    title = "After an overload the engine is as fast as before it"
    detail = f"{again.name} before the overload: {first:.4g} tok/s x {RECOVERED:g}"
    limit = Limit(kind="min", value=RECOVERED * first, unit="tok/s", origin=Origin(kind="derived", detail=detail))
    action = "start the engine anew; then see how it frees what it put back (sglang#26248: 14 times slower, for good)"
    held = judge_figure(_believed(again), "output_throughput", limit)
    status, reason = (Status.UNKNOWN, doubts) if doubts else (held.status, held.reason)
    told = {"check": RECOVERY, "title": title, "subject": subject, "status": status, "reason": reason, "action": action}
    return held.model_copy(update={**told, "looked_at": again.requests})


def _believed(cell: CellRow) -> CellRow:
    """The cell without its own doubts: what of them counts here is given apart."""
    return cell.model_copy(update={"status": Status.PASS, "reason": ""})


# ---------------------------------------------------------------- shapes

STALL_TIMES = 30
"""A stall is longer than so many ordinary gaps: the joint prefill of a few long prompts is some 20 at 8 streams. An ordinary gap is the
TPOT in the middle: the median ITL of tokens that come two at a time is nothing."""

FEWEST_SHAPES = 8


@dataclass(frozen=True)
class Pass:
    """One pass over the shapes. Milliseconds of model time. ``stall_ms``: the longest wait; ``where``: of which request, in words."""

    stall_ms: float
    usual_ms: float
    shapes: int
    complete: int
    planned: int
    where: str = ""


def seen_in(records: Sequence[RequestRecord], usual_ms: float | None, planned: int) -> Pass:
    """A pass as its requests tell it. A wait is a gap between two token events, or what a first token takes longer than the one in the
    middle: while a kernel is compiled for a new shape nobody gets a token."""
    complete = [r for r in records if r.complete and r.ttft_s is not None]
    if not complete or not usual_ms:
        return Pass(0.0, 0.0, 0, len(complete), planned)
    usual = percentile(sorted(r.ttft_s or 0.0 for r in complete), 50)
    waits = [(max(r.silence_s or 0.0, (r.ttft_s or 0.0) - usual), r) for r in complete]
    longest, record = max(waits, key=lambda pair: pair[0])
    shapes = {(r.asked_input, r.asked_output) for r in complete}
    return Pass(1e3 * longest, usual_ms, len(shapes), len(complete), planned, f"{record.asked_input} in, {record.asked_output} out")


def shapes(subject: str, first: Pass, second: Pass, late: Late | None = None) -> Verdict:
    """The second pass has no stall; one in the first pass only is told. ``late``: of a rehearsal, its own machine in the second pass."""
    title = "A mix of shapes that was seen before stalls nobody"
    most = STALL_TIMES * second.usual_ms
    said = (
        f"{second.shapes} shapes twice; longest wait {first.stall_ms:.0f} ms in the first pass ({first.where}), "
        f"{second.stall_ms:.0f} ms in the second ({second.where}); median TPOT {second.usual_ms:.4g} ms"
    )

    def plain(status: Status, reason: str, action: str) -> Verdict:
        measured = round(second.stall_ms, 1)
        return Say(SHAPES, title, subject).plain(status, reason, action=action, measured=measured, unit="ms", of=second.shapes)

    for name, one in (("first", first), ("second", second)):
        if one.complete < one.planned:
            return plain(Status.FAIL, f"{one.complete} of {one.planned} requests of the {name} pass were answered", "read the engine's log")
    if min(first.shapes, second.shapes) < FEWEST_SHAPES or not most:
        why = f"{second.shapes} different shapes were measured, a sweep has {FEWEST_SHAPES} at least"
        return plain(Status.UNKNOWN, why, "see load.shapes and the model's context length")
    limit = Limit(
        kind="max",
        value=round(most, 1),
        unit="ms",
        origin=Origin(kind="derived", detail=f"{STALL_TIMES} x the median TPOT of the second pass"),
    )
    verdict = judge(
        SHAPES,
        title,
        round(second.stall_ms, 1),
        limit,
        subject=subject,
        reason=said,
        action="compile ahead of serving (SGLang: python3 -m sglang.compile_deep_gemm; keep its cache), or warm up with these shapes",
        looked_at=second.shapes,
    )
    if verdict.status is Status.FAIL and late is not None and second.stall_ms - late.worst_ms <= most:
        return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": f"{late.words}; {said}", "action": AGAIN})
    if verdict.status is Status.PASS and first.stall_ms > most:
        return verdict.model_copy(update={"status": Status.WARN, "reason": f"only a shape that is new stalls: {said}"})
    return verdict


# ---------------------------------------------------------------- the chat route

CHAT_PART = 0.7
"""Part of the native route's rate that the chat route must have: it adds a template, a parser and larger events, and no computing."""


def chat_route(subject: str, native: CellRow, chat: CellRow, doubts: str) -> Verdict:
    """A cell through ``/v1/chat/completions`` against the same cell through the route of the load."""
    first = native.output_throughput or 0.0
    detail = f"{native.name} through the load's own route in the same run: {first:.4g} tok/s x {CHAT_PART:g}"
    limit = Limit(kind="min", value=CHAT_PART * first, unit="tok/s", origin=Origin(kind="derived", detail=detail))
    held = judge_figure(_believed(chat), "output_throughput", limit)
    status, reason = (Status.UNKNOWN, doubts) if doubts else (held.status, held.reason)
    if not first:
        status, reason = Status.UNKNOWN, f"{native.name} was not measured through the load's own route"
    action = "users come through this route: see its parsers (reasoning, tools), the tokenizer process and any proxy before it"
    return held.model_copy(
        update={
            "check": CHAT,
            "title": "The chat route is as fast as the engine's own",
            "subject": subject,
            "status": status,
            "reason": reason,
            "action": action,
            "looked_at": chat.requests,
        }
    )


# ---------------------------------------------------------------- a level that was promised


@dataclass(frozen=True)
class Level:
    """One concurrency and the part of its requests that kept the service level; None: it could not be measured."""

    concurrency: int
    share: float | None


CLOSE = 1.15
"""The search ends when the smallest that fails is at most so many times the largest that holds."""


def next_level(levels: Sequence[Level], share: float, most: int) -> int | None:
    """Which concurrency to measure next, between the largest that holds and the smallest that does not; None: it is known well enough."""
    holds = max((one.concurrency for one in levels if one.share is not None and one.share >= share), default=0)
    fails = min((one.concurrency for one in levels if one.concurrency > holds and (one.share is None or one.share < share)), default=None)
    if fails is None:
        return min(2 * max(holds, 1), most) if holds < most else None
    if holds == 0:
        return fails // 2 or None if fails > 1 else None
    if fails <= CLOSE * holds or fails - holds <= 1:
        return None
    return min(fails - 1, max(holds + 1, round(math.sqrt(holds * fails))))


def largest(subject: str, levels: Sequence[Level], share: float, promised: str) -> Verdict:
    """The largest concurrency that keeps the service level: told, and held against nothing."""
    known = [one for one in levels if one.share is not None]
    holds = max((one.concurrency for one in known if (one.share or 0.0) >= share), default=0)
    fails = min((one.concurrency for one in known if one.concurrency > holds), default=None)
    points = ", ".join(
        f"{one.concurrency}: {one.share:.1%}" for one in sorted(known, key=lambda one: one.concurrency) if one.share is not None
    )
    say = Say(LEVEL, "The largest concurrency that keeps the service level asked for", subject)
    if not known:
        return say.unknown("no concurrency could be measured")
    told = f"{holds} at once keep {promised}" if holds else f"not even {min(one.concurrency for one in known)} at a time keep {promised}"
    told += f", {fails} do not" if fails is not None and holds else " (more were not tried)" if holds else ""
    return say.plain(
        Status.PASS if holds else Status.WARN,
        f"{told}; part of the requests that kept it, by concurrency: {points}",
        measured=holds,
        unit="streams",
        limit=Limit(kind="info", unit="streams", origin=Origin(kind="inventory", detail=f"--h20-slo: {promised}")),
        of=len(known),
    )


# ---------------------------------------------------------------- long work

LONG_PROMPT, LONG_TOGETHER, LONG_ANSWER = (f"throughput.{name}" for name in ("long_prompt", "long_together", "long_answer"))

CODES = 20
"""Codes that are spread over a long prompt, one in each twentieth of it."""

NEIGHBOURS = 2
"""So many codes in a row may be missing from an answer; three are a hole of 15 % of the prompt, and no slip of a model."""

UNDERSTOOD = 0.9
"""Part of the codes of a short prompt that a model must give back, else long ones show nothing."""


@dataclass(frozen=True)
class Sought:
    """A prompt with codes in it. ``tokens``: of the prompt, by the server's count; None: it was not answered, see ``failed``."""

    tokens: int | None
    found: tuple[bool, ...] = ()
    failed: str = ""

    @property
    def hole(self) -> tuple[int, int]:
        """(first code, number) of the longest row of missing ones."""
        best, begin = (0, 0), 0
        for at, found in enumerate((*self.found, True)):
            if found:
                best = max(best, (begin, at - begin), key=lambda hole: hole[1])
                begin = at + 1
        return best

    @property
    def words(self) -> str:
        """What came back."""
        if self.tokens is None:
            return f"not answered: {self.failed}"
        first, missing = self.hole
        n = len(self.found)
        told = f"{sum(self.found)} of {n} codes of {self.tokens} tokens came back"
        return told + (f"; none between {first / n:.0%} and {(first + missing) / n:.0%} of the prompt" if missing > NEIGHBOURS else "")


def understands(short: Sought) -> bool:
    """Whether the model gives the codes of a short prompt back."""
    return bool(short.found) and sum(short.found) >= UNDERSTOOD * len(short.found)


def long_prompts(check: str, title: str, subject: str, wanted: int, seen: Sequence[Sought], short: Sought, *, must: bool) -> Verdict:
    """Prompts of ``wanted`` tokens. ``must``: the model is one that reads such prompts; of another, codes are not asked back."""
    say = Say(check, title, subject)
    lost = [one for one in seen if one.tokens is None]
    if lost or not seen:
        why = f"{len(lost)} of {len(seen)} prompts of some {wanted} tokens: {lost[0].words}" if lost else "nothing was sent"
        action = "claim less (--context-length, --max-model-len), or give the KV cache and the prefill more memory"
        return say.plain(Status.FAIL if lost else Status.UNKNOWN, why, action=action, of=len(seen))
    fewest = min(one.tokens or 0 for one in seen)
    if fewest < 0.9 * wanted:
        why = f"the server counted {fewest} tokens where some {wanted} were meant: it was no long prompt"
        return say.plain(Status.UNKNOWN, why, of=len(seen))
    if not understands(short):
        status = Status.UNKNOWN if must else Status.SKIP
        told = f"all were answered; what was read cannot be seen, since of a short prompt {short.words}"
        return say.plain(status, told, of=len(seen))
    worst = max(seen, key=lambda one: one.hole[1])
    limit = Limit(kind="max", value=NEIGHBOURS, unit="codes in a row", origin=Origin(kind="builtin", detail="three are 15 % of the prompt"))
    action = "the claimed context is not all read: compare chunked prefill, prefix cache and attention backend at this length"
    return judge(
        check,
        title,
        worst.hole[1],
        limit,
        subject=subject,
        reason=worst.words,
        action=action,
        looked_at=sum(len(one.found) for one in seen),
    )


def long_answer(subject: str, asked: int, got: int | None, why: str) -> Verdict:
    """One answer of ``asked`` tokens with its end ignored; ``got``: the server's count, None when there was no answer."""
    limit = Limit(kind="min", value=asked, unit="tokens", origin=Origin(kind="protocol", detail="max_tokens with ignore_eos"))
    return judge(
        LONG_ANSWER,
        "A long answer comes to its end",
        0 if got is None else got,
        limit,
        subject=subject,
        reason=why,
        action="something ends answers early: a limit of the engine's, a proxy's time-out (see the engine's log and the time it took)",
        looked_at=1,
    )
