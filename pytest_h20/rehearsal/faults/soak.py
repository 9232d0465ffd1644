"""Faults that only hours show. In a rehearsal the hours of a soak pass in two seconds, so each says how many there are."""

from __future__ import annotations

from pytest_h20.rehearsal.faults.machines import XID_31
from pytest_h20.rehearsal.faults.model import Change, Fault, http, ids, loading, together
from pytest_h20.rehearsal.world import World


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str, hours: str = "1h") -> Fault:
    options = (f"--h20-soak={hours}",)
    return Fault(name, "soak", sentence, source, change, ids("soak", red), phrase, scenario="quick@30", options=options)


def _leaks(node: str, gpu: int | None, mib_per_hour: float) -> Change:
    def change(world: World) -> None:
        world.load.leak[node, gpu] = mib_per_hour

    return change


def _creeps(world: World) -> None:
    world.load.soak_creep["node02", "mlx5_3"] = {"packet_seq_err": 40.0}


def _hangs(behind: int | None = None, *, ras_crashes: bool = False, nccl: str = "2.28.9") -> Change:
    """At minute 30 nothing comes any more; its ranks look so."""

    def change(world: World) -> None:
        world.engine.http["soak_hangs"] = 0.5
        world.hang.behind, world.hang.ras_crashes = behind, ras_crashes
        for image in world.images.values():
            image.nccl = nccl
        world.nccl.version = nccl
        if behind is not None:
            world.load.kernel["node01"] = [("hang", XID_31)]

    return change


FAULTS = (
    _fault(
        "gpu-memory-leaks",
        "One GPU holds 2 GiB more with every hour.",
        "sglang#3909, #5375: memory that grows",
        _leaks("node02", 3, 2048),
        "memory",
        "node02 GPU 3",
        "2h",
    ),
    _fault(
        "host-memory-leaks",
        "The host of a node holds 8 GiB more with every hour.",
        "sglang#5375",
        _leaks("node02", None, 8192),
        "memory",
        "rises",
        "2h",
    ),
    _fault(
        "slower-by-2-percent-an-hour",
        "The engine loses 2 % of its speed with every hour.",
        "sglang#3909: throughput that falls steadily",
        http(soak_slower=0.02),
        "speed",
        "falls",
        "40h",
    ),
    _fault(
        "slower-from-70-percent-on",
        "After seven tenths of the soak the engine is three times slower, and stays so.",
        "sglang#3909",
        http(soak_shift=[0.7, 3.0]),
        "speed",
        "level shift at 0:4",
    ),
    _fault(
        "one-stall-of-20-s",
        "At minute 30 nothing comes for 20 s; then all goes on.",
        "NCCL retries of a lost packet",
        http(soak_stall=[0.5, 20.0]),
        "stalls",
        "streams)",
    ),
    _fault(
        "kv-cache-leaks",
        "With every hour a tenth more of the KV cache is in use at the same load: blocks of requests that ended are not given back.",
        "sglang#5375; blocks that an aborted request keeps",
        http(soak_kv_leaks=0.1),
        "kv_use",
        "KV use per running request",
        "2h",
    ),
    _fault(
        "one-request-in-ten-fails",
        "All through the soak one request in ten is answered with HTTP 503.",
        "a rate of errors that no cell of seconds shows",
        http(fail_rate=0.1, fail_kind="http503"),
        "errors",
        "requests failed",
    ),
    _fault(
        "counter-creeps-for-hours",
        "An error counter of a rail rises every other minute.",
        "DeepEP#82: out-of-sequence packets over minutes",
        _creeps,
        "counters rail_errors",
        "packet_seq_err",
    ),
    _fault(
        "dead-at-minute-47",
        "The engine ends at minute 47.",
        "sglang#3932, #3424: after one or two hours; vllm#42354: after 15 to 26 minutes",
        http(soak_ends=47 / 60),
        "lasted bringup.stays_up bringup.stops",
        "no request was answered from minute 4",
    ),
    _fault(
        "hang-one-rank-silent",
        "At minute 30 rank 3 does not enter an all-reduce any more, after a page fault of its GPU; the engine lives.",
        "vllm#39863, #32136: a rank that dies while /health stays 200",
        _hangs(3),
        "lasted kernel_log",
        "ranks 0-2, 4-15 wait in operation 1204; rank 3 never entered: its last is operation 1203; its node's kernel log has Xid 31",
    ),
    _fault(
        "hang-all-silent",
        "At minute 30 every rank waits in the same all-reduce; NCCL 2.27.5 is not asked.",
        "nccl#1762; sglang#3932",
        _hangs(nccl="2.27.5"),
        "lasted",
        "ranks 0-15 wait in all_reduce()",
    ),
    _fault(
        "hang-ras-crashes",
        "At minute 30 rank 3 hangs, and NCCL's RAS ends the job when it is asked.",
        "nccl#1669, #1718, #1762",
        _hangs(3, ras_crashes=True),
        "lasted kernel_log bringup.stays_up bringup.stops",
        "ranks 0-2, 4-15 wait in all_reduce(); rank 3 is in forward()",
    ),
    _fault(
        "answers-sink",
        "With every hour a fifth of the answers more is wrong.",
        "vllm#52448: answers that go bad after a while",
        together(http(soak_sinks=0.2), loading(canaries=0.5)),
        "accuracy answers",
        "in the second (Fisher",
        "5h",
    ),
    _fault(
        "soak-without-canaries",
        "The soak asks nothing with a known answer.",
        "load.canaries: 0",
        loading(canaries=0.0),
        "answers accuracy",
        "no canary was sent",
    ),
)
