"""What an inventory names many of: the cells of a load profile, the rails of the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_h20.config.inventory import LoadSettings, NodeSpec, Rail

if TYPE_CHECKING:
    from pytest_h20.load.cells import Cell


@dataclass(frozen=True)
class RailRef:
    """One rail of one node. ``number`` counts rails from 0; equal numbers face each other."""

    node: NodeSpec
    rail: Rail
    number: int

    def __str__(self) -> str:
        return f"{self.node.name}-{self.rail.hca}"


def cells_of(settings: LoadSettings) -> list[Cell]:
    """The cells of a profile, cheap ones first. Default: the write-up's matrix."""
    from pytest_h20.load.cells import BLOG_CONCURRENCIES, BLOG_LENGTHS, matrix

    return list(matrix(settings.concurrency or BLOG_CONCURRENCIES, settings.lengths or BLOG_LENGTHS))
