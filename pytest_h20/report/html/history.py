"""The history as a page: every run, and how the figures moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_h20.report.history import PastRun, Point
from pytest_h20.report.html.tags import Html, join, svg, table, tag
from pytest_h20.report.html.words import number

WIDTH, HEIGHT = 400.0, 130.0


def history_part(entries: Sequence[PastRun], trends: Mapping[str, Sequence[Point]]) -> Html:
    """Runs newest first, then one small chart per cell."""
    if not entries:
        return tag("p", "No run is recorded yet.")
    head = ("Started", "Result", "Engine", "On", "Run", "Why")
    charts = [_trend(name, points, index) for index, (name, points) in enumerate(trends.items()) if len(points) > 1]
    return join(
        table(f"{len(entries)} runs, newest first", head, [_row(e) for e in entries], "h20-stack"),
        join(
            tag("h2", "Output throughput over the runs"),
            tag("p", "A red point is a run that was not accepted."),
            tag("div", charts, class_="h20-charts"),
        )
        if charts
        else None,
    )


def _row(entry: PastRun) -> Html:
    cells = (
        ("Started", tag("span", entry.started[:16].replace("T", " ") + " UTC", class_="h20-nowrap")),
        ("Result", join(_state(entry), " ", f"{entry.mode} run" if entry.mode != "full" else "")),
        ("Engine", ", ".join(entry.engines)),
        ("On", entry.name),
        ("Run", tag("code", entry.run, class_="h20-small")),
        ("Why", "" if entry.green else entry.reason),
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in cells))


def _state(entry: PastRun) -> Html:
    if entry.accepted:
        return tag("span", "✓ accepted", class_="h20-chip h20-pass")
    if entry.green:
        return tag("span", "! no acceptance", class_="h20-chip h20-warn")
    return tag("span", "✗ not accepted", class_="h20-chip h20-fail")


def _trend(name: str, points: Sequence[Point], index: int) -> Html:
    values = [p.value for p in points]
    low, high = min(values) * 0.95, max(values) * 1.05
    step = (WIDTH - 70) / (len(points) - 1)
    spots = [(55 + i * step, 10 + (HEIGHT - 30) * (high - p.value) / (high - low)) for i, p in enumerate(points)]
    change = 100 * (values[-1] / values[0] - 1)
    caption = f"{name}: {number(values[-1])} tok/s, {change:+.1f} % since {points[0].started[:10]}"
    marks = [
        tag(
            "g",
            tag("title", f"{p.started[:16].replace('T', ' ')} UTC {p.run}: {number(p.value)} tok/s"),
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.2"),
            class_="h20-point h20-s0" if p.accepted else "h20-doubt",
        )
        for p, (x, y) in zip(points, spots, strict=True)
    ]
    body = svg(
        WIDTH,
        HEIGHT,
        caption,
        f"{len(points)} runs between {number(min(values))} and {number(max(values))} tok/s",
        tag("text", number(high), x="50", y="14", text_anchor="end"),
        tag("text", number(low), x="50", y=f"{HEIGHT - 18:g}", text_anchor="end"),
        tag("text", "tok/s", x="50", y=f"{HEIGHT / 2 - 4:g}", text_anchor="end"),
        tag("line", x1="55", x2=f"{WIDTH - 15:g}", y1=f"{HEIGHT - 16:g}", y2=f"{HEIGHT - 16:g}", class_="h20-axis"),
        tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in spots), class_="h20-measured h20-s0"),
        marks,
        key=f"h20-h-{index}",
    )
    return tag("figure", tag("figcaption", caption), body)
