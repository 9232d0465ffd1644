"""Figures over concurrency as SVG: measured against limit, write-up and hardware, one chart per metric and pair of lengths.

Both axes are logarithmic: concurrency runs from 1 to 1024 and throughput over three decades. Colour is never the only sign:
series differ in dash and marker, a point that misses its limit is a cross, one that could not be measured a question mark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_h20.report.calibrate import merge_repeats
from pytest_h20.report.html.tags import Child, Html, join, svg, tag
from pytest_h20.report.html.words import STATUS_WORDS, chip, limit_words, number, term
from pytest_h20.report.model import METRICS, Cell, higher_is_better
from pytest_h20.verdicts import Status

WIDTH, HEIGHT = 400.0, 262.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 18.0, 12.0, 40.0
METRIC_ORDER = ("output_throughput", "mean_tpot_ms", "mean_ttft_ms")


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis: ``at`` maps a value to a coordinate."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Coordinate of a value, kept inside the drawing."""
        value = min(max(value, self.low), self.high)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def figures(cells: Sequence[Cell]) -> Html:
    """All charts of a run, then the same figures as tables. Nothing when there are no cells."""
    if not cells:
        return join()
    cells = merge_repeats(cells)
    lengths = sorted({cell.lengths for cell in cells})
    engines = sorted({(cell.engine, cell.profile) for cell in cells})
    charts = [
        chart(
            [c for c in cells if c.lengths == pair],
            metric,
            engines,
            key=f"h20-c-{metric}-{pair[0]}-{pair[1]}".replace("_", "-"),
        )
        for metric in METRIC_ORDER
        for pair in lengths
    ]
    return join(
        legend(cells, engines),
        tag("div", charts, class_="h20-charts"),
        tag(
            "details",
            tag("summary", "The same figures as tables"),
            [table([c for c in cells if (c.engine, c.profile) == who], who) for who in engines],
        ),
    )


# ---------------------------------------------------------------- the chart


def chart(cells: Sequence[Cell], metric: str, engines: Sequence[tuple[str, str]], *, key: str) -> Html:
    """One chart. ``cells``: all of one pair of lengths, any number of engines."""
    title, unit = METRICS[metric]
    pair = cells[0].lengths
    caption = f"{title} ({unit}), {pair[0]} tokens in, {pair[1]} out"
    series = list(_series(cells, metric, engines))
    values = [y for s in series for _, y in s.points if y > 0]
    if not values:
        body: Child = tag("p", "No figure was measured for this chart.", class_="h20-muted")
        return tag("figure", tag("figcaption", caption), body)
    levels = sorted({c.concurrency for c in cells})
    x = Scale(min(levels), max(max(levels), min(levels) * 2), LEFT, WIDTH - RIGHT)
    low, high = _decade_floor(min(values)), _decade_ceiling(max(values))
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    drawn = svg(
        WIDTH,
        HEIGHT,
        caption,
        _describe(cells, metric),
        list(_axes(x, y, levels)),
        [_draw(s, x, y) for s in series],
        [_mark(c, metric, index, x, y) for c in cells for index, who in enumerate(engines) if (c.engine, c.profile) == who],
        key=key,
    )
    return tag("figure", tag("figcaption", caption), drawn)


@dataclass(frozen=True)
class _Line:
    css: str
    points: tuple[tuple[float, float], ...]


def _series(cells: Sequence[Cell], metric: str, engines: Sequence[tuple[str, str]]) -> Iterator[_Line]:
    """Reference lines are the same for all engines unless an engine has limits of its own: then each has its line."""
    sources: tuple[tuple[str, Callable[[Cell], float | None]], ...] = (
        ("floor", lambda c: c.floor.get(metric)),
        ("blog", lambda c: c.blog.get(metric)),
        ("limit", lambda c: _limit(c, metric)),
        ("measured", lambda c: c.figure(metric)),
    )
    for css, get in sources:
        seen: set[tuple[tuple[float, float], ...]] = set()
        for index, who in enumerate(engines):
            rows = sorted((c for c in cells if (c.engine, c.profile) == who), key=lambda c: c.concurrency)
            for pairs in _unbroken([(float(c.concurrency), get(c)) for c in rows]):
                if pairs not in seen:
                    seen.add(pairs)
                    yield _Line(f"h20-{css} h20-s{index % 4}" if css == "measured" else f"h20-{css}", pairs)


def _unbroken(points: Sequence[tuple[float, float | None]]) -> Iterator[tuple[tuple[float, float], ...]]:
    """Stretches without a gap: a line through a level that was not measured would claim a figure there."""
    stretch: list[tuple[float, float]] = []
    for x, y in (*points, (0.0, None)):
        if y is not None and y > 0:
            stretch.append((x, y))
        elif stretch:
            yield tuple(stretch)
            stretch = []


