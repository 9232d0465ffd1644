"""The burn from printed lines to verdicts: as two real H100 printed them, and as the stand-in does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h20.checks.compute import agent
from pytest_h20.checks.compute.facts import MARK, Burned, NodeBurn, parse_burn
from pytest_h20.checks.compute.judge import FIGURES, OF_A_NODE, SIBLINGS, BurnJudge
from pytest_h20.checks.compute.runner import burn_source
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal.burn import HEALTHY, BurnTruth, printed
from tests.unit.probes.cluster import blog_cluster

HERE = Path(__file__).parent


def recorded(name: str) -> NodeBurn:
    """2 x H100 80GB HBM3 (10de:2330), driver 580.159.04, torch 2.11.0+cu130, UUIDs zeroed."""
    return parse_burn((HERE / f"h100-{name}.txt").read_text(encoding="utf-8"))


def of_stand_in(change: Callable[[BurnTruth], object] = lambda truth: None) -> tuple[Facts, dict[str, NodeBurn | Missing]]:
    cluster, truth = blog_cluster(), BurnTruth()
    change(truth)
    machines = [cluster.head.machine, cluster.other.machine]
    found = {m.hostname: parse_burn(printed(truth, m, "fast", "2.5.1")) for m in machines}
    return cluster.gather(), {**found}


def judged(facts: Facts, nodes: dict[str, NodeBurn | Missing]) -> dict[str, Verdict]:
    """Check to its worst verdict."""
    worst: dict[str, Verdict] = {}
    for verdict in BurnJudge(Burned(nodes), facts).all():
        known = worst.get(verdict.check)
        if known is None or verdict.status.rank > known.status.rank:
            worst[verdict.check] = verdict
    return worst


def red(change: Callable[[BurnTruth], object]) -> dict[str, Status]:
    return {check: v.status for check, v in judged(*of_stand_in(change)).items() if v.status.blocks}


def on_h100(found: NodeBurn, pci_id: str = "2330", gpus: int = 2) -> dict[str, Verdict]:
    """One node of so many of these GPUs."""
    cluster = blog_cluster()
    cluster.head.machine.gpus[:] = cluster.head.machine.gpus[:gpus]
    for gpu in cluster.head.machine.gpus:
        gpu.pci_id = pci_id
    facts = cluster.gather()
    judge = BurnJudge(Burned({"node01": found}), facts)
    return {check: judge.check(check, "node01") for check in OF_A_NODE}


def test_two_real_gpus_are_green_by_the_vendors_figures() -> None:
    found = on_h100(recorded("two"))
    assert {check: v.status for check, v in found.items() if v.status is not Status.PASS} == {"compute.gemm_fp32": Status.SKIP}
    assert (found["compute.hbm"].measured, found["compute.hbm"].looked_at) == (3009.0, 2)
    assert (found["compute.nvlink"].measured, found["compute.nvlink"].looked_at) == (389.5, 2)
    assert (found["compute.gemm_fp32"].measured, found["compute.gemm_fp32"].unit) == (51.9, "TFLOP/s")
    assert found["compute.exact"].details["repeats"] == 23300
    limit = found["compute.gemm_fp8"].limit
    assert limit is not None
    assert limit.value == 989.5
    assert "data sheet" in limit.origin.detail


def test_two_real_h200_are_green_by_the_vendors_figures() -> None:
    found = on_h100(parse_burn((HERE / "h200-two.txt").read_text(encoding="utf-8")), "2335")
    assert {check: v.status for check, v in found.items() if v.status is not Status.PASS} == {"compute.gemm_fp32": Status.SKIP}
    assert (found["compute.hbm"].measured, found["compute.host_link"].measured) == (4286.5, 54.8)


def test_a_full_burn_of_two_real_nodes_is_green() -> None:
    """2026-11-28, four H200 as two nodes of two, burned side by side for 148 s."""
    nodes: dict[str, NodeBurn | Missing] = {
        name: parse_burn((HERE / f"h200-full-{name}.txt").read_text(encoding="utf-8")) for name in ("node01", "node02")
    }
    cluster = blog_cluster()
    for node in (cluster.head, cluster.other):
        node.machine.gpus[:] = node.machine.gpus[:2]
        for gpu in node.machine.gpus:
            gpu.pci_id = "2335"
    found = judged(cluster.gather(), nodes)
    assert {check: v.status for check, v in found.items() if v.status is not Status.PASS} == {"compute.gemm_fp32": Status.SKIP}
    assert (found["compute.ran"].details["how"], found["compute.apart"].looked_at) == ("full", 40)
    assert found["compute.exact"].details["repeats"] == 483700


@pytest.mark.parametrize(
    ("told", "best", "asked"),
    [
        ({"a": [55.0], "b": [54.0]}, {"a": 55.0, "b": 54.0}, 2),
        ({"a": [27.7, 55.2], "b": [55.2]}, {"a": 55.2, "b": 55.2}, 3),
        ({"a": [31.5, 40.0, 55.3], "b": [55.3]}, {"a": 55.3, "b": 55.3}, 4),
        ({"a": [50.9], "b": [35.9, 42.7, 55.0]}, {"a": 50.9, "b": 55.0}, 4),
        ({"a": [27.0] * 5, "b": [55.0]}, {"a": 27.0, "b": 55.0}, 6),
        ({}, {}, 0),
    ],
    ids=["alike", "a moment of half", "twice", "the other way", "slow stays slow", "none"],
)
def test_a_link_that_flutters_is_measured_again(told: dict[str, list[float]], best: dict[str, float], asked: int) -> None:
    """0.12 s of one way at 27.7 GB/s, of 55, called a sound GPU slow."""
    calls: list[str] = []

    def measured(link: str) -> float:
        calls.append(link)
        return told[link].pop(0)

    steady: Callable[[list[str], Callable[[str], float], float], dict[str, float]] = agent.steady
    assert (steady([*told], measured, 0.0), len(calls)) == (best, asked)


def test_one_real_gpu_has_no_pair() -> None:
    found = on_h100(recorded("one"), gpus=1)
    assert found["compute.nvlink"].status is Status.SKIP
    assert found["compute.all_reduce"].status is Status.SKIP
    assert found["compute.hbm"].status is Status.PASS


def test_a_burn_on_no_gpu_is_no_pass() -> None:
    """As torch printed it where CUDA_VISIBLE_DEVICES is empty."""
    found = on_h100(recorded("none"))
    assert {v.status for v in found.values()} == {Status.UNKNOWN}
    assert "on no GPU: torch 2.11.0+cu130 in the image sees none" in found["compute.ran"].reason


def test_half_of_the_gpus_is_not_all() -> None:
    found = on_h100(recorded("one"))
    assert found["compute.ran"].status is Status.FAIL
    assert found["compute.ran"].measured == 1


def test_a_burn_that_broke_off_is_not_measured() -> None:
    text = (HERE / "h100-two.txt").read_text(encoding="utf-8")
    found = on_h100(parse_burn("".join(text.splitlines(keepends=True)[:12])))
    assert found["compute.ran"].status is Status.UNKNOWN
    assert "broke off" in found["compute.ran"].reason
    assert {found[c].status for c in ("compute.exact", "compute.nvlink", "compute.all_reduce", "compute.clocks")} == {Status.UNKNOWN}
    assert found["compute.hbm"].status is Status.PASS, "what was measured counts"


def test_a_part_that_failed_is_told() -> None:
    text = (HERE / "h100-two.txt").read_text(encoding="utf-8").replace('"all_reduce":', '"was":')
    lost = MARK + json.dumps({"lost": "all_reduce", "why": "RuntimeError: NCCL Error 2"}) + "\n"
    found = on_h100(parse_burn(lost + text))
    assert found["compute.ran"].status is Status.UNKNOWN
    assert "all_reduce could not be measured: RuntimeError: NCCL Error 2" in found["compute.ran"].reason
    assert found["compute.all_reduce"].status is Status.UNKNOWN


def test_a_gpu_without_fp8_is_not_red() -> None:
    text = (HERE / "h100-two.txt").read_text(encoding="utf-8").replace("gemm_fp8", "gemm_other")
    lost = MARK + json.dumps({"lost": "gemm_fp8", "why": "these GPUs have no FP8", "absent": True}) + "\n"
    found = on_h100(parse_burn(lost + text), "20b2")
    assert (found["compute.gemm_fp8"].status, found["compute.gemm_fp8"].reason) == (Status.SKIP, "these GPUs have no FP8")
    assert found["compute.ran"].status is Status.PASS


def test_an_unknown_model_is_recorded_and_its_pairs_are_compared() -> None:
    found = on_h100(recorded("two"), "ffff")
    assert (found["compute.hbm"].status, found["compute.hbm"].measured) == (Status.SKIP, 3009.0)
    assert "no vendor figure is known of GPU 10de:ffff" in found["compute.hbm"].reason
    assert found["compute.exact"].status is Status.PASS


def test_a_healthy_stand_in_is_green_and_says_of_how_many() -> None:
    found = judged(*of_stand_in())
    assert {check: v.status for check, v in found.items() if v.status is not Status.PASS} == {"compute.gemm_fp32": Status.SKIP}
    assert (found["compute.apart"].looked_at, found["compute.nvlink"].looked_at) == (16 * len(SIBLINGS), 56)


@pytest.mark.parametrize(("share", "expected"), [(0.7, True), (0.92, False)])
def test_a_slow_gpu_is_found_without_any_table(share: float, expected: bool) -> None:
    """Above the vendor's floor, and all the same below its siblings; 8 % are within the spread of sound GPUs."""
    found = red(lambda truth: truth.share.update({("node02", 5, "gemm_bf16"): share}))
    assert ("compute.apart" in found) is expected
    assert "compute.gemm_bf16" not in found


