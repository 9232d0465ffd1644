"""What ``--h20-plan`` says a run would judge, how long that would take, and which nodes can be reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pytest_h20.cluster.drills import drill_named
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.cells import cells_of
from pytest_h20.config.limits import LimitFile
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import GateName, Limit
from pytest_h20.load.cells import Cell, requests_for
from pytest_h20.nodes import Node
from pytest_h20.probes.rights import GRANTED
from pytest_h20.probes.script import Missing, build, split
from pytest_h20.run.burn import how
from pytest_h20.run.rights import fragment, in_words, login, needed
from pytest_h20.run.settings import Session, soak_hours

REACH_SECONDS = 10.0
RIGHTS_SECONDS = 60.0
"""A node of which commands that need root are tried."""


def judged(session: Session) -> Iterator[str]:
    """Gates, cells with their limits and where those are from, and what keeps the run from being an acceptance. Comment lines."""
    yield f"# gates: {', '.join(g.value for g in session.required)}"
    for gate, why in session.left_out.items():
        yield f"# not looked at: {gate.value}: {why}"
    if GateName.COMPUTE not in session.left_out:
        yield f"# burn ({how(session)}): one container of the engine's image per node, all its GPUs at once, before the engine starts"
    for label, target in zip(session.labels, session.targets, strict=True):
        yield from _cells(session, label, target)
    if hours := soak_hours(session.settings.soak):
        soak = session.inventory.soak
        mixed = ", ".join(f"{given} in {out} out" for given, out in soak.lengths)
        yield f"# soak: {soak.streams} streams for {hours:.3g} h, {mixed} tokens" + (
            f"; {soak.slope:g} %/h must be visible" if soak.slope else ""
        )
    yield from _drills(session)
    obstacles = [*session.cannot_accept, *([] if session.mode.can_accept else [session.mode.words])]
    yield from (f"# no acceptance: {text}" for text in obstacles)
    yield from (f"# condition of an acceptance: {text}" for text in session.conditions)
    if not obstacles and not session.conditions:
        yield "# an acceptance, if every gate holds: nothing stands in its way and nothing is left out"


def _drills(session: Session) -> Iterator[str]:
    """What would be broken, where the load is over, and how long each takes at the most."""
    if GateName.DRILL not in session.required:
        return
    for label, target in zip(session.labels, session.targets, strict=True):
        for name in session.settings.drill:
            drill, start = drill_named(name), target.profile.ready_timeout / 60
            most = f"{drill.minutes:.0f} min at most, and a start of {start:.0f} min at most where the engine does not live through it"
            yield f"# {label}: drill {name}: {drill.sentence} {most}"


def _cells(session: Session, label: str, target: LaunchTarget) -> Iterator[str]:
    limits, source = session.limits_of(label), target.profile.limits
    cells = cells_of(target.inventory.load_of(target.profile))
    yield f"# {label}: {len(cells)} load cells, limits from {source or 'nowhere: the figures are only recorded'}"
    for cell in cells:
        found = limits.cell(cell.id) if limits is not None else {}
        told = "; ".join(_limit(metric, limit) for metric, limit in found.items() if limit.kind != "info")
        yield f"#   {cell.id}: {told or 'recorded, no limit'}"
    yield f"# {label}: {minutes(session, label, target, cells)}"


def _limit(metric: str, limit: Limit) -> str:
    return f"{metric} {limit} ({limit.origin.kind})"


def minutes(session: Session, label: str, target: LaunchTarget, cells: list[Cell]) -> str:
    """How long it would take, with what that is computed from: the time a start may take, and the tokens of each cell at the rate that
    its limits file has for it. Cells without a figure are counted, not guessed."""
    load, limits = target.inventory.load_of(target.profile), session.limits_of(label)
    start = 0.0 if session.inventory.attach is not None else target.profile.ready_timeout
    seconds, known = 0.0, 0
    for cell in cells:
        rate = limits.written(cell.id, "output_throughput") if limits is not None else None
        if rate:
            requests = max(load.min_requests, cell.concurrency) if load.min_requests else requests_for(cell, load.recipe)
            seconds, known = seconds + requests * cell.output_len / rate, known + 1
    soak = soak_hours(session.settings.soak)
    first = f"a start takes {start / 60:.0f} min at most (ready_timeout {start:g} s)" if start else "nothing is started"
    if soak:
        first += f"; the soak {60 * soak:g} min"
    if not known:
        return f"expected time: {first}; no limits file has a rate for its {len(cells)} cells, so their time is not known"
    more = _beyond(load.beyond, cells, limits, load.long_answer)
    rest = f"; {len(cells) - known} cells have no rate there" if known < len(cells) else ""
    return (
        f"expected time: {first}; {known} cells about {seconds / 60:.0f} min (requests of recipe {load.recipe}"
        + (f", {load.min_requests} at least," if load.min_requests else "")
        + f" x output tokens / output_throughput of the limits file){rest}{more}"
    )


def _beyond(names: Sequence[str], cells: Sequence[Cell], limits: LimitFile | None, long_answer: int) -> str:
    """The cells after those, at the rates of the nearest ones that have a rate."""
    from pytest_h20.run import beyond

    known = {cell: limits.written(cell.id, "output_throughput") for cell in cells} if limits is not None else {}
    rates = {cell: written for cell, written in known.items() if written}
    if not names or not rates:
        return ""

    def rate(streams: int) -> float:
        return rates[min(rates, key=lambda cell: abs(math.log(cell.concurrency / streams)))]

    streams, tokens = beyond.OVERLOAD_STREAMS[1], beyond.OVERLOAD_OUTPUT
    base = min(rates, key=lambda cell: abs(math.log(cell.concurrency / 16)))
    again = requests_for(base) * base.output_len / rates[base]
    swept = 2 * sum(output for _, output in beyond.sweep(0, None)) / rate(beyond.SHAPE_STREAMS)
    seconds = {"overload": streams * tokens / rate(streams) + again, "shapes": swept, "chat": again, "long": long_answer / rate(1)}
    parts = ", ".join(f"{name} {seconds[name] / 60:.1f}" for name in names)
    prefill = "; prefill comes on top (overload: 1.25 x KV cache, long: 2.6 x context)" if {"overload", "long"} & {*names} else ""
    return f"; then min at the rates of the nearest cells: {parts}{prefill}"


def reached(session: Session) -> list[str]:
    """One line per node: whether a command can be run there. Nothing is changed on it."""
    if session.rehearsal is not None:
        return ["# nodes: the embedded stand-in, nothing to reach"]

    inventory = session.inventory
    specs = {spec.name: spec for spec in inventory.nodes}

    def one(node: Node) -> str:
        spec = specs[node.name]
        sudo = inventory.ssh_of(spec).sudo
        asked = GRANTED.with_args(*(right.command for right in needed(inventory, (spec,)) if sudo))
        try:
            told = asked.read(split(node.run(build([asked]), timeout=RIGHTS_SECONDS if sudo else REACH_SECONDS).stdout))
        except H20Error as error:
            return f"NOT reached: {' '.join(str(error).split())}"
        return f"reached, but could not say as whom: {told}" if isinstance(told, Missing) else in_words(told, sudo)

    nodes = session.nodes
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        lines = [f"# {name}: {said}" for name, said in zip(nodes, pool.map(one, nodes.values()), strict=True)]
    by_sudo = tuple(spec for spec in inventory.nodes if inventory.ssh_of(spec).sudo and login(inventory, spec) != "root")
    return [*lines, *(fragment(inventory, by_sudo).splitlines() if by_sudo else ())]