def _limit(cell: Cell, metric: str) -> float | None:
    limit = cell.limits.get(metric)
    if limit is None or limit.kind not in ("min", "max", "within") or not isinstance(limit.value, (int, float)):
        return None
    return float(limit.value)


def _axes(x: Scale, y: Scale, levels: Sequence[int]) -> Iterator[Html]:
    bottom = HEIGHT - BOTTOM
    for value in _grid(y.low, y.high):
        at = y.at(value)
        yield tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{at:.1f}", y2=f"{at:.1f}", class_="h20-grid")
        yield _text(LEFT - 5, at + 3.5, _tick(value), "end")
    last = -math.inf
    for level in levels:
        at = x.at(level)
        yield tag("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=f"{bottom:g}", y2=f"{bottom + 4:g}", class_="h20-axis")
        if at - last >= 24 or level == levels[-1]:
            if level == levels[-1] and at - last < 24:
                continue
            yield _text(at, bottom + 15, str(level), "middle")
            last = at
    yield tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{bottom:g}", y2=f"{bottom:g}", class_="h20-axis")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "requests at a time", "middle")


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _draw(line: _Line, x: Scale, y: Scale) -> Html:
    points = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line.points)
    if len(line.points) == 1:
        a, b = line.points[0]
        return tag(
            "line", x1=f"{x.at(a) - 8:.1f}", x2=f"{x.at(a) + 8:.1f}", y1=f"{y.at(b):.1f}", y2=f"{y.at(b):.1f}", class_=line.css
        )
    return tag("polyline", points=points, class_=line.css)


def _mark(cell: Cell, metric: str, index: int, x: Scale, y: Scale) -> Html:
    """The measured point itself, with its words as a tooltip."""
    value = cell.figure(metric)
    at_x = x.at(cell.concurrency)
    status = cell_status(cell, metric)
    words = f"{cell.engine} at {cell.concurrency}: {number(value)} {METRICS[metric][1]}, {STATUS_WORDS[status]}"
    if value is None or value <= 0:
        at_y = HEIGHT - BOTTOM - 6
        return tag("g", tag("title", words), _text(at_x, at_y, "?", "middle"), class_="h20-unmeasured")
    at_y = y.at(value)
    if status is Status.FAIL:
        d = f"M{at_x - 4:.1f},{at_y - 4:.1f}l8,8m0,-8l-8,8"
        return tag("g", tag("title", words), tag("path", d=d), class_="h20-missed")
    if status is Status.UNKNOWN:
        return tag("g", tag("title", words), _text(at_x, at_y - 6, "?", "middle"), _shape(index, at_x, at_y), class_="h20-doubt")
    return tag("g", tag("title", words), _shape(index, at_x, at_y), class_=f"h20-point h20-s{index % 4}")


def _shape(index: int, x: float, y: float) -> Html:
    if index % 4 == 0:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.2")
    if index % 4 == 1:
        return tag("rect", x=f"{x - 3:.1f}", y=f"{y - 3:.1f}", width="6", height="6")
    turn = 1 if index % 4 == 2 else -1
    return tag("polygon", points=f"{x - 4:.1f},{y + 3 * turn:.1f} {x + 4:.1f},{y + 3 * turn:.1f} {x:.1f},{y - 4 * turn:.1f}")


def cell_status(cell: Cell, metric: str) -> Status:
    """A figure's own outcome: its limit where it has one; a cell that failed its sanity is in doubt as a whole."""
    if cell.status is Status.UNKNOWN:
        return Status.UNKNOWN
    limit = cell.limits.get(metric)
    if limit is None:
        return Status.UNKNOWN if cell.figure(metric) is None else Status.PASS
    accepted = limit.accepts(cell.figure(metric))
    if accepted is None:
        return Status.UNKNOWN
    return Status.PASS if accepted else Status.FAIL


def _describe(cells: Sequence[Cell], metric: str) -> str:
    """The chart in words: range, and every level that does not hold."""
    title, unit = METRICS[metric]
    known = sorted(((c.concurrency, v, c.engine) for c in cells if (v := c.figure(metric)) is not None), key=lambda r: r[0])
    if not known:
        return f"{title}: nothing was measured."
    first, last = known[0], known[-1]
    text = f"{title} from {number(first[1])} {unit} at {first[0]} to {number(last[1])} {unit} at {last[0]} requests at a time. "
    missed = [c for c in cells if cell_status(c, metric) is Status.FAIL]
    doubt = [c for c in cells if cell_status(c, metric) is Status.UNKNOWN]
    text += f"Misses its limit at {', '.join(str(c.concurrency) for c in missed)}. " if missed else "No level misses its limit. "
    return text + (f"Could not be measured at {', '.join(str(c.concurrency) for c in doubt)}." if doubt else "")


