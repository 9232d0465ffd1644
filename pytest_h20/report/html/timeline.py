"""The bring-up, state by state: when each began, how long it took, where it broke."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pytest_h20.report.html.tags import Html, join, table, tag
from pytest_h20.report.html.words import duration
from pytest_h20.report.model import Timed

RESTING = frozenset({"off", "down", "broken", "ready"})
"""States without an end of their own: they are drawn as a moment, not as a stretch."""


@dataclass(frozen=True)
class Bar:
    """A state of one engine (and node) with its start after the first one and its length, in seconds."""

    engine: str
    node: str
    state: str
    note: str
    start: float
    length: float | None


def stretches(timeline: Sequence[Timed], ended: datetime | None, scale: float = 1.0) -> list[Bar]:
    """Turn state changes into stretches, in model seconds (``scale`` of them pass in one).

    A node's last stage ends when the cluster is ready or broken; that of a run that was cut short ends with the run, when that is
    known.
    """
    lanes: defaultdict[tuple[str, str], list[Timed]] = defaultdict(list)
    for item in timeline:
        lanes[(item.change.engine, item.change.node)].append(item)
    found = []
    for (engine, node), items in lanes.items():
        zero = min(i.time for i in timeline if i.change.engine == engine)
        whole = lanes.get((engine, ""), [])
        settled = next((i.time for i in whole if i.change.state in ("ready", "broken")), ended)
        for item, after in zip(items, [*items[1:], None], strict=True):
            end = after.time if after else (None if item.change.state in RESTING else settled)
            length = max(0.0, (end - item.time).total_seconds()) * scale if end else None
            start = (item.time - zero).total_seconds() * scale
            found.append(Bar(engine, node, item.change.state, item.change.note, start, length))
    return found


def timeline_part(timeline: Sequence[Timed], ended: datetime | None, scale: float = 1.0) -> Html:
    """One table with bars per engine; nothing when nothing was started."""
    found = stretches(timeline, ended, scale)
    engines = dict.fromkeys(s.engine for s in found)
    return join(*(_engine(engine, [s for s in found if s.engine == engine]) for engine in engines))


def _engine(engine: str, found: Sequence[Bar]) -> Html:
    measured = [s for s in found if s.state not in RESTING]
    total = max((s.start + (s.length or 0) for s in measured), default=0.0) or 1.0
    several = any(s.node for s in found)
    head = (*(("Where",) if several else ()), "State", "Began after", "Took")
    rows = [_row(s, total, several) for s in found if s.state != "off"]
    took = duration(total) if measured else "nothing"
    return table(f"{engine}: bring-up, {took} in all", head, rows, "h20-timeline")


def _row(s: Bar, total: float, several: bool) -> Html:
    css = "h20-bar-broken" if s.state == "broken" else "h20-bar-ready" if s.state == "ready" else "h20-bar"
    bar = None
    if s.state not in RESTING and s.length is not None:
        left, width = 100 * s.start / total, max(100 * s.length / total, 0.6)
        bar = tag("span", tag("span", style=f"margin-left:{min(left, 99):.1f}%;width:{width:.1f}%", class_=css), class_="h20-track")
    elif s.state in ("ready", "broken"):
        left = min(100 * s.start / total, 98)
        bar = tag("span", tag("span", style=f"margin-left:{left:.1f}%;width:2%", class_=css), class_="h20-track")
    state = join(tag("strong", s.state), f" {s.note}" if s.note else "", bar)
    cells = [tag("td", s.node or "cluster")] if several else []
    took = "–" if s.length is None or s.state in RESTING else duration(s.length)
    return tag("tr", *cells, tag("td", state), tag("td", duration(s.start)), tag("td", took))
