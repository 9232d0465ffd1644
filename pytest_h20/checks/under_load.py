"""Answers under load: which canaries a cell gets, what each of them said, and what that comes to. Pure.

Meaning is judged, not bytes: a greedy text may differ with the batch it was computed in, the number in it may not. Only what the
engine answered rightly *alone*, one stream at a time before the first cell, is asked under load, so that a wrong answer is the
load's and not the model's.

What a healthy engine may get wrong all the same is bounded by an exact binomial test: at :data:`SLIP` per answer, the most wrong
answers that happen with a chance of at least :data:`CHANCE`. Intervals that are shown are Wilson's, 95 %.
"""

from __future__ import annotations

import difflib
import functools
import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from pytest_h20.checks.endpoint.questions import Question, Score, compare, grade, shipped
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.endpoint.stats import wilson
from pytest_h20.load.canary import Canary, CanaryAnswer, Form, TextCounts
from pytest_h20.load.metrics import COMPLETE
from pytest_h20.report.model import Canaries

FROM_STREAMS = 8
"""Cells of fewer streams carry no canaries: what one user sees is asked before the load."""
FEWEST = 2
"""Canaries of a cell, at least."""
SLIP = 0.005
"""Part of the answers, right alone, that a healthy engine may get wrong under load. Ours: 300 graded answers of the lab's engines on a CPU
were all right (docs/measured.md), which bounds it by 1 %; at 2 % one bad replica of sixteen would be missed too often."""
CHANCE = 0.001
NEAR = 0.6
"""From this likeness on (difflib) an answer is a copy of its nonce with a slip, not somebody else's answer."""
ALL_TEXTS = 0.9
"""Part of a cell's ordinary answers from which on their text is told to be none: random ids make a healthy model babble, too."""
EXAMPLES = 5

_ASKED = (
    "arith-add",
    "arith-mul-big",
    "arith-sub",
    "arith-div",
    "arith-power",
    "arith-root",
    "arith-factorial",
    "arith-sum",
    "compare-max",
    "unit-hours",
    "unit-km",
    "unit-days",
    "unit-gram",
    "unit-gib",
    "unit-hex",
    "arith-zh-sub",
    "word-speed",
    "sequence-prime",
    "arith-lcm",
    "unit-celsius",
)
"""Questions of the shipped set that have one number for an answer, which no other one has, and need no thinking."""

_WORDS = ("maple", "river", "stone", "amber", "cloud", "tiger", "piano", "lemon", "field", "north", "olive", "robin", "candle", "violet")
NONCE = re.compile(r"[A-Z]\d-[a-z]+-\d{4}")


@functools.cache
def candidates() -> Mapping[str, Question]:
    """The questions that canaries ask, by id."""
    known = {question.id: question for question in shipped()}
    return {name: known[name] for name in _ASKED}


def nonce_of(dice: random.Random) -> str:
    """A text that nobody else sends: one of some billions."""
    letter, words = dice.choice("ABCDEFGHJKLMNPQRSTUVWXYZ"), dice.choice(_WORDS) + dice.choice(_WORDS)
    return f"{letter}{dice.randrange(10)}-{words}-{dice.randrange(1000, 10_000)}"


def words_of(id: str) -> str:
    """What is asked: a question, or to repeat a nonce."""
    question = candidates().get(id)
    return question.question if question is not None else f"Repeat exactly, and nothing else: {id}"


def canary(form: Form, id: str, kind: str) -> Canary:
    """One canary as it is sent."""
    return Canary(id, kind, form.prompt(words_of(id)), form.end, form.opens)


@dataclass(frozen=True)
class Alone:
    """What the engine answered at one stream, before the first cell.

    form    in which it answered; None: it answered in none, and there is nothing that could be asked under load
    right   ids of the questions answered rightly; ``asked`` were asked
    nonces  whether a nonce came back
    why     what it said instead, when it answered in no form
    """

    form: Form | None
    right: tuple[str, ...] = ()
    asked: int = 0
    nonces: bool = False
    why: str = ""


def is_right(id: str, text: str) -> bool:
    """Whether an answer is the right one for what was asked."""
    question = candidates().get(id)
    return id in text if question is None else grade(question, text).right


