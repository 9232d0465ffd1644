"""Figures for other tools: the write-up's ``summary.csv``."""

from __future__ import annotations

import csv
import io

from pytest_h20.report.model import CellRow, RunView

BLOG_COLUMNS = (
    "concurrency",
    "mean TTFT(ms)",
    "input_throughput(tokens/s)",
    "output_throughput(tokens/s)",
    "mean TPOT(ms)",
    "mean_input_len",
    "mean_output_len",
)
"""Header of the write-up's ``summary.csv`` (2025-04-05), in its order."""
EXTRA_COLUMNS = ("engine", "profile", "status", "mode", "accepted")


def summary_csv(view: RunView) -> str:
    """The write-up's columns, then ours. ``mode`` and ``accepted`` stand in every row, so no excerpt can pass for more."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=(*BLOG_COLUMNS, *EXTRA_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for cell in view.cells:
        writer.writerow({**_blog_row(cell), **_extra_row(cell, view)})
    return out.getvalue()


def _blog_row(cell: CellRow) -> dict[str, object]:
    figures = (
        cell.concurrency,
        _number(cell.mean_ttft_ms),
        _number(cell.input_throughput),
        _number(cell.output_throughput),
        _number(cell.mean_tpot_ms),
        cell.input_len,
        cell.output_len,
    )
    return dict(zip(BLOG_COLUMNS, figures, strict=True))


def _extra_row(cell: CellRow, view: RunView) -> dict[str, object]:
    return {
        "engine": cell.engine,
        "profile": cell.profile,
        "status": cell.status.value,
        "mode": view.header.mode.value,
        "accepted": "yes" if view.decision.accepted else "no",
    }


def _number(value: float | None) -> object:
    """Empty for "not measured": never 0, which would read as a figure."""
    return "" if value is None else round(value, 4)
