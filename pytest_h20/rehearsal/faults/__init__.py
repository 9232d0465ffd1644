"""The faults of the rehearsal: each changes the world before anything looks at it. One module per gate.

``docs/faults.md`` is made of this catalogue; ``tests/plugin/test_kill_table.py`` runs every one of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pytest_h20.core.errors import UsageError
from pytest_h20.rehearsal.faults import (
    answers,
    bringup,
    compute,
    drill,
    endpoint,
    environment,
    fabric,
    machines,
    nccl,
    reasoning,
    soak,
    throughput,
    weights,
)
from pytest_h20.rehearsal.faults.model import Fault, catalogue
from pytest_h20.rehearsal.world import World

__all__ = ["CATALOGUE", "Fault", "inject"]

CATALOGUE: Mapping[str, Fault] = catalogue(
    environment.FAULTS,
    fabric.FAULTS,
    weights.FAULTS,
    compute.FAULTS,
    bringup.FAULTS,
    nccl.FAULTS,
    endpoint.FAULTS,
    reasoning.FAULTS,
    answers.FAULTS,
    throughput.FAULTS,
    machines.FAULTS,
    soak.FAULTS,
    drill.FAULTS,
)
"""Fault by name, in the order of the gates."""


def inject(world: World, names: Sequence[str]) -> None:
    """Change the world by these faults, in order. Raises ``UsageError`` for a name that does not exist, with the near ones."""
    for name in names:
        fault = CATALOGUE.get(name)
        if fault is None:
            near = difflib.get_close_matches(name, CATALOGUE, 3, 0.4) or sorted(CATALOGUE)[:3]
            raise UsageError(
                f"--h20-fault: no fault is called {name!r}; near it: {', '.join(near)}; docs/faults.md lists all {len(CATALOGUE)}"
            )
        fault.change(world)
