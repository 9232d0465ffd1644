"""The embedded stand-in cluster: the write-up's two nodes, without hardware. Nothing above ``transport`` knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_h20.rehearsal.cluster import Rehearsal

__all__ = ["Rehearsal"]


def __getattr__(name: str) -> object:
    # Lazily: the actors are processes of their own and start faster without the inventory's machinery.
    if name == "Rehearsal":
        from pytest_h20.rehearsal.cluster import Rehearsal

        return Rehearsal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
