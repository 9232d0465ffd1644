"""The clock of every stamp in this package, and the small things that surround it.

`time.perf_counter` is CLOCK_MONOTONIC on Linux: it never steps, and stamps of two processes of one machine can be
subtracted. That is what lets the client be compared with the reference server (`reference.py`), and several client
processes be merged.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

now = time.perf_counter


def realtime_offset(readings: int = 50) -> float:
    """Seconds to subtract from a CLOCK_REALTIME stamp (kernel receive stamps) to get one of `now`.

    The two clocks cannot be read at once, so the closest pair of several readings is taken. Both run at the same rate
    (adjustments of the frequency apply to both), so the offset only changes when the wall clock is set.
    """
    best_gap, best = float("inf"), 0.0
    for _ in range(readings):
        before = now()
        wall = time.time()
        after = now()
        if after - before < best_gap:
            best_gap, best = after - before, wall - (before + after) / 2
    return best


def cpu_seconds() -> float:
    """CPU seconds (user + system) this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def no_collector_pauses() -> Iterator[None]:
    """Keep the garbage collector out of a timed section: one full collection takes longer than a token.

    Nor is there one before it: the collector's turn comes after the section, and 0.2 s before each cell add up.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def allow_files(count: int) -> int:
    """Raise the soft limit of open files to `count` where the hard limit allows; returns the soft limit now valid."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft if soft != resource.RLIM_INFINITY else count
