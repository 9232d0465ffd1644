"""The checks over a job: right on a good job, wrong on each fault, None where the logs do not show it."""

from __future__ import annotations

import pytest

from pytest_h20.checks.rdma import nccl_log
from pytest_h20.nccl import Job, judge_job, parse_log
from tests.unit.nccl.lines import FATAL
from tests.unit.nccl.synthetic import NODES, Synthetic

HCAS = dict.fromkeys(NODES, ("mlx5_0", "mlx5_1"))


def job(synthetic: Synthetic) -> Job:
    return judge_job([parse_log(log, f"r{i}") for i, log in enumerate(synthetic.logs())])


GOOD = job(Synthetic("2.28.9"))
HALF = judge_job([parse_log(Synthetic("2.28.9").node(0), "a")])
NOTHING = judge_job([parse_log(b"hello\n", "a")])


def oks(findings: list[nccl_log.NcclFinding]) -> list[bool | None]:
    return [f.ok for f in findings]


def test_good_job_passes_everything() -> None:
    assert oks(nccl_log.inter_node_gdr(GOOD)) == [True, True]
    assert oks(nccl_log.hcas_used(GOOD, HCAS)) == [True, True]
    assert oks(nccl_log.control_interface(GOOD, {"H20-A.example": "bond0", "h20-b": "bond0"})) == [True, True]
    assert nccl_log.no_sockets(GOOD).ok is True
    assert nccl_log.one_version(GOOD, 4).ok is True
    assert oks(nccl_log.no_failures(GOOD)) == [True]
    assert nccl_log.log_complete(GOOD, 4).ok is True


@pytest.mark.parametrize("bad", [HALF, NOTHING])
def test_half_a_job_and_nothing_pass_nowhere(bad: Job) -> None:
    assert None in oks(nccl_log.inter_node_gdr(bad))
    assert oks(nccl_log.hcas_used(bad, {"h20-b": ("mlx5_0",)})) == [None]
    assert oks(nccl_log.control_interface(bad, {"h20-b": "bond0"})) == [None]
    assert oks(nccl_log.gid_index(bad, {"h20-b": 3})) == [None]
    assert nccl_log.no_sockets(bad).ok is None
    assert nccl_log.one_version(bad, 4).ok is None
    assert nccl_log.log_complete(bad, 4).ok is None


def test_nothing_is_not_free_of_failures() -> None:
    assert oks(nccl_log.no_failures(NOTHING)) == [None]


def test_no_gdr_is_red_with_lines() -> None:
    findings = nccl_log.inter_node_gdr(job(Synthetic(gdr=lambda rank, direction: rank < 2)))
    assert {f.subject: f.ok for f in findings if f.subject in NODES} == {"h20-a": True, "h20-b": False}
    red = next(f for f in findings if f.ok is False)
    assert "peermem" in red.action
    assert all(":" in line for line in red.evidence_lines)


def test_sockets_are_red() -> None:
    bad = job(Synthetic(network=lambda rank: "Socket"))
    assert False in oks(nccl_log.inter_node_gdr(bad))
    assert nccl_log.no_sockets(bad).ok is False
    assert oks(nccl_log.hcas_used(bad, HCAS)) == [None, None]


def test_unused_and_unlisted_hcas_are_red() -> None:
    (absent,) = nccl_log.hcas_used(GOOD, {"h20-a": ("mlx5_0", "mlx5_1", "mlx5_2")})
    (extra,) = nccl_log.hcas_used(GOOD, {"h20-a": ("mlx5_0:1",)})
    assert (absent.ok, absent.reason) == (False, "not used: mlx5_2")
    assert (extra.ok, extra.reason) == (False, "not in the list: mlx5_1")


def test_hcas_without_a_device_list_cannot_be_named() -> None:
    log = Synthetic().all().replace(b"NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/RoCE", b"NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx")
    assert oks(nccl_log.hcas_used(judge_job([parse_log(log)]), {"h20-a": ("mlx5_0", "mlx5_1")})) == [None]


@pytest.mark.parametrize(("index", "ok"), [(3, True), (5, False)])
def test_gid_index_from_the_environment(index: int, ok: bool) -> None:
    line = "NCCL INFO NCCL_IB_GID_INDEX set by environment to 3."
    (finding,) = nccl_log.gid_index(job(Synthetic(last=(line,))), {"h20-a": index})
    assert finding.ok is ok
    assert any("NCCL_IB_GID_INDEX" in line for line in finding.evidence_lines)


def test_gid_index_in_use_goes_before_the_environment() -> None:
    lines = (
        "NCCL INFO NCCL_IB_GID_INDEX set by environment to 3.",
        "NCCL INFO NET/IB: NCCL Dev 0 IbDev 0 Port 1 qpn 12 mtu 5 GID 5 (0/10A8C0FFFF0000)",
    )
    (finding,) = nccl_log.gid_index(job(Synthetic(last=lines)), {"h20-a": 3})
    assert finding.ok is False


def test_wrong_control_interface_is_red() -> None:
    (finding,) = nccl_log.control_interface(GOOD, {"h20-a": "eno1"})
    assert finding.ok is False
    assert "NCCL_SOCKET_IFNAME" in finding.action


def test_two_versions_are_red_and_old_nccl_cannot_tell() -> None:
    logs = [*Synthetic("2.28.9").logs()[:2], *(log.replace(b"2.28.9", b"2.27.5") for log in Synthetic("2.28.9").logs()[2:])]
    assert nccl_log.one_version(judge_job([parse_log(log, str(i)) for i, log in enumerate(logs)])).ok is False
    assert nccl_log.one_version(job(Synthetic("2.21.5"))).ok is None


def test_failures_are_told_one_by_one() -> None:
    findings = nccl_log.no_failures(job(Synthetic(last=(FATAL[3][0],))))
    assert len(findings) == 4
    assert all(f.ok is False and f.action for f in findings)


def test_wrong_number_of_ranks_is_red() -> None:
    assert nccl_log.log_complete(GOOD, 16).ok is False


def test_findings_are_json_safe() -> None:
    assert nccl_log.no_sockets(GOOD).to_dict()["check"] == "no_sockets"
