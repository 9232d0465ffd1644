"""What the stand-in's engine says to a canary: the right answer in the tokens of a load's request, and every way to be wrong.

A canary is a request of the load whose prompt is text (`load/canary.py`): a question in R1's template with its thinking closed, or a
text to repeat. What comes after the end of the answer is rambling, as of a real engine that was told to ignore its end. Knobs
(``EngineTruth.http``), beside those of ``server.py``:

``rubbish_above``     from more than so many requests in flight on, letters without sense
``rubbish_after``     the same after so many requests
``rubbish_replica``   of so many replicas one says letters without sense, whoever asks it (replica: by connection)
``rubbish_rank``      the data-parallel rank of this number does, when it is named; the balancer has not found it yet
``swap_every``        the so many-th canary gets the answer of the user before it
``twins_differ``      of prompts that are in flight twice, every second one gets another answer
``never_ends_after``  after so many requests an answer begins and never ends
``flood_above``       from more than so many requests in flight on, "!" for ever, whatever was asked
``blank_above``       the same with no text at all; usage is right
``nonsense_after``    once more than so many were in flight and have ended, no answer is right any more, on any route
``hole``              [from, to]: that part of every long prompt is not read
``usable``            tokens of a prompt that are read, whatever was claimed
``canaries_refused``  a prompt that is text is refused
``wordy``             right answers in other words than alone: no fault
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_h20.load.canary import EOS, FORMS
from pytest_h20.rehearsal.language import Language

_ANSWER, _THINKING, _PLAIN = FORMS
_REPEAT = re.compile(r"Repeat exactly, and nothing else: (.+)")
_CODE = re.compile(r"The code of part \d+ is (\d+)")
LONG = 100_000
"""Characters from which on a prompt is a long one."""
_TOKEN = 4
"""Characters of a token of an answer."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class CanaryAnswers:
    """What is said to text prompts of the load. One per server; not thread-safe."""

    def __init__(self, language: Language, knobs: Mapping[str, Any]) -> None:
        self._language, self._knobs = language, knobs
        self._flying: Counter[str] = Counter()
        self._asked = 0
        self._before = ""

    def _above(self, knob: str, running: int) -> bool:
        return bool(self._knobs.get(knob)) and running > int(self._knobs[knob])

    def ordinary(self, running: int, tokens: int) -> list[str] | None:
        """The texts of the tokens of a request of random ids; None: what the server says anyway."""
        if self._above("flood_above", running):
            return ["!"] * tokens
        return [""] * tokens if self._above("blank_above", running) else None

    def pieces(
        self, prompt: str, tokens: int, running: int, served: int, connection: int, sunk: float = 0.0, rank: int | None = None
    ) -> list[str]:
        """The texts of exactly so many tokens. ``running``: requests in flight, ``served``: requests so far, ``sunk``: part of the answers
        that is wrong by now, ``rank``: the data-parallel rank that was named."""
        flood = self.ordinary(running, tokens)
        if flood is not None:
            return flood
        self._asked += 1
        bad = (self._asked * 0.618) % 1 < sunk or (rank is not None and rank == self._knobs.get("rubbish_rank"))
        said, every = self._answer(prompt, running, served, connection, bad), int(self._knobs.get("swap_every", 0))
        mine = self._before if every and self._asked % every == 0 else said
        self._before = said
        words = [mine[i : i + _TOKEN] for i in range(0, len(mine), _TOKEN)]
        after = self._knobs.get("never_ends_after")
        endless = after is not None and served > int(after)
        end = [] if endless else [EOS]
        return list(itertools.islice(itertools.chain(words, end, self._rambling(prompt)), tokens))

    def took_off(self, prompt: str) -> None:
        """A canary is in flight."""
        self._flying[prompt] += 1

    @property
    def long(self) -> int:
        """Long prompts in flight."""
        return sum(count for prompt, count in self._flying.items() if len(prompt) > LONG)

    def landed(self, prompt: str) -> None:
        """It is over."""
        self._flying[prompt] -= 1

    def _answer(self, prompt: str, running: int, served: int, connection: int, bad: bool) -> str:
        knobs = self._knobs
        rubbish = bad or self._above("rubbish_above", running) or ("rubbish_after" in knobs and served > int(knobs["rubbish_after"]))
        if replicas := knobs.get("rubbish_replica"):
            rubbish = rubbish or hashlib.sha256(b"%d" % connection).digest()[0] % int(replicas) == 0
        right = self._right(prompt)
        if rubbish or right is None or self._language.spoilt:
            return "".join(itertools.islice(self._rambling(f"{prompt} {served}"), 12))
        if knobs.get("twins_differ") and self._flying[prompt] % 2:
            return f"{right}1"
        return f"The answer is {right}." if knobs.get("wordy") and served % 2 else right

    def _right(self, prompt: str) -> str | None:
        if not (prompt.startswith(_ANSWER.before) and prompt.endswith(_ANSWER.after)):
            return None  # R1 with its thinking open needs more tokens than a request of the load has; plain text it rambles on
        asked = prompt.removeprefix(_ANSWER.before).removesuffix(_ANSWER.after)
        if "The code of part " in asked:
            return self._codes(asked)
        repeat = _REPEAT.fullmatch(asked)
        if repeat:
            return repeat[1]
        known = self._language.known(asked)
        return None if known is None else known.rpartition("</think>")[2].strip()

    def _codes(self, text: str) -> str:
        """The codes of a text, those left out that a fault keeps from being read."""
        low, high = self._knobs.get("hole", (0.0, 0.0)) if len(text) > LONG else (0.0, 0.0)
        readable = _TOKEN * float(self._knobs.get("usable", math.inf))
        kept = [m[1] for m in _CODE.finditer(text) if m.start() <= readable and not low <= m.start() / len(text) < high]
        return ", ".join(kept)

    @staticmethod
    def _rambling(seed: str) -> Iterator[str]:
        dice = random.Random(hashlib.sha256(seed.encode()).digest())
        while True:
            yield "".join(dice.choices(LETTERS, k=_TOKEN))
