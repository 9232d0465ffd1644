"""What the all-reduce benchmark over all GPUs prints on the stand-in cluster."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

LATENCY_US = 38.0
"""A healthy fabric of eight rails with GPUDirect needs 20 to 40 microseconds for 14 KiB (project's engine facts, section 4.4)."""

RAIL_GB_PER_S = 24.5
"""Bus bandwidth that one 200 Gbit/s rail gives (about 24, NVIDIA/nccl-tests issue 119)."""

SIZES = (*(14336 * b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)), 1 << 28)


@dataclass
class AllReduceTruth:
    """``share``: part of the healthy bandwidth that is reached; ``nodes``: where this node takes part; ``pairs``: where both take part.
    ``wrong``: wrong values per size. ``error``: it ends with this."""

    share: float = 1.0
    wrong: int = 0
    error: str = ""
    nodes: dict[str, float] = field(default_factory=dict)
    pairs: dict[tuple[str, str], float] = field(default_factory=dict)

    def reached(self, members: Collection[str]) -> float:
        """The part that these nodes reach together."""
        slow = [share for name, share in self.nodes.items() if name in members]
        return min([self.share, *slow, *(share for pair, share in self.pairs.items() if set(pair) <= set(members))])


def printed(truth: AllReduceTruth, members: Collection[str], ranks: int, rails: int, nccl: str) -> str:
    """The JSON of rank 0 of these nodes, in the keys of nccl-tests that our torch runner writes."""
    results, share = [], truth.reached(members)
    for size in SIZES:
        factor = 2 * (ranks - 1) / ranks
        time_us = LATENCY_US + size * factor / (rails * RAIL_GB_PER_S * share * 1e3)
        figures = {"time": time_us, "alg_bw": size / time_us / 1e3, "bus_bw": size * factor / time_us / 1e3, "nwrong": truth.wrong}
        results.append({"size": size, "out_of_place": figures})
    return json.dumps({"tool": "torch", "ranks": ranks, "nccl_version": nccl, "results": results}) + "\n"
