"""What the inventory does not name is seen, and what is there on purpose is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, all_verdicts
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.discover import Proposal, check, propose, render
from pytest_h20.probes.gather import gather
from pytest_h20.probes.script import Section
from pytest_h20.rehearsal.standin import StandInRail, gids_of, sections
from tests.unit.probes.cluster import Cluster, blog_cluster
from tests.unit.probes.hosts import found

F, U, W, P = Status.FAIL, Status.UNKNOWN, Status.WARN, Status.PASS


def told(cluster: Cluster, node: str = "node02") -> dict[str, Verdict]:
    """The verdicts of ``fabric.presence`` about one node, by what they are about."""
    return {v.subject.removeprefix(f"{node} "): v for v in NODE_CHECKS["fabric.presence"](cluster.gather().of(node))}


def spare(cluster: Cluster, **fields: object) -> StandInRail:
    """One more RDMA device on the second node than its inventory names."""
    rail = StandInRail("mlx5_9", "xgbe9", "33.2.164.16", pci="0000:60:00.0")
    rail.gids = gids_of(rail.address, 99)
    for key, value in fields.items():
        setattr(rail, key, value)
    cluster.other.machine.rails.append(rail)
    return rail


def without_rail(cluster: Cluster, *hcas: str) -> None:
    nodes = tuple(n.model_copy(update={"rails": tuple(r for r in n.rails if r.hca not in hcas)}) for n in cluster.inventory.nodes)
    cluster.inventory = cluster.inventory.model_copy(update={"nodes": nodes})


def test_a_healthy_node_says_how_much_was_looked_at() -> None:
    said = told(blog_cluster())
    assert {what: (v.status, v.looked_at) for what, v in said.items()} == {"HCAs": (P, 9), "rails": (P, None), "GPUs": (P, 8)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"state": "1: DOWN", "phys": "3: Disabled"}, "mlx5_9:1 (xgbe9, DOWN, Disabled"), ({}, "mlx5_9:1 (xgbe9, ACTIVE")],
)
def test_a_port_that_nobody_named_is_red_up_or_down(fields: dict[str, object], words: str) -> None:
    cluster = blog_cluster()
    spare(cluster, **fields)
    verdict = told(cluster)["HCAs"]
    assert verdict.status is F
    assert words in verdict.reason
    assert "other_hcas" in verdict.action


def test_a_device_of_another_kind_or_a_virtual_function_is_left_alone() -> None:
    cluster = blog_cluster()
    rail = spare(cluster, pci_device="0x1017")
    assert told(cluster)["HCAs"].status is W, "a storage card of another make"
    rail.pci_device = "0x101b"
    assert told(cluster)["HCAs"].status is F
    machine = cluster.other.machine
    machine.overrides["rdma"] = Section(0, sections(machine)["rdma"](()) + "virtual\tmlx5_9\n", "")
    assert told(cluster)["HCAs"].status is P


def test_a_card_without_rdma_device_is_seen_on_the_bus() -> None:
    cluster = blog_cluster()
    machine = cluster.other.machine
    lost = replace(machine.rails[3])
    pci = sections(machine)["pci"](())
    machine.rails.pop(3)
    machine.overrides["pci"] = Section(0, pci, "")
    assert f"card {lost.pci} (no RDMA device" in told(cluster)["HCAs"].reason
    machine.overrides["pci"] = Section(0, pci.replace(f"{lost.pci}\t0x15b3", f"{machine.rails[2].pci[:-1]}1\t0x15b3"), "")
    assert told(cluster)["HCAs"].status is P, "the second function of a bonded card has no device of its own"


@pytest.mark.parametrize(
    ("gone", "expected", "status"),
    [
        (("mlx5_8",), None, F),
        (("mlx5_5", "mlx5_6", "mlx5_7", "mlx5_8"), None, W),
        (("mlx5_5", "mlx5_6", "mlx5_7", "mlx5_8"), 4, P),
        ((), 4, F),
    ],
)
def test_rails_serve_the_gpus_evenly(gone: tuple[str, ...], expected: int | None, status: Status) -> None:
    cluster = blog_cluster()
    without_rail(cluster, *gone)
    if expected is not None:
        cluster.expect(rails=expected)
    assert told(cluster)["rails"].status is status


def test_a_gpu_that_fell_off_is_missed_on_the_bus() -> None:
    cluster = blog_cluster()
    machine = cluster.other.machine
    pci = sections(machine)["pci"](())
    machine.gpus.pop()
    machine.overrides["pci"] = Section(0, pci, "")
    verdict = told(cluster)["GPUs"]
    assert (verdict.status, "0000:53:00.0" in verdict.reason, verdict.looked_at) == (F, True, 8)
    assert told(cluster)["rails"].status is P, "eight rails are not too few for what is left"
    driver = sections(machine)["driver"](())
    machine.overrides["driver"] = Section(0, driver + "devices=7\n", "")
    assert told(cluster)["GPUs"].status is W, "a container that was given seven of eight GPUs"


def test_what_cannot_be_seen_is_not_green() -> None:
    cluster = blog_cluster()
    cluster.other.machine.overrides["pci"] = Section(127, "", "not there\n")
    assert {v.status for v in told(cluster).values()} == {U}
    assert {v.status for v in CLUSTER_CHECKS["fabric.presence_alike"](cluster.gather())} == {U}
    cluster.other.machine.overrides["rdma"] = Section(127, "", "no RDMA driver is loaded\n")
    assert U in {v.status for v in told(cluster).values()}


def _less_gpus(c: Cluster) -> None:
    c.other.machine.gpus.pop()


def _less_hcas(c: Cluster) -> None:
    c.other.machine.rails.pop()


def _other_card(c: Cluster) -> None:
    spare(c, pci_device="0x1017")


@pytest.mark.parametrize(
    ("change", "status", "words"), [(_less_gpus, F, "GPUs"), (_less_hcas, F, "15b3:101b"), (_other_card, W, "15b3:1017")]
)
def test_nodes_unlike_in_number(change: Callable[[Cluster], None], status: Status, words: str) -> None:
    cluster = blog_cluster()
    change(cluster)
    unlike = [v for v in CLUSTER_CHECKS["fabric.presence_alike"](cluster.gather()) if v.status is not P]
    assert {v.status for v in unlike} == {status}
    assert all(words in v.reason or words in str(v.measured) for v in unlike)


@pytest.mark.parametrize("both", [False, True], ids=["one-node", "both-nodes"])
def test_a_port_that_is_down_when_discovered_is_told_and_no_run_is_green(both: bool) -> None:
    """Its rail is in no inventory any more: nothing that compares with the inventory could miss it."""
    cluster = blog_cluster()
    for node in (cluster.other, *([cluster.head] if both else [])):
        node.machine.rails[8].state = "1: DOWN"
    proposal = propose(found(cluster))
    assert [n for n in proposal.notes if "mlx5_8 port 1: its state is DOWN" in n]
    assert [n for n in proposal.notes if "7 rails for 8 GPUs" in n]
    cluster.inventory = check(Proposal(yaml.safe_load(render(proposal))))
    name, _, profile = cluster.inventory.engine_profile("sglang")
    facts = gather(cluster.nodes, cluster.inventory, engine=name, profile=profile)  # type: ignore[arg-type]
    red = [v for v in all_verdicts(facts) if v.status.blocks]
    assert {v.check for v in red} == {"fabric.presence"}
    assert any("mlx5_8:1 (xgbe8, DOWN" in v.reason for v in red)
