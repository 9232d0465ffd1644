"""What a soak comes to: a verdict per figure over time, and for what happened once. Pure.

A figure is red for what is *proved*: the end of its slope's interval that is nearer to none, over the whole soak, or a level that changed
and stayed. What could not have been seen is told beside every "no drift".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import JsonValue

from pytest_h20.checks.frame import Say
from pytest_h20.checks.soak.trend import FEWEST, Course, Trend, course
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.load.soak import Bin, SoakEnd

WARM_UP = 0.1
"""Part of the soak that no slope is made of: caches fill, pools grow, GPUs become warm."""

DRIFT = Limit(
    kind="max",
    value=0.25,
    unit="% over the soak",
    origin=Origin(kind="builtin", detail="what is proved (99.9 %) of a slope; less is nothing that an operator would see in a soak"),
)
SHIFT, SHIFT_TAIL = 3.0, 10.0
"""% from which a level shift counts, of medians and of tails and memory: allocators and batches have steps of their own."""

BLIND = 25.0
"""% over the soak: a figure in which less than this could not be seen is told as too noisy, unless all of its values lie closer together:
what grows in steps, or stands still at a few MiB, is like its neighbours without being noise."""

FAILED = Limit(
    kind="max",
    value=0.1,
    unit="% of requests",
    origin=Origin(kind="builtin", detail="one of a thousand: less is for the log, more is for users"),
)
CHANCE = 0.001


@dataclass(frozen=True)
class SoakFigure:
    """One kind of figure, judged by ``check``. ``falls``: falling is bad, else rising. ``shift``: % of a level shift that counts.
    ``grain``: the smallest difference that its source tells. ``settles``: growth that is over by the later half is none.
    ``told_by_server``: not every server does. ``vouched``: whether a wanted slope (``soak.slope``) must be visible in it."""

    check: str
    name: str
    unit: str
    falls: bool = False
    shift: float = SHIFT
    grain: float = 0.0
    vouched: bool = False
    action: str = ""
    settles: bool = False
    told_by_server: bool = False


_SLOWER = "compare the engine's log, queue, KV use, GPU clocks and kernel lines of before and after; is it fast again after a restart?"
_LEAK = "see which process grows (ps, nvidia-smi --query-compute-apps); note the engine's version and ask its issue tracker for a leak"

SPEED, MEMORY, KV = "soak.speed", "soak.memory", "soak.kv_use"
TITLES = {
    SPEED: "It stays as fast as it was",
    MEMORY: "The memory in use does not grow",
    KV: "KV use per running request stays what it was",
}
THROUGHPUT = SoakFigure(SPEED, "output throughput", "tok/s", falls=True, vouched=True, action=_SLOWER)
ITL_P50 = SoakFigure(SPEED, "median ITL", "ms", vouched=True, action=_SLOWER)
ITL_P99 = SoakFigure(SPEED, "p99 ITL", "ms", shift=SHIFT_TAIL, action=_SLOWER)
TTFT_P50 = SoakFigure(SPEED, "median TTFT", "ms", shift=SHIFT_TAIL, action=_SLOWER)
TTFT_P99 = SoakFigure(SPEED, "p99 TTFT", "ms", shift=SHIFT_TAIL, action=_SLOWER)
KV_USE = SoakFigure(KV, "KV use", "of the cache", shift=SHIFT_TAIL, told_by_server=True, action=_LEAK)
HOST_MEMORY = SoakFigure(MEMORY, "host", "GiB", shift=SHIFT_TAIL, grain=0.01, settles=True, action=_LEAK)
GPU_MEMORY = SoakFigure(MEMORY, "GPUs", "MiB", shift=SHIFT_TAIL, grain=1.0, settles=True, action=_LEAK)

OF_A_BIN: Mapping[str, SoakFigure] = {
    "output_throughput": THROUGHPUT,
    "itl_p50_ms": ITL_P50,
    "itl_p99_ms": ITL_P99,
    "ttft_p50_ms": TTFT_P50,
    "ttft_p99_ms": TTFT_P99,
    "kv_per_request": KV_USE,
}
"""Field of a :class:`~pytest_h20.load.soak.Bin` to what it is judged as."""


@dataclass(frozen=True)
class Series:
    """A figure over the soak's hours. ``of``: whose it is, where there are several."""

    figure: SoakFigure
    hours: tuple[float, ...]
    values: tuple[float, ...]
    of: str = ""


@dataclass(frozen=True)
class Wanted:
    """What was asked for: hours, and the slope (%/h) that must be visible (None: as small as it comes)."""

    hours: float
    slope: float | None = None


