"""What a fault is, and short ways to write what it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_h20.probes.script import Section
from pytest_h20.rehearsal.standin import Machine
from pytest_h20.rehearsal.world import World

Change = Callable[[World], None]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and what the suite must say about it.

    ``sentence``: what is wrong, for the catalogue. ``source``: where it happened in real life (F-number of the failure catalogue,
    a thread, a manual). ``red``: exactly the checks that must be FAIL or UNKNOWN, no others. ``phrase``: words that the reason
    or the next step of a red verdict must contain, so that a person learns the cause. ``gates``: the gates, or parts of one
    (``matrix``: every cell of the throughput), that a run needs to show it; by default its own. ``options``: further ones of the
    command line.
    """

    name: str
    gate: str
    sentence: str
    source: str
    change: Change
    red: frozenset[str]
    phrase: str
    engine: str = "sglang"
    scenario: str = "quick"
    gates: tuple[str, ...] = field(default=())
    options: tuple[str, ...] = field(default=())

    @property
    def modules(self) -> tuple[str, ...]:
        """Gates whose tests show it."""
        return self.gates or (self.gate,)


def ids(gate: str, names: str) -> frozenset[str]:
    """``ids("fabric", "mtu subnet rdma.job")`` -> full check ids; a name with a dot is one already."""
    return frozenset(name if "." in name else f"{gate}.{name}" for name in names.split())


# ---------------------------------------------------------------------------------------------------------- small changes
def on(world: World, change: Callable[[Machine], Machine], node: int = 1) -> None:
    """Replace the machine of a node (0: head, 1: the other one)."""
    name = list(world.machines)[node]
    world.machines[name] = change(world.machines[name])


def machine(node: int = 1, **fields: Any) -> Change:
    """Other values of a machine."""
    return lambda world: on(world, lambda m: replace(m, **fields), node)


def gpu(**fields: Any) -> Change:
    """Other values of GPU 3 of the second node."""

    def change(world: World) -> None:
        gpus = world.other.gpus
        gpus[3] = replace(gpus[3], **fields)

    return change


def rail(**fields: Any) -> Change:
    """Other values of mlx5_3 of the second node (the management device is the first of the list)."""

    def change(world: World) -> None:
        rails = world.other.rails
        rails[3] = replace(rails[3], **fields)

    return change


def says(probe: str, text: str, rc: int = 0, error: str = "", node: int = 1) -> Change:
    """A probe's answer as it stands. ``image/NAME``: the same probe inside the container."""

    def change(world: World) -> None:
        machine = list(world.machines.values())[node]
        machine.overrides[probe] = Section(rc, text, error)

    return change


def lost(*probes: str) -> Change:
    """Probes that cannot answer on the second node: their tool is not there."""
    return together(*(says(name, "", 127, "not installed\n") for name in probes))


def expecting(**fields: Any) -> Change:
    """The inventory expects something more (``expect:``)."""

    def change(world: World) -> None:
        expect = world.inventory.expect.model_copy(update=fields)
        world.inventory = world.inventory.model_copy(update={"expect": expect})

    return change


def loading(**fields: Any) -> Change:
    """Another load is asked for (``load:``)."""

    def change(world: World) -> None:
        world.inventory = world.inventory.model_copy(update={"load": world.inventory.load.model_copy(update=fields)})

    return change


def serving(**fields: Any) -> Change:
    """Another model is served (``model:``)."""

    def change(world: World) -> None:
        world.inventory = world.inventory.model_copy(update={"model": world.inventory.model.model_copy(update=fields)})

    return change


def with_flags(**flags: Any) -> Change:
    """More options of every engine profile; dashes as underscores."""

    def change(world: World) -> None:
        engines = {}
        for name, held in world.inventory.engines.items():
            more = {flag.replace("_", "-"): value for flag, value in flags.items()}
            profiles = {key: p.model_copy(update={"flags": {**p.flags, **more}}) for key, p in held.profiles.items()}
            engines[name] = held.model_copy(update={"profiles": profiles})
        world.inventory = world.inventory.model_copy(update={"engines": engines})

    return change


def profile(**fields: Any) -> Change:
    """Other values of every engine profile of the inventory."""

    def change(world: World) -> None:
        engines = {}
        for name, held in world.inventory.engines.items():
            profiles = {key: p.model_copy(update=fields) for key, p in held.profiles.items()}
            engines[name] = held.model_copy(update={"profiles": profiles})
        world.inventory = world.inventory.model_copy(update={"engines": engines})

    return change


def together(*changes: Change) -> Change:
    """One change after the other."""

    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change


def engine(**fields: Any) -> Change:
    """Other values of the engine's truth."""

    def change(world: World) -> None:
        world.engine = replace(world.engine, **fields)

    return change


def http(*knobs: str, **values: Any) -> Change:
    """Knobs of the engine's HTTP side (``server.py``): switched on by name, or set to a value."""

    def change(world: World) -> None:
        world.engine.http.update({**dict.fromkeys(knobs, True), **values})

    return change


def nccl(**fields: Any) -> Change:
    """Other values of the NCCL logs' truth."""

    def change(world: World) -> None:
        world.nccl = replace(world.nccl, **fields)

    return change


def catalogue(*groups: Collection[Fault]) -> dict[str, Fault]:
    """Name → fault, in the order given. A name given twice is a mistake of ours."""
    found: dict[str, Fault] = {}
    for fault in (f for group in groups for f in group):
        if fault.name in found:
            raise AssertionError(f"two faults are called {fault.name}")
        found[fault.name] = fault
    return found
