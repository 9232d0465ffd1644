"""Canaries: prompts with a known answer among the random ids of a cell, in the very shape of an ordinary request.

A canary goes the load's own route, asks for exactly as many tokens as any request of the cell (`ignore_eos`) and shows the end of
its answer as text (`skip_special_tokens: false`): what the model says after that is rambling and is not looked at. So the load stays
the named one: a canary holds its stream as long as a request of random ids does, its tokens are counted in the rates, and only its
latencies are kept out of the figures, since its prompt is shorter.

Who knows what is right (`pytest_h20.checks`) makes the canaries and judges what came back; here they are only sent and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("question", "twin", "nonce")
"""A question with a known answer; one that is asked several times in the same cell; a text that must come back as it was sent."""

KEPT = 600
"""Characters of an answer that are kept: an answer is short, and what never ends is known by its beginning and its end."""

SHORTEST = 24
"""Characters from which on a text that repeats itself is taken for a flood or a loop."""
LONGEST_PERIOD = 80
"""Characters of the longest phrase that is looked for when a text may be a loop."""


@dataclass(frozen=True)
class Form:
    """How a question becomes a prompt of plain text. `end` ends the answer, which begins after `opens` ("" = at once)."""

    name: str
    before: str
    after: str
    end: str
    opens: str = ""

    def prompt(self, text: str) -> str:
        return self.before + text + self.after


EOS = "<｜end▁of▁sentence｜>"
FORMS = (
    Form("answer", "<｜User｜>", "<｜Assistant｜><think>\n\n</think>\n\n", EOS),
    Form("thinking", "<｜User｜>", "<｜Assistant｜><think>\n", EOS, "</think>"),
    Form(
        "plain",
        "Q: What is 3 + 4? Reply with the number only.\nA: 7\n\nQ: Repeat exactly, and nothing else: B7-kite-4410\nA: B7-kite-4410\n\nQ: ",
        "\nA:",
        "\n",
    ),
)
"""Tried in this order: DeepSeek-R1's template with the thinking closed, the same with it open, and one that any language model
completes. The first two are what R1's `chat_template` makes of one user message; its answer ends in the token EOS."""


@dataclass(frozen=True)
class Canary:
    """One prompt. `id` is the question's, or the nonce itself; what the answer must be is known to whoever made it."""

    id: str
    kind: str
    prompt: str
    end: str
    opens: str = ""


@dataclass(frozen=True)
class CanaryAnswer:
    """What came back, as part of the cell's record. Times in seconds of model time from the start of the cell.

    ended    the end of the answer was seen; `text` is the answer. Else `text` is what was said so far, shortened
    tokens   the server's count, the rambling after the answer included
    period   of a text that never ended: characters of the phrase that it, or its second half, repeats to its end (0 = it does not)
    outcome  as `loop.OUTCOMES`
    """

    number: int
    id: str
    kind: str
    outcome: str
    detail: str
    text: str
    ended: bool
    tokens: int
    period: int = 0
    sent_s: float = 0.0
    end_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TextCounts:
    """The text of the ordinary load: complete answers whose text could be seen, those without any although the server counted
    tokens, and those of one token, or of one short phrase, for ever."""

    seen: int = 0
    empty: int = 0
    one_token: int = 0


def answer_of(canary: Canary, text: str) -> tuple[str, bool, int]:
    """(the answer, True, 0), or (what was said, False, its `period`) when it never ended. A stop that the engine itself made counts
    as an end when the caller appends `canary.end`."""
    begin = text.find(canary.opens) if canary.opens else 0
    body = text[begin + len(canary.opens) :].lstrip() if begin >= 0 else ""
    end = body.find(canary.end)
    if end < 0:
        return kept(text), False, period(text) or period(text[len(text) // 2 :])
    return kept(body[:end].strip()), True, 0


def kept(text: str) -> str:
    """The text, shortened in the middle."""
    return text if len(text) <= KEPT else f"{text[: KEPT * 2 // 3]} … {text[-KEPT // 3 :]}"


def period(text: str) -> int:
    """Length of the phrase that a text consists of from its beginning to its end, 0 when there is none up to `LONGEST_PERIOD`
    characters or the text is too short to tell. Three repeats at least."""
    text = text.strip() or text
    if len(text) < SHORTEST:
        return 0
    for size in range(1, min(LONGEST_PERIOD, len(text) // 3) + 1):
        if text[size:] == text[:-size]:
            return size
    return 0


def places(canaries: Sequence[Canary], planned: int | None) -> dict[int, Canary]:
    """Which request of a cell is which canary: spread evenly over all of them. `planned` None (bounded by time): every twentieth."""
    count = len(canaries)
    if planned is None:
        return {20 * i + 10: canary for i, canary in enumerate(canaries)}
    count = min(count, planned)
    return {(2 * i + 1) * planned // (2 * count): canaries[i] for i in range(count)}
