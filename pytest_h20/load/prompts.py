"""What is sent. Every recipe is a pure function of a seed and a request's number.

random       exact number of token ids, drawn evenly from the model's vocabulary without special ids; no two prompts
             begin with the same id, so no prefix cache can help. In the chat dialect: as many words, each one token
             in practice, less what the chat template adds (measured with one request before the clock starts).
jsonl        real prompts from a file, one JSON object per line.
multi-turn   conversations: each turn sends everything said before plus new text.
"""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.core.errors import UsageError
from pytest_h20.load.cells import Cell
from pytest_h20.load.target import Vocabulary

KINDS = ("random", "jsonl", "multi-turn")

_WORD_TEXT = (
    "the of and to in is was for that on with as at by from this be it or are an which not have had were one their all "
    "when who more no out so what up about into than them can only other new some could time these two may then do "
    "first any my now such like our over man me even most made after also did many before must through back years "
    "where much your way well down should because each just those people how too little state good very make world "
    "still see own men work long here get both between life being under never day same another know while last might "
    "us great old year off come since against go came right used take three himself few house use during without "
    "again place home small found thought went say part once general high upon school every"
)
WORDS = tuple(dict.fromkeys(_WORD_TEXT.split()))
"""Common English words: one token each, with a blank before, in the byte-pair vocabularies of the models in question."""


@dataclass(frozen=True)
class Prompt:
    """One request's input: `ids`, `text` or `messages`; lengths in tokens (input_len 0 = not known before)."""

    input_len: int
    output_len: int
    ids: tuple[int, ...] | None = None
    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    turn: int = 0
    turns: int = 1

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"input_len": self.input_len, "output_len": self.output_len}
        if self.ids is not None:
            document["input_ids"] = list(self.ids)
        if self.text is not None:
            document["prompt"] = self.text
        if self.messages is not None:
            document["messages"] = [{"role": role, "content": content} for role, content in self.messages]
        return document


