"""The stand-in's model: what it says, token by token. Deterministic, and dependent on every token of the prompt.

A token is one character, but for ``</think>`` and the ids of token-id prompts. The questions of the shipped graded set get their
reference reasoning and answer, a needle is found, everything else gets letters without end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

END, NEWLINE, EOS, OFFSET = 7, 10, 1, 200_000
"""Ids: of ``</think>``, of a newline, of the end, and of the character with code 0. Below OFFSET are ids without own text."""

THINK = "<think>\n"
_OWN = {END: "</think>", NEWLINE: "\n", EOS: ""}


def encode(text: str) -> list[int]:
    """One id per character; ``</think>`` is one token."""
    ids: list[int] = []
    for part in re.split(r"(</think>)", text):
        ids += [END] if part == "</think>" else [NEWLINE if c == "\n" else OFFSET + ord(c) for c in part]
    return ids


def decode(ids: Sequence[int]) -> str:
    """The text of ids; ids of token-id prompts are letters."""
    return "".join(map(_character, ids))


def _character(token: int) -> str:
    if token >= OFFSET:
        return chr(token - OFFSET) if token < OFFSET + 0x110000 else "?"
    return _OWN[token] if token in _OWN else chr(97 + token % 26)


class Language:
    """What is said to a prompt. ``has``: whether a fault is on (see ``replies.py``)."""

    def __init__(self, has: Callable[[str], bool]) -> None:
        self._has = has
        self.spoilt = False
        """No answer is right any more."""
        self._seen: set[str] = set()
        self._answers: dict[str, str] = {}

    @property
    def answers(self) -> dict[str, str]:
        """Question → reasoning, tag and answer."""
        if not self._answers:
            from pytest_h20.checks.endpoint.questions import shipped

            for question in shipped():
                self._answers[question.question] = f"{question.reasoning}\n</think>\n\n{question.answer}"
        return self._answers

    def template(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """R1's template: earlier reasoning is cut off, the prompt ends in ``<think>``."""
        has, out = self._has, "^"
        for message in messages:
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            if message["role"] == "assistant" and not has("history_keeps_reasoning"):
                content = content.split("</think>")[-1]
            if has("history_field_fed_back"):
                content = (message.get("reasoning_content") or message.get("reasoning") or "") + content
            if has("history_dropped") and message is not messages[-1]:
                continue
            if has("system_dropped") and message["role"] == "system":
                continue
            out += f"|{message['role'][0]}|{content}"
        return encode(out + "|A|" + THINK)

    def known(self, question: str) -> str | None:
        """The whole text that a known question gets, or None."""
        text = self.answers.get(question)
        if text is None and "secret number is" in question:
            found = re.search(r"secret number is (\d+)", question)
            text = f"Looking.\n</think>\n\n{found[1] if found and not self._has('needle_lost') else 0}"
        if text is not None and (self._has("stupid") or self._has("garbage") or self.spoilt):
            text = text.split("</think>")[0] + "</think>\n\nno idea"
        if text is not None and self._has("never_closed"):
            text = text.replace("</think>", "and further")
        if text is not None and self._has("think_in_content"):
            text = text.replace("</think>", "</think><think>")
        return text

    def known_prompt(self, prompt: Sequence[int]) -> str | None:
        """The same for a templated prompt that comes as ids."""
        tail = decode(prompt[-2000:])
        if not tail.endswith("|A|" + THINK):
            return None
        return self.known(tail.rpartition("|u|")[2].removesuffix("|A|" + THINK))

    def tokens(self, prompt: Sequence[int], body: Mapping[str, Any], known: str | None, choices: Sequence[str] | None) -> Iterator[int]:
        """Ids without end; EOS is one of them where the text ends by itself."""
        has = self._has
        bias = {int(k): v for k, v in (body.get("logit_bias") or {}).items()}
        forced = next((k for k, v in bias.items() if v >= 100), None)
        if forced is not None and not has("logit_bias_ignored"):
            yield from itertools.repeat(forced)
        if known is not None:
            text = known
            if choices is not None:
                answer = json.dumps("none") if has("schema_ignored") else json.dumps(choices[0])
                text = known.split("</think>")[0] + "</think>" + answer
            if has("never_repeats"):
                text = f"{random.getrandbits(30)} {text}"
            yield from encode(text)
            yield EOS
        seed = 0
        if float(body.get("temperature", 1)) > 0:
            seed = random.getrandbits(30) if body.get("seed") is None or has("seed_ignored") else int(body["seed"])
        if has("never_repeats"):
            seed = random.getrandbits(30)
        if has("cache_spoils") and self._again(prompt):
            seed = 99
        attended = prompt if not has("window") else prompt[-200:]
        state = int.from_bytes(hashlib.blake2s(f"{attended}{seed}".encode(), digest_size=6).digest(), "big")
        while True:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            yield OFFSET + 97 + (state >> 33) % 26

    def _again(self, prompt: Sequence[int]) -> bool:
        key = hashlib.blake2s(str(prompt).encode()).hexdigest()
        seen = key in self._seen
        self._seen.add(key)
        return seen
