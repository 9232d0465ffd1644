"""The machines under load, drawn beside each cell: one line per GPU, the odd one out in colour, kernel lines on the time axis."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pytest_h20.report.html.tags import Html, join, svg, tag
from pytest_h20.report.html.words import duration, number
from pytest_h20.report.model import CellLoad, GpuLoad, KernelLine

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 92.0, 34.0, 6.0, 8.0, 18.0
DRAWN = (("sm_mhz", "SM clock", "MHz", 100.0), ("power_w", "Power", "W", 50.0), ("temperature_c", "Temperature", "°C", 10.0))
"""Quantity, its name and unit, and how high the chart is at least, so that noise stays small."""

POINTS = 24
"""Points of a line on the page; the record has more."""


def machines(loads: Sequence[CellLoad], kernel: Sequence[KernelLine]) -> Html:
    """A block per cell; those in which something is odd are open. Lines of the kernel outside of any cell come last."""
    by_cell = {(k.engine, k.cell): [x for x in kernel if (x.engine, x.cell) == (k.engine, k.cell)] for k in kernel}
    blocks = [_cell(load, by_cell.get((load.engine, load.cell), []), f"h20-m-{i}") for i, load in enumerate(loads)]
    rest = [k for k in kernel if not k.cell and k.severity != "info"]
    return join(
        tag("p", "Each line is one GPU. A coloured line stands apart from the others; a mark on the time axis is a line of the kernel.")
        if loads
        else None,
        blocks,
        tag("h3", "Kernel lines outside of the cells") if rest else None,
        _lines(rest) if rest else None,
    )


def _cell(load: CellLoad, kernel: Sequence[KernelLine], key: str) -> Html:
    odd = [g for g in load.gpus if g.apart or _held(g)]
    charts = [_chart(load, kernel, quantity, f"{key}-{quantity.replace('_', '-')}") for quantity in DRAWN_NAMES]
    shown = [c for c in charts if c is not None]
    told = ", ".join(_medians(load)) or "the GPUs told nothing"
    words = f"{load.engine} {load.cell}" + (f", repeat {load.repeat}" if load.repeat else "")
    return tag(
        "details",
        tag("summary", tag("b", words), f": {len(load.gpus)} GPUs, {told}"),
        tag("div", shown, class_="h20-multiples") if shown else None,
        tag("ul", [tag("li", text) for text in _remarks(load)], class_="h20-small") if any(True for _ in _remarks(load)) else None,
        _lines(kernel) if kernel else None,
        open=bool(odd or kernel or load.gaps or load.missing),
    )


DRAWN_NAMES = tuple(name for name, *_ in DRAWN)


def _held(gpu: GpuLoad) -> bool:
    return any(reason.startswith("hw_") or reason == "sw_thermal_slowdown" for reason in gpu.throttled)


def _medians(load: CellLoad) -> Iterator[str]:
    for quantity, _, unit, _ in DRAWN:
        values = [g.spreads[quantity][1] for g in load.gpus if quantity in g.spreads]
        if values:
            yield f"{number(statistics.median(values))} {unit}"
    if load.energy_wh_per_1k is not None:
        yield f"{number(load.energy_wh_per_1k, 3)} Wh per 1,000 tokens (GPUs alone)"


_GAUGES = {"running": "at most {} running", "waiting": "at most {} waiting", "put_back": "{} put back (preempted or retracted)"}


def _remarks(load: CellLoad) -> Iterator[str]:
    for gpu in load.gpus:
        if gpu.apart:
            yield gpu.apart
        if _held(gpu):
            told = ", ".join(f"{reason} in {count} of {gpu.samples} samples" for reason, count in gpu.throttled.items())
            yield f"{gpu.node} GPU {gpu.index}: {told}"
    if said := [words.format(number(load.gauges[name])) for name, words in _GAUGES.items() if name in load.gauges]:
        share = f", KV cache at most {100 * load.gauges['kv_use']:.0f} % in use" if "kv_use" in load.gauges else ""
        yield f"the engine: {', '.join(said)}{share}"
    yield from load.gaps
    for node, why in load.missing.items():
        yield f"{node}: {why}"
    for node, host in load.hosts.items():
        parts = []
        if host.run_queue is not None:
            parts.append(f"run queue {number(host.run_queue[1])} (at most {number(host.run_queue[2])})")
        if host.steal_share:
            parts.append(f"{100 * host.steal_share:.1f} % of CPU time stolen")
        if host.memory_bytes:
            parts.append(f"containers hold {host.memory_bytes / 2**30:.1f} GiB")
        carried = sum(r.get("port_xmit_data", 0) + r.get("port_rcv_data", 0) for r in host.rails.values()) / 1e9
        if carried:
            parts.append(f"rails carried {number(carried)} GB")
        if parts:
            yield f"{node}: {', '.join(parts)}"


def _chart(load: CellLoad, kernel: Sequence[KernelLine], quantity: str, key: str) -> Html | None:
    name, unit, least = next((n, u, least) for q, n, u, least in DRAWN if q == quantity)
    gpus = [g for g in load.gpus if g.series.get(quantity)]
    if not gpus or load.seconds <= 0:
        return None
    values = [y for g in gpus for _, y in g.series[quantity]]
    low, high = min(values), max(values)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    odd = [g for g in gpus if g.apart or _held(g)]
    described = f"{len(gpus)} GPUs between {number(min(values))} and {number(max(values))} {unit}"
    if odd:
        described += "; apart: " + ", ".join(f"{g.node} GPU {g.index}" for g in odd)
    drawn = svg(
        WIDTH,
        HEIGHT,
        [name, f": {load.cell}"],
        described,
        [_text(LEFT - 4, y + 3.5, number(value, 3), "end") for value, y in ((high, TOP), (low, HEIGHT - BOTTOM))],
        tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{HEIGHT - BOTTOM:g}", y2=f"{HEIGHT - BOTTOM:g}", class_="h20-axis"),
        _text(LEFT, HEIGHT - 5, "0 s", "start"),
        _text(WIDTH - RIGHT, HEIGHT - 5, duration(load.seconds), "end"),
        # the odd ones last: they lie on top
        [_line(g, quantity, load.seconds, low, high) for g in (*(g for g in gpus if g not in odd), *odd)],
        [_mark(k, load.seconds) for k in kernel if k.after_s is not None],
        key=key,
    )
    return tag("figure", tag("figcaption", f"{name} ({unit})"), drawn)


def _line(gpu: GpuLoad, quantity: str, seconds: float, low: float, high: float) -> Html:
    points = gpu.series[quantity]
    step = max(1, -(-len(points) // POINTS))
    kept = (*points[::step], points[-1])
    at = " ".join(f"{_x(x, seconds):.0f},{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.0f}" for x, y in dict(kept).items())
    odd = bool(gpu.apart or _held(gpu))
    words = tag("title", f"{gpu.node} GPU {gpu.index}, serial {gpu.serial or 'unknown'}, slot {gpu.slot or 'unknown'}") if odd else None
    return tag("g", words, tag("polyline", points=at), class_="h20-odd" if odd else "h20-even")


def _x(seconds: float, whole: float) -> float:
    return LEFT + min(max(seconds / whole, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def _mark(line: KernelLine, seconds: float) -> Html:
    at = f"{_x(line.after_s or 0.0, seconds):.1f}"
    mark = tag("line", x1=at, x2=at, y1=f"{TOP:g}", y2=f"{HEIGHT - BOTTOM + 4:g}")
    return tag("g", tag("title", f"{line.node}: {line.meaning}"), mark, class_="h20-kernel")


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)


def _lines(kernel: Sequence[KernelLine], most: int = 20) -> Html:
    """Kernel lines: when, what it means, what to do, and the line itself."""
    items = []
    for line in kernel[:most]:
        when = "" if line.after_s is None else f" after {duration(line.after_s)}"
        head = f"{line.node}, {line.gate.value}{when}: "
        action = f" ({line.action})" if line.action else ""
        items.append(tag("li", head, tag("b", line.meaning), action, tag("br"), tag("code", line.text)))
    more = f"and {len(kernel) - most} more: see the evidence" if len(kernel) > most else None
    return tag("ul", items, tag("li", more) if more else None, class_="h20-kernel-lines")
