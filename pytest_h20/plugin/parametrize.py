"""What a test may ask for one of at a time: a node, a rail, a load cell, a drill. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_h20.cluster.drills import drill_named
from pytest_h20.config.cells import RailRef, cells_of
from pytest_h20.core.verdict import GateName

if TYPE_CHECKING:
    from pytest_h20.run.settings import Session


def parameters(session: Session, names: Sequence[str]) -> Iterator[tuple[str, Sequence[object], Sequence[str]]]:
    """(argument name, values, ids) for each of ``node_name``, ``rail``, ``drill``, ``cell`` among the names of a test's arguments."""
    nodes = list({n.name: n for t in session.targets for n in t.nodes}.values())
    if "node_name" in names:
        yield "node_name", [n.name for n in nodes], [n.name for n in nodes]
    if "rail" in names:
        rails = [RailRef(node, rail, i) for node in nodes for i, rail in enumerate(node.rails)]
        yield "rail", rails, [str(r) for r in rails]
    if "drill" in names:
        drills = [drill_named(name) for name in session.settings.drill] if GateName.DRILL in session.required else []
        yield "drill", drills, [d.name for d in drills]
    if "cell" in names:
        cells = list(dict.fromkeys(c for t in session.targets for c in cells_of(t.inventory.load_of(t.profile))))
        yield "cell", cells, [c.id for c in cells]


def belongs(session: Session, values: Mapping[str, object]) -> bool:
    """False where a test's engine does not run on its node: of ``sglang:single`` beside ``sglang:default`` the second node is none."""
    label, node, rail = values.get("h20_engine"), values.get("node_name"), values.get("rail")
    if label not in session.labels:
        return True
    mine = {n.name for n in session.target(str(label)).nodes}
    return (node is None or node in mine) and (not isinstance(rail, RailRef) or rail.node.name in mine)
