"""Which node of many, or which pair, makes the fabric slow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h20.checks.fabric.blame import of_third
from pytest_h20.checks.fabric.measure import Witness, all_reduce, pairs_of, witnesses
from pytest_h20.checks.fabric.pairs import ALL_PAIRS, Pair, blamed, measure, tournament
from pytest_h20.checks.fabric.rails import judge_all_reduce
from pytest_h20.core.verdict import Status
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.gather import gather
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal import Rehearsal


def names(count: int) -> list[str]:
    return [f"node{i + 1:02d}" for i in range(count)]


@pytest.mark.parametrize("count", range(2, 17))
def test_rounds_are_disjoint_and_no_pair_comes_twice(count: int) -> None:
    rounds = tournament(names(count))
    assert len(rounds) == (count - 1 + count % 2 if count <= ALL_PAIRS else math.ceil(math.log2(count)))
    for met in rounds:
        together = [name for pair in met for name in pair]
        assert len(set(together)) == len(together) == count - count % 2
    pairs = [frozenset(pair) for met in rounds for pair in met]
    assert len(set(pairs)) == len(pairs)
    if count <= ALL_PAIRS:
        assert set(pairs) == {frozenset(pair) for pair in itertools.combinations(names(count), 2)}


def told(count: int, busbw: Callable[[str, str], float | Missing], floor: float | None = 150.0) -> str:
    return blamed(measure(names(count), busbw), floor).reason


@pytest.mark.parametrize("count", [3, 4, 5, 8, 11, 16])
@pytest.mark.parametrize("bad", ["node01", "node03"])
def test_one_bad_node_is_named_and_no_other(count: int, bad: str) -> None:
    said = told(count, lambda *pair: 60.0 if bad in pair else 190.0)
    assert f"{bad} is slow with each of the " in said
    assert [name for name in names(count) if f"{name} is slow" in said] == [bad]
    assert "the path between" not in said


def test_one_bad_pair_is_named_and_no_node() -> None:
    said = told(4, lambda *pair: 60.0 if set(pair) == {"node02", "node03"} else 190.0)
    assert "node02 - node03: 60.0 GB/s is slow, and each of these nodes is fast with others: the path between the two" in said
    assert "is slow with each" not in said


def test_a_node_that_fails_is_named_as_one_that_is_slow() -> None:
    said = told(4, lambda *pair: Missing("ncclSystemError") if "node03" in pair else 190.0, floor=None)
    assert "node03 is slow with each of the 3 nodes" in said


@pytest.mark.parametrize(
    ("busbw", "said"),
    [
        (190.0, "no node alone: each of 6 pairs reaches 161.5 GB/s, so it is the switches"),
        (60.0, "no node alone: all 6 pairs are slow"),
        (Missing("no image"), "which node it is cannot be said: no pair could be measured (node01 - node04: no image)"),
    ],
)
def test_look_alikes_and_the_vacuous_case(busbw: float | Missing, said: str) -> None:
    assert told(4, lambda *_: busbw).startswith(said)


@pytest.mark.parametrize(
    ("slow", "first", "not_said"),
    [
        ([{"node03"}], "on node03: prove GDRDMA in the NCCL log, then ib_write_bw of each rail with node01;", "node02"),
        ([{"node01"}, {"node03"}], "on node01, node03: prove GDRDMA in the NCCL log, then ib_write_bw of each rail with node04", "node02"),
        ([{"node02", "node03"}], "ib_write_bw of each rail from node02 to node03, then the switch ports between them", "node01"),
        ([], "compare the counters of the switches' uplinks", "node0"),
    ],
)
def test_what_to_do_next_is_about_the_one_that_is_named(slow: list[set[str]], first: str, not_said: str) -> None:
    action = blamed(measure(names(4), lambda *pair: 60.0 if any(who <= set(pair) for who in slow) else 190.0), 150.0).action
    assert action.startswith(first)
    assert not_said not in action


@pytest.mark.parametrize("busbw", [60.0, Missing("no image")])
def test_where_nobody_is_named_the_next_step_is_that_of_two_nodes(busbw: float | Missing) -> None:
    assert blamed(measure(names(4), lambda *_: busbw), 150.0).action == ""


def test_no_pairs_name_nobody() -> None:
    assert blamed([], 150.0).reason == "which node it is cannot be said: no pair could be measured"
    assert str(Pair("a", "b", 1.25)) == "a - b: 1.2 GB/s"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (90.0, 196.0, "it is node01 mlx5_3, which reaches 90.0 Gbit/s with node03 mlx5_3 as well; the other end is fast with it"),
        (196.0, 90.0, "it is node02 mlx5_3"),
        (196.0, 196.0, "each end is fast with node03 mlx5_3: it is the path between these two"),
        (90.0, 90.0, "both ends are slow with a third"),
        (Missing("down"), 196.0, "which end it is could not be measured (node01 mlx5_3 with node03 mlx5_3: down)"),
    ],
)
def test_which_end_of_a_slow_link(one: float | Missing, other: float, said: str) -> None:
    third = [Witness("node01 mlx5_3", "node03 mlx5_3", one), Witness("node02 mlx5_3", "node03 mlx5_3", other)]
    assert of_third(third, 180.0).startswith(said)
    assert of_third([], 180.0) == ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rehearsal, Facts]:
    """Three stand-in nodes and their facts."""
    rehearsal = Rehearsal.load("three-nodes", [], Path(tmp_path_factory.mktemp("three")))
    inventory = rehearsal.inventory
    engine, _, profile = inventory.engine_profile("sglang")
    return rehearsal, gather(rehearsal.nodes(), inventory, engine=engine, profile=profile)


def test_the_stand_in_s_slow_node_is_named(cluster: tuple[Rehearsal, Facts]) -> None:
    rehearsal, facts = cluster
    rehearsal.world.all_reduce.nodes["node02"] = 0.3
    nodes = rehearsal.nodes()
    kept: list[str] = []

    def record(name: str, text: str) -> str:
        kept.append(name)
        return name

    measured = all_reduce(nodes, facts)
    (verdict, *_) = judge_all_reduce(facts, measured, lambda: pairs_of(nodes, facts, record))
    assert verdict.status is Status.FAIL
    assert "of 3 pairs: node02 is slow with each of the 2 nodes" in verdict.reason
    assert verdict.action.startswith("on node02: prove GDRDMA")
    assert len(kept) == len(set(kept)) == 6, "the output of both nodes of each pair"


def test_the_stand_in_s_slow_link_is_measured_with_a_third(cluster: tuple[Rehearsal, Facts]) -> None:
    rehearsal, facts = cluster
    address = rehearsal.inventory.nodes[1].rails[2].address
    rehearsal.world.machines["node01"].write_to[str(address)] = 92.0
    rail = facts.of("node01").rail("mlx5_3")
    found = witnesses(rehearsal.nodes(), rail)
    assert found == (Witness("node01 mlx5_3", "node03 mlx5_3", 196.0), Witness("node02 mlx5_3", "node03 mlx5_3", 196.0))