def series_of(bins: Sequence[Bin], hours: float) -> list[Series]:
    """The load's own figures over time, without the warm-up. A bin in which nothing was sent or answered has none."""
    late = [b for b in bins if b.hours >= WARM_UP * hours]
    found = []
    for name, figure in OF_A_BIN.items():
        points = [(b.hours, float(v)) for b in late if b.complete and (v := getattr(b, name)) is not None]
        found.append(Series(figure, tuple(h for h, _ in points), tuple(v for _, v in points)))
    return found


def read_bins(rows: Sequence[Mapping[str, Any]]) -> tuple[float, list[Bin]]:
    """(hours that were asked for, bins) of the rows of ``soak.jsonl``, of which the first says what was asked for. Raises ``KeyError``
    or ``TypeError`` for rows of something else."""
    names = [f.name for f in fields(Bin) if f.name not in ("answers", "texts")]
    return float(rows[0]["asked_hours"]) if rows else 0.0, [Bin(**{name: row[name] for name in names}) for row in rows[1:]]


# ---------------------------------------------------------------- one figure over time
def drift(series: Series, asked: Wanted, subject: str, evidence: Sequence[str] = ()) -> Verdict:
    """Slope and shift of one figure. ``subject``: the engine."""
    figure, n = series.figure, len(series.values)
    about = f"{subject} {series.of or figure.name}"
    if not n and figure.told_by_server:
        return _plain(Status.SKIP, figure.check, TITLES[figure.check], about, "this server tells none (/metrics)", evidence=evidence)
    found = course(series.hours, series.values, figure.grain)
    if found is not None and found.trend.level == 0:
        why = "more than half of the tokens come together with others, so that most gaps are 0: see the throughput"
        return _plain(Status.SKIP, figure.check, TITLES[figure.check], about, why, evidence=evidence)
    if found is None:
        why = f"{n} stretches have this figure, and a slope takes {FEWEST}"
        return _unknown(figure, about, why, "let the soak run longer, and see soak.lasted", evidence)
    proved, words = _proved(found, figure, asked)
    if proved and figure.settles and _settled(series):
        proved, words = 0.0, f"settled: it does not grow in the later half; {words}"
    trend = found.trend
    per_cent = 100 / abs(trend.level)
    details: dict[str, JsonValue] = {
        "slope_percent_per_hour": round(trend.slope * per_cent, 4),
        "interval_percent_per_hour": [round(trend.low * per_cent, 4), round(trend.high * per_cent, 4)],
        "sees_percent_per_hour": round(_sees(trend), 4),
        "level": round(trend.level, 4),
        "unit": figure.unit,
        "autocorrelation": round(trend.correlation, 3),
        "said": words,
    }
    if found.shift is not None:
        details |= {"shift_at_hours": round(found.shift.at, 3), "shift_from": found.shift.before, "shift_to": found.shift.after}
    verdict = judge(
        figure.check,
        TITLES[figure.check],
        round(proved, 3),
        DRIFT,
        subject=about,
        reason=words,
        action=figure.action,
        evidence=evidence,
        details=details,
        looked_at=n,
    )
    sees = _sees(trend)
    if verdict.status is not Status.PASS:
        return verdict
    if asked.slope is not None and figure.vouched and sees > asked.slope:
        why = f"a slope of {asked.slope:g} %/h (soak.slope) could not have been seen: {words}"
        return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": why, "action": _longer(found, asked.slope / per_cent)})
    within = per_cent * (max(series.values) - min(series.values))
    if sees * trend.hours > BLIND and within > BLIND:
        return verdict.model_copy(update={"status": Status.WARN, "reason": f"too noisy to say much: {words}"})
    return verdict


def too_busy(verdict: Verdict, busy: Sequence[float], most: float) -> Verdict:
    """A figure of speed that is red is not the engine's for certain where the machine that asks had no time for it. ``busy``: the load per
    core, bin by bin. ``most``: of it in half of the bins (``soak.client_load``); more, and the client may be what is slower."""
    if verdict.check != SPEED or verdict.status is not Status.FAIL or not busy or (load := statistics.median(busy)) <= most:
        return verdict
    why = f"the machine of this client was too busy to tell whose slowness it is ({load:.0f} processes per core; {most:g} at most)"
    return verdict.model_copy(
        update={"status": Status.UNKNOWN, "reason": f"{why}; {verdict.reason}", "action": "soak from a quieter machine"}
    )


