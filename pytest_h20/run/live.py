"""What a run tells of this moment, for those who look from outside (``report/live``). Beside the work, never in it.

While cells run a thread of its own writes two files of some kilobytes every second or two; the loop that measures only hands over a
reference twice a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.verdict import Limit
from pytest_h20.engines.base import Stage
from pytest_h20.load import CellProgress
from pytest_h20.load.soak import Bin, SoakPlan
from pytest_h20.probes.telemetry import Lately
from pytest_h20.report.live.now import BringUpNow, CellNow, GpuNow, MachinesNow, RailNow, RoleNow
from pytest_h20.report.model import METRICS
from pytest_h20.report.run import RunFolder

POINTS = 40
"""Samples that are told of each GPU and port."""

EVERY_S, REHEARSED_EVERY_S = 2.0, 0.5
"""Between two times that the machines are told; the cell is told twice as often."""


def tell_bring_up(
    folder: RunFolder, label: str, roles: Sequence[RoleRef], stages: Mapping[str, Stage | None], seconds: float, limit: float
) -> None:
    """How far every process of an engine is."""
    where = {role.role: role.node for role in roles}
    told = [
        RoleNow(role=role, node=where.get(role, ""))
        if stage is None
        else RoleNow(
            role=role,
            node=where.get(role, ""),
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            detail=stage.detail,
        )
        for role, stage in stages.items()
    ]
    folder.tell(BringUpNow(time=folder.now(), engine=label, roles=tuple(told), elapsed_s=seconds, limit_s=limit))


def cell_now(folder: RunFolder, label: str, p: CellProgress, number: int, of: int, limits: Mapping[str, Limit]) -> CellNow:
    """A cell that runs: what its generator said last, which of how many it is, and its limits."""
    figures = {"output_throughput": p.tokens_per_s, "mean_ttft_ms": p.ttft_ms, "mean_tpot_ms": p.tpot_ms}
    return CellNow(
        time=folder.now(),
        engine=label,
        cell=p.cell,
        number=number,
        of=of,
        done=p.done,
        total=p.total,
        failed=p.failed,
        in_flight=p.in_flight,
        elapsed_s=p.elapsed_s,
        left_s=p.left_s,
        figures={name: round(value, 3) for name, value in figures.items() if value},  # nothing has come yet: no figure
        limits={name: limit for name, limit in limits.items() if name in METRICS},
    )


def bin_now(folder: RunFolder, label: str, found: Bin, plan: SoakPlan) -> CellNow:
    """The last bin of a soak."""
    figures = {
        "output_throughput": found.output_throughput,
        "median_ttft_ms": found.ttft_p50_ms,
        "median_itl_ms": found.itl_p50_ms,
        "p99_itl_ms": found.itl_p99_ms,
    }
    return CellNow(
        time=folder.now(),
        engine=label,
        cell=f"soak, {plan.streams} streams",
        number=1,
        of=1,
        done=found.number + 1,
        total=plan.bins,
        unit="bins",
        failed=found.failed,
        in_flight=round(found.in_flight),
        elapsed_s=(found.number + 1) * plan.bin_s,
        left_s=(plan.bins - found.number - 1) * plan.bin_s,
        figures={name: round(value, 3) for name, value in figures.items() if value is not None},
    )


class LiveLoad:
    """Tells of the cell that runs and of the nodes under it, from ``start`` to ``stop``.

    ``cell``: how it is told, set by whoever measures; None between two cells."""

    def __init__(self, folder: RunFolder, label: str, scale: float, lately: Callable[[int], Mapping[str, Lately]]) -> None:
        self.cell: Callable[[], CellNow] | None = None
        self._folder, self._label, self._scale, self._lately = folder, label, scale, lately
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="h20-live", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and leave nothing."""
        self._ending.set()
        self._thread.join(10.0)
        for kind in ("cell", "machines"):
            self._folder.over(kind, self._label)

    def _tell(self) -> None:
        every = (EVERY_S if self._scale == 1.0 else REHEARSED_EVERY_S) / 2
        told, turn = self.cell, 0
        while not self._ending.wait(every):
            cell = self.cell
            if cell is None and told is not None:
                self._folder.over("cell", self._label)
            elif cell is not None and cell is not told:
                self._folder.tell(cell())
            told, turn = cell, turn + 1
            if turn % 2 and (nodes := self._lately(POINTS)):
                self._folder.tell(machines_now(self._folder, self._label, nodes, self._scale))


def machines_now(folder: RunFolder, label: str, nodes: Mapping[str, Lately], scale: float) -> MachinesNow:
    """What the nodes told last. ``scale``: of the clock that the ports' rates are in."""
    gpus = [
        GpuNow(
            node=node,
            index=index,
            sm_mhz=samples[-1].sm_mhz if samples else None,
            temperature_c=samples[-1].temperature_c if samples else None,
            throttled=samples[-1].reasons if samples else (),
            power_w=tuple(s.power_w for s in samples if s.power_w is not None),
        )
        for node, told in nodes.items()
        for index, samples in told.gpus.items()
    ]
    rails = [
        RailNow(
            node=node,
            rail=rail,
            sent_gbit_s=tuple(
                round(8e-9 * max(0, after - before) / (to - since) / scale, 3)
                for (since, before), (to, after) in pairwise(sent)
                if to > since
            ),
        )
        for node, told in nodes.items()
        for rail, sent in told.rails.items()
    ]
    return MachinesNow(time=folder.now(), engine=label, gpus=tuple(gpus), rails=tuple(rails))
