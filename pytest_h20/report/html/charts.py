"""Figures over concurrency as SVG: measured against limit, write-up and hardware, one chart per metric and pair of lengths.

Both axes are logarithmic: concurrency runs from 1 to 1024 and throughput over three decades. Colour is never the only sign:
series differ in dash and marker, a point that misses its limit is a cross, one that could not be measured a question mark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_h20.config.figures import metric_figure
from pytest_h20.core.verdict import Status
from pytest_h20.report.calibrate import merge_repeats
from pytest_h20.report.html.tags import Child, Html, join, svg, table, tag
from pytest_h20.report.html.words import RECORDED, STATUS_WORDS, chip, limit_words, number, term
from pytest_h20.report.model import CellRow, higher_is_better

WIDTH, HEIGHT = 400.0, 262.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 18.0, 12.0, 40.0
METRIC_ORDER = ("output_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms")


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis, or a linear one from 0: ``at`` maps a value to a coordinate."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Coordinate of a value, kept inside the drawing."""
        value = min(max(value, self.low), self.high)
        if self.low == 0:
            return self.start + value / self.high * (self.end - self.start)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def figures(cells: Sequence[CellRow], gpus: Mapping[str, int] | None = None) -> Html:
    """All charts of a run, then the same figures as tables. Nothing when there are no cells.

    ``gpus``: engine -> GPUs it ran on, where that is known: with it, the throughput of each is held against that of each user.
    """
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
        if metric != "mean_itl_ms" or any(c.figure(metric) is not None for c in cells)
    ]
    trades = [frontier([c for c in cells if c.lengths == pair], engines, gpus or {}) for pair in lengths]
    return join(
        legend(cells, engines),
        tag("div", trades, charts, class_="h20-charts"),
        tag(
            "details",
            tag("summary", "The same figures as tables"),
            [_cell_table([c for c in cells if (c.engine, c.profile) == who], who) for who in engines],
            class_="h20-figures",
        ),
    )


# ---------------------------------------------------------------- the chart


def chart(cells: Sequence[CellRow], metric: str, engines: Sequence[tuple[str, str]], *, key: str) -> Html:
    """One chart. ``cells``: all of one pair of lengths, any number of engines."""
    title, unit = named(metric)
    pair = cells[0].lengths
    caption = f"{title} ({unit}), {pair[0]} tokens in, {pair[1]} out"
    series = list(_series(cells, metric, engines))
    values = [y for s in series for _, y in s.points if y > 0]
    values += [value for cell in cells for value in tails(cell, metric) if value is not None and value > 0]
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
        [_reach(c, metric, index, len(engines), x, y) for c in cells for index, who in enumerate(engines) if (c.engine, c.profile) == who],
        [_mark(c, metric, index, x, y) for c in cells for index, who in enumerate(engines) if (c.engine, c.profile) == who],
        key=key,
    )
    return tag("figure", tag("figcaption", caption), drawn)


def named(metric: str) -> tuple[str, str]:
    """Title and unit of a figure."""
    figure = metric_figure(metric)
    return (figure.title, figure.unit) if figure else (metric, "")


def tails(cell: CellRow, metric: str) -> tuple[float | None, float | None]:
    """p50 and p99 of a time over the requests (ITL: over the pauses); a rate of all requests together has none."""
    if not metric.startswith("mean_"):
        return None, None
    return cell.figure(metric.replace("mean_", "p50_")), cell.figure(metric.replace("mean_", "p99_"))


def _reach(cell: CellRow, metric: str, index: int, engines: int, x: Scale, y: Scale) -> Html | None:
    """From p50 to p99 beside the mean: a line with a foot at each. Engines stand beside each other."""
    low, high = tails(cell, metric)
    if not low or not high:
        return None
    at = x.at(cell.concurrency) + (index - (engines - 1) / 2) * 5
    top, bottom = y.at(high), y.at(low)
    words = f"{cell.engine} at {cell.concurrency}: p50 {number(low)} {named(metric)[1]}, p99 {number(high)} {named(metric)[1]}"
    d = f"M{at:.1f},{bottom:.1f}V{top:.1f}M{at - 4:.1f},{top:.1f}h8M{at - 2:.1f},{bottom:.1f}h4"
    return tag("g", tag("title", words), tag("path", d=d), class_=f"h20-reach h20-s{index % 4}")


