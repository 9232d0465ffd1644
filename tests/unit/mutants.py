"""Recorded text made odd: what a broken, foreign or lying node or server may send in its place."""

from __future__ import annotations

import random
import re

NUMBERS = (
    "0",
    "-1",
    "99999999999999999999999",
    "9" * 5000,
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "1.2.3",
    ".",
    "-",
    "²",
    "٣٤",
    "１２",
    "0x10",
    "1_000",
    "true",
    "null",
    "",
    "4294967295",
    "0.0000001",
    "1e-400",
)
"""In place of a number: none, huge, negative, not finite, and digits that ``str.isdigit`` and ``\\d`` take for numbers."""

ODD = (
    "\0",
    "\x1b[31m",
    "\u2028",
    "\x85",
    "\x0b",
    "\ufeff",
    "\ufffd",
    "\t",
    "\n",
    "\r",
    " ",
    ":",
    "=",
    ",",
    "[",
    "{",
    '"',
    "<",
    "&",
    "\\",
    "é",
    "字",
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def mutate(rng: random.Random, text: str, most: int = 4) -> str:
    """``text`` with one to ``most`` changes."""
    for _ in range(rng.randint(1, most)):
        kind = rng.randrange(9)
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((1, 1, 3, 10, 100)))
        if kind == 0:
            text = text[:at] + rng.choice(ODD) + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + text[end:]
        elif kind == 2:
            text = text[:at] if rng.random() < 0.3 else text[:at] + text[at:end] + text[at:end] + text[end:]
        elif kind == 3:
            lines = text.split("\n")
            one = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines) + 1), lines[one] if rng.random() < 0.5 else lines.pop(one))
            text = "\n".join(lines)
        elif kind == 4:
            text = text[:at] + rng.choice(ODD) * rng.choice((1, 2, 50)) + text[at:]
        elif kind == 5:  # a word, whichever it is, in place of another
            words = re.findall(r"[^\s\t=,:]+", text)
            if words:
                text = text.replace(rng.choice(words), rng.choice((*words[:50], "", *NUMBERS)), rng.choice((1, -1)))
        else:
            numbers = list(_NUMBER.finditer(text))
            if numbers:
                found = rng.choice(numbers)
                text = text[: found.start()] + rng.choice(NUMBERS) + text[found.end() :]
    return text


def mutate_bytes(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """The same for bytes, which need be no text."""
    data = mutate(rng, data.decode("latin-1"), most).encode("utf-8" if rng.random() < 0.5 else "latin-1", "replace")
    if data and rng.random() < 0.3:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data
