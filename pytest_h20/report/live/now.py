"""What a run tells while something goes on that its records will only say in the end: one small file each, written anew, in ``.live/``.

Nothing is judged by them, and none is left when the run is finished.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from pytest_h20.core.model import Frozen
from pytest_h20.core.verdict import Limit

FOLDER = ".live"


class RoleNow(Frozen):
    """One process of an engine that starts: the stage its log speaks of, and how much of it is done."""

    role: str
    node: str = ""
    stage: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    detail: str = ""


class BringUpNow(Frozen):
    """An engine that starts. ``elapsed_s`` of at most ``limit_s``, model time."""

    kind: Literal["bringup"] = "bringup"
    time: datetime
    engine: str
    roles: tuple[RoleNow, ...] = ()
    elapsed_s: float = 0.0
    limit_s: float = 0.0


class CellNow(Frozen):
    """A load cell that runs: the ``number``-th of ``of``. ``figures`` so far, by the names of a cell's record. Model time."""

    kind: Literal["cell"] = "cell"
    time: datetime
    engine: str
    cell: str
    number: int = 0
    of: int = 0
    done: int = 0
    total: int | None = None
    unit: str = "requests"
    failed: int = 0
    in_flight: int = 0
    elapsed_s: float = 0.0
    left_s: float | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    limits: dict[str, Limit] = Field(default_factory=dict)


class GpuNow(Frozen):
    """A GPU: its last sample, and its power (W) in the last ones, oldest first."""

    node: str
    index: int
    sm_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    power_w: tuple[float, ...] = ()


class RailNow(Frozen):
    """An RDMA port: what it sent between the last samples, Gbit/s, oldest first."""

    node: str
    rail: str
    sent_gbit_s: tuple[float, ...] = ()


class MachinesNow(Frozen):
    """The nodes of an engine while it is under load."""

    kind: Literal["machines"] = "machines"
    time: datetime
    engine: str
    gpus: tuple[GpuNow, ...] = ()
    rails: tuple[RailNow, ...] = ()


NOW_TYPES: dict[str, type[BringUpNow] | type[CellNow] | type[MachinesNow]] = {
    "bringup": BringUpNow,
    "cell": CellNow,
    "machines": MachinesNow,
}


def file_of(kind: str, engine: str) -> str:
    """Its name below the run's folder."""
    return f"{FOLDER}/{kind}-{engine.replace(':', '-')}.json"