def test_a_switch_that_is_shared_is_blamed_where_alone_the_link_is_fast() -> None:
    facts, nodes = of_stand_in(lambda truth: truth.share.update({("node01", gpu, "h2d_all"): 0.5 for gpu in (0, 1)}))
    verdict = judged(facts, nodes)["compute.apart"]
    assert verdict.status is Status.FAIL
    assert "node01 GPU 0" in verdict.reason
    assert "PCIe switch or root port that it shares" in verdict.reason


def test_all_slow_pairs_of_one_gpu_blame_that_gpu() -> None:
    facts, nodes = of_stand_in(lambda truth: truth.pairs.update({("node02", min(6, g), max(6, g)): 0.5 for g in range(8) if g != 6}))
    assert "likeliest are the NVLinks of GPU 6" in judged(facts, nodes)["compute.nvlink"].reason


def test_many_slow_pairs_blame_the_switch() -> None:
    facts, nodes = of_stand_in(lambda truth: truth.pairs.update({("node02", a, a + 1): 0.5 for a in (0, 2, 4)}))
    assert "likeliest is NVSwitch or fabric manager" in judged(facts, nodes)["compute.nvlink"].reason


def test_a_result_that_no_sibling_has_is_wrong_although_it_repeats() -> None:
    facts, nodes = of_stand_in()
    text = printed(BurnTruth(), blog_cluster().other.machine, "fast", "2.5.1")
    line = '"exact": 3, "repeats": 2400, "wrong": 0, "digest": "'
    other = text.replace(f"{line}0001", f"{line}ffff")
    assert other != text
    verdict = judged(facts, {**nodes, "node02": parse_burn(other)})["compute.exact"]
    assert verdict.status is Status.FAIL
    assert "GPU 3 (slot 0000:33:00.0): its result is none that its siblings have" in verdict.reason


