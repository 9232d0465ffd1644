"""The faults of the rehearsal: each changes the world before anything looks at it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

from pytest_h20.errors import UsageError
from pytest_h20.rehearsal.world import World

CATALOGUE: Mapping[str, Callable[[World], None]] = {}
"""Fault name → what it does to the world."""


def inject(world: World, names: Sequence[str]) -> None:
    """Change the world by these faults, in order. Raises ``UsageError`` for a name that does not exist, with the near ones."""
    for name in names:
        change = CATALOGUE.get(name)
        if change is None:
            near = difflib.get_close_matches(name, CATALOGUE, 3, 0.4) or sorted(CATALOGUE)
            raise UsageError(f"--h20-fault: no fault is called {name!r}; near it: {', '.join(near) or 'the catalogue is empty'}")
        change(world)
