"""Speculative decoding as a profile asks for it: drafts that the model verifies, several tokens a step. Pure.

Options: SGLang's ``--speculative-*`` (0.4.4 … 0.5.23), vLLM's ``--speculative-config`` and, from 0.22.1 on, ``--spec-method`` and
``--spec-tokens`` (stored argument parsers).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_h20.engines.base import EngineName
from pytest_h20.engines.common import flag_name


@dataclass(frozen=True)
class Speculation:
    """How an engine drafts.

    Attributes:
        method: as the engine names it: ``EAGLE``, ``mtp``.
        most: tokens that one step can give: every draft, and one of its own. None: the engine chooses.
    """

    method: str
    most: int | None = None

    def __str__(self) -> str:
        return self.method + (f", at most {self.most} tokens a step" if self.most else "")


def speculation_of(engine: EngineName | str, flags: Mapping[str, object]) -> Speculation | None:
    """What these options of a profile ask for; None: one token a step."""
    given = {flag_name(raw): value for raw, value in flags.items() if value not in (None, False)}
    if engine == "sglang":
        method = given.get("speculative-algorithm", given.get("speculative-algo"))
        steps, tokens = _whole(given.get("speculative-num-steps")), _whole(given.get("speculative-num-draft-tokens"))
        # Of a tree of drafts one path is taken: its length bounds a step, not how many branches there are.
        most = None if steps is None and tokens is None else min(n for n in (steps and steps + 1, tokens) if n)
        return Speculation(str(method), most) if method and str(method).upper() != "NONE" else None
    config = given.get("speculative-config", given.get("sc"))
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return Speculation("speculative-config")
    told: Mapping[str, object] = config if isinstance(config, Mapping) else {}
    method = told.get("method") or told.get("model") or given.get("spec-method") or given.get("spec-model")
    drafts = _whole(told.get("num_speculative_tokens", given.get("spec-tokens")))
    if not method and drafts is None:
        return None
    return Speculation(str(method or "speculative-config"), None if drafts is None else drafts + 1)


def _whole(value: object) -> int | None:
    text = str(value)
    return int(text) if not isinstance(value, bool) and text.isdecimal() and 0 < int(text) < 1000 else None
