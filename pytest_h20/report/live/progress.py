"""What a run's folder comes to at a moment: one frozen model, made by a pure function. The views draw nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from pytest_h20.config.figures import metric_figure
from pytest_h20.core.verdict import GATE_TITLES, GateName, Limit, Status
from pytest_h20.report.live.now import BringUpNow, CellNow, MachinesNow, RoleNow
from pytest_h20.report.model import METRICS, WORDS, RunView
from pytest_h20.report.terminal import because_of, verdict_words

SILENT_AFTER_S = 180.0
"""A run whose process cannot be asked after (it is on another machine) counts as silent from here on."""

ENGINE_STATES = ("launching", "joining", "loading")
"""States of a cluster in which its processes start."""


class RunState(str, Enum):
    """Where a run is."""

    NOT_BEGUN = "not begun"
    RUNNING = "running"
    SILENT = "silent"
    KILLED = "killed"
    FINISHED = "finished"

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self in (RunState.KILLED, RunState.FINISHED)


@dataclass(frozen=True)
class ToldNow:
    """What a folder says beside its records. ``lives``: whether the run's process does; None where that cannot be seen. ``last_sign``:
    when anything was last written. ``selected``: every test that will run, with its gate. ``kernel``: node and line, in the order in
    which they were read; ``kernel_read``: whether any log was. ``damage``: files that could not be read, and why."""

    lives: bool | None = None
    last_sign: datetime | None = None
    selected: tuple[tuple[str, str], ...] = ()
    bringups: tuple[BringUpNow, ...] = ()
    cells: tuple[CellNow, ...] = ()
    machines: tuple[MachinesNow, ...] = ()
    kernel: tuple[tuple[str, str], ...] = ()
    kernel_read: bool = False
    damage: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateStand:
    """One gate. ``words``: waits, runs, or how it came out so far. ``done`` of ``total`` tests; 0 of 0 where that is not known."""

    name: str
    title: str
    words: str
    status: Status | None
    done: int
    total: int
    reason: str = ""


@dataclass(frozen=True)
class RoleStand:
    """One process of an engine that starts. ``left_s``: until its stage is over at the pace so far, model time; None: not known."""

    node: str
    role: str
    stage: str
    done: int | None = None
    total: int | None = None
    unit: str = ""
    detail: str = ""
    left_s: float | None = None


@dataclass(frozen=True)
class StartStand:
    """An engine's start: its state, what its processes are at, and how much of the time that it may take is gone."""

    engine: str
    state: str
    note: str = ""
    roles: tuple[RoleStand, ...] = ()
    elapsed_s: float | None = None
    limit_s: float | None = None


@dataclass(frozen=True)
class FigureStand:
    """One figure of a cell and what it is held against. ``holds``: as the limit says of the figure as it stands; None: no limit."""

    name: str
    title: str
    value: float
    unit: str
    limit: Limit | None = None
    holds: bool | None = None


@dataclass(frozen=True)
class CellStand:
    """A load cell: the one that runs, else (``over``) the last one that was measured, with its ``status``."""

    engine: str
    cell: str
    over: bool
    figures: tuple[FigureStand, ...]
    status: Status | None = None
    number: int = 0
    of: int = 0
    done: int = 0
    total: int | None = None
    unit: str = "requests"
    failed: int = 0
    in_flight: int = 0
    elapsed_s: float = 0.0
    left_s: float | None = None


@dataclass(frozen=True)
class Sparkline:
    """One GPU or port over the last samples: its name, its values, and what it says now. ``odd``: it is slowed down."""

    node: str
    name: str
    unit: str
    values: tuple[float, ...]
    words: str
    odd: bool = False


@dataclass(frozen=True)
class Progress:
    """A run at a moment. ``since_sign_s``: since anything was last written. ``kernel``: the last line of any node's kernel log, or that
    there is none. ``answer``: what was decided, in words; empty until then."""

    run: str
    name: str
    engines: tuple[str, ...]
    mode: str
    state: RunState
    started: datetime | None
    running_s: float | None
    since_sign_s: float | None
    scale: float
    gates: tuple[GateStand, ...]
    bringups: tuple[StartStand, ...] = ()
    cell: CellStand | None = None
    gpus: tuple[Sparkline, ...] = ()
    rails: tuple[Sparkline, ...] = ()
    kernel: str = ""
    answer: str = ""
    accepted: bool = False
    green: bool = False
    reason: str = ""
    damage: tuple[str, ...] = field(default=())


