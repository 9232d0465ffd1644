"""What the engine answers alone: every canary's question once, one stream at a time, before the first cell. No pytest in here."""

from __future__ import annotations

import random
from dataclasses import replace

from pytest_h20.checks.under_load import Alone, canary, candidates, is_right, nonce_of
from pytest_h20.load import LoadPlan, Target
from pytest_h20.load.canary import FORMS, Canary, answer_of
from pytest_h20.load.metrics import COMPLETE
from pytest_h20.load.prompts import Prompt
from pytest_h20.load.run import one_request

PROBES = 4
"""Questions that decide whether a form of prompt is understood: all but one of them must be answered rightly."""
NONCES = 2
ROOM = 0.75
"""An answer must end within this part of a cell's answer: one that only just ends alone may not when a word is another."""


def ask_alone(target: Target, plan: LoadPlan, output_len: int, few: bool = False) -> Alone:
    """Find the form of prompt that this model answers, and what it answers rightly in so many tokens.

    The first questions are sent word for word as in a cell, and show that the end of an answer can be seen in its text; the others
    stop there. ``few``: no more than these, and no nonces.
    """
    names = list(candidates())
    said: list[str] = []
    for form in FORMS:
        probed = {name: ask_one(target, plan, canary(form, name, "question"), output_len, stops=False) for name in names[:PROBES]}
        right = [name for name, (text, ended) in probed.items() if ended and is_right(name, text)]
        if len(right) < PROBES - 1:
            name, (text, _) = next(item for item in probed.items() if item[0] not in right)
            said.append(f"{form.name}: {len(right)} of {PROBES} right, {name}: {text[:80]!r}")
            continue
        if few:
            return Alone(form, tuple(right), PROBES)
        for name in names[PROBES:]:
            text, ended = ask_one(target, plan, canary(form, name, "question"), output_len, stops=True)
            if ended and is_right(name, text):
                right.append(name)
        dice = random.Random(plan.seed)
        nonces = [nonce_of(dice) for _ in range(NONCES)]
        back = [n in ask_one(target, plan, canary(form, n, "nonce"), output_len, stops=True)[0] for n in nonces]
        return Alone(form, tuple(right), len(names), all(back))
    return Alone(None, (), PROBES * len(FORMS), why="; ".join(said))


def ask_one(target: Target, plan: LoadPlan, asked: Canary, output_len: int, *, stops: bool) -> tuple[str, bool]:
    """(answer or what was said or what went wrong, whether the answer ended in time)."""
    prompt = Prompt(0, output_len, text=asked.prompt)
    answer, outcome, detail = one_request(target, replace(plan, ignore_eos=not stops), prompt, special=True)
    if answer is None or outcome not in COMPLETE:
        return f"{outcome}: {detail}", False
    whole = answer.text
    if stops and answer.finish == "stop" and asked.end not in whole:
        whole += asked.end
        in_time = (answer.output_tokens or 0) <= ROOM * output_len
    else:
        in_time = whole.find(asked.end) <= ROOM * len(whole)
    text, ended, _ = answer_of(asked, whole)
    return text, ended and in_time