@dataclass(frozen=True)
class _Line:
    css: str
    points: tuple[tuple[float, float], ...]


def _series(cells: Sequence[CellRow], metric: str, engines: Sequence[tuple[str, str]]) -> Iterator[_Line]:
    """Reference lines are the same for all engines unless an engine has limits of its own: then each has its line."""
    sources: tuple[tuple[str, Callable[[CellRow], float | None]], ...] = (
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


def _limit(cell: CellRow, metric: str) -> float | None:
    limit = cell.limits.get(metric)
    if limit is None or limit.kind not in ("min", "max", "within") or not isinstance(limit.value, (int, float)):
        return None
    return float(limit.value)


def _axes(x: Scale, y: Scale, levels: Sequence[int]) -> Iterator[Html]:
    for value in _grid(y.low, y.high):
        at = y.at(value)
        yield tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{at:.1f}", y2=f"{at:.1f}", class_="h20-grid")
        yield _text(LEFT - 5, at + 3.5, _tick(value), "end")
    yield from _below(x, levels)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "requests at a time", "middle")


def _below(x: Scale, levels: Sequence[float]) -> Iterator[Html]:
    """The axis below a chart, with the numbers that have room."""
    bottom = HEIGHT - BOTTOM
    last = -math.inf
    for level in levels:
        at = x.at(level)
        yield tag("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=f"{bottom:g}", y2=f"{bottom + 4:g}", class_="h20-axis")
        if at - last >= 24 or level == levels[-1]:
            if level == levels[-1] and at - last < 24:
                continue
            yield _text(at, bottom + 15, f"{level:g}", "middle")
            last = at
    yield tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{bottom:g}", y2=f"{bottom:g}", class_="h20-axis")


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _draw(line: _Line, x: Scale, y: Scale) -> Html:
    points = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line.points)
    if len(line.points) == 1:
        a, b = line.points[0]
        return tag("line", x1=f"{x.at(a) - 8:.1f}", x2=f"{x.at(a) + 8:.1f}", y1=f"{y.at(b):.1f}", y2=f"{y.at(b):.1f}", class_=line.css)
    return tag("polyline", points=points, class_=line.css)


def _mark(cell: CellRow, metric: str, index: int, x: Scale, y: Scale) -> Html:
    """The measured point itself, with its words as a tooltip."""
    value = cell.figure(metric)
    status = cell_status(cell, metric)
    words = f"{cell.engine} at {cell.concurrency}: {number(value)} {named(metric)[1]}, {result_words(status)}"
    at_y = HEIGHT - BOTTOM - 6 if value is None or value <= 0 else y.at(value)
    return _sign(words, status, index, x.at(cell.concurrency), at_y, measured=bool(value and value > 0))


def _sign(words: str, status: Status, index: int, at_x: float, at_y: float, *, measured: bool = True) -> Html:
    """The point of a figure: its engine's shape, a cross where it misses its limit, a question mark where it is in doubt."""
    if not measured:
        return tag("g", tag("title", words), _text(at_x, at_y, "?", "middle"), class_="h20-unmeasured")
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


def cell_status(cell: CellRow, metric: str) -> Status:
    """A figure's own outcome: its limit where it has one that judges, SKIP where it was only recorded. A cell that failed its sanity
    is in doubt as a whole."""
    if cell.status is Status.UNKNOWN:
        return Status.UNKNOWN
    limit = cell.limits.get(metric)
    if limit is None or limit.kind == "info":
        return Status.UNKNOWN if cell.figure(metric) is None else Status.SKIP
    accepted = limit.accepts(cell.figure(metric))
    if accepted is None:
        return Status.UNKNOWN
    return Status.PASS if accepted else Status.FAIL


def result_words(status: Status) -> str:
    """The word for :func:`cell_status`."""
    return RECORDED if status is Status.SKIP else STATUS_WORDS[status]


def _describe(cells: Sequence[CellRow], metric: str) -> str:
    """The chart in words: range, and every level that does not hold."""
    title, unit = named(metric)
    known = sorted(((c.concurrency, v, c.engine) for c in cells if (v := c.figure(metric)) is not None), key=lambda r: r[0])
    if not known:
        return f"{title}: nothing was measured."
    first, last = known[0], known[-1]
    text = f"{title} from {number(first[1])} {unit} at {first[0]} to {number(last[1])} {unit} at {last[0]} requests at a time. "
    missed = [c for c in cells if cell_status(c, metric) is Status.FAIL]
    doubt = [c for c in cells if cell_status(c, metric) is Status.UNKNOWN]
    judged = any(cell_status(c, metric) is not Status.SKIP for c in cells)
    text += f"Misses its limit at {', '.join(str(c.concurrency) for c in missed)}. " if missed else ""
    text += "" if missed else "No level misses its limit. " if judged else "Nothing was expected of it. "
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


