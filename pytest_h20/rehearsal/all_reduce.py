"""What the all-reduce benchmark over all GPUs prints on the stand-in cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass

LATENCY_US = 38.0
"""A healthy fabric of eight rails with GPUDirect needs 20 to 40 microseconds for 14 KiB (project's engine facts, section 4.4)."""

RAIL_GB_PER_S = 24.5
"""Bus bandwidth that one 200 Gbit/s rail gives (about 24, NVIDIA/nccl-tests issue 119)."""

SIZES = (*(14336 * b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)), 1 << 28)


@dataclass
class AllReduceTruth:
    """``share``: part of the healthy bandwidth that is reached. ``wrong``: wrong values per size. ``error``: it ends with this."""

    share: float = 1.0
    wrong: int = 0
    error: str = ""


def printed(truth: AllReduceTruth, ranks: int, rails: int, nccl: str) -> str:
    """The JSON of rank 0, in the keys of nccl-tests that our torch runner writes."""
    results = []
    for size in SIZES:
        factor = 2 * (ranks - 1) / ranks
        time_us = LATENCY_US + size * factor / (rails * RAIL_GB_PER_S * truth.share * 1e3)
        figures = {"time": time_us, "alg_bw": size / time_us / 1e3, "bus_bw": size * factor / time_us / 1e3, "nwrong": truth.wrong}
        results.append({"size": size, "out_of_place": figures})
    return json.dumps({"tool": "torch", "ranks": ranks, "nccl_version": nccl, "results": results}) + "\n"