def progress(view: RunView, told: ToldNow, now: datetime) -> Progress:
    """What it comes to. ``now``: on the clock of the machine on which the run writes."""
    h = view.header
    state = _state(view, told, now)
    going = state in (RunState.RUNNING, RunState.NOT_BEGUN, RunState.SILENT)
    last = told.last_sign if not going and not view.complete else h.ended if view.complete else now
    loads = told.machines if going else ()
    return Progress(
        run=h.run or view.path.name,
        name=h.name,
        engines=h.engines,
        mode=h.mode.words,
        state=state,
        started=h.started,
        running_s=_between(h.started, last),
        since_sign_s=_between(told.last_sign, now),
        scale=h.time_scale,
        gates=tuple(_gates(view, told, state)),
        bringups=tuple(_bringups(view, told, going, now)),
        cell=_running(told) if going and told.cells else _last_cell(view),
        gpus=tuple(_gpus(loads)),
        rails=tuple(_rails(loads)),
        kernel=_kernel(view, told),
        answer=verdict_words(view) if view.complete else "",
        accepted=view.decision.accepted,
        green=view.decision.green,
        reason=because_of(view) if view.complete else "",
        damage=(*view.damage, *told.damage),
    )


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return max(0.0, (end - start).total_seconds()) if start is not None and end is not None else None


def _state(view: RunView, told: ToldNow, now: datetime) -> RunState:
    if view.complete:
        return RunState.FINISHED
    if told.lives is False:
        return RunState.KILLED
    since = _between(told.last_sign, now)
    if told.lives is None and since is not None and since > SILENT_AFTER_S:
        return RunState.SILENT
    return RunState.RUNNING if view.checks or view.timeline or told.bringups else RunState.NOT_BEGUN


def _gates(view: RunView, told: ToldNow, state: RunState) -> Iterable[GateStand]:
    reported = {check.test_id for check in view.checks}
    results = {result.name: result for result in view.decision.gates}
    wanted: dict[GateName, list[str]] = {}
    for test, gate in told.selected:
        wanted.setdefault(GateName(gate), []).append(test)
    first = True
    for name in GateName:
        mine, result = wanted.get(name, []), results.get(name)
        if not mine and name not in view.header.required and result is None:
            continue
        done = sum(test in reported for test in mine)
        counted = result is not None and bool(result.counts)
        whole = view.complete or (bool(told.selected) and done == len(mine))
        status = result.status if result is not None and (counted or view.complete) else None
        if whole and status is not None:
            words = WORDS[status]
        elif told.selected and not mine and not counted:
            words = "not selected"
        elif state.over:
            words = "ended in it" if counted else "not reached"
        elif counted or (first and mine):
            words = "runs" if status is None or not status.blocks else f"runs, {WORDS[status]} so far"
        else:
            words = "waits"
        first = first and (whole or words == "not selected")
        reason = result.reason if result is not None and status is not None and status.blocks else ""
        yield GateStand(name.value, GATE_TITLES[name], words, status, done, len(mine), reason)


def _bringups(view: RunView, told: ToldNow, going: bool, now: datetime) -> Iterable[StartStand]:
    live = {b.engine: b for b in told.bringups}
    for engine in dict.fromkeys([t.change.engine for t in view.timeline] + list(live)):
        changes = [t for t in view.timeline if t.change.engine == engine]
        whole = [t for t in changes if not t.change.node]
        state = whole[-1].change.state if whole else "launching"
        told_now = live.get(engine) if going and state in ENGINE_STATES else None
        if told_now is None:
            stages = {t.change.node: t.change for t in changes if t.change.node} if state in (*ENGINE_STATES, "broken") else {}
            roles = [RoleStand(node, "", change.state, detail=change.note) for node, change in stages.items()]
            yield StartStand(engine, state, whole[-1].change.note if whole else "", tuple(roles))
            continue
        entered = {(t.change.node, t.change.state): t.time for t in changes if t.change.node}
        # a node enters a stage again and again where its ranks take turns: the first time of the present one is not known
        gone = {role.role: _between(entered.get((role.node, role.stage)), told_now.time) for role in told_now.roles}
        roles = [_role(role, gone[role.role], view.header.time_scale) for role in told_now.roles]
        elapsed = told_now.elapsed_s + (_between(told_now.time, now) or 0.0) * view.header.time_scale
        yield StartStand(engine, state, "", tuple(roles), elapsed, told_now.limit_s or None)