def count_of(share: float, concurrency: int, requests: int) -> int:
    """How many canaries a cell gets."""
    if concurrency < FROM_STREAMS or share <= 0:
        return 0
    return min(requests, max(FEWEST, round(share * requests)))


def canaries_of(alone: Alone, count: int, seed: str) -> tuple[Canary, ...]:
    """So many canaries: in turn a nonce, one and the same question, and a question for each. The same seed gives the same."""
    if alone.form is None or not alone.right:
        return ()
    dice = random.Random(seed)
    order = dice.sample(alone.right, len(alone.right))
    twin, others = order[0], order[1:] or order
    made: list[Canary] = []
    for i in range(count):
        turn = i % 3
        if turn == 0 and alone.nonces:
            made.append(canary(alone.form, nonce_of(dice), "nonce"))
        elif turn == 1:
            made.append(canary(alone.form, twin, "twin"))
        else:
            made.append(canary(alone.form, others[i // 3 % len(others)], "question"))
    return tuple(made)


# ---------------------------------------------------------------- what was said


def reading(answer: CanaryAnswer, others: Collection[str]) -> str:
    """What a canary said, in one word: a field of :class:`~pytest_h20.report.model.Canaries`, ``right``, ``wrong`` or ``lost``.

    ``others``: ids of all canaries of the cell.
    """
    if answer.outcome not in COMPLETE:
        return "failed"
    text = answer.text.strip()
    if not text:
        return "blank"
    if not answer.ended:
        return "flood" if 0 < answer.period <= 8 else "loop" if answer.period else "cut"
    if is_right(answer.id, text):
        return "right"
    if any(found != answer.id for found in NONCE.findall(text)) and not _near(answer.id, text):
        return "swapped"
    if any(other != answer.id and text == candidates()[other].answer for other in others if other in candidates()):
        return "swapped"
    return "lost" if answer.kind == "nonce" and not _near(answer.id, text) else "wrong"


def _near(id: str, text: str) -> bool:
    return difflib.SequenceMatcher(None, id, text[: 4 * len(id)], autojunk=False).ratio() >= NEAR


def seen(answers: Sequence[CanaryAnswer], texts: TextCounts) -> Canaries:
    """A cell's canaries, counted."""
    others = {answer.id for answer in answers}
    counts: dict[str, int] = {}
    examples: list[str] = []

    def add(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1

    for answer in answers:
        said = reading(answer, others)
        if said != "right" and len(examples) < EXAMPLES:
            examples.append(f"{answer.id}: {said}: {answer.detail if said == 'failed' else repr(answer.text[:60])}")
        if said not in ("right", "wrong", "lost"):
            add(said)
            continue
        group, good = {"nonce": ("nonces", "back"), "twin": ("twins", "alike")}.get(answer.kind, ("questions", "right"))
        add(group)
        if said == "right":
            add(good)
        elif said == "lost":
            add("lost")
    return Canaries(
        asked=len(answers),
        texts=texts.seen,
        texts_empty=texts.empty,
        texts_one_token=texts.one_token,
        examples=tuple(examples),
        **counts,
    )


def together(cells: Sequence[Canaries]) -> Canaries:
    """Several cells as one."""
    names = [name for name in Canaries.model_fields if name != "examples"]
    total = {name: sum(getattr(cell, name) for cell in cells) for name in names}
    return Canaries(**total, examples=tuple(text for cell in cells for text in cell.examples)[:EXAMPLES])


# ---------------------------------------------------------------- what it comes to


@functools.cache
def allowed(n: int) -> int:
    """The most of n answers that a healthy engine gets wrong with a chance of at least ``CHANCE``: exact binomial tail at ``SLIP``."""
    k, term, below = 0, (1 - SLIP) ** n, 0.0
    while k < n and 1 - below - term >= CHANCE:  # the chance of more than k
        below += term
        term *= (n - k) / (k + 1) * SLIP / (1 - SLIP)
        k += 1
    return k


def _limit(n: int, unit: str) -> Limit:
    detail = f"exact binomial test: of {n}, more are wrong by chance in less than {CHANCE:.1%} of runs when {SLIP:.1%} of answers are"
    return Limit(kind="max", value=allowed(n), unit=unit, origin=Origin(kind="derived", detail=detail))


ANSWERS = "throughput.answers"
TEXT = "throughput.text"
AGREEMENT = "throughput.agreement"
SWAPPED = "throughput.swapped"
CUT = "throughput.cut"
AFTER = "throughput.after_load"

TITLES = {
    ANSWERS: "Under load, questions are answered as they are alone",
    TEXT: "Under load, answers are texts: not blank, no single token for ever",
    AGREEMENT: "Identical prompts in flight at once get the same answer",
    SWAPPED: "Nobody gets somebody else's answer",
    CUT: "Under load, answers end where they end alone",
    AFTER: "After the load, the graded questions are answered as before it",
}

_WRONG = (
    "ask the same at fewer streams until it is right; then switch off, one at a time: CUDA graphs, prefix cache, chunked prefill, "
    "overlap scheduling"
)


def voice(check: str, subject: str, *evidence: str) -> Say:
    """What makes the verdicts of one check about a cell, or about all cells of an engine."""
    return Say(check, TITLES[check], subject, evidence)


def _held(say: Say, measured: int, n: int, limit: Limit, reason: str, action: str, seen: Canaries) -> Verdict:
    """A count among ``n`` against the most that is allowed; what was seen is in the details."""
    shown: dict[str, JsonValue] = {k: v for k, v in seen.model_dump(mode="json").items() if v}
    return say.judge(measured, limit, of=n, reason=reason, action=action, details={**shown, "said": reason})


def verdicts(found: Canaries, subject: str, *evidence: str) -> list[Verdict]:
    """Everything about the answers of a cell, or of all cells together."""
    if not found.asked:
        why = "no canary was sent: nobody knows what the engine answers under load"
        return [voice(ANSWERS, subject, *evidence).unknown(why, "see load.canaries in the inventory")]

    def about(check: str) -> Say:
        return voice(check, subject, *evidence)

    text, cut, swapped = _text(about(TEXT), found), _cut(about(CUT), found), _swapped(about(SWAPPED), found)
    told = [v for v in (text, cut, swapped) if v.status is Status.FAIL]
    answers = _answers(about(ANSWERS), found, told)
    return [answers, _agreement(about(AGREEMENT), found, [*told, answers]), swapped, cut, text]


def _answers(say: Say, found: Canaries, told: Sequence[Verdict]) -> Verdict:
    n = found.graded
    if not n:
        if told:
            return say.skip(f"{found.words}: no answer is left to grade, see {told[0].check}")
        if found.failed == found.asked:
            return say.skip(f"{found.words}: the requests themselves failed, see throughput.sanity")
        return say.unknown(f"{found.words}: none gave an answer that could be graded")
    good = n - found.wrong
    low, high = wilson(good, n)
    reason = f"{good} of {n} right, all of which are right alone (95 % interval {low:.1%} to {high:.1%})"
    reason += "".join(f"; {text}" for text in found.examples[:3])
    return _held(say, found.wrong, n, _limit(n, "wrong answers"), reason, _WRONG, found)


def _agreement(say: Say, found: Canaries, told: Sequence[Verdict]) -> Verdict:
    wrong = found.twins - found.alike
    red = [v for v in told if v.status.blocks]
    if red and (not found.twins or wrong > allowed(found.twins)):
        return say.skip(f"{found.words}: what they say is no answer, see {red[0].check}")
    if not found.twins:
        why = f"{found.words}: no identical prompts gave an answer"
        return say.skip(why) if found.failed else say.unknown(why)
    reason = f"{found.alike} of {found.twins} say what the same prompt says alone" + "".join(f"; {text}" for text in found.examples[:3])
    return _held(say, wrong, found.twins, _limit(found.twins, "other answers"), reason, _WRONG, found)


def _swapped(say: Say, found: Canaries) -> Verdict:
    """Somebody else's text can be no slip. A nonce of which nothing came back is one, too, where everything else is right."""
    keyed = found.graded + found.swapped
    if not keyed:
        why = f"{found.words}: no answer by which a swap could be seen"
        return say.skip(why) if found.degenerate + found.cut + found.failed else say.unknown(why)
    strange = found.swapped + (found.lost if found.wrong <= allowed(found.graded) else 0)
    reason = f"{strange} of {keyed} answers belong to somebody else; " if strange else f"none of {keyed} answers belongs to somebody else; "
    # rule of three: with none in n, the rate is below 3/n with 95 %
    reason += f"a swap in {max(1, keyed // 3)} answers or fewer would have been seen with 95 %"
    reason += "".join(f"; {text}" for text in found.examples[:3])
    limit = Limit(kind="equal", value=0, unit="answers", origin=Origin(kind="builtin", detail="an answer belongs to one user"))
    action = "stop serving: users read each other's answers; keep the engine's log and version, and ask at fewer streams"
    return _held(say, strange, keyed, limit, reason, action, found)


def _cut(say: Say, found: Canaries) -> Verdict:
    n = found.asked - found.failed - found.degenerate
    if not n:
        return say.skip(f"{found.words}: no answer that could have ended")
    reason = f"{found.cut} of {n} did not end within the cell's answer length, all of which do alone"
    action = "the model goes on thinking or rambling: compare with the same questions at one stream, before and after"
    return _held(say, found.cut, n, _limit(n, "endless answers"), reason, action, found)


def _text(say: Say, found: Canaries) -> Verdict:
    """Canaries decide. The ordinary load's own text is told: random ids make a healthy model babble, too."""
    n, bad = found.asked - found.failed, found.degenerate
    if not n:
        return say.skip(f"{found.words}: the requests themselves failed, see throughput.sanity")
    kinds = f"{found.blank} blank, {found.flood} one token for ever, {found.loop} loops"
    reason = f"{bad} of {n} canaries are no text ({kinds}); {_texts(found)}"
    action = "an engine that counts tokens and says nothing is broken: read the cell's record, then the engine's log"
    verdict = _held(say, bad, n, _limit(n, "canaries"), reason, action, found)
    if verdict.status is Status.PASS and (told := ordinary_text(found)):
        return verdict.model_copy(update={"status": Status.WARN, "reason": told})
    return verdict


def _texts(found: Canaries) -> str:
    if not found.texts:
        return "the text of the ordinary load was not seen"
    return f"of {found.texts} answers to random ids {found.texts_empty} have no text and {found.texts_one_token} are one token for ever"


def ordinary_text(found: Canaries) -> str:
    """What is strange about the text of the ordinary load; empty when nothing is."""
    least = max(FROM_STREAMS, math.ceil(ALL_TEXTS * found.texts))
    strange = found.texts >= FROM_STREAMS and max(found.texts_empty, found.texts_one_token) >= least
    return f"{_texts(found)}, although the canaries are answered" if strange else ""


# ---------------------------------------------------------------- after the last cell

SURE = 0.02


def after_load(say: Say, before: Score | None, now: Score, lowest: Limit, cells: int) -> Verdict:
    """The graded set asked again. Red when the set's own limit does not hold, or when significantly more answers were lost than won."""
    told = f"after {cells} cells: {now.right} of {now.n} right" + (f", {before.right} before" if before is not None else "")
    failed = [g for g in now.grades if g.finish == "error"]
    if failed:
        return say.unknown(
            f"{len(failed)} of {now.n} requests failed after the load, the first: {failed[0].why}",
            "the engine does not answer any more as it did: see its log",
        )
    low, _ = now.interval
    action = "the load has spoilt the engine: start it anew, ask again, and find the cell after which the answers change"
    wrong = "; ".join(f"{g.id}: {g.why}" for g in now.grades if not g.right)
    verdict = say.judge(
        round(low, 4),
        lowest,
        of=now.n,
        reason=f"{told}, {now.cut} cut while thinking; {wrong[:300]}",
        action=action,
        details={"said": told, "right": now.right, "n": now.n, "cut": now.cut},
    )
    if before is None or not before.n or verdict.status is not Status.PASS:
        return verdict
    changed = compare(before, now)
    if changed.only_first > changed.only_second and changed.p_value < SURE:
        cut = sum(g.finish == "length" for g in now.grades) - sum(g.finish == "length" for g in before.grades)
        reason = f"{told}: {changed.only_first} answers were lost and {changed.only_second} won (McNemar's exact p = {changed.p_value:.4f})"
        reason += f", {cut} more are cut while thinking" if cut > 0 else ""
        return verdict.model_copy(update={"status": Status.FAIL, "reason": f"{reason}; {wrong[:300]}", "action": action})
    return verdict
