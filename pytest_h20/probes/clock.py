"""How far a node's clock is from ours, with the error of that statement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_h20.nodes.base import Node
from pytest_h20.probes.script import Missing, Probe, ProbeError, number, pairs


@dataclass(frozen=True)
class ClockReading:
    """The node's time of day (s since 1970) and what it says about its synchronisation (``yes``, ``no``, or "")."""

    now: float
    synchronised: str


def parse_clock(text: str) -> ClockReading:
    """``now=SECONDS.NANOSECONDS`` and ``sync=yes|no|`` (empty: nothing on the node knows)."""
    p = pairs(text)
    now = number(p.get("now"))
    if now is None:
        raise ProbeError(f"now={p.get('now')!r} is not a time")
    return ClockReading(now, p.get("sync", ""))


# busybox's date knows no %N and prints it as it is or leaves it out: /proc/uptime gives nothing better, so then it is whole
# seconds.
CLOCK = Probe(
    "clock",
    r"""
s=
if command -v chronyc >/dev/null; then chronyc -n tracking 2>/dev/null | grep -q 'Leap status *: Normal' && s=yes || s=no
elif command -v timedatectl >/dev/null; then
  case `timedatectl 2>/dev/null` in *[Ss]'ynchronized: yes'*) s=yes;; *[Ss]'ynchronized: no'*) s=no;; esac
fi
echo "sync=$s"
case `date +%N` in *[!0-9]*|'') echo "now=`date +%s`";; *) echo "now=`date +%s.%N`";; esac
""",
    parse_clock,
)


@dataclass(frozen=True)
class ClockOffset:
    """The node's clock less ours, in seconds, true within ``error`` seconds."""

    offset: float
    error: float
    synchronised: str


def between(a: ClockOffset, b: ClockOffset) -> tuple[float, float]:
    """Clock of a less clock of b, and the error of that."""
    return a.offset - b.offset, a.error + b.error


def offset_of(sent: float, received: float, reading: ClockReading) -> ClockOffset:
    """The node read its clock at some moment between ``sent`` and ``received`` (our clock): half the round trip is the error.

    A clock read in whole seconds adds half a second.
    """
    coarse = 0.5 if reading.now == int(reading.now) else 0.0
    return ClockOffset(
        offset=reading.now + coarse - (sent + received) / 2,
        error=(received - sent) / 2 + coarse,
        synchronised=reading.synchronised,
    )


def measure(node: Node, rounds: int = 3, now: Callable[[], float] = time.time) -> ClockOffset | Missing:
    """Ask the node's clock a few times; the fastest round trip counts."""
    from pytest_h20.probes.script import build, split

    script = build([CLOCK])
    best: ClockOffset | Missing = Missing("the clock was never read")
    for _ in range(rounds):
        sent = now()
        result = node.run(script)
        received = now()
        reading = CLOCK.read(split(result.stdout))
        if isinstance(reading, Missing):
            return reading
        here = offset_of(sent, received, reading)
        if isinstance(best, Missing) or here.error < best.error:
            best = here
    return best
