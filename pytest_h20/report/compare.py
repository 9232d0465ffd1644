"""Run against run: engine and engine, image and image, today and the last accepted one, one node and two.

Pure: two :class:`Side` in, one :class:`Comparison` out. Every change has its interval, and what differs between the two
fingerprints stands beside it, because that is where the explanation is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.lang import local
from pytest_h20.report.calibrate import merge_repeats
from pytest_h20.report.model import METRICS, WORDS, CellRow, Fingerprint, RunView, higher_is_better
from pytest_h20.report.stats import CONFIDENCE, Change, Estimate, change, estimate

ASSUMED_SPREAD = 0.02
"""Run-to-run spread taken when no repeats are known: 2 %. Every text that rests on it says so."""
TTFT_SPREAD = 0.25
"""Of TTFT at least: it follows how the requests happened to arrive and queue. Healthy runs of one cluster differ by a third and more,
so that a change of it counts only when it is gross."""


LEAST_IN_TIME = 0.1
"""A figure may have been a tenth (or ten times) of what it was on a late machine, not less: a collapse stays one."""


@dataclass(frozen=True)
class Side:
    """One run, or one engine of it."""

    label: str
    cells: Mapping[str, CellRow]
    facts: Mapping[str, str]
    gates: Mapping[str, Status] = field(default_factory=dict)
    accepted: bool = False
    mode: str = ""
    damage: tuple[str, ...] = ()
    """Records of it that cannot be trusted; a run that did not finish says so here."""


@dataclass(frozen=True)
class CellChange:
    """One figure of one cell on both sides. ``change`` is None when a side has no figure. ``doubt``: see ``doubt_of``."""

    cell: str
    metric: str
    old: float | None
    new: float | None
    change: Change | None
    doubt: float = 0.0


@dataclass(frozen=True)
class Overall:
    """The geometric mean of a figure's changes over the common cells."""

    metric: str
    cells: int
    change: Change


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same on both sides. Empty text: not known there, or for a flag not given."""

    fact: str
    old: str
    new: str

    @property
    def absent(self) -> str:
        """What to say where there is none."""
        return "not given" if self.fact.startswith("flag ") else "not known"


@dataclass(frozen=True)
class Comparison:
    """Everything there is to say about two sides."""

    old: Side
    new: Side
    cells: tuple[CellChange, ...]
    overall: tuple[Overall, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    differences: tuple[Difference, ...]
    gates: tuple[tuple[str, Status | None, Status | None], ...]
    run_spread: float
    spread_known: bool

    @property
    def slower(self) -> tuple[CellChange, ...]:
        """Figures that are worse by more than noise explains, worst first."""
        found = [c for c in self.cells if c.change and c.change.high < 1]
        return tuple(sorted(found, key=lambda c: c.change.factor if c.change else 1))

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that keeps the new side from being as good as the old one, worst first: what ``--fail-on-drop`` fails for."""
        return (*self.worse, *self.unmeasured)

    @property
    def worse(self) -> tuple[str, ...]:
        """What was measured, and is worse."""
        found = [_row_words(c) for c in self.slower]
        found += [f"over all cells: {METRICS[o.metric][0]} {words(o.change, o.metric)}" for o in self.overall if o.change.high < 1]
        found += [
            f"{name}: does not hold its limits" + (f": {cell.reason}" if cell.reason else "")
            for name, cell in self.new.cells.items()
            if cell.status is Status.FAIL
        ]
        return (*found, *(f"gate {gate}: {WORDS[before]} -> {WORDS[after]}" for gate, before, after in self._lost if after is Status.FAIL))

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """What could not be held against the old side, so that nobody knows whether it is worse."""
        found = [f"{name}: not measured any more" for name in self.only_old]
        for name, cell in self.new.cells.items():
            lost = [METRICS[c.metric][0] for c in self.cells if c.cell == name and c.old is not None and c.new is None]
            if cell.status is Status.UNKNOWN:
                found.append(f"{name}: could not be measured" + (f": {cell.reason}" if cell.reason else ""))
            elif lost and not cell.status.blocks:
                found.append(f"{name}: has no {', no '.join(lost)} any more")
        found += [f"gate {gate}: {WORDS[a]} -> {_stood(b)}" for gate, a, b in self._lost if b is not Status.FAIL]
        for name, cell in self.old.cells.items():
            if cell.status is Status.UNKNOWN and name in self.new.cells:
                found.append(
                    f"{name}: nothing to hold it against, the old run could not measure it" + (f": {cell.reason}" if cell.reason else "")
                )
        found += [f"{name}: {what}" for name, one in (("old", self.old), ("new", self.new)) for what in one.damage]
        if not self.overall:
            found.append("no cell was measured on both sides: nothing could be compared")
        return tuple(found)

    @property
    def _lost(self) -> Iterator[tuple[str, Status, Status | None]]:
        """Gates that held and do not any more: name, before, after."""
        for gate, before, after in self.gates:
            gone = after is None and self.old.mode == self.new.mode  # an attached run has no bring-up to lose
            if before is not None and not before.blocks and (gone or (after is not None and after.blocks)):
                yield gate, before, after

    @property
    def headline(self) -> str:
        """One sentence. A mean over all cells hides a cell that collapsed, so cells that are worse are counted first."""
        cells = {c.cell for c in self.cells}
        worse, better = ({c.cell for c in rows} for rows in (self.slower, self.faster))
        if worse:
            return f"WORSE in {len(worse)} of {len(cells)} cells, most in {_row_words(self.slower[0])}"
        if self.problems:
            first, more = self.problems[0], f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            return f"WORSE: {first}{more}" if self.worse else f"NOT EVERYTHING COULD BE COMPARED: {first}{more}"
        if better:
            return f"better in {len(better)} of {len(cells)} cells, worse in none, most in {_row_words(self.faster[0])}"
        return f"no change beyond noise in {len(cells)} cells"

    @property
    def faster(self) -> tuple[CellChange, ...]:
        """Figures that are better by more than noise explains, best first."""
        found = [c for c in self.cells if c.change and c.change.low > 1]
        return tuple(sorted(found, key=lambda c: -(c.change.factor if c.change else 1)))


