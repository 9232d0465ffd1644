"""Several engines in one run: which verdicts are whose, the gates of each, and who is faster where.

Engines are told apart by their labels, which are unique in a run (``vllm``, or ``sglang:single`` beside ``sglang:default``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pytest_h20.core.verdict import Decision, GateName, GateResult, Status, decide
from pytest_h20.report.compare import CellChange, Comparison, compare, side
from pytest_h20.report.model import CheckRow, RunView

TIME = "mean_tpot_ms"
COST = "fabric.tpot_cost"
"""The check that says what the all-reduces of a token take over the network, by batch."""

FIGURE = "output_throughput"
"""The figure by which engines are called faster: what the machines are paid for."""


def engine_of(check: CheckRow, engines: Sequence[str]) -> str:
    """The engine a verdict was given for; "" when it is about none in particular.

    The test's first parameter names it (``test_cell[sglang:single-in128-out128-c1]``), for what a session says itself the subject
    or the details.
    """
    named = str(check.details.get("engine", ""))
    if named in engines:
        return named
    _, bracket, parameters = check.test_id.partition("[")
    found = [e for e in engines if bracket and (parameters == f"{e}]" or parameters.startswith(f"{e}-"))]
    found = found or [e for e in engines if check.subject == e or check.subject.startswith(f"{e} ")]
    return max(found, key=len, default="")


def gates_by_engine(view: RunView) -> dict[GateName, dict[str, GateResult]]:
    """Every gate of the run for each of its engines. A verdict about no engine in particular counts for all of them.

    Empty for a run of one engine: its gates are the run's.
    """
    engines = view.header.engines
    if len(engines) < 2:
        return {}
    whose = [(engine_of(check, engines), check.bare()) for check in view.checks]
    decisions: dict[str, Decision] = {
        engine: decide([verdict for owner, verdict in whose if owner in ("", engine)], view.header.required) for engine in engines
    }
    found: dict[GateName, dict[str, GateResult]] = {gate.name: {} for gate in view.decision.gates}
    for engine, decision in decisions.items():
        for gate in decision.gates:
            mine = [check for owner, check in whose if owner in ("", engine) and check.gate is gate.name]
            if not mine or any(check.status is not Status.SKIP for check in mine):  # an engine on one node has no RDMA to prove
                found.setdefault(gate.name, {})[engine] = gate
    return found


def comparisons(view: RunView) -> list[Comparison]:
    """Each engine held against each one named after it; ``old`` is the one named first, ``label`` its name."""
    if len(view.header.engines) < 2:
        return []
    sides = [side(view, engine, engine) for engine in view.header.engines]
    return [compare(one, other) for one, other in combinations(sides, 2)]


@dataclass(frozen=True)
class Faster:
    """Cells in which an engine gives more output tokens per second than the other by more than noise explains, most first."""

    engine: str
    cells: tuple[CellChange, ...]

    def most(self) -> str:
        """The cell with the largest difference: ``in128-out128-c1: 20.5 against 7.35 tok/s, 2.8 times``."""
        row = self.cells[0]
        high, low = sorted((row.old or 0.0, row.new or 0.0), reverse=True)
        return f"{row.cell}: {high:.4g} against {low:.4g} tok/s, {times(high / low)}"


def times(ratio: float) -> str:
    """How much more, as people say it: ``12 % more``, from twice on ``2.8 times``."""
    return f"{ratio:.1f} times" if ratio >= 2 else f"{100 * (ratio - 1):.2g} % more" if ratio < 1.1 else f"{100 * (ratio - 1):.0f} % more"


def believed(result: Comparison) -> tuple[list[CellChange], int]:
    """Throughput of the cells that both sides measured and that can be believed, and how many others there are."""
    common = [row for row in result.cells if row.metric == FIGURE]
    good = [
        row
        for row in common
        if row.change is not None and Status.UNKNOWN not in (result.old.cells[row.cell].status, result.new.cells[row.cell].status)
    ]
    return good, len(common) - len(good) + len(result.only_old) + len(result.only_new)


def sentence(result: Comparison) -> str:
    """Who is faster where, by how much, and whether it is more than noise."""
    one, other = result.old.label, result.new.label
    rows, left_out = believed(result)
    missing = f"; {left_out} cell{'s' * (left_out > 1)} not measured on both" if left_out else ""
    if not rows:
        return f"{one} and {other} have no cell that both measured: their speed cannot be compared"
    ahead = [
        Faster(other, tuple(sorted((r for r in rows if r.change and r.change.low > 1), key=lambda r: -r.change.factor if r.change else 0))),
        Faster(one, tuple(sorted((r for r in rows if r.change and r.change.high < 1), key=lambda r: r.change.factor if r.change else 0))),
    ]
    ahead = sorted((a for a in ahead if a.cells), key=lambda a: -len(a.cells))
    alike = len(rows) - sum(len(a.cells) for a in ahead)
    if not ahead:
        far = max(rows, key=lambda r: abs(r.change.percent) if r.change else 0.0)
        moved = far.change.percent if far.change else 0.0
        return (
            f"{one} and {other} are equally fast: no difference beyond noise in {len(rows)} cell{'s' * (len(rows) != 1)} "
            f"(largest: {other} {moved:+.1f} % in {far.cell}){missing}"
        )
    first = ahead[0]
    slower = one if first.engine == other else other
    said = (
        f"{first.engine} is faster than {slower} in {len(first.cells)} of {len(rows)} cell{'s' * (len(rows) != 1)} by more than noise, "
        f"most in {first.most()}"
    )
    for more in ahead[1:]:
        said += f"; {more.engine} in {len(more.cells)}, most in {more.most()}"
    if alike:
        said += f"; in {alike} the difference is noise"
    return said + missing


def network(view: RunView, result: Comparison) -> str:
    """What the network between nodes costs the engine on more nodes of each token's time, and how much of the difference to the one on
    fewer that is; "" where both are on as many. It is the time of its all-reduces as ``fabric.all_reduce`` measured them."""
    fewer, more = sorted((result.old, result.new), key=lambda side: _nodes(view, side.label))
    if _nodes(view, fewer.label) == _nodes(view, more.label) or not _nodes(view, fewer.label):
        return ""
    costs = next((c.details for c in view.checks if c.check == COST and engine_of(c, view.header.engines) in ("", more.label)), {})
    by_batch = costs.get("by_batch_ms")
    known = {int(n): float(str(ms)) for n, ms in by_batch.items()} if isinstance(by_batch, Mapping) else {}
    found = []
    for name, row in more.cells.items():
        base, cost = fewer.cells.get(name), _at(known, row.concurrency)
        mine, theirs = row.figure(TIME), base.figure(TIME) if base is not None else None
        if cost is not None and mine and theirs and Status.UNKNOWN not in (row.status, base.status if base is not None else row.status):
            found.append((row.concurrency, name, mine, theirs, cost))
    if not found:
        return f"what the network costs {more.label} was not measured: {COST} and the same cell on both sides are needed"
    told = []
    for _, name, mine, theirs, cost in (min(found), max(found))[: 1 + (len(found) > 1)]:
        part = f"{cost:.3g} of {mine:.4g} ms a token in {name} ({100 * cost / mine:.0f} %)"
        gap = mine - theirs
        if gap > 0:
            share = min(100.0, 100 * cost / gap)
            part += f", where {more.label} is {gap:.3g} ms slower than {fewer.label}: the network is {share:.0f} % of that"
        else:
            part += f", where {more.label} is {-gap:.3g} ms faster than {fewer.label} all the same"
        told.append(part)
    return f"all-reduces over {_nodes(view, more.label)} nodes cost {more.label} {'; '.join(told)}"


def _nodes(view: RunView, label: str) -> int:
    text = (view.fingerprint.engines.get(label, {}) if view.fingerprint else {}).get("nodes", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def _at(by_batch: Mapping[int, float], streams: int) -> float | None:
    """Of so many streams, or the next fewer that were measured: with more it costs no less."""
    return next((by_batch[n] for n in sorted(by_batch, reverse=True) if n <= streams), None)
