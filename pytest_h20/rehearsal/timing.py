"""How fast the stand-in's engine is: the write-up's table, and between its rows on straight lines in log(streams).

The rows are those of the limits file of the profile that runs. ``BETTER`` leaves a healthy rehearsal room below its limits on a
machine that does other things as well: between two tokens lie milliseconds of a compressed minute.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_h20.config.inventory import Inventory

BETTER = 0.85
"""Part of the write-up's times that a healthy stand-in takes. A factor of a fault counts from the write-up's own time."""

VLLM_ABOVE_FLOOR = 1.25
"""vLLM has floors only, which were derived loosely: the stand-in is this much above them."""

VLLM_TTFT_MS = 600.0


@dataclass(frozen=True)
class TimingRow:
    """One cell: tokens in and out, streams; milliseconds in model time."""

    input_len: int
    output_len: int
    streams: int
    ttft_ms: float
    tpot_ms: float


class Timing:
    """TTFT and TPOT of a request while so many run. ``knobs``: see ``server.py`` (slow_from, slow_factor, cell_factor, ttft_factor)."""

    def __init__(self, rows: Sequence[TimingRow], scale: float, knobs: Mapping[str, Any]) -> None:
        if not rows:
            raise ValueError("a timing model needs rows")
        self.scale = scale
        self._knobs = knobs
        self._by_length: dict[int, list[TimingRow]] = {}
        for row in sorted(rows, key=lambda r: r.streams):
            self._by_length.setdefault(row.input_len + row.output_len, []).append(row)
        self._cache: dict[tuple[int, int], tuple[float, float]] = {}

    def seconds(self, tokens: int, running: int) -> tuple[float, float]:
        """(TTFT, TPOT) in wall seconds of a request of this many tokens in and out while ``running`` run."""
        length = min(self._by_length, key=lambda known: abs(known - tokens))
        found = self._cache.get((length, running))
        if found is None:
            found = self._cache[length, running] = self._look_up(self._by_length[length], max(1, running))
        return found

    def _look_up(self, rows: Sequence[TimingRow], running: int) -> tuple[float, float]:
        at = bisect.bisect_left([r.streams for r in rows], running)
        if at == 0:
            ttft, tpot = rows[0].ttft_ms, rows[0].tpot_ms
        elif at == len(rows):
            ttft, tpot = rows[-1].ttft_ms, rows[-1].tpot_ms * running / rows[-1].streams
        else:
            low, high = rows[at - 1], rows[at]
            part = math.log(running / low.streams) / math.log(high.streams / low.streams)
            ttft = low.ttft_ms + part * (high.ttft_ms - low.ttft_ms)
            tpot = low.tpot_ms + part * (high.tpot_ms - low.tpot_ms)
        factor = self._factor(rows, running)
        ttft *= float(self._knobs.get("ttft_factor", 1.0))
        return ttft * factor / 1e3 / self.scale, tpot * factor / 1e3 / self.scale

    def _factor(self, rows: Sequence[TimingRow], running: int) -> float:
        knobs = self._knobs
        for cell, times in (knobs.get("cell_factor") or {}).items():
            if cell == f"in{rows[0].input_len}-out{rows[0].output_len}-c{running}":
                return float(times)
        if knobs.get("slow_from") and running >= int(knobs["slow_from"]):
            return float(knobs.get("slow_factor", 2.0))
        return BETTER


TABLES = {"sglang": "sglang-default.yaml", "vllm": "vllm-blog.yaml"}


def rows_of(inventory: Inventory, engine: str) -> list[list[float]]:
    """The rows for an engine of this inventory, as JSON: [input, output, streams, TTFT ms, TPOT ms].

    Always from the whole table: the stand-in is no faster because fewer cells are looked at.
    """
    from pytest_h20.config.cells import cells_of
    from pytest_h20.config.environments import environments
    from pytest_h20.config.limits import load_limits

    limits = load_limits(environments() / "thresholds" / TABLES[engine])
    rows = []
    for cell in cells_of(inventory.load.model_copy(update={"concurrency": None, "lengths": None})):
        tpot = limits.written(cell.id, "mean_tpot_ms")
        ttft = limits.written(cell.id, "mean_ttft_ms")
        if tpot is None or ttft is None:
            throughput = limits.written(cell.id, "output_throughput")
            if throughput is None:
                continue
            ttft = VLLM_TTFT_MS
            whole_ms = 1e3 * cell.concurrency * cell.output_len / (throughput * VLLM_ABOVE_FLOOR)
            tpot = (whole_ms - ttft) / (cell.output_len - 1)
        rows.append([cell.input_len, cell.output_len, cell.concurrency, ttft, tpot])
    return rows