def side(view: RunView, engine: str | None = None, label: str = "") -> Side:
    """A run as one side. ``engine``: needed when the run has several.

    Raises:
        UsageError: the run has several engines and none was named, or not this one.
    """
    engines = view.header.engines
    if engine is None and len(engines) > 1:
        names = ", ".join(f"{view.path}@{name}" for name in engines)
        raise UsageError(f"{view.path}: has {len(engines)} engines; say which one: {names}")
    if engine is not None and engine not in engines:
        raise UsageError(f"{view.path}: engine {engine!r} is not in this run; it has {', '.join(engines) or 'none'}")
    chosen = engine or (engines[0] if engines else "")
    cells = {c.name: c for c in merge_repeats(view.cells) if not chosen or c.engine == chosen}
    if not label:
        label = f"{view.header.run} ({chosen})" if chosen else view.header.run
    return Side(
        label=label,
        cells=cells,
        facts=facts(view, chosen),
        gates={g.name.value: g.status for g in view.decision.gates},
        accepted=view.decision.accepted,
        mode=view.header.mode.value,
        damage=(*view.damage, *(() if view.complete else ("the run did not finish",))),
    )


def facts(view: RunView, engine: str) -> dict[str, str]:
    """What may explain a different figure, flat: ``image``, ``flag tensor-parallel``, ``node01 driver`` ..."""
    h = view.header
    found = {
        "engine": engine,
        "mode": h.mode.value,
        "number of nodes": str(len(h.nodes)) if h.nodes else "",
        "nodes": ", ".join(n.name for n in h.nodes),
        "image": h.images.get(engine, ""),
        "driver": h.driver,
        "model": h.model,
        "plugin": h.plugin_version,
    }
    if view.fingerprint:
        found.update(_flat(view.fingerprint, engine))
    return {key: value for key, value in found.items() if value}


