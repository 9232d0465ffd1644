"""The recovery table: one row per drill, what clients saw of the fault and how the engine came back."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.report.html.tags import Html, table, tag
from pytest_h20.report.html.words import duration
from pytest_h20.report.model import DrillRow

HEAD = (
    "Drill",
    "The fault",
    "Clients",
    "Told after",
    "/health",
    "Came to rest",
    "Started again",
    "Left behind",
    "Taken back",
)


def recovery(rows: Sequence[DrillRow]) -> Html:
    """Every drill in the order in which they were made."""
    return table("What each drill showed; seconds count from the fault", HEAD, [_row(row) for row in rows])


def _row(row: DrillRow) -> Html:
    health = " → ".join(str(status) if status else "no answer" for status in row.health)
    rest = f"{row.settled or 'neither well nor down'}, {duration(row.settled_s)}" if row.settled_s is not None else ""
    cells = (
        row.proof,
        ", ".join(f"{number} {how}" for how, number in row.clients.items()),
        "" if row.told_s is None else duration(row.told_s),
        health,
        rest,
        row.restart + (f", {duration(row.restart_s)}" if row.restart_s is not None else ""),
        "; ".join(row.left) or "nothing",
        row.stuck or "yes",
    )
    head = tag("th", f"{row.engine} {row.drill}", scope="row")
    return tag("tr", head, *(tag("td", cell, data_label=label) for label, cell in zip(HEAD[1:], cells, strict=True)))
