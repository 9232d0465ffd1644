"""What the burn of the GPUs prints on a stand-in node: eight H20, alike to a part in a thousand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_h20.checks.compute.facts import MARK
from pytest_h20.rehearsal.standin import Machine

HEALTHY = {
    "hbm_write": 3930.0,
    "hbm_read": 3715.0,
    "hbm": 3600.0,
    "gemm_bf16": 138.0,
    "gemm_fp8": 271.0,
    "gemm_fp32": 39.0,
    "h2d": 55.1,
    "d2h": 55.0,
    "h2d_all": 52.6,
    "d2h_all": 48.3,
}
"""Two H100 (docs/measured.md), in the proportion of the vendor's figures. No H20 was measured."""

PAIR, RING, DIGEST = 389.0, 355.0, "0001009bbfbdc1f2"


@dataclass
class BurnTruth:
    """What a fault changes. Keys: (node, GPU); ``share``: and figure, to the part that is reached. ``pairs``: (node, GPU, GPU), both ways.
    ``reasons``: NVML's bits. ``unseen``: nodes whose container has no GPU. ``errors``: node to the last line of a burn that ended early."""

    share: dict[tuple[str, int, str], float] = field(default_factory=dict)
    pairs: dict[tuple[str, int, int], float] = field(default_factory=dict)
    ring: dict[str, float] = field(default_factory=dict)
    wrong_bits: dict[tuple[str, int], int] = field(default_factory=dict)
    wrong_words: dict[tuple[str, int], int] = field(default_factory=dict)
    reasons: dict[tuple[str, int], int] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)


def printed(truth: BurnTruth, machine: Machine, how: str, torch: str) -> str:
    """All lines of one node."""
    return "".join(f"{MARK}{json.dumps(line)}\n" for line in _lines(truth, machine, how, torch))


def _lines(truth: BurnTruth, machine: Machine, how: str, torch: str) -> Iterator[dict[str, object]]:
    name = machine.hostname
    gpus = 0 if name in truth.unseen else len(machine.gpus)
    yield {"started": how, "torch": torch, "cuda": machine.image_cuda, "gpus": gpus}
    for gpu in range(gpus):
        yield {"card": gpu, "name": machine.gpus[gpu].name, "uuid": f"GPU-{machine.number:08x}-0000-0000-0000-{gpu:012x}"}
    for figure, value in HEALTHY.items():
        for gpu in range(gpus):
            yield {"figure": figure, "gpu": gpu, "value": value * (1 + gpu / 1e4) * truth.share.get((name, gpu, figure), 1.0)}
    for gpu in range(gpus):
        yield {"exact": gpu, "repeats": 2400, "wrong": truth.wrong_bits.get((name, gpu), 0), "digest": DIGEST}
        yield {"memory": gpu, "gib": 91, "wrong": truth.wrong_words.get((name, gpu), 0)}
        reasons = truth.reasons.get((name, gpu), 0)
        yield {"busy": gpu, "samples": 14, "sm_mhz": 1980.0, "power_w": 480.0, "temperature_c": 61.0, "reasons": reasons}
    for a in range(gpus):
        for b in range(gpus):
            if a != b:
                yield {"pair": [a, b], "value": PAIR * truth.pairs.get((name, min(a, b), max(a, b)), 1.0), "peer": True}
    if gpus > 1:
        yield {"all_reduce": RING * truth.ring.get(name, 1.0), "ranks": gpus, "wrong": 0, "nccl": machine.nccl}
    yield {"done": True, "seconds": 27.4}
