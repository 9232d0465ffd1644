"""Judging load cells against a limits file, with the noise of a calibrated baseline taken into account."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.checks.frame import Say
from pytest_h20.config.figures import metric_figure
from pytest_h20.config.limits import LimitFile
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.load import CellResult
from pytest_h20.load.plan import Slo
from pytest_h20.load.result import Sanity
from pytest_h20.report.model import LATE_SHARE, CellRow, Late, higher_is_better
from pytest_h20.report.stats import estimate, judge_change

CHECK = "throughput.{metric}"


def judge_cell(cell: CellRow, limits: LimitFile, run: str = "RUN", *, evidence: tuple[str, ...] = ()) -> list[Verdict]:
    """One verdict per limit of the cell (``throughput.output_throughput`` ...). ``run``: its folder, as one types it.

    A cell whose sanity failed (``status`` UNKNOWN with a reason) stays UNKNOWN whatever its figures say, and a cell without
    any limit that judges is UNKNOWN too: figures that nobody judges prove nothing. How tokens arrive is judged whatever the file says.
    """
    found = limits.cell(cell.name)
    evidence = evidence or ((cell.file,) if cell.file else ())
    if not any(limit.kind != "info" for limit in found.values()):
        return [_nothing_judged(cell, limits, evidence)]
    found |= {metric: limit for metric, limit in flow_limits(cell).items() if metric not in found}
    return [judge_figure(cell, metric, limit, limits, run, evidence=evidence) for metric, limit in found.items()]


SILENT_MS, SILENT_TIMES = 5_000.0, 20
AT_ONCE = 16


def flow_limits(cell: CellRow) -> dict[str, Limit]:
    """How tokens of a stream may arrive, for the figures of this that were measured.

    By event and not by token: a gap that brings 64 tokens is as long to who waits as one that brings one.
    """
    pause = cell.figure("median_tpot_ms") or 0.0
    silence = f"5 s, or {SILENT_TIMES} times the median TPOT ({pause:.4g} ms) where that is longer: the joint prefill of others"
    lumps = "twice the 8 tokens that the longest drafts of speculative decoding bring in one event; more wait in a buffer (a proxy's)"
    limits = {
        "longest_silence_ms": (max(SILENT_MS, SILENT_TIMES * pause), silence),
        "tokens_per_arrival": (AT_ONCE, lumps),
    }
    return {
        metric: Limit(kind="max", value=value, unit=metric_figure(metric).unit, origin=Origin(kind="builtin", detail=why))  # type: ignore[union-attr]
        for metric, (value, why) in limits.items()
        if cell.figure(metric) is not None
    }


AGAIN = "rehearse again when this machine has less to do, or slower: --nodes=rehearsal:SCENARIO@SPEED"
"""What to do where the rehearsal's own machine kept a figure from its limit."""


def judge_figure(
    cell: CellRow, metric: str, limit: Limit, limits: LimitFile | None = None, run: str = "RUN", *, evidence: tuple[str, ...] = ()
) -> Verdict:
    """Hold one figure of a cell against its limit; with its noise when ``limits`` has a calibrated value for it.

    A figure that would hold had the rehearsal's own machine kept its time could not be measured: that machine is not what is judged.
    """
    verdict = _held(cell, metric, limit, limits, run, evidence)
    measured = cell.figure(metric)
    if verdict.status is not Status.FAIL or cell.late is None or measured is None:
        return verdict
    in_time = cell.with_figure(metric, cell.late.without(metric, measured, cell))
    if _held(in_time, metric, limit, limits, run, evidence).status is Status.FAIL:
        return verdict
    return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": cell.late.words, "action": AGAIN})


def _held(cell: CellRow, metric: str, limit: Limit, limits: LimitFile | None, run: str, evidence: tuple[str, ...]) -> Verdict:
    figure = metric_figure(metric)
    title, unit = (figure.title, figure.unit) if figure else (metric, limit.unit)
    subject = f"{cell.engine} {cell.name}" if cell.engine else cell.name
    measured = cell.figure(metric)
    untrusted = cell.status is Status.UNKNOWN and cell.reason
    verdict = judge(
        CHECK.format(metric=metric),
        title,
        measured,
        limit,
        subject=subject,
        unit=limit.unit or unit,
        action=f"hold it against an earlier run: python -m pytest_h20 compare last-accepted {run}",
        evidence=evidence,
        details={"cell": cell.name, "engine": cell.engine, "profile": cell.profile},
    )
    if untrusted:
        return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": cell.reason})
    baseline = limits.baseline(cell.name, metric) if limits else None
    if baseline is None or measured is None or limit.kind not in ("min", "max"):
        return verdict
    windows = cell.windows if metric == "output_throughput" else ()
    seen = judge_change(estimate(measured, windows, cell.intervals.get(metric)), baseline, higher_is_better=higher_is_better(metric))
    return verdict.model_copy(
        update={
            "status": seen.status,
            "reason": seen.reason if seen.status is not Status.PASS else "",
            "details": {**verdict.details, "noise": seen.reason},
        }
    )


