"""What a test may ask for one of at a time: a node, a rail, a load cell. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_h20.inventory import LoadSettings, NodeSpec, Rail

if TYPE_CHECKING:
    from pytest_h20.load.cells import Cell
    from pytest_h20.session import Session


@dataclass(frozen=True)
class RailRef:
    """One rail of one node. ``number`` counts rails from 0; equal numbers face each other."""

    node: NodeSpec
    rail: Rail
    number: int

    def __str__(self) -> str:
        return f"{self.node.name}-{self.rail.hca}"


def parameters(session: Session, names: Sequence[str]) -> Iterator[tuple[str, Sequence[object], Sequence[str]]]:
    """(argument name, values, ids) for each of ``node_name``, ``rail``, ``cell`` among the names of a test's arguments."""
    nodes = list({n.name: n for t in session.targets for n in t.nodes}.values())
    if "node_name" in names:
        yield "node_name", [n.name for n in nodes], [n.name for n in nodes]
    if "rail" in names:
        rails = [RailRef(node, rail, i) for node in nodes for i, rail in enumerate(node.rails)]
        yield "rail", rails, [str(r) for r in rails]
    if "cell" in names:
        cells = list(dict.fromkeys(c for t in session.targets for c in cells_of(t.inventory.load_of(t.profile))))
        yield "cell", cells, [c.id for c in cells]


def cells_of(settings: LoadSettings) -> list[Cell]:
    """The cells of a profile, cheap ones first. Default: the write-up's matrix."""
    from pytest_h20.load.cells import BLOG_CONCURRENCIES, BLOG_LENGTHS, matrix

    return list(matrix(settings.concurrency or BLOG_CONCURRENCIES, settings.lengths or BLOG_LENGTHS))
