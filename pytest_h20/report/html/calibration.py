"""What a calibration found: mean, spread and interval of every cell over its repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pytest_h20.report.calibrate import JUDGED, summarise
from pytest_h20.report.html.tags import Html, join, table, tag
from pytest_h20.report.html.words import number
from pytest_h20.report.model import METRICS, CellRow

STEADY = 0.02
"""Up to this spread one later run tells a 10 % drop from none (benchmarks/noise_gate.py)."""


def calibration(cells: Sequence[CellRow]) -> Html | None:
    """A table of the repeated cells, or None when nothing was measured twice."""
    groups: defaultdict[tuple[str, str], list[CellRow]] = defaultdict(list)
    for cell in cells:
        groups[(cell.engine, cell.name)].append(cell)
    repeated = {who: group for who, group in groups.items() if len(group) > 1}
    if not repeated:
        return None
    head = ("Cell", "Figure", "Mean", "Spread", "95 % interval", "Repeats")
    rows = [row for who, group in repeated.items() for row in _rows(who, group)]
    noisy = [row for row, too_noisy in rows if too_noisy]
    return join(
        tag(
            "p",
            "Each cell was measured several times. The spread is the noise from run to run: up to ",
            f"{100 * STEADY:g} % one later run tells a drop of 10 % from none; above that, repeat cells or lengthen them.",
        ),
        table(f"{len(noisy)} figures are noisier than that", head, noisy, "h20-stack")
        if noisy
        else tag("p", "No judged figure is noisier."),
        tag("details", tag("summary", f"All {len(rows)} figures"), table("Repeats", head, [row for row, _ in rows], "h20-stack")),
    )


def _rows(who: tuple[str, str], group: Sequence[CellRow]) -> list[tuple[Html, bool]]:
    found = []
    for metric in METRICS:
        values = [v for c in group if (v := c.figure(metric)) is not None and v > 0]
        if len(values) < 2:
            continue
        title, unit = METRICS[metric]
        figure = summarise(values)
        noisy = metric in JUDGED and figure.spread > STEADY
        low, high = figure.interval
        cells = (
            ("Cell", " ".join(who)),
            ("Figure", title),
            ("Mean", f"{number(figure.mean)} {unit}"),
            (
                "Spread",
                join(f"{100 * figure.spread:.1f} % ", tag("span", "! noisy", class_="h20-chip h20-warn") if noisy else None),
            ),
            ("95 % interval", f"{number(low)} … {number(high)} {unit}"),
            ("Repeats", str(figure.n)),
        )
        found.append((tag("tr", *(tag("td", value, data_label=label) for label, value in cells)), noisy))
    return found