def _proved(found: Course, figure: SoakFigure, asked: Wanted) -> tuple[float, str]:
    """(% over the soak that are proved to be lost, what was seen in words)."""
    trend, shift = found.trend, found.shift
    per_cent = 100 / abs(trend.level)
    bad = -1 if figure.falls else 1
    near = trend.low if bad > 0 else trend.high
    proved = max(0.0, bad * near * per_cent * trend.hours)
    words = []
    if shift is not None:
        change = 100 * (shift.after - shift.before) / abs(shift.before) if shift.before else math.copysign(100, shift.after)
        part = round(100 * shift.at / asked.hours) if asked.hours else 0
        words.append(f"level shift at {clock(shift.at)} ({part} % of the soak): from {shift.before:.4g} to {shift.after:.4g} {figure.unit}")
        if bad * change >= figure.shift:
            proved = max(proved, bad * change)
    if (ends := found.ends) is not None and ends.apart:
        change = 100 * (ends.last - ends.first) / abs(ends.first or ends.last)
        if bad * change >= BLIND > proved:
            proved = bad * change
            words.append(f"from {ends.first:.4g} in the first quarter to {ends.last:.4g} {figure.unit} in the last")
    if figure.falls:
        proved = min(proved, 100.0)  # a slope that goes on would lose more than there was
    low, high = sorted((trend.low * per_cent, trend.high * per_cent))
    seen = f"{trend.slope * per_cent:+.2f} %/h ({low:+.2f} to {high:+.2f}) around {_digits(trend.level, 4)} {figure.unit}"
    if trend.stands_out:
        words.append(f"{'falls' if trend.slope < 0 else 'rises'}: {seen}")
    else:
        words.append(f"no slope: {seen}")
    told = f"the smallest slope that {trend.hours:.2g} h would have shown is {_digits(_sees(trend), 2)} %/h"
    if asked.slope is not None and _sees(trend) > asked.slope:
        told += f"; {asked.slope:g} %/h is too small to be seen in this time, it takes {trend.hours_for(asked.slope / per_cent):.2g} h"
    return proved, "; ".join([*words, told])


def _digits(value: float, digits: int) -> str:
    """As many digits, and never 4.4e+02."""
    return f"{value:.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:.0f}"


def _sees(trend: Trend) -> float:
    """%/h: the smallest slope that would have been red in nine of ten soaks, the tolerated part of it included."""
    tolerated = float(DRIFT.value) / trend.hours if isinstance(DRIFT.value, float) and trend.hours else 0.0
    return trend.sees * 100 / abs(trend.level) + tolerated


def _settled(series: Series) -> bool:
    """Whether what grew has stopped growing: pools and caches fill once."""
    half = len(series.values) // 2
    later = course(series.hours[half:], series.values[half:], series.figure.grain)
    return later is not None and not later.trend.low > 0 and (later.shift is None or later.shift.after <= later.shift.before)


def _longer(found: Course, wanted: float) -> str:
    return f"soak for {math.ceil(10 * found.trend.hours_for(wanted) / (1 - WARM_UP)) / 10:g} h: --h20-soak, or ask for less: soak.slope"


