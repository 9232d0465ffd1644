"""The stand-in's machines under load: what its telemetry command prints every tick, and what its kernel says."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_h20.probes.telemetry import MARK, WATCHED
from pytest_h20.rehearsal.counters import counters_of
from pytest_h20.rehearsal.standin import Machine

if TYPE_CHECKING:
    from pytest_h20.rehearsal.state import State
    from pytest_h20.rehearsal.world import World

SM_MHZ, MEM_MHZ, WATT, DEGREES, MIB = 1980, 2619, 390, 52, 90_412
"""An H20 that decodes: its clock is the card's highest, its power below the limit of 500 W."""

TOTAL_KIB, USED_KIB, HELD = 2 << 30, 120 << 20, 96 << 30
"""2 TiB of memory, of which the engine and its neighbours hold 120 GiB, its container 96 (bytes)."""

POWER_BRAKE = 0x80


@dataclass
class LoadTruth:
    """What happens to the machines while the load runs. GPUs are (node, index), rails (node, HCA).

    ``clock``: part of the healthy SM clock. ``brake``: pulled until so many tokens of the load were served. ``silent_after``: ticks
    after which a node says nothing more. ``remapped``: a row is remapped. ``nvlink``: replays of a GPU's links. ``creep``: counter to
    events per model second.
    ``kernel``: lines of a node, each while its GPUs are burned (``burn``), when the engine became ready (``ready``), shortly
    after the load began (``load``) or when an hour of soak is half over (``hang``). ``wraps``:
    nodes whose ring buffer holds only the last moment by the end. ``leak``: MiB per hour of a soak that a GPU (index; None: the host)
    holds more. ``soak_creep``: counter to events per hour of a soak.
    """

    clock: dict[tuple[str, int], float] = field(default_factory=dict)
    brake: dict[tuple[str, int], int] = field(default_factory=dict)
    silent_after: dict[str, int] = field(default_factory=dict)
    remapped: set[tuple[str, int]] = field(default_factory=set)
    nvlink: dict[tuple[str, int], int] = field(default_factory=dict)
    creep: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    kernel: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    wraps: set[str] = field(default_factory=set)
    leak: dict[tuple[str, int | None], float] = field(default_factory=dict)
    soak_creep: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


def asked_for(command: str) -> float | None:
    """Seconds between two ticks when the command is the telemetry's, else None."""
    first = command.split("\n", 1)[0]
    return float(shlex.split(first)[2]) if first.startswith(MARK) else None


def as_now(world: World, state: State, node: str, scale: float) -> Machine:
    """The machine at this moment: uptime, counters, what the load did to it, what its kernel said."""
    machine, truth = world.machines[node], world.load
    lasted = time.time() - state.began
    up = machine.uptime_s + lasted
    since = state.load_began()
    lines = list(machine.kernel_lines)
    for trigger, text in truth.kernel.get(node, ()):
        moment = (
            since + 0.2
            if trigger == "load" and since is not None
            else state.soak_reaches(0.5)
            if trigger == "hang"
            else state.ready_at(node)
            if trigger == "ready"
            else state.burned_at(node)
            if trigger == "burn"
            else None
        )
        if moment is not None and moment <= time.time():
            lines.append(f"[{machine.uptime_s + moment - state.began:.6f}] {text}")
    gpus = [
        replace(gpu, remap_pending="Yes") if since is not None and (node, index) in truth.remapped else gpu
        for index, gpu in enumerate(machine.gpus)
    ]
    wrapped = since is not None and node in truth.wraps
    first = up if wrapped else machine.kernel_first
    return replace(
        machine,
        uptime_s=round(up, 2),
        kernel_lines=[] if wrapped else lines,
        kernel_first=first,
        gpus=gpus,
        nvlink_replays={i: n for (name, i), n in truth.nvlink.items() if name == node} if since is not None else {},
        counters=_counters(world, state, node, scale, state.loads(node)),
    )


def _counters(world: World, state: State, node: str, scale: float, loads: int) -> dict[tuple[str, str], int]:
    found = counters_of(world, node, state.served(), dict(world.machines[node].counters), loads)
    since = state.load_began()
    for (name, hca), rates in world.load.creep.items():
        for counter, rate in rates.items() if name == node and since is not None else ():
            found[(hca, counter)] = found.get((hca, counter), 0) + int((time.time() - (since or 0.0)) * scale * rate)
    hours = state.soak_hours() or 0.0
    for (name, hca), rates in world.load.soak_creep.items():
        for counter, rate in rates.items() if name == node else ():
            found[(hca, counter)] = found.get((hca, counter), 0) + int(hours * rate)
    return found


def ticks(world: World, state: State, node: str, scale: float) -> Iterator[str]:
    """The lines of the telemetry command, tick by tick; an empty text ends a tick. Ends where a fault silences the node."""
    machine = world.machines[node]
    state.load_begins()
    served = state.tokens()
    for index in range(len(machine.gpus)):
        yield f"gpu {index}, 165{machine.number:04d}{index:06d}, 00000000:{0x1B + 8 * index:02X}:00.0, {machine.gpus[index].name}"
    for rail in machine.rails:
        yield f"rail {rail.hca}/1 {' '.join(WATCHED)}"
    yield "mem engine"
    tick = 0
    while tick < world.load.silent_after.get(node, tick + 1):
        now, hours = as_now(world, state, node, scale), state.soak_hours() or 0.0
        for index, gpu in enumerate(now.gpus):
            clock = int(SM_MHZ * world.load.clock.get((node, index), 1.0))
            braked = state.tokens() - served < world.load.brake.get((node, index), 0)
            # No two GPUs are quite alike, and none stands still.
            watt = WATT + 5 * (index % 4) + (tick * 7 + index * 3) % 9
            reasons = POWER_BRAKE if braked else 0
            degrees = DEGREES + index % 5 + min(tick, 8)
            held = MIB + int(hours * world.load.leak.get((node, index), 0.0))
            yield f"{index}, {watt}.00, {clock}, {MEM_MHZ}, {degrees}, {reasons:#018x}, {held}, 0, {gpu.uncorrectable}"
        yield f"t {now.uptime_s:.2f} 0 {int(now.uptime_s * 19_200)} {3 + tick % 4} {HELD + (tick * 37) % 1024 * 1024}"
        used = USED_KIB + (tick * 37) % 1024 + int(1024 * hours * world.load.leak.get((node, None), 0.0))
        yield f"avail {TOTAL_KIB} {TOTAL_KIB - used}"
        for rail in now.rails:
            yield f"r {rail.hca}/1 {' '.join(str(now.counters.get((rail.hca, name), 0)) for name in WATCHED)}"
        yield ""
        tick += 1
