"""``--nodes=rehearsal``: the stand-in cluster as a run's inventory and nodes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h20.config.inventory import Inventory
from pytest_h20.rehearsal.busy import waited_s
from pytest_h20.rehearsal.faults import inject
from pytest_h20.rehearsal.node import StandInNode
from pytest_h20.rehearsal.scenario import Scenario, scenario_named
from pytest_h20.rehearsal.state import State
from pytest_h20.rehearsal.world import World

if TYPE_CHECKING:
    from pytest_h20.load import SelfCheck


@dataclass
class Rehearsal:
    """One rehearsal as one process sees it. All its processes build the same world and share a folder."""

    scenario: Scenario
    world: World
    state_dir: Path | None = None
    _state: State | None = field(default=None, repr=False)
    _late_seen: dict[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, scenario: str, faults: Sequence[str], state_dir: Path | None = None) -> Rehearsal:
        """Build the world of a scenario with its faults. Raises ``UsageError`` for a name that does not exist."""
        chosen = scenario_named(scenario)
        world = chosen.world()
        inject(world, faults)
        return cls(chosen, world, state_dir)

    @property
    def inventory(self) -> Inventory:
        """The write-up's cluster, as a rehearsal."""
        return self.world.inventory

    @property
    def time_scale(self) -> float:
        """Model seconds per wall second."""
        return self.scenario.time_scale

    def use(self, state_dir: Path) -> None:
        """Keep what the processes share in this folder."""
        self.state_dir = state_dir
        self._state = None

    def client_check(self, found: SelfCheck) -> SelfCheck:
        """The load generator's self-check as a fault of the sending machine would leave it."""
        return replace(found, tpot_error=self.world.client_error) if self.world.client_error else found

    def late(self) -> list[tuple[float, float, float]]:
        """How late (wall s) the first, the last and the latest token of each request left the stand-in since this was asked last."""
        if self._state is None:
            return []
        found, self._late_seen = self._state.lates(self._late_seen)
        return found

    def soak_begins(self, hours_per_s: float) -> None:
        """A soak begins, of which so many hours pass in a second (wall)."""
        if self._state is not None:
            self._state.soak_begins(hours_per_s)

    def waited(self) -> float:
        """Seconds that the stand-in's busiest process and this one have waited for a processor so far."""
        actors = [pid for held in self._state.all() for pid in held.pids] if self._state is not None else []
        return waited_s([os.getpid()]) + max((waited_s([pid]) for pid in actors), default=0.0)

    def nodes(self) -> dict[str, StandInNode]:
        """The stand-in nodes by name."""
        if self._state is None:
            self._state = State(self.state_dir or Path(tempfile.mkdtemp(prefix="h20-rehearsal-")))
        return {n.name: StandInNode(n.name, self.world, self._state, self.time_scale) for n in self.inventory.nodes}
