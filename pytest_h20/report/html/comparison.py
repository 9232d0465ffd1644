"""Two sides held against each other, as a part of a report and as a page of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_h20.report.compare import CellChange, Comparison, of_figure, spread_words, words
from pytest_h20.report.html.charts import figures
from pytest_h20.report.html.tags import Child, Html, join, table, tag
from pytest_h20.report.html.words import chip, number
from pytest_h20.report.model import METRICS, CellRow
from pytest_h20.report.stats import Change

SHOWN = 5
"""Rows of the lists of largest changes."""


def comparison(result: Comparison) -> Html:
    """What changed, where, and what may explain it."""
    return join(
        tag("p", tag("b", result.new.label), " (new) held against ", tag("b", result.old.label), " (old)."),
        _headline(result),
        figures(_both(result)),
        _cells(result),
        _only(result),
        _gates(result),
        differences(result),
    )


def _headline(result: Comparison) -> Html:
    if not result.overall:
        return tag("p", tag("strong", "No cell was measured on both sides: figures cannot be compared."), class_="h20-standin")
    items = [
        tag(
            "li",
            direction(o.change),
            " ",
            tag("strong", METRICS[o.metric][0]),
            f": {words(o.change, o.metric)}, over {o.cells} cells",
        )
        for o in result.overall
    ]
    problems = result.problems
    return join(
        tag("p", tag("strong", result.headline), class_="h20-standin" if problems else None),
        tag("details", tag("summary", f"All {len(problems)} things that are worse"), tag("ul", [tag("li", p) for p in problems]))
        if problems
        else None,
        tag("ul", items, class_="h20-headline"),
        tag("p", f"Intervals are 95 % (of single cells: 95 % for all of them together); {spread_words(result)}.", class_="h20-muted"),
    )


def direction(seen: Change) -> Html:
    """Better, worse or the same within noise, as icon and word."""
    if not seen.significant:
        return tag("span", "= same", class_="h20-chip h20-skip")
    good = seen.factor > 1
    return tag("span", "▲ better" if good else "▼ worse", class_=f"h20-chip h20-{'pass' if good else 'fail'}")


def _both(result: Comparison) -> list[CellRow]:
    """The cells of both sides, told apart in charts by the side they are on."""
    old = [c.model_copy(update={"engine": "old", "profile": _short(c)}) for c in result.old.cells.values()]
    new = [c.model_copy(update={"engine": "new", "profile": _short(c)}) for c in result.new.cells.values()]
    return [*old, *new]


def _short(cell: CellRow) -> str:
    return f"({cell.engine})" if cell.engine else ""


def _cells(result: Comparison) -> Html | None:
    """The largest changes at once, all figures behind a fold."""
    rows = [row for row in result.cells if row.change is not None]
    if not rows:
        return None
    listed = [
        _changes(caption, found[:SHOWN])
        for caption, found in (
            ("Worse beyond noise, most first", result.slower),
            ("Better beyond noise, most first", result.faster),
        )
        if found
    ]
    return join(listed, tag("details", tag("summary", f"All {len(rows)} figures"), _changes("Figure by figure", rows)))


def _changes(caption: str, rows: Sequence[CellChange]) -> Html:
    body = [_row(row, row.change) for row in rows if row.change is not None]
    return table(caption, ("Cell", "Figure", "Old", "New", "Change"), body, "h20-stack")


def _row(row: CellChange, seen: Change) -> Html:
    title, unit = METRICS[row.metric]
    cells: tuple[tuple[str, Child], ...] = (
        ("Cell", row.cell),
        ("Figure", title),
        ("Old", f"{number(row.old)} {unit}"),
        ("New", f"{number(row.new)} {unit}"),
        ("Change", join(_bar(seen), direction(seen), f" {of_figure(seen, row.metric)[0]:+.1f} %")),
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in cells))


def _bar(seen: Change) -> Html:
    """A bar from the middle: right is better, left is worse; 25 % fills a side."""
    share = max(-1.0, min(1.0, math.log(seen.factor) / math.log(1.25)))
    left, width = (50, 50 * share) if share >= 0 else (50 + 50 * share, -50 * share)
    css = "h20-skip" if not seen.significant else "h20-pass" if share >= 0 else "h20-fail"
    return tag(
        "span",
        tag("span", style=f"left:{left:.0f}%;width:{max(width, 1):.0f}%", class_=f"h20-delta {css}"),
        class_="h20-deltas",
        aria_hidden="true",
    )


def _only(result: Comparison) -> Html | None:
    found = [("old", result.only_old), ("new", result.only_new)]
    items = [tag("li", f"only in {name}: {', '.join(cells)}") for name, cells in found if cells]
    return tag("ul", items) if items else None


def _gates(result: Comparison) -> Html | None:
    changed = [(g, a, b) for g, a, b in result.gates if a != b]
    if not changed:
        return None
    rows = [
        tag("tr", tag("th", g, scope="row"), tag("td", chip(a) if a else "not run"), tag("td", chip(b) if b else "not run"))
        for g, a, b in changed
    ]
    return table("Gates that differ", ("Gate", "Old", "New"), rows)


def differences(result: Comparison, names: tuple[str, str] = ("Old", "New")) -> Html:
    """Facts that are not the same on both sides. ``names``: of the sides."""
    if not result.differences:
        return tag("p", "Nothing that was recorded about the two differs.")
    rows = [
        tag("tr", tag("th", d.fact, scope="row"), tag("td", d.old or d.absent), tag("td", d.new or d.absent)) for d in result.differences
    ]
    return table("What differs between the two, and may explain it", ("Fact", *names), rows, "h20-differs")
