"""Gate ``fabric``: the RDMA fabric before the engine. Cheap readings first; the tests that load the rails come last."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS
from pytest_h20.checks.fabric import rails
from pytest_h20.checks.fabric.measure import all_reduce, pairs_of, witnesses, write_bandwidth
from pytest_h20.checks.frame import ClusterCheck, NodeCheck, RailCheck, of_gate
from pytest_h20.config.cells import RailRef
from pytest_h20.config.inventory import Inventory
from pytest_h20.core.verdict import Status
from pytest_h20.nodes import Node
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.probes.script import Missing
from pytest_h20.report.run import RunFolder
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("fabric")


@pytest.fixture
def idle(h20_inventory: Inventory, h20_alone: None) -> None:
    """For what loads rails and GPUs: before an engine starts, never beside one that serves somebody."""
    if h20_inventory.attach is not None:
        pytest.skip("attached: it would disturb the engine that runs, and be disturbed by it")


@pytest.mark.parametrize("check", of_gate("fabric", NODE_CHECKS), ids=lambda check: check.name)
def test_node(check: NodeCheck, h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """One property of one node's RDMA devices."""
    h20_judge(*check(h20_facts.probes.of(node_name)))


@pytest.mark.parametrize("check", of_gate("fabric", RAIL_CHECKS), ids=lambda check: check.name)
def test_rail(check: RailCheck, h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """One property of one rail."""
    h20_judge(*check(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


@pytest.mark.parametrize("check", of_gate("fabric", CLUSTER_CHECKS), ids=lambda check: check.name)
def test_nodes(check: ClusterCheck, h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """One property of all rails together."""
    h20_judge(*check(h20_facts.probes))


def test_ib_write_bw(
    h20_facts: GatheredFacts, h20_nodes: Mapping[str, Node], rail: RailRef, h20_run: RunFolder, idle: None, h20_judge: Judge
) -> None:
    """``ib_write_bw`` from this rail to its peer reaches the expected part of the line rate (best of 3), and no error counter
    of either end rises meanwhile. The other direction is the peer rail's own test. A slow link of more than two nodes is measured with a
    third one, to tell which end it is."""
    here = h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)
    wanted = here.view.expect.ib_write_bw is not False
    measured = write_bandwidth(h20_nodes, here, record=h20_run.evidence) if wanted else Missing("expect.ib_write_bw is false")
    told = rails.judge_write_bandwidth(here, measured)
    if told[0].status is Status.FAIL and not isinstance(measured, Missing):
        told = rails.judge_write_bandwidth(here, measured, witnesses(h20_nodes, here, h20_run.evidence))
    h20_judge(*told)


def test_all_reduce(h20_facts: GatheredFacts, h20_nodes: Mapping[str, Node], h20_run: RunFolder, idle: None, h20_judge: Judge) -> None:
    """An all-reduce over all GPUs of all nodes is right and reaches the bus bandwidth that follows from the rails; what it costs
    per output token is recorded beside it. Where it fails on more than two nodes, they are measured two at a time, to name the one."""
    wanted = h20_facts.probes.inventory.expect.all_reduce is not False
    measured = all_reduce(h20_nodes, h20_facts.probes, record=h20_run.evidence) if wanted else Missing("expect.all_reduce is false")
    two_at_a_time = partial(pairs_of, h20_nodes, h20_facts.probes, h20_run.evidence)
    h20_judge(*rails.judge_all_reduce(h20_facts.probes, measured, two_at_a_time))