def _flat(print_: Fingerprint, engine: str) -> Iterator[tuple[str, str]]:
    yield "inventory (hash)", print_.inventory_sha256[:12]
    yield "limits (hash)", print_.limits_sha256[:12]
    yield "python", print_.python
    for key, value in print_.engines.get(engine, {}).items():
        yield {"engine": "engine version", "image": "image"}.get(key, f"engine {key}"), value
    for flag, setting in print_.flags.get(engine, {}).items():
        yield f"flag {flag}", str(setting)
    for key, value in print_.model.items():
        yield f"model {key}", value
    for node, words in print_.nodes.items():
        for key, value in words.items():
            yield f"{node} {key}", value


def compare(old: Side, new: Side, *, run_spread: float | None = None, dof: int = 30) -> Comparison:
    """Hold ``new`` against ``old``.

    ``run_spread``: standard deviation from run to run as a fraction, from repeats (``dof`` + 1 of them); None: 2 % is assumed.
    A single figure counts as changed only at a confidence that allows for how many are looked at (Bonferroni), so that a
    table of 78 figures does not show four "changes" of which none is real.
    """
    spread = ASSUMED_SPREAD if run_spread is None else run_spread
    common = [name for name, cell in old.cells.items() if name in new.cells and cell.status is not Status.UNKNOWN]
    pairs = [(name, metric) for name in common for metric in METRICS]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    rows = [_cell_change(old.cells[n], new.cells[n], metric, spread_of(metric, spread), dof, confidence) for n, metric in pairs]
    gates = dict.fromkeys([*old.gates, *new.gates])
    return Comparison(
        old=old,
        new=new,
        cells=tuple(rows),
        overall=tuple(_overall(rows, spread, dof)),
        only_old=tuple(n for n in old.cells if n not in new.cells),
        only_new=tuple(n for n in new.cells if n not in old.cells),
        differences=tuple(differences(old.facts, new.facts)),
        gates=tuple((g, old.gates.get(g), new.gates.get(g)) for g in gates),
        run_spread=spread,
        spread_known=run_spread is not None,
    )


def spread_of(metric: str, spread: float) -> float:
    """The run-to-run spread of a figure: the cluster's, and TTFT's own where that is larger."""
    return max(spread, TTFT_SPREAD) if "_ttft_" in metric else spread


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Difference]:
    """Facts that are not the same on both sides, in the order of ``old``."""
    for key in (*old, *(k for k in new if k not in old)):
        if old.get(key, "") != new.get(key, ""):
            yield Difference(key, old.get(key, ""), new.get(key, ""))


def _estimate(cell: CellRow, metric: str) -> Estimate | None:
    value = cell.figure(metric)
    if value is None or value <= 0:
        return None
    return estimate(value, cell.windows if metric == "output_throughput" else (), cell.intervals.get(metric))


def _cell_change(old: CellRow, new: CellRow, metric: str, spread: float, dof: int, confidence: float) -> CellChange:
    before, after = _estimate(old, metric), _estimate(new, metric)
    seen, doubt = None, doubt_of(old, metric) + doubt_of(new, metric)
    if before and after:
        better = higher_is_better(metric)
        seen = change(before, after, higher_is_better=better, run_spread=spread, dof=dof, confidence=confidence, doubt=doubt)
    return CellChange(old.name, metric, old.figure(metric), new.figure(metric), seen, doubt)


def doubt_of(cell: CellRow, metric: str) -> float:
    """By how much (log) a figure may be off because its own machine was late: of a rehearsal. Late stand-ins and clients make figures
    worse, and streams that come late are fewer at once, which makes them better: so it counts in both directions."""
    value = cell.figure(metric)
    if cell.late is None or value is None or value <= 0:
        return 0.0
    own = cell.late.without(metric, value, cell) / value
    return max(abs(math.log(max(own, LEAST_IN_TIME))), -math.log(max(1 - cell.late.share, LEAST_IN_TIME)))


def _overall(rows: Sequence[CellChange], spread: float, dof: int) -> Iterator[Overall]:
    """The spread from run to run moves all cells of a run together, so it does not average out; the cells' own noise does."""
    for metric in METRICS:
        logs = [math.log(r.change.factor) for r in rows if r.metric == metric and r.change]
        if logs:
            own = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
            one = Estimate(1.0, 0.0, 30)
            other = Estimate(math.exp(statistics.fmean(logs)), own, 30)
            doubt = statistics.fmean(r.doubt for r in rows if r.metric == metric and r.change)
            seen = change(one, other, higher_is_better=True, run_spread=spread_of(metric, spread), dof=dof, doubt=doubt)
            yield Overall(metric, len(logs), seen)