# ---------------------------------------------------------------- throughput per GPU against throughput per user


def frontier(cells: Sequence[CellRow], engines: Sequence[tuple[str, str]], gpus: Mapping[str, int]) -> Html:
    """What a GPU gives against what a user gets: up and to the right is better, and every load level is one choice between the two.

    ``cells``: of one pair of lengths. A user's speed is 1 / mean TPOT. Nothing where the number of GPUs is not known.
    """
    pair = cells[0].lengths
    caption = f"Output per GPU against output per user (tok/s), {pair[0]} tokens in, {pair[1]} out"
    points = [(cell, *both) for cell in cells if (both := per_gpu_and_user(cell, gpus.get(cell.engine, 0))) is not None]
    if not points:
        return join()
    x = Scale(0, max(_round_up(user) for _, _, user in points), LEFT, WIDTH - RIGHT)
    y = Scale(0, max(_round_up(gpu) for _, gpu, _ in points), HEIGHT - BOTTOM, TOP)
    lines, signs = [], []
    labels: list[tuple[float, float]] = []
    for index, who in enumerate(engines):
        mine = sorted((p for p in points if (p[0].engine, p[0].profile) == who), key=lambda p: p[0].concurrency)
        lines.append(_draw(_Line(f"h20-measured h20-s{index % 4}", tuple((user, gpu) for _, gpu, user in mine)), x, y) if mine else None)
        for cell, gpu, user in mine:
            at = x.at(user), y.at(gpu)
            status = Status.UNKNOWN if cell.status is Status.UNKNOWN else Status.PASS
            words = f"{cell.engine} at {cell.concurrency}: {number(gpu)} tok/s per GPU, {number(user)} tok/s per user"
            signs.append(_sign(words, status, index, *at))
            if all(abs(at[0] - left) >= 30 or abs(at[1] - top) >= 12 for left, top in labels):
                signs.append(_text(at[0] + 6, at[1] - 5, str(cell.concurrency), "start"))
                labels.append(at)
    sure = [point for point in points if point[0].status is not Status.UNKNOWN]
    told: list[Child] = ["No point of it could be measured. "]
    if sure:
        best, quick = max(sure, key=lambda p: p[1]), max(sure, key=lambda p: p[2])
        each = f"each user then gets {number(best[2])}."
        told = [
            f"Most per GPU: {number(best[1])} tok/s with {best[0].engine} at {best[0].concurrency} requests at a time, {each} ",
            f"Most per user: {number(quick[2])} tok/s with {quick[0].engine} at {quick[0].concurrency}. ",
        ]
    drawn = svg(
        WIDTH,
        HEIGHT,
        caption,
        told,
        [_level(y, value) for value in _even(y.high)],
        list(_below(x, list(_even(x.high)))),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "output tok/s per user", "middle"),
        lines,
        signs,
        key=f"h20-c-frontier-{pair[0]}-{pair[1]}",
    )
    told_below = tag("p", told, "Numbers are requests at a time.", class_="h20-small h20-muted")
    return tag("figure", tag("figcaption", caption), drawn, told_below)


def per_gpu_and_user(cell: CellRow, gpus: int) -> tuple[float, float] | None:
    """Output tokens per second of each GPU and of each user, or None where one of them is not known."""
    if not gpus or not cell.output_throughput or not cell.mean_tpot_ms:
        return None
    return cell.output_throughput / gpus, 1000 / cell.mean_tpot_ms


