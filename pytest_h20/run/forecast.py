"""What ``--h20-plan`` says a run would judge, how long that would take, and which nodes can be reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pytest_h20.checks.compute.runner import expected_seconds
from pytest_h20.cluster.drills import drill_named
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.cells import cells_of
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
    if kind := how(session):
        yield f"# burn ({kind}): one container of the engine's image per node, all its GPUs at once, before the engine starts"
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
    yield from (f"# {label}: expected time of {line}" for line in minutes(session, label, target, cells))


def _limit(metric: str, limit: Limit) -> str:
    return f"{metric} {limit} ({limit.origin.kind})"


def minutes(session: Session, label: str, target: LaunchTarget, cells: list[Cell]) -> Iterator[str]:
    """How long each gate would take, with what that is computed from, and the whole. What has no figure is named, not guessed."""
    load, limits = target.inventory.load_of(target.profile), session.limits_of(label)
    spent = 0.0
    if session.inventory.attach is None:
        start = target.profile.ready_timeout
        spent += start
        yield f"bringup: {start / 60:.0f} min at most (ready_timeout {start:g} s)"
    if kind := how(session):
        gpus = max(session.inventory.expect_of(n).gpu_count or target.layout.per_node for n in target.nodes)
        spent += (took := expected_seconds(kind, gpus))
        yield f"compute: {took / 60:.1f} min (--h20-burn={kind}, {gpus} GPUs a node)"
    rates = {cell: written for cell in cells if limits and (written := limits.written(cell.id, "output_throughput"))}
    if rates:
        seconds = sum(
            (max(load.min_requests, cell.concurrency) if load.min_requests else requests_for(cell, load.recipe)) * cell.output_len / rate
            for cell, rate in rates.items()
        )
        spent += seconds
        least = f", {load.min_requests} at least," if load.min_requests else ""
        yield (
            f"throughput: {len(rates)} cells about {seconds / 60:.0f} min (requests of recipe {load.recipe}{least} x output tokens / "
            f"output_throughput of the limits file)"
        )
        if more := _beyond(load.beyond, rates, load.long_answer):
            spent += sum(more.values())
            prefill = "; prefill comes on top (overload: 1.25 x KV cache, long: 2.6 x context)" if {"overload", "long"} & {*more} else ""
            parts = ", ".join(f"{name} {took / 60:.1f}" for name, took in more.items())
            yield f"throughput, beyond: min at the rates of the nearest cells: {parts}{prefill}"
    if len(rates) < len(cells):
        yield f"throughput: {len(cells) - len(rates)} cells have no rate in a limits file: their time is not known"
    if hours := soak_hours(session.settings.soak):
        spent += 3600 * hours
        yield f"soak: {60 * hours:g} min"
    least = "at least " if len(rates) < len(cells) else ""
    yield f"the whole: {least}{spent / 60:.0f} min; each of the other gates takes seconds to minutes and is not in this sum"


def _beyond(names: Sequence[str], rates: Mapping[Cell, float], long_answer: int) -> dict[str, float]:
    """Seconds of the cells after those, at the rates (tokens a second) of the nearest ones."""
    from pytest_h20.run import beyond

    if not names or not rates:
        return {}

    def rate(streams: int) -> float:
        return rates[min(rates, key=lambda cell: abs(math.log(cell.concurrency / streams)))]

    streams, tokens = beyond.OVERLOAD_STREAMS[1], beyond.OVERLOAD_OUTPUT
    base = min(rates, key=lambda cell: abs(math.log(cell.concurrency / 16)))
    again = requests_for(base) * base.output_len / rates[base]
    swept = 2 * sum(output for _, output in beyond.sweep(0, None)) / rate(beyond.SHAPE_STREAMS)
    seconds = {"overload": streams * tokens / rate(streams) + again, "shapes": swept, "chat": again, "long": long_answer / rate(1)}
    return {name: seconds[name] for name in names}


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
