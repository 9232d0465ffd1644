"""Beside the figures of each cell: what its canaries said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pytest_h20.report.html.tags import Child, Html, join, table, tag
from pytest_h20.report.model import Canaries, CellRow

COLUMNS = ("In / out", "At a time", "Canaries", "Right", "Nonces back", "Alike", "Anything else")


def answers(cells: Sequence[CellRow]) -> Html:
    """A row per cell that carried canaries. Nothing when none did."""
    found: defaultdict[str, list[Html]] = defaultdict(list)
    for cell in cells:
        if cell.canaries is not None and cell.canaries.asked:
            found[cell.engine].append(_row(cell, cell.canaries))
    return join(*(table(f"{engine}: answers inside the cells", COLUMNS, rows, "h20-stack") for engine, rows in sorted(found.items())))


def _row(cell: CellRow, found: Canaries) -> Html:
    values: tuple[Child, ...] = (
        f"{cell.input_len} / {cell.output_len}",
        str(cell.concurrency),
        str(found.asked),
        _of(found.right, found.questions),
        _of(found.back, found.nonces),
        _of(found.alike, found.twins),
        _strange(found) or "–",
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in zip(COLUMNS, values, strict=True)))


def _of(good: int, asked: int) -> Child:
    """A count that is short of what was asked stands out."""
    words = f"{good} of {asked}" if asked else "–"
    return words if good == asked else tag("b", words)


def _strange(found: Canaries) -> Child:
    names = ("swapped", "blank", "flood", "loop", "cut", "failed")
    parts = [f"{count} {name}" for name in names if (count := getattr(found, name))]
    if not parts and not found.examples:
        return ""
    return join(tag("b", ", ".join(parts)), tag("span", f" {'; '.join(found.examples)}", class_="h20-small"))