def clock(hours: float) -> str:
    """``0:47``: hours and minutes of the soak."""
    minutes = round(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if hours >= 1 / 60 else f"second {hours * 3600:.0f}"


# ---------------------------------------------------------------- what happens once
def lasted(end: SoakEnd, asked: Wanted, subject: str, evidence: Sequence[str] = (), hang: str = "") -> Verdict:
    """It ran as long as was asked for, and something was sent and answered all the time. ``hang``: what was seen when all streams were
    silent."""
    check, title = "soak.lasted", "The engine was up and answered for the whole soak"
    minutes = 60 * (end.last_complete_hours or 0.0)
    if not end.sent:
        return _plain(
            Status.UNKNOWN, check, title, subject, "no request was sent: nothing was soaked", "see soak: in the inventory", evidence
        )
    limit = Limit(kind="min", value=round(60 * asked.hours, 1), unit="min", origin=Origin(kind="inventory", detail="--h20-soak"))
    whole = end.stopped == "duration" and end.complete > 0 and not hang
    said = f"{end.complete} of {end.sent} requests were answered"
    if end.stopped == "interrupted":
        reason = f"interrupted at minute {60 * end.hours:.1f} of {60 * asked.hours:g}; what there was is judged; {said}"
        return _plain(Status.UNKNOWN, check, title, subject, reason, "soak again", evidence, measured=round(60 * end.hours, 1), limit=limit)
    first = f"; {end.failures[-1]}" if end.failures else ""
    reason = f"no request was answered from minute {minutes:.1f} on ({end.stopped}); {said}{first}"
    if end.stopped == "silent":
        reason = f"no token came from minute {60 * (end.silent_hours or 0.0):.1f} on, and the engine did not end; {said}"
    elif hang:
        reason = f"all streams fell silent after minute {minutes:.1f} ({end.stopped}); {said}"
    if hang:
        reason = f"{reason}; {hang}"
    return judge(
        check,
        title,
        round(60 * asked.hours, 1) if whole else round(minutes, 1),
        limit,
        subject=subject,
        reason=reason,
        action="read what the engine and the kernel said at that minute, and evidence/hang where it hung",
        evidence=evidence,
        details={"said": said, "stopped": end.stopped},
        looked_at=end.sent,
    )


def failures(end: SoakEnd, subject: str, evidence: Sequence[str] = (), hang: str = "") -> Verdict:
    """Requests that failed, of all. Those of a death or a hang are told by ``soak.lasted``."""
    check, title = "soak.errors", "Requests are answered"
    if end.stopped == "server_gone" or hang:
        return _plain(
            Status.SKIP, check, title, subject, f"{end.failed} failed as the engine ended or hung, see soak.lasted", evidence=evidence
        )
    share = 100 * end.failed / end.sent if end.sent else None
    return judge(
        check,
        title,
        None if share is None else round(share, 4),
        FAILED,
        subject=subject,
        reason=f"{end.failed} of {end.sent} requests failed; {'; '.join(end.failures[:3])}",
        action="read what the engine said in those minutes",
        evidence=evidence,
        details={"failed": end.failed},
        looked_at=end.sent,
    )


def stalls(end: SoakEnd, stall_s: float, subject: str, evidence: Sequence[str] = (), hang: str = "") -> Verdict:
    """No stream fell silent in the middle of an answer and went on. ``hang``: what was seen while all of them were silent."""
    limit = Limit(kind="max", value=stall_s, unit="s", origin=Origin(kind="inventory", detail="soak.stall_s"))
    told = [f"{s.seconds:.0f} s at {clock(s.hours)} ({s.streams} streams)" for s in end.stalls[:5]]
    return judge(
        "soak.stalls",
        "No answer pauses for long",
        round(end.longest_gap_s, 2) if end.complete else None,
        limit,
        subject=subject,
        reason=f"{end.stalled} stalls: {', '.join(told)}" + (f"; {hang}" if hang else ""),
        action="look at the kernel's lines, rails and engine log of that minute; NCCL retries (IB time-outs) last that long",
        evidence=evidence,
        details={"stalls": end.stalled},
        looked_at=end.complete,
    )


# ---------------------------------------------------------------- answers over time
@dataclass(frozen=True)
class Graded:
    """Canaries of one bin: how many could be graded, how many of them were right."""

    hours: float
    graded: int
    right: int


def accuracy(graded: Sequence[Graded], subject: str, evidence: Sequence[str] = ()) -> Verdict:
    """Answers do not become worse: the later half against the earlier, Fisher's exact test, one-sided."""
    check, title = "soak.accuracy", "Answers do not become worse"
    n = sum(g.graded for g in graded)
    middle, seen = (graded[0].hours + graded[-1].hours) / 2 if graded else 0.0, [g for g in graded if g.graded]
    early, late = [[g for g in seen if (g.hours > middle) is side] for side in (False, True)]
    if not early or not late:
        return _plain(
            Status.UNKNOWN, check, title, subject, f"{n} answers could be graded, and both halves need some", "see load.canaries", evidence
        )
    (a, of_a), (b, of_b) = [(sum(g.right for g in half), sum(g.graded for g in half)) for half in (early, late)]
    p = fisher(of_a - a, a, of_b - b, b)
    said = f"{a} of {of_a} right in the first half, {b} of {of_b} in the second (Fisher's exact p = {p:.2g})"
    limit = Limit(kind="min", value=CHANCE, unit="p", origin=Origin(kind="derived", detail="so much by chance in one of a thousand soaks"))
    action = "ask the graded questions again now (the gate answers); start the engine anew and ask again"
    return judge(
        check,
        title,
        round(p, 6),
        limit,
        subject=subject,
        reason=said,
        action=action,
        evidence=evidence,
        details={"said": said},
        looked_at=n,
    )


def fisher(wrong_before: int, right_before: int, wrong_after: int, right_after: int) -> float:
    """The chance of so many wrong answers, or more, among the later ones when wrongness does not depend on time."""
    before, after, wrong = wrong_before + right_before, wrong_after + right_after, wrong_before + wrong_after

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = choose(before + after, wrong)
    return min(
        1.0,
        math.fsum(
            math.exp(choose(after, k) + choose(before, wrong - k) - whole)
            for k in range(wrong_after, min(wrong, after) + 1)
            if wrong - k <= before
        ),
    )


# ---------------------------------------------------------------- counters over time
@dataclass(frozen=True)
class Risen:
    """An error counter of a node or rail: in which bins it rose, of how many, and how far in all."""

    of: str
    bins: int
    looked: int
    total: int
    tenths: tuple[int, ...] = field(default=())


CREEPS = 4
"""Tenths of a soak in which an error counter must have risen to be called creeping: one event, or one bad minute, is not."""


def creep(risen: Sequence[Risen], looked: int, subject: str, evidence: Sequence[str] = ()) -> Verdict:
    """No error counter of a rail rises again and again. ``looked``: counters that were read."""
    worst = [r for r in risen if len(set(r.tenths)) >= CREEPS]
    told = ", ".join(f"{r.of} +{r.total} in {len(set(r.tenths))} of 10 tenths" for r in sorted(worst, key=lambda r: -r.total)[:6])
    return judge(
        "soak.counters",
        "No error counter rises again and again",
        len(worst),
        Limit(kind="max", value=0, unit="counters", origin=Origin(kind="builtin", detail=f"risen in {CREEPS} of 10 tenths of the soak")),
        subject=subject,
        reason=told or "no rail told its counters",
        action="check cable, transceiver, MTU and PFC of this rail; mlxlink -d DEVICE -m -c -e",
        evidence=evidence,
        details={r.of: r.total for r in risen[:50]},
        looked_at=looked,
    )


# ---------------------------------------------------------------- what the nodes told
UNSEEN, BLACKOUT_S = 2.0, 60.0
"""% of a soak, and seconds on end, that a node may have told nothing: more hides what the other checks of the machines look for."""


@dataclass(frozen=True)
class Hole:
    """A stretch of the soak (seconds since its start) in which a node told nothing. ``what``: ``nothing about its GPUs``, or why there was
    nothing at all."""

    node: str
    what: str
    start: float
    end: float


def telemetry(holes: Sequence[Hole], watched_s: float, nodes: int, subject: str, evidence: Sequence[str] = ()) -> Verdict:
    """Every node told its state all the time. A gap is told; the soak is judged as a whole, for the longer it is, the surer one second
    of it is lost. ``watched_s``: seconds that were looked at."""
    voice = Say("soak.telemetry", "Every node told its state while the soak ran", subject, tuple(evidence))
    if not nodes or watched_s <= 0:
        return voice.unknown("no node was watched")
    lost = {(h.node, h.what): 0.0 for h in holes}
    whole: list[Hole] = []
    for hole in sorted(holes, key=lambda h: (h.node, h.what, h.start)):
        last = whole[-1] if whole else None
        if last is not None and (last.node, last.what) == (hole.node, hole.what) and hole.start <= last.end:
            whole[-1] = Hole(hole.node, hole.what, last.start, max(last.end, hole.end))
        else:
            whole.append(hole)
    for hole in whole:
        lost[hole.node, hole.what] += hole.end - hole.start
    least = max(0.0, 100 - 100 * max(lost.values(), default=0.0) / watched_s)
    longest = sorted(whole, key=lambda h: h.start - h.end)
    words = [f"{h.node}: {h.what} for {h.end - h.start:.0f} s at {clock(h.start / 3600)}" for h in longest[:5]]
    told = "; ".join(words)
    action = "see that nvidia-smi answers on that node, and that the connection to it lives"
    details: dict[str, JsonValue] = {"holes": len(whole), "seen_percent": round(least, 2)}
    limit = Limit(
        kind="min", value=100 - UNSEEN, unit="% of the soak", origin=Origin(kind="builtin", detail="what was not seen is not judged")
    )
    if longest and (least < 100 - UNSEEN or longest[0].end - longest[0].start > BLACKOUT_S):
        return voice.unknown(told, action, details)
    if longest:
        return voice.warn(round(least, 2), told, action=action, details=details)
    return voice.judge(round(least, 2), limit, details=details, of=nodes)


def _unknown(figure: SoakFigure, subject: str, why: str, action: str, evidence: Sequence[str]) -> Verdict:
    return _plain(Status.UNKNOWN, figure.check, TITLES[figure.check], subject, why, action, evidence)


def _plain(
    status: Status,
    check: str,
    title: str,
    subject: str,
    reason: str,
    action: str = "",
    evidence: Sequence[str] = (),
    measured: JsonValue = None,
    limit: Limit | None = None,
) -> Verdict:
    return Say(check, title, subject, tuple(evidence)).plain(status, reason, action=action, measured=measured, limit=limit)
