"""Gate ``fabric``: the RDMA fabric before the engine. Cheap readings first; the tests that load the rails come last."""

from __future__ import annotations

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS
from pytest_h20.checks.frame import ClusterCheck, NodeCheck, RailCheck, of_gate
from pytest_h20.config.cells import RailRef
from pytest_h20.config.inventory import Inventory
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.facts import GatheredFacts
from pytest_h20.run.wires import Wires

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


def test_ib_write_bw(h20_wires: Wires, rail: RailRef, idle: None, h20_judge: Judge) -> None:
    """``ib_write_bw`` from this rail to its peer reaches the expected part of the line rate (best of 3), no error counter of either end
    rises meanwhile, and the bytes are in the priority of NCCL's class. The other direction is the peer rail's own test. A slow link of more
    than two nodes is measured with a third one, to tell which end it is."""
    h20_judge(*h20_wires.single(rail.node.name, rail.rail.hca))


def test_rails_at_once(h20_wires: Wires, idle: None, h20_judge: Judge) -> None:
    """All rails at once, from GPU memory to GPU memory: each pair, the sum against single ones, and the odd one out."""
    h20_judge(*h20_wires.at_once())


def test_all_reduce(h20_wires: Wires, idle: None, h20_judge: Judge) -> None:
    """An all-reduce over all GPUs of all nodes is right and reaches the bus bandwidth that follows from the rails; what it costs
    per output token is recorded beside it. Where it fails on more than two nodes, they are measured two at a time, to name the one."""
    h20_judge(*h20_wires.all_reduce())
