"""Between ranks of one node: NVLink where it is there. The fault, its look-alikes, and what the logs do not show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.checks.rdma.nccl_log import GpuLinks, NcclFinding, inside_nodes, pci_of
from pytest_h20.nccl import Job, judge_job, parse_log
from pytest_h20.rehearsal.nccl_log import job_of
from pytest_h20.rehearsal.scenario import scenario_named
from pytest_h20.rehearsal.world import NcclTruth

NAMES = {pci_of(f"{0x1B000 + 0x8000 * i:x}"): f"GPU{i}" for i in range(8)}
FULL = GpuLinks(NAMES, {(f"GPU{i}", f"GPU{j}"): "NV18" for i in range(8) for j in range(8) if i != j})
NONE = GpuLinks(NAMES, dict.fromkeys(FULL.pairs, "SYS"))
PAIRS = GpuLinks(NAMES, {(a, b): "NV12" if int(a[3]) // 2 == int(b[3]) // 2 else "SYS" for a, b in FULL.pairs})


DATA = Path(__file__).parent / "data"


WAYS = (("p2p", True, ""), ("shm", False, "NV18) via SHM"), ("net", False, "NV18) via NET/Socket"))


@pytest.mark.parametrize(("way", "ok", "words"), WAYS)
def test_two_real_gpus(way: str, ok: bool, words: str) -> None:
    """Two H200, NCCL 2.28.9: as it is, without P2P, and without SHM as well (NCCL then counts two nodes)."""
    links = GpuLinks({pci_of("60"): "GPU0", pci_of("70"): "GPU1"}, {("GPU0", "GPU1"): "NV18", ("GPU1", "GPU0"): "NV18"})
    finding = inside_nodes(judge_job([parse_log((DATA / f"2xh200-{way}.log").read_bytes(), way)], nodes={way: "vm"}), "vm", links)
    assert finding is not None
    assert (finding.ok, words in finding.reason) == (ok, True)


def written(**truth: Any) -> list[str]:
    inventory = scenario_named("quick").world().inventory.model_dump(mode="json")
    made = job_of(inventory, ["node01", "node02"], asdict(NcclTruth(**truth)), {"NCCL_DEBUG": "INFO"})
    return [made.log(rank) for rank in range(made.nranks)]


def job(logs: list[str]) -> Job:
    where = {str(i): f"node0{1 + i // 8}" for i in range(len(logs))}
    return judge_job([parse_log(log.encode(), str(i)) for i, log in enumerate(logs)], nodes=where)


def found(links: GpuLinks = FULL, **truth: Any) -> NcclFinding:
    finding = inside_nodes(job(written(**truth)), "node02", links)
    assert finding is not None
    return finding


@pytest.mark.parametrize("version", ["2.18.3", "2.21.5", "2.28.9"])
def test_p2p_is_right_in_every_generation(version: str) -> None:
    assert found(version=version).ok is True


@pytest.mark.parametrize(
    ("way", "short"),
    [("SHM/direct/direct", "SHM"), ("SHM", "SHM"), ("NET/IB/0/GDRDMA", "NET/IB"), ("NET/Socket/0", "NET/Socket")],
)
def test_host_memory_and_network_are_named_by_rank_and_gpu(way: str, short: str) -> None:
    red = found(inside=way)
    assert red.ok is False
    assert f"rank 8 -> rank 9 (GPU0, GPU1: NV18) via {short}" in red.reason
    assert red.evidence_lines


@pytest.mark.parametrize("way", ["P2P/IPC", "P2P/CUMEM", "P2P/direct pointer", "P2P/indirect/3[3]"])
def test_every_direct_way_is_right(way: str) -> None:
    assert found(inside=way).ok is True


def test_without_nvlink_shared_memory_is_no_fault() -> None:
    assert inside_nodes(job(written(inside="SHM/direct/direct")), "node02", NONE) is None


def test_only_joined_pairs_are_judged() -> None:
    """PCIe cards with bridges: GPU 0 and 1 are joined, 1 and 2 are not."""
    red = found(PAIRS, inside="SHM/direct/direct")
    assert red.ok is False
    assert "rank 8 -> rank 9 (GPU0, GPU1: NV12)" in red.reason
    assert "GPU1, GPU2" not in red.reason
    assert found(PAIRS).ok is True


def test_a_pair_that_is_not_known_is_open() -> None:
    unnamed = GpuLinks({}, PAIRS.pairs)
    assert found(unnamed, inside="SHM/direct/direct").ok is None
    assert found(GpuLinks({}, FULL.pairs), inside="SHM/direct/direct").ok is False, "where all are joined, the pair does not matter"


def test_nvls_needs_no_channel() -> None:
    logs = ["\n".join(x for x in log.splitlines() if " via P2P" not in x) for log in written()]
    assert inside_nodes(job(logs), "node02", FULL).ok is None  # type: ignore[union-attr]
    nvls = [f"{log}\n{log.splitlines()[0].split(' NCCL', 1)[0]} NCCL INFO Connected NVLS tree\n" for log in logs]
    finding = inside_nodes(job(nvls), "node02", FULL)
    assert finding is not None
    assert (finding.ok, finding.measured) == (True, "NVLS on 8 processes")


def test_nothing_seen_is_no_pass() -> None:
    assert found(no_channels=True).ok is None
    assert inside_nodes(job(["hello\n"]), "node02", FULL).ok is None  # type: ignore[union-attr]


def test_one_rank_a_node_has_nothing_inside() -> None:
    from tests.unit.nccl.synthetic import NODES, Synthetic

    one = judge_job([parse_log(log, str(i)) for i, log in enumerate(Synthetic("2.28.9", per_node=1).logs())])
    assert inside_nodes(one, NODES[0], FULL) is None
