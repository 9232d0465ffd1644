"""One row of the tables, and how rows are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from pytest_h20.engines.base import EngineName
from pytest_h20.nccl.failures import classify

Kind = Literal["cause", "symptom", "wait", "hint"]


@dataclass(frozen=True)
class Signature:
    """One known line and its meaning."""

    id: str
    pattern: re.Pattern[str]
    cause: str
    fix: str
    source: str
    kind: Kind = "cause"
    rank: int = 10
    fatal: bool = False
    stage: str = ""
    engine: EngineName | None = None
    context: re.Pattern[str] | None = None
    """The signature counts only if this occurs somewhere in the same server's log."""
    unless: re.Pattern[str] | None = None
    """The signature does not count if this occurs there."""
    band: tuple[str, str] | None = None
    """Versions [first, below) that can show it; a log that does not tell its version is given the benefit of the doubt."""
    weak: re.Pattern[str] | None = None
    """Lines that name this cause too, but end nothing by themselves: the engine may try again or go on."""

    nccl: bool = False
    """NCCL words the line itself: what it means and what to do stands in NCCL's catalogue (:mod:`pytest_h20.nccl.failures`)."""

    def words(self, body: str) -> tuple[str, str]:
        """What a line with this signature means, and what to do."""
        failure = classify(body.rpartition("NCCL WARN ")[2], warn=True) if self.nccl else None
        return (failure.meaning, failure.action) if failure and failure.action else (self.cause, self.fix)

    def search(self, text: str) -> re.Match[str] | None:
        """Where a line shows it."""
        return self.pattern.search(text) or (self.weak.search(text) if self.weak else None)

    def proves(self, text: str) -> bool:
        """Does this line alone end the start?"""
        return self.fatal and self.pattern.search(text) is not None


def cause(
    id: str,
    pattern: str,
    meaning: str,
    fix: str,
    source: str,
    *,
    rank: int = 10,
    fatal: bool = True,
    stage: str = "",
    engine: EngineName | None = None,
    context: str = "",
    unless: str = "",
    band: tuple[str, str] | None = None,
    weak: str = "",
) -> Signature:
    """A root cause."""
    return Signature(
        id,
        re.compile(pattern),
        meaning,
        fix,
        source,
        "cause",
        rank,
        fatal,
        stage,
        engine,
        re.compile(context) if context else None,
        re.compile(unless) if unless else None,
        band,
        re.compile(weak) if weak else None,
    )


def of_nccl(id: str, pattern: str, example: str, source: str, *, rank: int = 20, fatal: bool = False, context: str = "") -> Signature:
    """A root cause that NCCL words itself. ``example`` is one of its messages: NCCL's catalogue says what it means, so that
    ``nccl`` and ``diagnose`` say the same."""
    failure = classify(example, warn=True)
    if failure is None or not failure.action:
        raise ValueError(f"signature {id}: NCCL's catalogue has no advice for {example!r}")
    row = cause(id, pattern, failure.meaning, failure.action, source, rank=rank, fatal=fatal, stage="nccl", context=context)
    return replace(row, nccl=True)


def symptom(id: str, pattern: str, meaning: str, source: str, engine: EngineName | None = None, unless: str = "") -> Signature:
    """A proof of failure that names no cause."""
    fix = "read the first exception above it, on every node"
    return Signature(
        id, re.compile(pattern), meaning, fix, source, "symptom", 90, True, "", engine, unless=re.compile(unless) if unless else None
    )


def wait(id: str, pattern: str, meaning: str, fix: str, source: str) -> Signature:
    """What a start is busy with."""
    return Signature(id, re.compile(pattern), meaning, fix, source, "wait", 80, False)


def hint(id: str, pattern: str, meaning: str, fix: str, source: str) -> Signature:
    """Worth showing beside a cause."""
    return Signature(id, re.compile(pattern), meaning, fix, source, "hint", 85, False)
