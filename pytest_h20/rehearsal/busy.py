"""Whether this machine let a rehearsal run: how long its processes waited for a processor, and which verdicts that explains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_h20.core.verdict import Status, Verdict

NOTABLE_S = 0.5
"""Waiting for a processor for less than this explains no deadline that was missed."""

ACTION = "rehearse again when this machine has less to do"


def waited_s(pids: Iterable[int]) -> float:
    """Seconds that the threads of these processes were ready to run and did not (Linux: ``sched-stats.rst``); 0 where nobody tells."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(file.read_text().split()[1])
            except (OSError, ValueError, IndexError):
                continue
    return total / 1e9


def excused(verdicts: Sequence[Verdict], waited: float, scale: float = 1.0) -> tuple[Verdict, ...]:
    """The verdicts of a rehearsal, those that waiting explains as "could not measure" with that cause.

    ``waited``: s, while the check ran. ``scale``: model seconds per second. An answer that did not come in time was not measured
    anyway; a time that misses its limit by no more than was waited is not the engine's.
    """
    return tuple(_told(v, waited) if waited >= NOTABLE_S and _explained(v, waited * scale) else v for v in verdicts)


def _explained(verdict: Verdict, waited: float) -> bool:
    if verdict.details.get("unanswered"):
        return verdict.status is Status.UNKNOWN
    limit, measured = verdict.limit, verdict.measured
    per_second = {"s": 1.0, "ms": 1e3}.get(verdict.unit)
    if verdict.status is not Status.FAIL or limit is None or limit.kind != "max" or per_second is None:
        return False
    return isinstance(measured, (int, float)) and limit.accepts(measured - waited * per_second) is True


def _told(verdict: Verdict, waited: float) -> Verdict:
    why = f"this machine is too busy: stand-in and client waited {waited:.1f} s for a processor meanwhile"
    reason = "; ".join(filter(None, (why, verdict.reason)))
    return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": reason, "action": ACTION})