def of_figure(seen: Change, metric: str) -> tuple[float, float, float]:
    """The change of the figure itself in percent, with its interval: a time that is 9 % shorter is -9, and that is better."""
    return seen.of_figure(higher_is_better(metric))


def words(seen: Change, metric: str) -> str:
    """``5.2 % lower, worse (-7.9 … -2.4 %)`` or ``no change beyond noise (+0.4 %: -3.1 … +4.0 %)``."""
    percent, low, high = of_figure(seen, metric)
    span = f"{low:+.1f} … {high:+.1f} %"
    if not seen.significant:
        return f"no change beyond noise ({percent:+.1f} %: {span})"
    return f"{abs(percent):.1f} % {'higher' if percent > 0 else 'lower'}, {'better' if seen.factor > 1 else 'worse'} ({span})"


def spread_words(result: Comparison) -> str:
    """Where the noise from run to run was taken from."""
    percent = f"{100 * result.run_spread:g} % (TTFT {100 * spread_of('mean_ttft_ms', result.run_spread):g} %)"
    if result.spread_known:
        return f"run-to-run spread {percent}, as given"
    return f"run-to-run spread {percent} is ASSUMED: measure yours with --h20-calibrate, or give --spread"


def text(result: Comparison) -> list[str]:
    """Plain lines for a terminal."""
    lines = [f"old: {result.old.label} [{_state(result.old)}]", f"new: {result.new.label} [{_state(result.new)}]", "", result.headline, ""]
    lines += [f"{local(METRICS[o.metric][0]):<18} {local(words(o.change, o.metric))}, over {o.cells} cells" for o in result.overall]
    if not result.overall:
        lines.append("no cell was measured on both sides: figures cannot be compared")
    lines += ["", "what is worse in the new one:", *(f"  {problem}" for problem in result.worse)] if result.worse else []
    lines += ["", "what could not be compared:", *(f"  {problem}" for problem in result.unmeasured)] if result.unmeasured else []
    lines += _figures(result)
    lines += [f"only in old: {', '.join(result.only_old)}"] if result.only_old else []
    lines += [f"only in new: {', '.join(result.only_new)}"] if result.only_new else []
    changed = [(g, a, b) for g, a, b in result.gates if a != b]
    if changed:
        lines += ["", "gates that differ:"]
        lines += [f"  {g}: {local(_stood(a))} -> {local(_stood(b))}" for g, a, b in changed]
    lines += ["", "what differs between the two, and may explain it:"]
    lines += [f"  {d.fact}: {d.old or d.absent} -> {d.new or d.absent}" for d in result.differences] or ["  nothing that was recorded"]
    return [*lines, "", f"intervals are 95 % (of single cells: 95 % for all of them together); {spread_words(result)}"]


def _row_words(row: CellChange) -> str:
    """``in128-out128-c64: Output throughput 300.0 -> 210.0 tok/s, 30.0 % lower, worse (...)``"""
    title, unit = METRICS[row.metric]
    moved = f", {words(row.change, row.metric)}" if row.change else ""
    return f"{row.cell}: {title} {row.old or 0:.1f} -> {row.new or 0:.1f} {unit}{moved}"


def _figures(result: Comparison) -> Iterable[str]:
    rows = [row for row in result.cells if row.change and row.metric == "output_throughput"]
    if rows:
        yield ""
        yield f"{local('cell'):<22} {local('old tok/s'):>10} {local('new tok/s'):>10}  {local('change')}"
    for row in rows:
        if row.change:
            yield f"{row.cell:<22} {row.old or 0:>10.1f} {row.new or 0:>10.1f}  {local(words(row.change, row.metric))}"


def _stood(gate: Status | None) -> str:
    return WORDS[gate] if gate else "not run"


def _state(one: Side) -> str:
    return "accepted" if one.accepted else f"not accepted, {one.mode}"
