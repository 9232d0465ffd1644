"""Which node of many makes the fabric slow: disjoint pairs are measured at once, round by round, and what all slow pairs share is named.

With all nodes in one ring the slowest sets the pace of all, and the figure does not tell which it is. A round-robin tournament (circle
method) lets every node meet another one in each round. Of up to ``ALL_PAIRS`` nodes all pairs are measured; of more as many rounds as it
takes to halve them to one: then each node has met that many others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_h20.probes.script import Missing

ALL_PAIRS = 6
"""Nodes up to which every pair is measured: five rounds."""

APART = 0.85
"""Part of the median of all pairs below which a pair is slow where no limit says so."""


@dataclass(frozen=True)
class Pair:
    """Two nodes measured together, alone in the fabric but for other pairs. GB/s of bus bandwidth, or why there is none."""

    one: str
    other: str
    busbw: float | Missing

    def __str__(self) -> str:
        told = self.busbw.reason if isinstance(self.busbw, Missing) else f"{self.busbw:.1f} GB/s"
        return f"{self.one} - {self.other}: {told}"


def tournament(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Rounds of disjoint pairs; in no two rounds the same pair. Of an odd number each node rests once."""
    ring: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    whole = len(ring) - 1
    rounds = whole if len(names) <= ALL_PAIRS else math.ceil(math.log2(len(names)))
    found = []
    for _ in range(rounds):
        half = len(ring) // 2
        met = zip(ring[:half], reversed(ring[half:]), strict=True)
        found.append([(a, b) for a, b in met if a is not None and b is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found


def measure(names: Sequence[str], one_pair: Callable[[str, str], float | Missing]) -> list[Pair]:
    """All pairs of the tournament; those of a round at the same time."""
    found = []
    with ThreadPoolExecutor(max_workers=max(1, len(names) // 2)) as pool:
        for met in tournament(names):
            values = pool.map(lambda pair: one_pair(*pair), met)
            found += [Pair(a, b, value) for (a, b), value in zip(met, values, strict=True)]
    return found


@dataclass(frozen=True)
class Blame:
    """The node or the pair that is slow, or why none can be named; and what to do next, "" where that is no other than for two nodes."""

    reason: str
    action: str = ""


def blamed(pairs: Sequence[Pair], floor: float | None) -> Blame:
    """Who makes all slow. ``floor``: what the limit wants of a pair, GB/s."""
    known = sorted(pair.busbw for pair in pairs if not isinstance(pair.busbw, Missing))
    if not known:
        return Blame("which node it is cannot be said: no pair could be measured" + (f" ({pairs[0]})" if pairs else ""))
    middle = known[len(known) // 2]
    least = APART * middle if floor is None else floor if middle < floor else max(floor, APART * middle)
    slow = [pair for pair in pairs if isinstance(pair.busbw, Missing) or pair.busbw < least]
    if not slow:
        told = f"each of {len(pairs)} pairs reaches {least:.1f} GB/s"
        return Blame(
            f"no node alone: {told}, so it is the switches when all send at once (oversubscribed, or ECMP)",
            "compare the counters of the switches' uplinks while all nodes send; the nodes are fast two by two",
        )
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.one, pair.other)))
    met = {name: sum(name in (p.one, p.other) for p in pairs) for name in names}
    lost = {name: sum(name in (p.one, p.other) for p in slow) for name in names}
    bad = [name for name in names if lost[name] == met[name]]
    if len(bad) == len(names):
        return Blame(f"no node alone: all {len(slow)} pairs are slow ({slow[0]}), so it is what they share: switches, settings, image")
    rest = [pair for pair in slow if pair.one not in bad and pair.other not in bad]
    words = [f"{name} is slow with each of the {met[name]} nodes it was measured with, which are fast with others" for name in bad]
    steps = []
    if bad:
        fast = next(name for name in names if name not in bad)
        steps.append(
            f"on {', '.join(bad)}: prove GDRDMA in the NCCL log, then ib_write_bw of each rail with {fast}; leave the other nodes alone"
        )
    if rest:
        words.append(f"{_listed(rest)} slow, and each of these nodes is fast with others: the path between the two")
        steps.append(f"ib_write_bw of each rail from {rest[0].one} to {rest[0].other}, then the switch ports between them")
    return Blame(f"of {len(pairs)} pairs: {'; '.join(words)}", "; ".join(steps))


def _listed(pairs: Iterable[Pair]) -> str:
    texts = [str(pair) for pair in pairs]
    more = f" and {len(texts) - 3} more pairs are" if len(texts) > 3 else " is" if len(texts) == 1 else " are"
    return ", ".join(texts[:3]) + more
