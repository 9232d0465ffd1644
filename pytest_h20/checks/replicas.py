"""Replicas behind one address: data-parallel ranks, workers of a router. Each answers rightly, or all do as far as asking can tell. Pure.

Where a replica can be named it is asked by itself. Where none can be, questions are asked until one bad of :data:`OF` would have been
met: (15/16)^80 is 0.6 %. When one answer was wrong it takes more to tell a bad replica from a slip of a healthy one; then :data:`ALL`
are asked, and what chance allows is that of the canaries (``under_load.allowed``). One bad replica of sixteen is missed in less than
one of 100 runs, a healthy set is called bad in less than one of 1,000 (``tests/unit/checks/test_replicas.py`` has the sums).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_h20.checks.frame import Say, builtin
from pytest_h20.checks.under_load import CHANCE, SLIP, allowed
from pytest_h20.core.verdict import Limit, Origin, Verdict

CHECK = "throughput.replicas"
TITLE = "Every replica behind the address answers rightly"
OF = 16
EACH, FIRST, ALL = 4, 80, 260
"""Questions to each replica that can be named; to all together; and when one of those was answered wrongly."""

_ACTION = "take it out of service; then its own log, and its weights against another replica's (python -m pytest_h20 weights)"


@dataclass(frozen=True)
class ReplicaAnswer:
    """What came back. ``text``: the answer, or what went wrong."""

    id: str
    right: bool
    text: str

    def __str__(self) -> str:
        return f"{self.id}: {self.text[:60]!r}"


def voice(subject: str, *evidence: str) -> Say:
    """What makes the verdict."""
    return Say(CHECK, TITLE, subject, evidence)


def by_itself(say: Say, replies: Mapping[str, Sequence[ReplicaAnswer]]) -> Verdict:
    """Replicas that were named, by name."""
    unheard = [name for name, said in replies.items() if not said]
    if unheard or not replies:
        return say.unknown(f"nothing was asked of {', '.join(unheard) or 'any replica'}")
    bad = {name: wrong for name, said in replies.items() if len(wrong := [r for r in said if not r.right]) > allowed(len(said))}
    told = [f"{name}: {len(wrong)} of {len(replies[name])} answers wrong ({wrong[0]})" for name, wrong in bad.items()]
    every = sum(map(len, replies.values()))
    reason = "; ".join(told) or f"{sum(r.right for said in replies.values() for r in said)} of {every} right, each replica asked by itself"
    limit = Limit(kind="max", value=0, unit="bad replicas", origin=builtin("every user may meet every replica"))
    return say.judge(len(bad), limit, of=len(replies), reason=reason, action=_ACTION, details={"said": reason})


def enough(replies: Sequence[ReplicaAnswer]) -> bool:
    """Whether no more has to be asked of all together."""
    return len(replies) >= ALL or (len(replies) >= FIRST and all(r.right for r in replies))


def together(say: Say, replies: Sequence[ReplicaAnswer], why: str) -> Verdict:
    """Whoever answered. ``why``: no replica could be named."""
    if not replies:
        return say.unknown(f"nothing was asked; {why}")
    wrong = [r for r in replies if not r.right]
    n = len(replies)
    reason = f"{n - len(wrong)} of {n} right; {why}; one bad replica of {OF} would have been seen with 99 %"
    reason += "".join(f"; {r}" for r in wrong[:3])
    if n < FIRST:
        return say.unknown(f"only {n} questions were asked, it takes {FIRST}; {why}")
    detail = f"exact binomial test: of {n}, more are wrong by chance in less than {CHANCE:.1%} of runs when {SLIP:.1%} of answers are"
    limit = Limit(kind="max", value=allowed(n), unit="wrong answers", origin=Origin(kind="derived", detail=detail))
    return say.judge(len(wrong), limit, of=n, reason=reason, action=_ACTION, details={"said": reason})
