"""The proof for a pipeline over nodes: communicators of a stage stay inside, those between stages leave, and sends go one way."""

from __future__ import annotations

import functools
from dataclasses import asdict

import pytest

from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Status
from pytest_h20.nccl import judge_job, parse_log
from pytest_h20.rehearsal import nccl_log
from pytest_h20.rehearsal.scenario import scenario_named
from pytest_h20.rehearsal.world import NcclTruth


@functools.cache
def target(scenario: str, engine: str) -> LaunchTarget:
    inventory = scenario_named(scenario).world().inventory
    name, profile_name, profile = inventory.engine_profile(engine)
    return LaunchTarget(inventory, name, profile_name, profile)


def proof(of: LaunchTarget, *, leave_out: int = 0, **truth: object) -> NcclVerdicts:
    """What the logs of a rehearsed job prove. ``leave_out``: the logs of so many ranks are lost."""
    layout = of.layout
    told = asdict(NcclTruth(version="2.28.9", **truth))  # type: ignore[arg-type]
    names = [n.name for n in of.nodes]
    job = nccl_log.job_of(of.inventory.model_dump(mode="json"), names, told, {}, layout.tensor)
    logs = []
    for rank in range(job.nranks - leave_out):
        name = job.name(rank)
        logs.append(NodeLog(names[rank // 8], name, name, parse_log(job.log(rank).encode(), name)))
    return NcclVerdicts(job_of(of, logs), of)


@pytest.mark.parametrize(("scenario", "engine"), [("three-nodes", "vllm"), ("four-nodes", "sglang"), ("sixteen-nodes", "vllm")])
def test_a_pipeline_is_proven(scenario: str, engine: str) -> None:
    of = target(scenario, engine)
    said = proof(of)
    assert said.job.verdict == "rdma_proven", said.job.reason
    for found in (said.gdrdma(), said.no_sockets(), said.hcas(), said.one_version(), said.complete()):
        assert {v.status for v in found} == {Status.PASS}, found
    assert said.stages()[0].status is (Status.PASS if engine == "vllm" else Status.SKIP)


def test_stages_spread_over_nodes_are_found() -> None:
    (told,) = proof(target("three-nodes", "vllm"), stages_across=True).stages()
    assert told.status is Status.FAIL
    assert "the 8 ranks of a stage are spread over node01, node02, node03" in told.reason


def test_lost_logs_are_no_proof() -> None:
    of = target("three-nodes", "vllm")
    said = proof(of, leave_out=8)
    assert said.job.verdict == "undetermined"
    assert [v.status for v in (*said.complete(), *said.stages())] == [Status.UNKNOWN, Status.UNKNOWN]
    assert "2 of 3 communicators of a stage" in said.stages()[0].reason


def test_another_number_of_ranks_between_nodes_is_another_job() -> None:
    """The profile says TP8 x PP3; what runs is TP24."""
    of = target("three-nodes", "vllm")
    job = nccl_log.job_of(of.inventory.model_dump(mode="json"), [n.name for n in of.nodes], asdict(NcclTruth(version="2.28.9")), {})
    logs = [NodeLog(of.nodes[r // 8].name, job.name(r), job.name(r), parse_log(job.log(r).encode(), job.name(r))) for r in range(24)]
    (told,) = NcclVerdicts(job_of(of, logs), of).complete()
    assert (told.status, told.measured) == (Status.FAIL, "a communicator of 24 ranks")


def one_way(missing: str = "") -> str:
    """Two ranks on two nodes that only send and receive, as a pipeline's do."""
    lines = []
    for rank, node in enumerate("ab"):
        head = f"h20-{node}:{100 + rank}:{200 + rank} [0] NCCL INFO "
        comm = f"comm 0x55d0c{rank}000 rank {rank} nranks 2 cudaDev 0 nvmlDev 0 busId 1b000 commId 0x6a1f3c9d27b5e840"
        lines += [
            f"{head}Bootstrap: Using bond0:10.0.0.{rank + 1}<0>",
            f"{head}NCCL version 2.28.9+cuda13.0",
            f"{head}NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB bond0:10.0.0.{rank + 1}<0>",
            f"{head}Using network IB",
            f"{head}ncclCommInitRankConfig {comm} - Init START",
            f"{head}comm 0x55d0c{rank}000 rank {rank} nRanks 2 nNodes 2 localRanks 1 localRank 0 MNNVL 0",
            f"{head}ncclCommInitRankConfig {comm} - Init COMPLETE",
        ]
        way = "send" if rank == 0 else "receive"
        if way != missing:
            lines.append(f"{head}Channel 00/1 : 0[0] -> 1[0] [{way}] via NET/IB/0/GDRDMA/Shared")
    return "".join(f"{line}\n" for line in lines)


def test_sends_and_receives_alone_are_seen_one_way() -> None:
    job = judge_job([parse_log(one_way().encode(), "all")])
    assert job.verdict == "rdma_proven", job.missing


@pytest.mark.parametrize("missing", ["send", "receive"])
def test_one_half_of_them_is_no_proof(missing: str) -> None:
    job = judge_job([parse_log(one_way(missing).encode(), "all")])
    assert job.verdict == "undetermined"
