"""Faults of the machines while the engine works: GPUs, rails and kernels that were well before."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from typing import Any

from pytest_h20.rehearsal.faults.model import Change, Fault, ids, together
from pytest_h20.rehearsal.world import World

XID_31 = "NVRM: Xid (PCI:0000:33:00): 31, pid=4711, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted @ 0x7f2a_00000000"
XID_145 = "NVRM: Xid (PCI:0000:33:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 07 (0x00000002 0x00000082)"


def _fault(
    name: str,
    sentence: str,
    source: str,
    change: Change,
    red: str,
    phrase: str,
    gate: str = "throughput",
    gates: tuple[str, ...] = (),
) -> Fault:
    return Fault(name, gate, sentence, source, change, ids(gate, red), phrase, gates=gates)


def _load(**fields: Any) -> Change:
    """Other values of what happens under load."""

    def change(world: World) -> None:
        for name, value in fields.items():
            setattr(world.load, name, value)

    return change


def _rail(**counters: int) -> Change:
    """Counters of mlx5_3 of the second node that rise with the tokens served, per thousand."""
    return lambda world: world.traffic.errors.update({(world.other.hostname, "mlx5_3"): counters})


def _share(world: World) -> None:
    world.traffic.share[world.other.hostname, "mlx5_3"] = 0.3


def _yesterday(world: World) -> None:
    """The same line, a day before the run: it is old."""
    world.other.kernel_lines.append(f"[{world.other.uptime_s - 86_400:.6f}] {XID_31}")


_IN_A_GATE = tuple(
    _fault(
        f"xid-31-while-{gate}",
        f"A GPU reports a page fault (Xid 31) while the gate {gate} runs.",
        "sglang#26987: illegal accesses after hours",
        _load(kernel={"node02": [("burn" if gate == "compute" else "ready", XID_31)]}),
        "kernel_log",
        "GPU memory page fault (NVIDIA: RESTART_APP)",
        gate,
    )
    for gate in ("compute", "bringup", "rdma", "endpoint", "reasoning", "answers")
)

FAULTS = (
    _fault(
        "gpu-at-60-percent-clock",
        "One of sixteen GPUs runs at 60 % of the others' clock under load.",
        "a slow rank drags TP16",
        _load(clock={("node02", 3): 0.6}),
        "gpu_apart",
        "node02 GPU 3 (serial 1650002000003, slot 00000000:33:00.0): SM clock 1188 MHz",
    ),
    _fault(
        "slow-gpu-beyond-the-matrix",
        "The same in a run whose only cell is the one through the chat route.",
        "a slow rank drags TP16",
        _load(clock={("node02", 3): 0.6}),
        "gpu_apart",
        "chat-in128-out128-c8-r1",
        gates=("chat",),
    ),
    _fault(
        "power-brake-in-a-cell",
        "The power brake slows a GPU down during one cell.",
        "a power supply that failed over",
        _load(brake={("node02", 3): 1_000}),
        "throttled",
        "hw_power_brake_slowdown",
    ),
    _fault(
        "row-remap-under-load",
        "A GPU remaps a memory row while the load runs.",
        "NVIDIA's GPU memory error management",
        _load(remapped={("node02", 3)}),
        "gpu_state",
        "a row remap is pending",
    ),
    _fault(
        "nvlink-replays-under-load",
        "An NVLink of a GPU has to send again while the load runs, and only DCGM counts it.",
        "DCGM's health watch: one replay is a failure",
        _load(nvlink={("node02", 3): 2}),
        "dcgm",
        "GPU 3: NVLink replays +2",
    ),
    _fault(
        "telemetry-stops",
        "A node stops telling its state after the load began.",
        "could not measure is no pass",
        _load(silent_after={"node02": 3}),
        "telemetry",
        "node02: nothing about its GPUs",
        gates=("matrix",),
    ),
    _fault(
        "xid-31-in-a-cell",
        "A GPU reports a page fault (Xid 31) in a cell; the same line of yesterday is old.",
        "sglang#26987",
        together(_load(kernel={"node02": [("load", XID_31)]}), _yesterday),
        "kernel_log",
        "GPU memory page fault (NVIDIA: RESTART_APP)",
    ),
    _fault(
        "xid-145-in-a-cell",
        "NVLink reports an error (Xid 145) in a cell.",
        "open-gpu-kernel-modules#1355",
        _load(kernel={"node02": [("load", XID_145)]}),
        "kernel_log",
        "NVLink: RLW error",
    ),
    _fault(
        "ring-buffer-wrapped",
        "The kernel's ring buffer has forgotten the load by its end.",
        "could not measure is no pass",
        _load(wraps={"node02"}),
        "kernel_log",
        "could not see between",
    ),
    _fault(
        "rail-error-creeps",
        "An error counter of a rail rises once in ten seconds of load.",
        "DeepEP#82: out-of-sequence packets over minutes",
        _load(creep={("node02", "mlx5_3"): {"packet_seq_err": 0.1}}),
        "rail_errors",
        "packet_seq_err",
    ),
    _fault(
        "congestion-under-load",
        "Congestion notifications come for every hundredth packet and more.",
        "nccl#378",
        _rail(np_cnp_sent=10_000),
        "rail_congestion",
        "np_cnp_sent",
    ),
    _fault(
        "rail-carries-a-third",
        "One rail carries less than a third of what the others do.",
        "a rail that NCCL uses for fewer channels",
        _share,
        "rail_shares",
        "mlx5_3",
    ),
    *_IN_A_GATE,
)