def _decade_floor(value: float) -> float:
    return next(v for v in reversed(list(_steps(value))) if v <= value * 0.97)


def _decade_ceiling(value: float) -> float:
    return next(v for v in _steps(value) if v >= value * 1.03)


def _steps(value: float) -> Iterator[float]:
    decade = math.floor(math.log10(value))
    for power in (decade - 1, decade, decade + 1):
        for digit in (1, 2, 5):
            yield digit * 10.0**power


def _grid(low: float, high: float) -> Iterator[float]:
    """1, 2, 5, 10 ... or only powers of ten when the range is wide."""
    digits = (1, 2, 5) if high / low <= 200 else (1, 3) if high / low <= 3000 else (1,)
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in digits:
            value = digit * 10.0**power
            if low <= value <= high * 1.0001:
                yield value


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


# ---------------------------------------------------------------- legend and table


def legend(cells: Sequence[Cell], engines: Sequence[tuple[str, str]]) -> Html:
    """What the lines mean; only those that are drawn."""
    items = [tag("li", _key(f"h20-measured h20-s{i % 4}", i), " measured: " + " ".join(who)) for i, who in enumerate(engines)]
    if any(_limit(c, m) is not None for c in cells for m in METRICS):
        items.append(tag("li", _key("h20-limit"), " ", term("limit")))
    if any(c.blog for c in cells):
        items.append(tag("li", _key("h20-blog"), " ", term("write-up")))
    if any(c.floor for c in cells):
        items.append(tag("li", _key("h20-floor"), " ", term("hardware", "best the hardware can do")))
    if any(cell_status(c, m) is Status.FAIL for c in cells for m in METRICS):
        cross = tag("svg", tag("path", d="M10,2l8,8m0,-8l-8,8"), viewBox="0 0 28 12", aria_hidden="true")
        items.append(tag("li", tag("span", cross, class_="h20-missed"), " misses its limit"))
    if any(cell_status(c, m) is Status.UNKNOWN for c in cells for m in METRICS):
        items.append(tag("li", tag("span", "?", class_="h20-qmark"), " could not be measured"))
    return tag("ul", items, class_="h20-legend")


def _key(css: str, index: int | None = None) -> Html:
    line = tag("line", x1="1", x2="27", y1="6", y2="6", class_=css)
    point = tag("g", _shape(index, 14, 6), class_=f"h20-point h20-s{index % 4}") if index is not None else None
    return tag("svg", line, point, viewBox="0 0 28 12", aria_hidden="true")


def table(cells: Sequence[Cell], who: tuple[str, str]) -> Html:
    """Every figure with what it is held against."""
    head = tag(
        "tr",
        *(
            tag("th", words, scope="col")
            for words in ("In / out", "At a time", "Figure", "Measured", "p50", "p99", "Limit", "Write-up", "Hardware", "Result")
        ),
    )
    rows = [_row(cell, metric) for cell in cells for metric in METRIC_ORDER]
    return tag(
        "table",
        tag("caption", f"{' '.join(who).strip()}: figures of every cell"),
        tag("thead", head),
        tag("tbody", rows),
        class_="h20-stack",
    )


def _percentile(cell: Cell, metric: str, percent: int) -> str:
    """Of a time; a rate of all requests together has none."""
    value = cell.figure(metric.replace("mean_", f"p{percent}_")) if metric.startswith("mean_") else None
    return "–" if value is None else f"{number(value)} {METRICS[metric][1]}"


def _row(cell: Cell, metric: str) -> Html:
    title, unit = METRICS[metric]
    limit = cell.limits.get(metric)
    wanted: Child = tag("span", limit_words(limit), title=str(limit.origin)) if limit else "–"
    best = "at most" if higher_is_better(metric) else "at least"
    floor = f"{best} {number(cell.floor[metric])} {unit}" if metric in cell.floor else "–"
    cells = (
        ("In / out", f"{cell.input_len} / {cell.output_len}"),
        ("At a time", str(cell.concurrency)),
        ("Figure", title),
        ("Measured", f"{number(cell.figure(metric))} {unit}" if cell.figure(metric) is not None else "–"),
        ("p50", _percentile(cell, metric, 50)),
        ("p99", _percentile(cell, metric, 99)),
        ("Limit", wanted),
        ("Write-up", f"{number(cell.blog[metric])} {unit}" if metric in cell.blog else "–"),
        ("Hardware", floor),
        ("Result", join(chip(cell_status(cell, metric)), f" {cell.reason}" if cell.reason else "")),
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in cells))
