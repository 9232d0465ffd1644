"""The NCCL logs the stand-in writes are read as what they say, in the wording of every generation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from pytest_h20.checks.rdma import nccl_log
from pytest_h20.nccl import Expected, Job, judge_job, parse_log
from pytest_h20.rehearsal.nccl_log import NcclJob, job_of
from pytest_h20.rehearsal.scenario import scenario_named
from pytest_h20.rehearsal.world import NcclTruth

VERSIONS = ("2.18.3", "2.20.5", "2.21.5", "2.22.3", "2.24.3", "2.26.2", "2.28.9", "2.30.4")


def job(**truth: Any) -> NcclJob:
    inventory = scenario_named("quick").world().inventory.model_dump(mode="json")
    env = {"NCCL_IB_GID_INDEX": "3", "NCCL_SOCKET_IFNAME": "xgbe0", "NCCL_DEBUG": "INFO"}
    return job_of(inventory, ["node01", "node02"], asdict(NcclTruth(**truth)), env)


def judged(written: NcclJob) -> Job:
    logs = [parse_log(written.log(rank).encode(), source=written.name(rank)) for rank in range(written.nranks)]
    hcas = {n.name: tuple(h.split(":")[0] for h in n.hcas) for n in written.nodes}
    where = {written.name(rank): written.nodes[rank // written.per_node].name for rank in range(written.nranks)}
    return judge_job(logs, Expected(nranks=16, nnodes=2, hcas=hcas), nodes=where)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_healthy_job_is_proven(version: str) -> None:
    found = judged(job(version=version))
    assert found.verdict == "rdma_proven", found.reason
    assert all(set(used) == {f"mlx5_{i}" for i in range(1, 9)} for used in found.hcas_used.values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "truth",
    [{"network": "Socket"}, {"socket_share": 0.5}, {"cut_before_collective": True}, {"no_channels": True}],
    ids=lambda t: next(iter(t)),
)
def test_anything_else_is_not(version: str, truth: dict[str, Any]) -> None:
    assert judged(job(version=version, **truth)).verdict != "rdma_proven"


def test_an_unused_hca_is_missed() -> None:
    found = judged(job(unused_hcas={"mlx5_5"}))
    assert all("mlx5_5" not in used for used in found.hcas_used.values())


def test_every_rank_has_its_own_file() -> None:
    written = job()
    assert len({written.name(rank) for rank in range(16)}) == 16


@pytest.mark.parametrize("version", VERSIONS)
def test_rdma_through_host_memory_is_no_gpudirect(version: str) -> None:
    assert not any(finding.ok for finding in nccl_log.inter_node_gdr(judged(job(version=version, gdr=False))))
