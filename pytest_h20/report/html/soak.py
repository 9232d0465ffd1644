"""A soak over its hours: a small chart per figure, with what happened and what the kernels said on the time axis."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.core.verdict import GateName
from pytest_h20.report.html.tags import Html, join, svg, tag
from pytest_h20.report.html.words import chip, duration, number, subject
from pytest_h20.report.model import KernelLine, SoakRecord, SoakSeries

WIDTH, HEIGHT = 360.0, 110.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 8.0, 8.0, 20.0
SHOWN = 20

STOPPED = {"duration": "to its end", "interrupted": "interrupted", "server_gone": "the server was gone"}
"""How a soak ended -> what is said of it."""


def soaks(found: Sequence[SoakRecord], kernel: Sequence[KernelLine]) -> Html:
    """Every soak of a run."""
    return join([_soak(soak, [k for k in kernel if k.gate is GateName.SOAK], f"soak{i}") for i, soak in enumerate(found)])


def _soak(soak: SoakRecord, kernel: Sequence[KernelLine], key: str) -> Html:
    mixed = " + ".join(f"{given}/{out}" for given, out in soak.lengths)
    head = (
        f"{soak.engine}: {soak.streams} streams, lengths {mixed}, {duration(3600 * soak.lasted)} of {duration(3600 * soak.asked)} "
        f"({STOPPED.get(soak.stopped, soak.stopped)}); {soak.complete} of {soak.sent} requests were answered"
    )
    lines = [((k.after_s or 0.0) * soak.leap / 3600, f"{k.node}: {k.meaning}") for k in kernel if k.after_s is not None]
    marks = [(e.hours, e.words) for e in soak.events] + lines
    leapt = f" A rehearsal: {soak.leap:.0f} hours are seen in one of traffic." if soak.leap > 1 else ""
    return join(
        tag("p", head, ".", leapt),
        tag("div", [_chart(series, soak, marks, f"{key}-{i}") for i, series in enumerate(soak.series)], class_="h20-charts"),
        tag("ul", [tag("li", f"{duration(3600 * at)}: {words}") for at, words in sorted(marks)[:SHOWN]]) if marks else None,
    )


def _chart(series: SoakSeries, soak: SoakRecord, marks: Sequence[tuple[float, str]], key: str) -> Html:
    values = [y for _, y in series.points]
    low, high = min(values), max(values)
    least = 0.02 * max(abs(high), abs(low)) or 1.0  # a flat line looks flat
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2

    def x(hours: float) -> float:
        return LEFT + min(max(hours / soak.asked, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    name = f"{subject(series.of or series.name)} ({series.unit})"
    red = series.status.blocks
    at = " ".join(f"{x(h):.0f},{y(v):.0f}" for h, v in series.points)
    shift = [(series.shift_at, "level shift")] if series.shift_at is not None else []
    drawn = svg(
        WIDTH,
        HEIGHT,
        f"{name} over the soak",
        series.said,
        [_text(LEFT - 4, y(v) + 3.5, number(v), "end") for v in (high, low)],
        tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{HEIGHT - BOTTOM:g}", y2=f"{HEIGHT - BOTTOM:g}", class_="h20-axis"),
        _text(LEFT, HEIGHT - 5, "0", "start"),
        _text(WIDTH - RIGHT, HEIGHT - 5, duration(3600 * soak.asked), "end"),
        tag("g", tag("polyline", points=at), class_="h20-odd" if red else "h20-even"),
        [_mark(x(h), words) for h, words in (*marks[:SHOWN], *shift)],
        key=key,
    )
    return tag("figure", tag("figcaption", name, " ", chip(series.status)), drawn, tag("p", series.said, class_="h20-muted h20-small"))


def _mark(at: float, words: str) -> Html:
    mark = tag("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=f"{TOP:g}", y2=f"{HEIGHT - BOTTOM + 4:g}")
    return tag("g", tag("title", words), mark, class_="h20-kernel")


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)
