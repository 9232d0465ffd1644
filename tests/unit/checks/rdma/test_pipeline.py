"""The proof for a pipeline over nodes: communicators of a stage stay inside, those between stages leave, and sends go one way."""

from __future__ import annotations

import functools
from dataclasses import asdict

import pytest

from pytest_h20.checks.rdma.nccl_log import log_complete
from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Status
from pytest_h20.nccl import Expected, judge_job, parse_log
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


def told(lost: str = "", socket: str = "") -> bytes:
    """TP2 x PP2 over two nodes in the words of a public log of vLLM 0.8.3 (DeepSeek-V2.5, TP8 x PP2, NCCL 2.21.5), hosts and ids changed.

    Of each pair of stages there are two communicators, vLLM's own at start-up and torch's at the first request. Both connect their ring,
    both ways; the activations then go one way, on point-to-point channels (``/1``) over more than one HCA. ``lost``: lines with this are
    left out; ``socket``: lines with this are over TCP.
    """
    lines = []
    for rank in range(4):
        node, stage, gpu = "ab"[rank // 2], rank // 2, rank % 2
        who, other = f"pp-{node}:{500 + rank}:{900 + rank} [{gpu}] NCCL INFO ", 1 - stage
        net, near = f"NET/IB/{gpu}/GDRDMA", f"comm 0x4b8e20{rank}0 rank {gpu} nranks 2 cudaDev {gpu} nvmlDev {gpu} busId {gpu + 1}00000"
        lines += [
            f"{who}Bootstrap : Using eth0:10.244.{stage}.62<0>",
            f"{who}NCCL version 2.21.5+cuda12.4",
            f"{who}NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.244.{stage}.62<0>",
            f"{who}Using network IB",
            f"{who}ncclCommInitRank {near} commId 0xc13f651b1c79349{stage} - Init START",
            f"{who}comm 0x4b8e20{rank}0 rank {gpu} nRanks 2 nNodes 1 localRanks 2 localRank {gpu} MNNVL 0",
            f"{who}Channel 00/0 : {gpu}[{gpu}] -> {1 - gpu}[{1 - gpu}] via P2P/IPC/read",
            f"{who}ncclCommInitRank {near} commId 0xc13f651b1c79349{stage} - Init COMPLETE",
        ]
        for of, name in (("389a17", "0xd11ca20604950"), ("7ec4ab", "0xf3e517aa6c3e9")):
            pair = f"comm 0x{of}{rank}0 rank {stage} nranks 2 cudaDev {gpu} nvmlDev {gpu} busId {gpu + 1}00000 commId {name}c1{gpu}"
            lines += [
                f"{who}ncclCommInitRank {pair} - Init START",
                f"{who}comm 0x{of}{rank}0 rank {stage} nRanks 2 nNodes 2 localRanks 1 localRank 0 MNNVL 0",
                *(f"{who}Channel 0{i}/0 : {other}[{gpu}] -> {stage}[{gpu}] [receive] via {net}" for i in (0, 1)),
                *(f"{who}Channel 0{i}/0 : {stage}[{gpu}] -> {other}[{gpu}] [send] via {net}" for i in (0, 1)),
                f"{who}Connected all rings",
                f"{who}ncclCommInitRank {pair} - Init COMPLETE",
            ]
        way = "send" if stage == 0 else "receive"
        lines += [f"{who}Channel 0{i}/1 : 0[{gpu}] -> 1[{gpu}] [{way}] via NET/IB/{(gpu + i) % 2}/GDRDMA/Shared" for i in (0, 1)]
    kept = [line for line in lines if not lost or lost not in line]
    return "".join(f"{line.replace('NET/IB/0/GDRDMA', 'NET/Socket/0') if socket and socket in line else line}\n" for line in kept).encode()


@pytest.mark.parametrize(
    ("lost", "socket", "verdict"),
    [
        ("", "", "rdma_proven"),
        ("[receive] via NET/IB/0/GDRDMA/Shared", "", "undetermined"),  # the sends alone: nobody says that they arrive
        ("pp-b:", "", "undetermined"),
        ("", "/1 : 0[0] -> 1[0]", "mixed"),  # the rings are on RDMA, what is sent is not
    ],
)
def test_a_public_log_of_a_pipeline(lost: str, socket: str, verdict: str) -> None:
    job = judge_job([parse_log(told(lost, socket), "all")], Expected(nranks=2, nnodes=2))
    assert job.verdict == verdict, (job.reason, job.missing)
    whole = log_complete(job, 2, 2)
    assert whole.ok is (None if lost == "pp-b:" else True), whole


def test_its_sends_go_one_way_and_its_rings_both() -> None:
    """So bytes are asked for one way only (``of_nodes``), and channels are no proof of a direction."""
    job = judge_job([parse_log(told(), "all")])
    sends = [c for c in job.inter_node_channels if c.shared]
    assert {(c.host, c.direction, c.src, c.dst, c.conn) for c in sends} == {("pp-a", "send", 0, 1, 1), ("pp-b", "receive", 0, 1, 1)}
    assert {c.dev for c in sends} == {0, 1}, "a rank's sends go over more than one HCA"
    rings = [c for c in job.inter_node_channels if not c.shared]
    assert {(c.host, c.direction) for c in rings} == {(host, way) for host in ("pp-a", "pp-b") for way in ("send", "receive")}