def _role(told: RoleNow, gone: float | None, scale: float) -> RoleStand:
    left = None
    if gone and told.done and told.total and told.done <= told.total:
        left = gone * scale * (told.total - told.done) / told.done
    return RoleStand(told.node, told.role, told.stage or "no output yet", told.done, told.total, told.unit, told.detail, left)


def _figures(found: Mapping[str, float | None], limits: Mapping[str, Limit]) -> tuple[FigureStand, ...]:
    figures = []
    for name, value in found.items():
        if value is None:
            continue
        title, unit = METRICS.get(name) or _known(name)
        limit = limits.get(name)
        limit = None if limit is None or limit.kind == "info" else limit
        figures.append(FigureStand(name, title, value, unit, limit, limit.accepts(value) if limit is not None else None))
    return tuple(figures)


def _known(name: str) -> tuple[str, str]:
    figure = metric_figure(name)
    return (figure.title, figure.unit) if figure is not None else (name.replace("_", " "), "ms" if name.endswith("_ms") else "")


def _running(told: ToldNow) -> CellStand:
    c = max(told.cells, key=lambda cell: cell.time)
    return CellStand(
        engine=c.engine,
        cell=c.cell,
        over=False,
        figures=_figures(c.figures, c.limits),
        number=c.number,
        of=c.of,
        done=c.done,
        total=c.total,
        unit=c.unit,
        failed=c.failed,
        in_flight=c.in_flight,
        elapsed_s=c.elapsed_s,
        left_s=c.left_s,
    )


def _last_cell(view: RunView) -> CellStand | None:
    """That of the last load that was looked at; else the last one of the table."""
    if not view.cells:
        return None
    measured = {(c.engine, c.name, c.repeat): c for c in view.cells}
    last = next((c for load in reversed(view.loads) if (c := measured.get((load.engine, load.cell, load.repeat)))), view.cells[-1])
    return CellStand(
        engine=last.engine,
        cell=last.name,
        over=True,
        figures=_figures({name: last.figure(name) for name in METRICS}, last.limits),
        status=last.status,
        number=len(view.cells),
        done=last.requests,
        total=last.requests,
        elapsed_s=last.seconds,
    )


def _gpus(machines: Sequence[MachinesNow]) -> Iterable[Sparkline]:
    for gpu in (gpu for m in machines for gpu in m.gpus):
        slowed = tuple(word for word in gpu.throttled if word in SLOWED)
        parts = [f"{gpu.power_w[-1]:.0f} W"] if gpu.power_w else []
        parts += [f"{value:.0f} {unit}" for value, unit in ((gpu.sm_mhz, "MHz"), (gpu.temperature_c, "°C")) if value is not None]
        words = ", ".join([*parts, *slowed]) or "tells nothing"
        yield Sparkline(gpu.node, f"GPU {gpu.index}", "W", gpu.power_w, words, bool(slowed) or not gpu.power_w)


SLOWED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
"""Reasons of a lower clock that no GPU under load should have."""


def _rails(machines: Sequence[MachinesNow]) -> Iterable[Sparkline]:
    for rail in (rail for m in machines for rail in m.rails):
        sent = rail.sent_gbit_s
        words = f"{sent[-1]:.3g} Gbit/s, most {max(sent):.3g}" if sent else "tells nothing"
        yield Sparkline(rail.node, rail.rail, "Gbit/s", sent, words)


def _kernel(view: RunView, told: ToldNow) -> str:
    if view.kernel:
        line = view.kernel[-1]
        return f"{line.node}: {line.text}" + (f" ({line.meaning})" if line.meaning else "")
    if told.kernel:
        node, text = told.kernel[-1]
        return f"{node}: {text}"
    return "nothing that matters" if told.kernel_read else ""
