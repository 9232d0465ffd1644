"""Faults of the GPUs and of what joins them inside a node: what the burn finds before the engine starts."""

from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, ids
from pytest_h20.rehearsal.world import World


def _other(world: World) -> str:
    return world.other.hostname


def _slow(share: float, *figures: str) -> Change:
    """GPU 3 of the second node reaches this part of these figures."""

    def change(world: World) -> None:
        world.burn.share.update({(_other(world), 3, figure): share for figure in figures})

    return change


def _slow_pair(world: World) -> None:
    world.burn.pairs[_other(world), 2, 5] = 0.4


def _slow_ring(world: World) -> None:
    world.burn.ring[_other(world)] = 0.3


def _wrong_bits(world: World) -> None:
    world.burn.wrong_bits[_other(world), 3] = 1


def _wrong_words(world: World) -> None:
    world.burn.wrong_words[_other(world), 3] = 2


def _hot(world: World) -> None:
    world.burn.reasons[_other(world), 3] = 0x44


def _unseen(world: World) -> None:
    world.burn.unseen.add(_other(world))


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str, gates: tuple[str, ...] = ()) -> Fault:
    return Fault(name, "compute", sentence, source, change, ids("compute", red), phrase, gates=gates)


FAULTS = (
    _fault(
        "gpu-at-60-percent",
        "One GPU multiplies at 60 % of its siblings.",
        "issue 15: a locked clock",
        _slow(0.6, "gemm_bf16", "gemm_fp8", "gemm_fp32"),
        "gemm_bf16 apart",
        "(60 %): likeliest is the GPU or its cooling",
    ),
    _fault(
        "gpu-memory-slow",
        "The memory of one GPU reaches half of its bandwidth.",
        "issue 15",
        _slow(0.5, "hbm", "hbm_read", "hbm_write"),
        "hbm apart",
        "likeliest is the GPU",
    ),
    _fault(
        "gpu-wrong-bits",
        "One GPU gives other bits once in 2400 repeats.",
        "silent data corruption",
        _wrong_bits,
        "exact bringup.ready",
        "1 of 2400",
        ("compute", "bringup"),
    ),
    _fault("gpu-memory-forgets", "Two words of one GPU's memory come back changed.", "issue 15", _wrong_words, "memory", "2 words"),
    _fault(
        "gpu-on-slow-pcie",
        "The PCIe link of one GPU runs at half of its lanes.",
        "issue 15: trained down under load",
        _slow(0.5, "h2d", "d2h", "h2d_all", "d2h_all"),
        "host_link apart",
        "likeliest is PCIe",
    ),
    _fault(
        "nvlink-pair-slow",
        "Between two GPUs NVLink reaches 40 % of the other pairs.",
        "issue 15",
        _slow_pair,
        "nvlink",
        "likeliest is the link between these two",
    ),
    _fault("node-all-reduce-slow", "The all-reduce inside a node reaches a third.", "issue 15", _slow_ring, "all_reduce", "P2P, not SHM"),
    _fault(
        "gpu-brakes-in-the-burn", "One GPU is slowed down by heat while it is burned.", "issue 15", _hot, "clocks", "hw_thermal_slowdown"
    ),
    _fault(
        "burn-without-gpus",
        "The container of the burn sees no GPU on one node.",
        "could not measure is no pass",
        _unseen,
        "ran exact memory hbm gemm_bf16 gemm_fp8 gemm_fp32 host_link nvlink all_reduce clocks power",
        "the burn ran on no GPU",
    ),
)
