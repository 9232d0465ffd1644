"""A run at a moment as lines of text in the reader's language, each with a tone: what a terminal draws, and what is printed
where there is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_h20.core.verdict import Limit, Status
from pytest_h20.lang import labelled, local
from pytest_h20.report.html.words import duration, limit_words, number
from pytest_h20.report.live.progress import CellStand, FigureStand, GateStand, Progress, RunState, Sparkline, StartStand

Tone = Literal["plain", "head", "good", "warn", "bad", "dim"]

TONES: dict[Status, Tone] = {Status.PASS: "good", Status.SKIP: "dim", Status.WARN: "warn", Status.UNKNOWN: "bad", Status.FAIL: "bad"}
BLOCKS = "▁▂▃▄▅▆▇█"
PER_LINE = 4
"""GPUs or ports side by side; fewer on a narrow terminal."""


@dataclass(frozen=True)
class LiveLine:
    """``drawn``: it changes with every sample, and is left out where lines are printed one below the other."""

    text: str
    tone: Tone = "plain"
    drawn: bool = False


def lines(p: Progress, width: int = 100, points: int = 16) -> list[LiveLine]:
    """All of it, most important first. ``points``: of every course."""
    found = [
        LiveLine(labelled(who(p), state_words(p)), "head"),
        LiveLine(labelled(p.run, p.mode), "dim"),
    ]
    if p.scale != 1.0:
        found.append(LiveLine(local(f"time runs {p.scale:g} times as fast as in reality; figures are in model time"), "dim"))
    found += [_gate(gate, max(len(g.name) for g in p.gates)) for gate in p.gates]
    for bring_up in p.bringups:
        found += _bring_up(bring_up)
    if p.cell is not None:
        found += _cell(p.cell)
    found += _courses("GPU power", p.gpus, width, points)
    found += _courses("Rails, sent", p.rails, width, points)
    if p.kernel:
        found.append(LiveLine(labelled("Kernel log", p.kernel), "plain" if p.kernel != "nothing that matters" else "dim"))
    found += [LiveLine(local(f"not read: {text}"), "warn") for text in p.damage[:5]]
    if len(p.damage) > 5:
        found.append(LiveLine(local(f"not read: {len(p.damage) - 5} more"), "warn"))
    if p.answer:
        found.append(
            LiveLine(labelled(p.answer, p.reason) if p.reason else local(p.answer), "good" if p.accepted else "warn" if p.green else "bad")
        )
    return found


def who(p: Progress) -> str:
    """Which engines on which cluster."""
    return " · ".join((*p.engines, p.name or p.run))


def state_words(p: Progress) -> str:
    """Where it is, since when, and when it last wrote anything."""
    so_long, ago = duration(p.running_s or 0.0), duration(p.since_sign_s or 0.0)
    return {
        RunState.NOT_BEGUN: f"not begun, last sign of life {ago} ago",
        RunState.RUNNING: f"running for {so_long}, last sign of life {ago} ago",
        RunState.SILENT: f"silent: last sign of life {ago} ago; whether it still runs cannot be seen from here",
        RunState.KILLED: f"killed in the middle, last sign of life {ago} ago",
        RunState.FINISHED: f"finished after {so_long}",
    }[p.state]


def _gate(gate: GateStand, width: int) -> LiveLine:
    tests = f"{gate.done}/{gate.total}" if gate.total else ""
    text = f"  {gate.name:<{width}}  {tests:>9}  {labelled(gate.words, gate.reason) if gate.reason else local(gate.words)}"
    if gate.status is None:
        return LiveLine(text, "plain" if gate.words == "runs" else "dim")
    return LiveLine(text, TONES[gate.status] if gate.status.blocks or not gate.words.startswith("runs") else "plain")


def _bring_up(b: StartStand) -> Iterable[LiveLine]:
    of = f" (at most {duration(b.limit_s)})" if b.limit_s is not None else ""
    time = f", {duration(b.elapsed_s)}{of}" if b.elapsed_s is not None else f" {b.note}" if b.note else ""
    yield LiveLine(
        local(f"bring-up of {b.engine}: {b.state}{time}"), "bad" if b.state == "broken" else "good" if b.state == "ready" else "plain"
    )
    for role in b.roles:
        name = " ".join(filter(None, (role.node, role.role)))
        stage = f"{name:<14} {local(role.stage)}"
        yield LiveLine(f"  {stage} {amount(role.done, role.total, role.unit) or role.detail}{local(left(role.left_s))}".rstrip())


def amount(done: int | None, total: int | None, unit: str) -> str:
    """``[######....] 98/163 shards``."""
    if done is None or not total:
        return ""
    filled = round(10 * min(1.0, done / total))
    return f"[{'#' * filled}{'.' * (10 - filled)}] " + local(f"{done}/{total} {unit}".rstrip())


def left(seconds: float | None) -> str:
    """``, 42 s left``."""
    return "" if seconds is None else f", about {duration(seconds)} left"


def cell_words(c: CellStand, drawn: bool = True) -> str:
    """Which cell, and how much of it is done. ``drawn``: with a bar of characters."""
    if c.over:
        return f"last cell {c.engine} {c.cell}: {c.done} requests in {duration(c.elapsed_s)}"
    which = f" {c.number}/{c.of}" if c.of > 1 else ""
    done = (amount(c.done, c.total, c.unit) if drawn else "") or f"{c.done} {c.unit}"
    failed = f", {c.failed} failed" if c.failed else ""
    return f"cell{which} {c.engine} {c.cell}: {done}{failed}, {c.in_flight} in flight, {duration(c.elapsed_s)}{left(c.left_s)}"


def _cell(c: CellStand) -> Iterable[LiveLine]:
    yield LiveLine(local(cell_words(c)), TONES[c.status] if c.status is not None else "plain")
    for figure in c.figures:
        yield LiveLine("  " + figure_words(figure, c.over), tone_of(figure, c.over))


def figure_words(f: FigureStand, over: bool) -> str:
    """A figure and its limit, in the reader's language."""
    held = f"  {held_to(f.limit)} {local(holds_words(f, over))}" if f.limit is not None else ""
    return f"{padded(local(f.title), 18)} {number(f.value)} {f.unit}{held}"


def held_to(limit: Limit) -> str:
    """``≥ 480 tok/s``."""
    sign = {"min": "≥", "max": "≤"}.get(limit.kind)
    return f"{sign} {number(limit.value)} {limit.unit}".rstrip() if sign else limit_words(limit)


def holds_words(f: FigureStand, over: bool) -> str:
    """How it stands to its limit."""
    return "" if f.holds is None else "holds" if f.holds else "does not hold" if over else "not yet"


def tone_of(f: FigureStand, over: bool) -> Tone:
    """A figure that grows while its cell runs is not red before it is over."""
    return "plain" if f.holds is None else "good" if f.holds else "bad" if over else "warn"


def _courses(title: str, courses: Sequence[Sparkline], width: int, points: int) -> Iterable[LiveLine]:
    if not courses:
        return
    yield LiveLine(f"{local(title)}:", drawn=True)
    for node in dict.fromkeys(c.node for c in courses):
        mine = [c for c in courses if c.node == node]
        told = [f"{c.name:<8} {spark(c.values[-points:]):<{points}} {padded(local(c.words), 20)}" for c in mine]
        each = max(1, min(PER_LINE, (width - 10) // (max(map(cells, told)) + 2)))
        for start in range(0, len(told), each):
            text = "  ".join(told[start : start + each]).rstrip()
            odd = any(c.odd for c in mine[start : start + each])
            yield LiveLine(f"  {node if not start else '':<8} {text}", "bad" if odd else "plain", drawn=True)


def cells(text: str) -> int:
    """How wide it is on a terminal: a Chinese character takes two places."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int) -> str:
    """As wide as the others of its column."""
    return text + " " * (width - cells(text))


def spark(values: Sequence[float]) -> str:
    """The values as blocks, from 0 to the largest. Nothing of nothing."""
    top = max(values, default=0.0)
    return "".join(BLOCKS[min(7, int(8 * max(0.0, v) / top))] if top > 0 else BLOCKS[0] for v in values)
