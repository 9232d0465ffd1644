"""ib_write_bw and all-reduce from command to verdict, on stand-ins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.checks.fabric.blame import of_rail
from pytest_h20.checks.fabric.measure import RailBandwidth, all_reduce, nccl_env, write_bandwidth
from pytest_h20.checks.fabric.rails import judge_all_reduce, judge_write_bandwidth
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes.base import CommandResult, ContainerSpec
from pytest_h20.probes import perf
from pytest_h20.probes.model_shape import ModelShape
from pytest_h20.probes.script import Missing, ProbeError, Section
from tests.unit.probes.cluster import Cluster, blog_cluster


def bandwidth(cluster: Cluster, node: str = "node01", hca: str = "mlx5_3") -> dict[str, Verdict]:
    rail = cluster.gather().of(node).rail(hca)
    measured = write_bandwidth(cluster.nodes, rail, rounds=2)  # type: ignore[arg-type]
    return {v.check: v for v in reversed(judge_write_bandwidth(rail, measured))}


def test_a_rail_at_line_rate_is_green() -> None:
    cluster = blog_cluster()
    found = bandwidth(cluster)
    v = found["fabric.ib_write_bw"]
    assert (v.status, v.measured, v.unit) == (Status.PASS, 196.0, "Gbit/s")
    assert v.subject == "node01 mlx5_3 -> node02 mlx5_3"
    assert v.limit is not None
    assert v.limit.value == 180.0
    assert "0.9 x line rate 200" in v.limit.origin.detail
    assert found["fabric.ib_errors"].status is Status.PASS
    # The server runs on the peer, before each client.
    assert cluster.other.asked.count(["ib_server"]) == 2
    assert cluster.head.asked.count(["ib_client"]) == 2


def test_a_slow_rail_is_red() -> None:
    cluster = blog_cluster()
    cluster.head.machine.write_gbps = 90.0
    assert bandwidth(cluster)["fabric.ib_write_bw"].status is Status.FAIL


def slow(cluster: Cluster, source: dict[str, int], target: dict[str, int]) -> str:
    """Why a rail at 90 Gbit/s is red, with these counters of its ends."""
    cluster.head.machine.write_gbps = 90.0
    rail = cluster.gather().of("node01").rail("mlx5_3")
    measured = write_bandwidth(cluster.nodes, rail, rounds=1)  # type: ignore[arg-type]
    assert isinstance(measured, RailBandwidth)
    known = measured.source_counters
    assert not isinstance(known, Missing)
    measured = replace(measured, source_counters=replace(known, values=source), target_counters=replace(known, values=target))
    verdict = next(v for v in judge_write_bandwidth(rail, measured) if v.check == "fabric.ib_write_bw")
    assert verdict.status is Status.FAIL
    return verdict.reason


def test_a_slow_rail_names_the_likeliest_part() -> None:
    quiet: dict[str, int] = {}
    assert "likeliest is a card or its host" in slow(blog_cluster(), source=quiet, target=quiet)
    lost = slow(blog_cluster(), source=quiet, target={"out_of_sequence": 17, "np_cnp_sent": 5})
    assert "likeliest is the cable or the switch port: packets were lost or repeated (out_of_sequence of the target rose by 17)" in lost
    assert "likeliest is the switch" in slow(blog_cluster(), source=quiet, target={"np_cnp_sent": 5})
    cluster = blog_cluster()
    rows = [
        f"pci\t{r.pci}\t0x15b3\t0x101b\t0x020000\tmlx5_core\t0\t16.0 GT/s PCIe\t16.0 GT/s PCIe\t{8 if r.hca == 'mlx5_3' else 16}\t16\t/x\n"
        for r in cluster.other.machine.rails
    ]
    cluster.other.machine.overrides["pci"] = Section(0, "".join(rows), "")
    assert "likeliest is PCIe of node02 mlx5_3: it runs at 16 GT/s x8" in slow(cluster, source=quiet, target={"out_of_sequence": 17})


def test_counters_that_were_not_read_blame_nothing() -> None:
    cluster = blog_cluster()
    rail = cluster.gather().of("node01").rail("mlx5_3")
    measured = write_bandwidth(cluster.nodes, rail, rounds=1)  # type: ignore[arg-type]
    assert isinstance(measured, RailBandwidth)
    assert "cannot be said" in of_rail(rail, replace(measured, source_counters=Missing("not read")))


@pytest.mark.parametrize(
    "text",
    [
        '{"results": {"MsgSize": 65536, "n_iterations": 0, "BW_peak": 196.0, "BW_average": 196.0}}',
        "{\nresults: {\nMsgSize: 65536,\nn_iterations: 0,\nBW_peak: 196.00,\nBW_average: 196.00,\n}\n}",
    ],
)
def test_perftest_that_sent_nothing_measured_nothing(text: str) -> None:
    with pytest.raises(ProbeError, match="0 messages were sent"):
        perf.parse_ib_write_bw(text)
    head = " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]\n"
    table = f"{head} 65536      0              196.00             196.00             0.37\n"
    with pytest.raises(ProbeError, match="0 messages were sent"):
        perf.parse_ib_write_bw_table(table)


def test_risen_error_counters_are_red_and_named() -> None:
    cluster = blog_cluster()
    rail = cluster.gather().of("node01").rail("mlx5_3")
    measured = write_bandwidth(cluster.nodes, rail, rounds=1)  # type: ignore[arg-type]
    assert isinstance(measured, RailBandwidth)
    assert not isinstance(measured.target_counters, Missing)
    bad = type(measured.target_counters)("mlx5_3", 1, 3.0, {"out_of_sequence": 17, "np_cnp_sent": 5})
    broken = RailBandwidth(**{**measured.__dict__, "target_counters": bad})
    red = [v for v in judge_write_bandwidth(rail, broken) if v.status is Status.FAIL]
    assert [(v.check, v.details["errors"], v.details["congestion"]) for v in red] == [
        ("fabric.ib_errors", {"out_of_sequence": 17}, {"np_cnp_sent": 5})
    ]


@pytest.mark.parametrize(("expected", "status"), [(True, Status.UNKNOWN), (None, Status.SKIP)])
def test_a_missing_tool_is_unknown_when_wanted(expected: bool | None, status: Status) -> None:
    cluster = blog_cluster()
    cluster.expect(ib_write_bw=expected)
    cluster.other.machine.overrides["ib_server"] = Section(127, "", "ib_write_bw is not installed\n")
    v = bandwidth(cluster)["fabric.ib_write_bw"]
    assert v.status is status
    if expected:
        assert "perftest" in v.action


def test_a_failed_run_is_unknown_even_when_not_wanted() -> None:
    cluster = blog_cluster()
    cluster.expect(ib_write_bw=None)
    cluster.head.machine.overrides["ib_client"] = Section(1, "", "Completion with error at client: Failed status 12\n")
    v = bandwidth(cluster)["fabric.ib_write_bw"]
    assert v.status is Status.UNKNOWN
    assert "status 12" in v.reason


def test_not_wanted_is_not_run() -> None:
    cluster = blog_cluster()
    cluster.expect(ib_write_bw=False)
    assert bandwidth(cluster)["fabric.ib_write_bw"].status is Status.SKIP


def points(busbw: float, wrong: int = 0) -> str:
    results = [
        {"size": s, "out_of_place": {"time": t, "alg_bw": 1.0, "bus_bw": b, "nwrong": wrong}}
        for s, t, b in ((14336, 32.0, 0.8), (14336 * 128, 80.0, 43.0), (1 << 28, 2900.0, busbw))
    ]
    return json.dumps({"tool": "torch", "ranks": 16, "nccl_version": "2.21.5", "results": results})


def run_all_reduce(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, stdout: str, rc: int = 0, stderr: str = "") -> dict[str, Verdict]:
    facts = cluster.gather()
    seen: list[ContainerSpec] = []

    def run(spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        seen.append(spec)
        return CommandResult("x", "docker run", rc, stdout, stderr, 1.0)

    for node in cluster.nodes.values():
        monkeypatch.setattr(node.containers, "run", run)
    measured = all_reduce(cluster.nodes, facts)  # type: ignore[arg-type]
    assert {s.argv[2] for s in seen} == {perf.TORCH_BOOT}
    assert sorted(s.argv[6] for s in seen) == ["0", "1"]
    assert all(s.env["NCCL_IB_GID_INDEX"] == "3" and s.env["NCCL_SOCKET_IFNAME"] == "xgbe0" for s in seen)
    return {v.check: v for v in judge_all_reduce(facts, measured)}


def test_a_healthy_fabric_and_what_it_costs_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_all_reduce(blog_cluster(), monkeypatch, points(170.0))
    v = found["fabric.all_reduce"]
    assert (v.status, v.measured) == (Status.PASS, 170.0)
    assert v.limit is not None
    assert v.limit.value == pytest.approx(0.8 * 192)
    assert found["fabric.tpot_cost"].measured == pytest.approx(123 * 32.0 / 1000)
    assert found["fabric.tpot_cost"].details["by_batch_ms"]["128"] == pytest.approx(123 * 80.0 / 1000)  # type: ignore[index,call-overload]


def test_the_blogs_suspicion_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_all_reduce(blog_cluster(), monkeypatch, points(3.6))["fabric.all_reduce"].status is Status.FAIL


def test_wrong_sums_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_all_reduce(blog_cluster(), monkeypatch, points(170.0, wrong=3))["fabric.all_reduce_correct"].status is Status.FAIL


def test_a_crash_is_unknown_and_an_image_without_torch_only_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = run_all_reduce(blog_cluster(), monkeypatch, "", 1, "ncclSystemError: Call to ibv_modify_qp failed\n")
    assert crash["fabric.all_reduce"].status is Status.UNKNOWN
    cluster = blog_cluster()
    cluster.expect(all_reduce=None)
    absent = run_all_reduce(cluster, monkeypatch, "", 1, "ModuleNotFoundError: No module named 'torch'\n")
    assert absent["fabric.all_reduce"].status is Status.SKIP


def test_rails_without_a_common_index_leave_it_to_nccl() -> None:
    cluster = blog_cluster()
    facts = cluster.gather()
    assert nccl_env(facts, "node01")["NCCL_IB_HCA"].startswith("=mlx5_1:1,mlx5_2:1")


def test_the_all_reduce_runs_with_the_engines_environment() -> None:
    """The profile's entries win as they do for the engine; where NCCL writes is ours, or the figures could not be read."""
    facts = blog_cluster().gather()
    assert facts.profile is not None
    wanted = {"NCCL_IB_GID_INDEX": "5", "NCCL_DEBUG_FILE": "/elsewhere/nccl.%h"}
    profile = facts.profile.model_copy(update={"env": wanted})
    env = nccl_env(replace(facts, profile=profile), "node01")
    assert (env["NCCL_IB_GID_INDEX"], env["NCCL_DEBUG_FILE"]) == ("5", "/dev/stderr")