def _level(y: Scale, value: float) -> Html:
    at = y.at(value)
    line = tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{at:.1f}", y2=f"{at:.1f}", class_="h20-grid")
    return join(line, _text(LEFT - 5, at + 3.5, _tick(value), "end"))


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that leaves a little room."""
    decade = 10.0 ** math.floor(math.log10(value))
    return next(step * decade for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15) if step * decade >= value * 1.04)


def _even(high: float) -> Iterator[float]:
    """0 and four or five steps up to ``high``."""
    decade = 10.0 ** math.floor(math.log10(high))
    count = {1: 5, 1.5: 3, 2: 4, 3: 3, 4: 4, 5: 5, 6: 3, 8: 4}.get(round(high / decade, 1), 5)
    for step in range(count + 1):
        yield round(high * step / count, 10)


# ---------------------------------------------------------------- legend and table


def legend(cells: Sequence[CellRow], engines: Sequence[tuple[str, str]]) -> Html:
    """What the lines mean; only those that are drawn."""
    items = [tag("li", _key(f"h20-measured h20-s{i % 4}", i), " measured: " + " ".join(who)) for i, who in enumerate(engines)]
    if any(None not in tails(c, m) for c in cells for m in METRIC_ORDER):
        reach = tag("svg", tag("path", d="M14,11V1M10,1h8M12,11h4"), viewBox="0 0 28 12", aria_hidden="true")
        items.append(tag("li", tag("span", reach, class_="h20-reach h20-s0"), " p50 to p99"))
    if any(_limit(c, m) is not None for c in cells for m in METRIC_ORDER):
        items.append(tag("li", _key("h20-limit"), " ", term("limit")))
    if any(c.blog for c in cells):
        items.append(tag("li", _key("h20-blog"), " ", term("write-up")))
    if any(c.floor for c in cells):
        items.append(tag("li", _key("h20-floor"), " ", term("hardware", "best the hardware can do")))
    if any(cell_status(c, m) is Status.FAIL for c in cells for m in METRIC_ORDER):
        cross = tag("svg", tag("path", d="M10,2l8,8m0,-8l-8,8"), viewBox="0 0 28 12", aria_hidden="true")
        items.append(tag("li", tag("span", cross, class_="h20-missed"), " misses its limit"))
    if any(cell_status(c, m) is Status.UNKNOWN for c in cells for m in METRIC_ORDER):
        items.append(tag("li", tag("span", "?", class_="h20-qmark"), " could not be measured"))
    return tag("ul", items, class_="h20-legend")


def _key(css: str, index: int | None = None) -> Html:
    line = tag("line", x1="1", x2="27", y1="6", y2="6", class_=css)
    point = tag("g", _shape(index, 14, 6), class_=f"h20-point h20-s{index % 4}") if index is not None else None
    return tag("svg", line, point, viewBox="0 0 28 12", aria_hidden="true")


def _cell_table(cells: Sequence[CellRow], who: tuple[str, str]) -> Html:
    """Every figure with what it is held against."""
    head = ("In / out", "At a time", "Figure", "Measured", "p50", "p90", "p99", "Limit", "Write-up", "Hardware", "Result")
    rows = [_row(cell, metric) for cell in cells for metric in METRIC_ORDER if metric != "mean_itl_ms" or cell.figure(metric) is not None]
    return table(f"{' '.join(who).strip()}: figures of every cell", head, rows, "h20-stack")


def _tail(cell: CellRow, metric: str, word: str) -> str:
    value = cell.figure(metric.replace("mean_", word)) if metric.startswith("mean_") else None
    return "–" if value is None else f"{number(value)} {named(metric)[1]}"


def _row(cell: CellRow, metric: str) -> Html:
    title, unit = named(metric)
    low, high = tails(cell, metric)
    status = cell_status(cell, metric)
    limit = cell.limits.get(metric)
    wanted: Child = tag("span", limit_words(limit), title=str(limit.origin)) if limit else "–"
    best = "at most" if higher_is_better(metric) else "at least"
    floor = f"{best} {number(cell.floor[metric])} {unit}" if metric in cell.floor else "–"
    cells = (
        ("In / out", f"{cell.input_len} / {cell.output_len}"),
        ("At a time", str(cell.concurrency)),
        ("Figure", title),
        ("Measured", f"{number(cell.figure(metric))} {unit}" if cell.figure(metric) is not None else "–"),
        ("p50", "–" if low is None else f"{number(low)} {unit}"),
        ("p90", _tail(cell, metric, "p90_")),
        ("p99", "–" if high is None else f"{number(high)} {unit}"),
        ("Limit", wanted),
        ("Write-up", f"{number(cell.blog[metric])} {unit}" if metric in cell.blog else "–"),
        ("Hardware", floor),
        ("Result", join(chip(status, result_words(status)), f" {cell.reason}" if cell.reason else "")),
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in cells))
