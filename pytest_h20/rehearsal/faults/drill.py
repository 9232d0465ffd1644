"""Faults of drills: those that do nothing or stay, and engines that hide a fault or come back wrong."""

from __future__ import annotations

from typing import Any

from pytest_h20.rehearsal.drills import DrillTruth
from pytest_h20.rehearsal.faults.model import Fault, ids
from pytest_h20.rehearsal.world import World


def _fault(name: str, sentence: str, source: str, drill: str, red: str, phrase: str, **truth: Any) -> Fault:
    def change(world: World) -> None:
        world.drill = DrillTruth(**truth)

    return Fault(name, "drill", sentence, source, change, ids("drill", red), phrase, options=(f"--h20-drill={drill}",))


FAULTS = (
    _fault(
        "drill-passes-by",
        "The loss is there, and no packet goes through it: RDMA passes the kernel by.",
        "tc-netem(8): a queueing discipline sees only what the kernel sends",
        "rail-loss-1",
        "happened",
        "the drill did nothing: xgbe1: no packet went through it",
        passes_by=True,
    ),
    _fault(
        "drill-stays",
        "What a drill broke cannot be taken back.",
        "a log-in user who may add and not delete; somebody else's qdisc on top",
        "control-delay-20ms",
        "taken_back bringup.nothing_left",
        "tc qdisc del dev",
        stuck=True,
    ),
    _fault(
        "death-behind-200",
        "The scheduler is dead, requests fail, and /health says 200 for ever.",
        "vllm#39863, vllm#21443: /health stays 200 after kill -9 of the engine core",
        "kill-scheduler",
        "health_true settles",
        "/health said 200 for",
        health_s=None,
        ends_s=None,
    ),
    _fault(
        "clients-hang-after-a-drill",
        "The HTTP process goes on after its scheduler: /health says 503, and requests are never told anything.",
        "vllm#32136: requests hang for minutes",
        "kill-scheduler",
        "clients_told settles",
        "a request that hangs was never told anything",
        errs_s=None,
        ends_s=None,
    ),
    _fault(
        "answers-cut-by-a-drill",
        "Answers end early after the fault, as if they were whole.",
        "a proxy or a detokenizer that closes the stream with [DONE]",
        "kill-worker-rank",
        "no_false_answer right_after",
        "No client got a wrong or a silently cut answer",
        cuts=True,
    ),
    _fault(
        "gpu-memory-stays-after-a-drill",
        "What a killed rank held on its GPU stays in use, and the engine does not start again.",
        "ranks that outlive their parent hold GPU memory",
        "kill-worker-rank",
        "leaves_nothing comes_back right_after",
        "GPU 7 holds 60000 MiB",
        left_mib=60_000,
        starts=False,
    ),
    _fault(
        "nonsense-after-a-drill",
        "The engine comes back and answers nonsense.",
        "a recovered engine is believed",
        "kill-worker-rank",
        "right_after",
        "After it the answers are right",
        nonsense=True,
    ),
)