def test_all_reduce_with_nccls_own_lines_behind_it() -> None:
    """Recorded 2026-11-27 on two H200 as two nodes (NCCL 2.28.9 over sockets): INFO lines stand behind the figures."""
    text = (Path(__file__).parent / "all_reduce-torch-2-nodes-2.28.9.txt").read_text(encoding="utf-8")
    assert "NCCL INFO" in text.partition("\n")[2]
    result = perf.parse_all_reduce(text)
    assert (result.tool, result.ranks, result.nccl, len(result.points)) == ("torch", 2, "2.28.9", 12)
    assert all(p.wrong == 0 for p in result.points)
    assert perf.parse_all_reduce(f"node01:346 NCCL INFO {{not json}}\n{text}") == result


def test_all_reduce_recorded_on_two_h200() -> None:
    """Our torch runner's own output, 2026-11-26, two H200 over NVLink, torch 2.11.0, NCCL 2.28.9: 43 us up to 7 MB."""
    text = (Path(__file__).parent / "all_reduce-torch-2xh200.json").read_text(encoding="utf-8")
    result = perf.parse_all_reduce(text)
    assert (result.tool, result.ranks, result.nccl) == ("torch", 2, "2.28.9")
    assert [p.size for p in result.points][::11] == [14336, 1 << 28]
    assert all(p.wrong == 0 for p in result.points)
    assert max(p.busbw for p in result.points) == pytest.approx(298.5, abs=0.1)
    cost = perf.predicted_tpot_ms(result, 1, ModelShape("deepseek_v3", 61, 7168, 2))
    assert cost == pytest.approx(123 * 0.0428, rel=0.01)