@dataclass(frozen=True)
class PromptRecipe:
    """Which prompts. `prompts` holds the material of jsonl (see `load_jsonl`)."""

    kind: str = "random"
    prompts: tuple[Prompt, ...] = field(default=(), repr=False)
    turns: int = 1
    """Turns of a conversation (multi-turn)."""
    source: str = ""
    """Where the material came from; shown in results."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"prompts {self.kind!r}: one of {', '.join(KINDS)} is needed")
        if self.kind == "jsonl" and not self.prompts:
            raise UsageError(f"prompts {self.kind}: no prompt was given")
        if self.kind == "multi-turn" and self.turns < 2:
            raise UsageError("prompts multi-turn: at least two turns are needed")

    def describe(self) -> str:
        extra = f", {self.turns} turns" if self.kind == "multi-turn" else ""
        return self.kind + extra + (f" ({self.source})" if self.source else "")


class PromptSource:
    """The prompts of one cell by number. `template_tokens`: what the chat template adds (chat dialect only)."""

    def __init__(
        self, recipe: PromptRecipe, cell: Cell, dialect: str, vocabulary: Vocabulary | None, seed: int, template_tokens: int = 0
    ) -> None:
        self.recipe, self.cell, self.dialect, self.seed = recipe, cell, dialect, seed
        self.template_tokens = template_tokens
        # Cells of one run share the seed: without the cell in it, a later one would find the prompts of an earlier one
        # in the prefix cache (seen on SGLang 0.5.16).
        self._mixed = ((seed * 8191 + cell.input_len) * 8191 + cell.output_len) * 8191 + cell.concurrency
        self._pool: Sequence[int] = ()
        if dialect != "chat" and recipe.kind in ("random", "multi-turn"):
            if vocabulary is None:
                raise UsageError("random prompts of token ids need the model's vocabulary")
            self._pool = range(vocabulary.low, vocabulary.high)
            if vocabulary.special:
                self._pool = tuple(i for i in self._pool if i not in vocabulary.special)
            self._stride = _coprime(len(self._pool), seed)
        elif dialect == "chat" and recipe.kind in ("random", "multi-turn") and cell.input_len <= template_tokens:
            raise UsageError(f"cell {cell}: the chat template alone takes {template_tokens} tokens; an input length above that is needed")

    def prompt(self, number: int) -> Prompt:
        """Prompt `number` (from 0; negative numbers are for warm-up and never collide with measured ones)."""
        recipe, cell = self.recipe, self.cell
        if recipe.kind == "jsonl":
            return recipe.prompts[number % len(recipe.prompts)]
        turns = recipe.turns if recipe.kind == "multi-turn" else 1
        rng = random.Random(self._mixed * 1_000_003 + number)
        if self.dialect == "chat":
            text = self._words(rng, number, cell.input_len - self.template_tokens)
            return Prompt(cell.input_len, cell.output_len, messages=(("user", text),), turns=turns)
        ids = self._ids(rng, number, cell.input_len)
        return Prompt(cell.input_len, cell.output_len, ids=ids, turns=turns)

    def _ids(self, rng: random.Random, number: int, length: int) -> tuple[int, ...]:
        pool, size = self._pool, len(self._pool)
        first = pool[(self.seed + number * self._stride) % size]
        # 64 random bits each, so that no id is likelier than another by more than 1e-14; five times faster than `choices`.
        octets = 8 * (length - 1)
        draws = array("Q", rng.getrandbits(8 * octets).to_bytes(octets, "little") if octets else b"")
        return (first, *[pool[draw % size] for draw in draws])

    @staticmethod
    def _words(rng: random.Random, number: int, length: int) -> str:
        # The number in base len(WORDS), least significant word first: prompts differ as early as they can.
        head, rest = [], number % len(WORDS) ** 3
        for _ in range(min(length, 3)):
            rest, digit = divmod(rest, len(WORDS))
            head.append(WORDS[digit])
        return " ".join(head + rng.choices(WORDS, k=max(0, length - len(head))))

    def followup(self, prompt: Prompt, number: int, answer: str) -> Prompt | None:
        """The next turn of a conversation, None when it is over.

        Chat: the server's own answer goes into the history. Token-id dialects: the answer is replaced by as many fresh
        ids as were asked for, so lengths stay exact and only what was sent before can be found in a cache.
        """
        if prompt.turn + 1 >= prompt.turns:
            return None
        rng = random.Random((self._mixed * 1_000_003 + number) * 31 + prompt.turn + 1)
        cell, turn = self.cell, prompt.turn + 1
        if prompt.messages is not None:
            new = " ".join(rng.choices(WORDS, k=cell.input_len))
            history = (*prompt.messages, ("assistant", answer), ("user", new))
            return Prompt(0, cell.output_len, messages=history, turn=turn, turns=prompt.turns)
        before = prompt.ids or ()
        ids = (*before, *rng.choices(self._pool, k=prompt.output_len + cell.input_len))
        return Prompt(len(ids), cell.output_len, ids=ids, turn=turn, turns=prompt.turns)


def _coprime(size: int, seed: int) -> int:
    """A stride that visits every element of a pool of `size` once before any twice."""
    stride = max(1, int(size * 0.6180339887) + seed % 97)
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride


def calibration_texts() -> tuple[str, str]:
    """Two user messages, one of 1 word and one with all WORDS: their usage gives the template's tokens and shows
    whether a word is a token in this model."""
    return WORDS[0], " ".join(WORDS)


def template_tokens(usage_of_one: int, usage_of_all: int) -> tuple[int, bool]:
    """(tokens that the chat template adds, whether every word is exactly one token) from `calibration_texts`' usage."""
    return max(0, usage_of_one - 1), usage_of_all - usage_of_one == len(WORDS) - 1


# ---- material from files -----------------------------------------------------------------------------------------
def load_jsonl(text: str, source: str, output_len: int) -> PromptRecipe:
    """Real prompts: one object per line with `prompt`/`text`, `messages` or `input_ids`, and optionally `output_len`
    (or `max_tokens`). Raises UsageError with the line that cannot be used."""
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}: an object is needed, got {type(row).__name__}")
        prompts.append(_row_to_prompt(row, where, output_len))
    if not prompts:
        raise UsageError(f"{source}: holds no prompt")
    return PromptRecipe("jsonl", tuple(prompts), source=source)


def _row_to_prompt(row: dict[str, Any], where: str, output_len: int) -> Prompt:
    length = row.get("output_len", row.get("max_tokens", output_len))
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise UsageError(f"{where}: output_len = {length!r}, a whole number from 1 is needed")
    known = row.get("input_len")
    input_len = known if isinstance(known, int) and known > 0 else 0
    ids, messages, text = row.get("input_ids"), row.get("messages"), row.get("prompt", row.get("text"))
    if isinstance(ids, list) and ids and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        return Prompt(len(ids), length, ids=tuple(ids))
    if isinstance(messages, list) and messages:
        try:
            pairs = tuple((str(message["role"]), str(message["content"])) for message in messages)
        except (TypeError, KeyError):
            raise UsageError(f"{where}: every message needs role and content") from None
        return Prompt(input_len, length, messages=pairs)
    if isinstance(text, str) and text:
        return Prompt(input_len, length, text=text)
    raise UsageError(f"{where}: one of prompt, messages, input_ids is needed (keys: {', '.join(map(str, row)) or 'none'})")
