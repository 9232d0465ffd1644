"""From N repeats of a healthy cluster to a limits file that people can read and edit."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pytest_h20.core.errors import MeasurementError
from pytest_h20.core.verdict import Status, worst
from pytest_h20.report.model import METRICS, CellRow
from pytest_h20.report.stats import bootstrap_interval, repeats

MIN_REPEATS = 3
"""Two runs give a spread that is itself off by a factor of two and more; three is the least, five is better."""
JUDGED = ("output_throughput", "mean_tpot_ms")
"""TTFT is recorded, not judged, until a user changes its kind: it depends most on how the requests happened to arrive."""


@dataclass(frozen=True)
class Calibrated:
    """One figure over the repeats. ``spread``: standard deviation / mean. ``interval``: 95 % interval of the mean."""

    mean: float
    n: int
    spread: float
    interval: tuple[float, float]


def summarise(values: Sequence[float]) -> Calibrated:
    """Mean, spread and bootstrap interval of a figure's repeats."""
    mean, spread = repeats(values)
    low, high = bootstrap_interval(values, block=1)
    return Calibrated(mean, len(values), spread, (low, high))


def calibrate(
    runs: Sequence[Iterable[CellRow]],
    *,
    name: str,
    engine: str = "",
    profile: str = "",
    model: str = "",
    kind: str = "",
    drop: float = 0.10,
    source: str = "",
    when: datetime | None = None,
) -> str:
    """YAML text of a limits file from the cells of N repeats.

    ``engine``, ``profile``, ``model``, ``kind``: what it was measured on, and therefore is for. ``drop``: the change for the worse
    that matters (0.10 = 10 %). ``source``: where it was measured, for every origin. A cell without three repeats that can be believed
    is left out, and the file names it (:func:`left_out`).

    Raises:
        MeasurementError: fewer than three repeats, or no cell that can be calibrated.
    """
    if len(runs) < MIN_REPEATS:
        raise MeasurementError(f"calibration needs at least {MIN_REPEATS} repeats to know the spread, not {len(runs)}; use --h20-repeats 5")
    cells = _collect(runs)
    if not cells:
        lost = "; ".join(f"{cell}: {why}" for cell, why in left_out(runs).items())
        raise MeasurementError(f"{lost or 'no cell was measured'}: nothing to calibrate")
    when = when or datetime.now(timezone.utc)
    rows = [(cell, {metric: summarise(values) for metric, values in figures.items()}) for cell, figures in sorted(cells.items())]
    written_for = {"engine": engine, "profile": profile, "model": model, "kind": kind}
    return _render(rows, too_noisy(runs, drop), left_out(runs), name, written_for, drop, source, when, len(runs))


def too_noisy(runs: Sequence[Iterable[CellRow]], drop: float = 0.10) -> list[str]:
    """Judged figures, ``cell metric``, whose spread over the repeats would hide ``drop`` from a later run."""
    return [
        f"{_name(cell)} {metric}"
        for cell, figures in sorted(_collect(runs).items())
        for metric, values in figures.items()
        if metric in JUDGED and not _tells(summarise(values), drop)
    ]


def repeats_of(cells: Iterable[CellRow], engine: str) -> list[list[CellRow]]:
    """An engine's cells of a run by repeat, as :func:`calibrate` takes them. Cells measured once (repeat 0) are left out."""
    groups: defaultdict[int, list[CellRow]] = defaultdict(list)
    for cell in cells:
        if cell.engine == engine and cell.repeat > 0:
            groups[cell.repeat].append(cell)
    return [groups[number] for number in sorted(groups)]


def merge_repeats(cells: Iterable[CellRow]) -> list[CellRow]:
    """Repeats of a cell as one: the means of their figures, with the interval the repeats give. Others come back unchanged.

    The worst status counts, and the windows are dropped: between repeats there is more than within one.
    """
    groups: defaultdict[tuple[str, str, str], list[CellRow]] = defaultdict(list)
    for cell in cells:
        groups[(cell.engine, cell.profile, cell.name)].append(cell)
    return [group[0] if len(group) == 1 else _merged(group) for group in groups.values()]


def _merged(group: Sequence[CellRow]) -> CellRow:
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for metric in METRICS:
        values = [v for c in group if (v := c.figure(metric)) is not None]
        if len(values) == len(group):
            figures[metric] = statistics.fmean(values)
            intervals[metric] = bootstrap_interval(values, block=1)
    doubt = next((c for c in group if c.status is Status.UNKNOWN), None)
    more = {m: [c.more[m] for c in group if m in c.more] for m in group[0].more}
    further = {m: statistics.fmean(values) for m, values in more.items() if len(values) == len(group)}
    update = {**dict.fromkeys(METRICS), **figures, "more": further, "intervals": intervals, "windows": (), "repeat": 0, "file": ""}
    update["status"] = worst(c.status for c in group)
    update["reason"] = doubt.reason if doubt else ""
    return group[0].model_copy(update=update)


CellKey = tuple[int, int, int]


