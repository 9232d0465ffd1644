"""The embedded stand-in cluster: the write-up's two nodes, without hardware. Nothing above ``transport`` knows."""

from __future__ import annotations

from pytest_h20.rehearsal.cluster import Rehearsal

__all__ = ["Rehearsal"]