def _limit(cell: CellRow, evidence: tuple[str, ...]) -> Say:
    return Say("throughput.limit", "The cell has a limit", cell.name, evidence)


def _nothing_judged(cell: CellRow, limits: LimitFile, evidence: tuple[str, ...]) -> Verdict:
    return _limit(cell, evidence).plain(
        Status.UNKNOWN,
        f"limits {limits.name!r} have no judged limit for {cell.name}",
        action="add the cell to the limits file, or measure one with --h20-calibrate",
        measured=cell.output_throughput,
        unit="tok/s",
        limit=Limit(kind="info", origin=Origin(kind="file", detail=limits.name)),
    )


def no_limits(cell: CellRow, profile: str) -> Verdict:
    """A profile without a limits file measures, and accepts nothing."""
    return _limit(cell, (cell.file,)).plain(
        Status.UNKNOWN,
        f"profile {profile!r} names no limits file",
        action="set `limits:` in the profile, or record a baseline with --h20-calibrate=FILE",
        measured=cell.output_throughput,
        unit="tok/s",
    )


def recorded(cell: CellRow) -> Verdict:
    """A cell that is only to be measured."""
    return Say("throughput.recorded", "Recorded without a limit", cell.name, (cell.file,)).plain(
        Status.PASS,
        measured=cell.output_throughput,
        unit="tok/s",
        limit=Limit(kind="info", unit="tok/s", origin=Origin(kind="inventory", detail="load.limit: none")),
    )


# ---------------------------------------------------------------- may the figures be believed?
def doubts(result: CellResult) -> list[Sanity]:
    """The rules that keep a cell from being judged.

    The engine's own benchmark has no self-check: who chose it with ``--h20-load`` takes its figures as they are, and the run says
    that no acceptance can be made of them.
    """
    unchecked = result.generator.endswith("-bench")
    return [f for f in result.blockers if not (unchecked and f.rule == "client" and f.status == "unknown")]


def why_doubted(blockers: Sequence[Sanity], late: Late | None) -> str:
    """The rules that a cell does not keep; first the cause, when this machine was late with a rehearsal."""
    rules = "; ".join(f"{f.rule}: {f.text}" for f in blockers)
    return f"{late.words}; {rules}" if rules and late is not None and late.share > LATE_SHARE else rules


def slo_verdict(result: CellResult, slo: Slo, share: float, label: str, file: str) -> Verdict:
    """``load.slo_*``: enough of all requests sent kept every limit that is set."""
    given = ", ".join(f"{name} {value:g} ms" for name, value in (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms)) if value)
    say = Say(
        "throughput.slo",
        "Requests keep the service level that was promised",
        f"{label} {result.cell.id}" if label else result.cell.id,
        (file,),
        "see which requests were late in the cell's .requests.jsonl",
    )
    return say.judge(
        None if result.goodput_share is None else round(100 * result.goodput_share, 3),
        Limit(kind="min", value=100 * share, unit="% of requests", origin=Origin(kind="inventory", detail=f"load.slo: {given}")),
        reason="" if result.goodput_share is not None else f"{result.generator} does not tell each request's times",
    )


def sanity_verdict(result: CellResult, label: str, file: str, late: Late | None = None) -> Verdict:
    """A cell that fails sanity is "could not measure": neither red nor green by its figures."""
    blockers = doubts(result)
    saturated = [f for f in blockers if f.rule == "client"]
    subject = f"{label} {result.cell.id}" if label else result.cell.id
    say = Say("throughput.sanity", "The figures of this cell can be believed", subject, (file,))
    return say.plain(
        Status.UNKNOWN if blockers or not result.sanity else Status.PASS,
        why_doubted(blockers, late),
        action=(
            "send the load from a stronger machine, or with --h20-load-from=NODE"
            if saturated
            else "read the cell's record in the run folder"
            if blockers
            else ""
        ),
        measured=len(blockers),
        unit="failed rules",
        details={f.rule: f.status for f in result.sanity},
    )