def _name(cell: CellKey) -> str:
    return f"in{cell[0]}-out{cell[1]}-c{cell[2]}"


def left_out(runs: Sequence[Iterable[CellRow]]) -> dict[str, str]:
    """Cells without enough repeats that can be believed, and why."""
    doubts: dict[str, str] = {}
    for number, run in enumerate(runs, 1):
        for cell in run:
            if why := _doubt(cell):
                doubts.setdefault(cell.name, f"repeat {number} could not be measured ({why})")
    good = _good(runs)
    found = {}
    for key in sorted({(c.input_len, c.output_len, c.concurrency) for run in runs for c in run}):
        have = len(good.get(key, {}).get("output_throughput", ()))
        if have < MIN_REPEATS:
            told = doubts.get(_name(key), "not measured in the others")
            found[_name(key)] = f"{have} of {len(runs)} repeats can be believed, and {MIN_REPEATS} are the least; {told}"
    return found


def _doubt(cell: CellRow) -> str:
    if cell.output_throughput is None:
        return cell.reason or "no output throughput"
    return cell.reason if cell.status is Status.UNKNOWN else ""


def _good(runs: Sequence[Iterable[CellRow]]) -> dict[CellKey, dict[str, list[float]]]:
    """Cell → figure → its values in the repeats that can be believed."""
    found: defaultdict[CellKey, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in (cell for run in runs for cell in run if not _doubt(cell)):
        for metric in METRICS:
            value = cell.figure(metric)
            if value is not None and value > 0:
                found[(cell.input_len, cell.output_len, cell.concurrency)][metric].append(value)
    return {key: dict(figures) for key, figures in found.items()}


def _collect(runs: Sequence[Iterable[CellRow]]) -> dict[CellKey, dict[str, list[float]]]:
    """The cells that can be calibrated."""
    return {key: figures for key, figures in _good(runs).items() if len(figures.get("output_throughput", ())) >= MIN_REPEATS}


def _tells(figure: Calibrated, drop: float) -> bool:
    """Whether one later run can tell the drop from none: half of it is more than twice the error of the comparison."""
    return 2 * figure.spread * math.sqrt(1 + 1 / figure.n) < drop / 2


def _render(
    rows: Sequence[tuple[CellKey, dict[str, Calibrated]]],
    noisy: Sequence[str],
    lost: Mapping[str, str],
    name: str,
    written_for: Mapping[str, str],
    drop: float,
    source: str,
    when: datetime,
    n: int,
) -> str:
    origin = f"{n} repeats on {when:%Y-%m-%d}" + (f", {source}" if source else "")
    head = [
        f"# Recorded by pytest-h20 from {n} repeats on {when:%Y-%m-%d %H:%M} UTC. Yours to read and edit.",
        "#",
        "# value     mean of the repeats; change it to raise or lower the bar",
        "# n         how many repeats it is the mean of",
        "# spread    their standard deviation as a fraction of the mean: the noise from run to run",
        "# interval  95 % interval of the mean (bootstrap)",
        f"# drop      the change for the worse that matters ({100 * drop:g} %). The gate fails when at least half of it",
        "#           is seen and noise does not explain it; it says 'could not measure' when noise would hide it.",
        "# A plain number (output_throughput: 500) with a tolerance works too; kind: info records without judging.",
    ]
    if noisy:
        head += [
            "#",
            f"# TOO NOISY for one run to tell a {100 * drop:g} % drop from none (repeat more, longer cells, larger drop):",
            *[f"#   {item}" for item in noisy],
        ]
    if lost:
        head += ["#", "# NOT CALIBRATED, and not in this file:", *[f"#   {cell}: {' '.join(why.split())}" for cell, why in lost.items()]]
    lines = [
        *head,
        "schema_version: 1",
        f"name: {_quoted(name)}",
        *[f"{field}: {_quoted(value)}" for field, value in written_for.items() if value],
        f"origin: {{kind: baseline, detail: {_quoted(origin)}}}",
        "metrics:",
        "  output_throughput: {kind: min, unit: tok/s}",
        "  mean_tpot_ms: {kind: max, unit: ms}",
        "  mean_ttft_ms: {kind: info, unit: ms}",
        "cells:",
    ]
    for (input_len, output_len, concurrency), figures in rows:
        lines += [f"  - input: {input_len}", f"    output: {output_len}", f"    concurrency: {concurrency}"]
        lines += [f"    {metric}: {_spec(metric, figure, drop)}" for metric, figure in figures.items()]
    return "\n".join(lines) + "\n"


def _spec(metric: str, figure: Calibrated, drop: float) -> str:
    if metric not in JUDGED or figure.n < 2:
        return f"{figure.mean:.2f}"
    low, high = figure.interval
    return f"{{value: {figure.mean:.2f}, n: {figure.n}, spread: {figure.spread:.4f}, interval: [{low:.2f}, {high:.2f}], drop: {drop:g}}}"


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar."""
    return json.dumps(text, ensure_ascii=False)
