"""Judging load cells against a limits file, with the noise of a calibrated baseline taken into account."""

from __future__ import annotations

from pytest_h20.config.figures import metric_figure
from pytest_h20.config.limits import LimitFile
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.report.model import CellRow, higher_is_better
from pytest_h20.report.stats import estimate, judge_change

CHECK = "throughput.{metric}"


def judge_cell(cell: CellRow, limits: LimitFile, *, evidence: tuple[str, ...] = ()) -> list[Verdict]:
    """One verdict per limit of the cell (``throughput.output_throughput`` ...).

    A cell whose sanity failed (``status`` UNKNOWN with a reason) stays UNKNOWN whatever its figures say, and a cell without
    any limit that judges is UNKNOWN too: figures that nobody judges prove nothing. How tokens arrive is judged whatever the file says.
    """
    found = limits.cell(cell.name)
    evidence = evidence or ((cell.file,) if cell.file else ())
    if not any(limit.kind != "info" for limit in found.values()):
        return [_nothing_judged(cell, limits, evidence)]
    found |= {metric: limit for metric, limit in flow_limits(cell).items() if metric not in found}
    return [judge_figure(cell, metric, limit, limits, evidence=evidence) for metric, limit in found.items()]


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


def judge_figure(cell: CellRow, metric: str, limit: Limit, limits: LimitFile | None = None, *, evidence: tuple[str, ...] = ()) -> Verdict:
    """Hold one figure of a cell against its limit; with its noise when ``limits`` has a calibrated value for it.

    A figure that would hold had the rehearsal's own machine kept its time could not be measured: that machine is not what is judged.
    """
    verdict = _held(cell, metric, limit, limits, evidence)
    measured = cell.figure(metric)
    if verdict.status is not Status.FAIL or cell.late is None or measured is None:
        return verdict
    in_time = cell.with_figure(metric, cell.late.without(metric, measured, cell))
    if _held(in_time, metric, limit, limits, evidence).status is Status.FAIL:
        return verdict
    action = "rehearse again when this machine has less to do, or slower: --nodes=rehearsal:SCENARIO@SPEED"
    return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": cell.late.words, "action": action})


def _held(cell: CellRow, metric: str, limit: Limit, limits: LimitFile | None, evidence: tuple[str, ...]) -> Verdict:
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
        action="compare the cell's record with an earlier run: python -m pytest_h20 compare EARLIER THIS",
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


def _nothing_judged(cell: CellRow, limits: LimitFile, evidence: tuple[str, ...]) -> Verdict:
    return Verdict(
        check="throughput.limit",
        status=Status.UNKNOWN,
        title="The cell has a limit",
        subject=cell.name,
        measured=cell.output_throughput,
        unit="tok/s",
        limit=Limit(kind="info", origin=Origin(kind="file", detail=limits.name)),
        reason=f"limits {limits.name!r} have no judged limit for {cell.name}",
        action="add the cell to the limits file, or measure one with --h20-calibrate",
        evidence=evidence,
    )
