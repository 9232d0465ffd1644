"""What the burn of one node said, line by line. Text in, dataclasses out; a line that is none of ours is left alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.probes.script import Missing

MARK = "H20-BURN "

NAMES = (
    "hbm",
    "hbm_read",
    "hbm_write",
    "gemm_bf16",
    "gemm_fp8",
    "gemm_fp32",
    "h2d",
    "d2h",
    "h2d_all",
    "d2h_all",
)
"""Figures of one GPU: GB/s of memory (``hbm``: a copy, bytes read and written counted) and of the host link (alone, and all GPUs at
once), TFLOP/s of matrix products."""

MOST = 1024
"""GPUs of a node that a line may name."""


@dataclass(frozen=True)
class Exact:
    """A fixed product, repeated. ``wrong``: repeats that differ from the first in any bit. ``digest``: of the first."""

    repeats: int
    wrong: int
    digest: str


@dataclass(frozen=True)
class Pattern:
    """Memory written and read again. ``wrong``: words of 4 bytes that came back as something else."""

    gib: int
    wrong: int


@dataclass(frozen=True)
class Busy:
    """nvidia-smi while matrices were multiplied. ``reasons``: NVML's bits of all reasons that were active in any sample."""

    samples: int
    sm_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int


@dataclass(frozen=True)
class NodeAllReduce:
    """Inside the node, bus bandwidth in GB/s (nccl-tests' definition)."""

    busbw: float
    ranks: int
    wrong: int
    nccl: str


@dataclass(frozen=True)
class NodeBurn:
    """All of one node. GPUs are numbered as torch does in PCI order. ``lost``: part to why it is missing; ``absent``: parts that these
    GPUs cannot do. ``done``: the last line came."""

    how: str = ""
    torch: str = ""
    gpus: int = 0
    uuids: Mapping[int, str] = field(default_factory=dict)
    figures: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], float] = field(default_factory=dict)
    no_peer: tuple[tuple[int, int], ...] = ()
    all_reduce: NodeAllReduce | None = None
    exact: Mapping[int, Exact] = field(default_factory=dict)
    memory: Mapping[int, Pattern] = field(default_factory=dict)
    busy: Mapping[int, Busy] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def done(self) -> bool:
        """It came to its end."""
        return self.seconds is not None


@dataclass(frozen=True)
class Burned:
    """All nodes of one engine's image. ``evidence``: node to the recorded output."""

    nodes: Mapping[str, NodeBurn | Missing]
    evidence: Mapping[str, str] = field(default_factory=dict)


def parse_burn(text: str) -> NodeBurn:
    """The lines of ``agent.py``. What a line lacks or has wrong makes that line nothing, never an error."""
    uuids: dict[int, str] = {}
    figures: dict[str, dict[int, float]] = {}
    pairs: dict[tuple[int, int], float] = {}
    no_peer: list[tuple[int, int]] = []
    exact: dict[int, Exact] = {}
    memory: dict[int, Pattern] = {}
    busy: dict[int, Busy] = {}
    lost: dict[str, str] = {}
    absent: list[str] = []
    all_reduce: NodeAllReduce | None = None
    how, torch, gpus, seconds = "", "", 0, None
    for line in text.splitlines():
        said = _object(line)
        if "started" in said:
            how, torch, gpus = str(said["started"])[:20], str(said.get("torch"))[:60], _count(said.get("gpus"), MOST) or 0
        elif "done" in said:
            seconds = _number(said.get("seconds"))
        elif "lost" in said:
            lost[str(said["lost"])[:40]] = str(said.get("why"))[:400]
            if said.get("absent") is True:
                absent.append(str(said["lost"])[:40])
        elif isinstance(pair := said.get("pair"), list) and len(pair) == 2:
            source, target, value = _count(pair[0], MOST), _count(pair[1], MOST), _number(said.get("value"))
            if source is not None and target is not None and value:
                pairs[source, target] = value
                if said.get("peer") is False:
                    no_peer.append((source, target))
        elif (busbw := _number(said.get("all_reduce"))) and (wrong := _count(said.get("wrong"))) is not None:
            all_reduce = NodeAllReduce(busbw, _count(said.get("ranks"), MOST) or 0, wrong, str(said.get("nccl"))[:20])
        elif (gpu := _count(said.get("card"), MOST)) is not None:
            uuids[gpu] = str(said.get("uuid"))[:60]
        elif (gpu := _count(said.get("gpu"), MOST)) is not None:
            if said.get("figure") in NAMES and (value := _number(said.get("value"))):
                figures.setdefault(str(said["figure"]), {})[gpu] = value
        elif (gpu := _count(said.get("exact"), MOST)) is not None:
            repeats, wrong = _count(said.get("repeats")), _count(said.get("wrong"))
            if repeats is not None and wrong is not None:
                exact[gpu] = Exact(repeats, wrong, str(said.get("digest"))[:32])
        elif (gpu := _count(said.get("memory"), MOST)) is not None:
            gib, wrong = _count(said.get("gib")), _count(said.get("wrong"))
            if gib is not None and wrong is not None:
                memory[gpu] = Pattern(gib, wrong)
        elif (gpu := _count(said.get("busy"), MOST)) is not None:
            clock, power, heat = (_number(said.get(name)) for name in ("sm_mhz", "power_w", "temperature_c"))
            busy[gpu] = Busy(_count(said.get("samples")) or 0, clock, power, heat, _count(said.get("reasons")) or 0)
    return NodeBurn(how, torch, gpus, uuids, figures, pairs, tuple(no_peer), all_reduce, exact, memory, busy, lost, tuple(absent), seconds)


def _object(line: str) -> dict[str, object]:
    if not line.startswith(MARK):
        return {}
    try:
        said = json.loads(line[len(MARK) :])
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _number(value: object) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 1e9
    return float(value) if good and isinstance(value, (int, float)) else None


def _count(value: object, below: int = 10**15) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None