def test_the_power_limit_is_no_heat() -> None:
    assert recorded("two").busy[0].reasons == 4
    assert on_h100(recorded("two"))["compute.clocks"].status is Status.PASS
    assert red(lambda truth: truth.reasons.update({("node01", 0): 0x80})) == {"compute.clocks": Status.FAIL}


def test_a_node_that_could_not_burn_leaves_nothing_green() -> None:
    facts, nodes = of_stand_in()
    found = judged(facts, {**nodes, "node02": Missing("docker refused")})
    assert {v.status for v in found.values()} == {Status.UNKNOWN}


@pytest.mark.parametrize(
    "line",
    [
        "H20-BURN {",
        'H20-BURN {"figure": "hbm", "gpu": 0, "value": NaN}',
        'H20-BURN {"figure": "hbm", "gpu": -1, "value": 3000}',
        'H20-BURN {"figure": "hbm", "gpu": 1e9, "value": 3000}',
        'H20-BURN {"figure": "hbm", "gpu": 0, "value": true}',
        'H20-BURN {"pair": [0], "value": 1}',
        'H20-BURN {"exact": 0, "repeats": "many", "wrong": 0}',
        'H20-BURN {"all_reduce": 300, "ranks": 2, "wrong": null}',
        "H20-BURN []",
        "[" * 5000,
    ],
)
def test_a_broken_line_is_nothing(line: str) -> None:
    assert parse_burn(line) == parse_burn("")


def test_the_stand_in_has_every_figure_that_is_judged() -> None:
    assert (
        set(HEALTHY)
        == set(SIBLINGS)
        == {name for f in FIGURES.values() for name in f.names}
        | {
            "hbm_read",
            "hbm_write",
            "h2d_all",
            "d2h_all",
        }
    )


def test_the_script_is_small_enough_for_an_environment_and_needs_torch_only_inside() -> None:
    assert len(burn_source().encode()) < 100_000, "Linux takes 128 KiB for one variable"
    assert "\nimport torch" not in burn_source()


def test_cpus_near_a_gpu_are_none_where_nobody_tells() -> None:
    near: Callable[[dict[int, str]], dict[int, set[int]]] = agent.near_cpus
    assert near({0: "00000000:FF:1F.7"}) == {}
