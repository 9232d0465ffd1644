"""Gate ``fabric``: the RDMA fabric before the engine. Cheap readings first; the tests that load the rails come last."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_h20.fixtures import Judge
from pytest_h20.gathering import GatheredFacts
from pytest_h20.inventory import Inventory
from pytest_h20.parameters import RailRef
from pytest_h20.probes.checks import fabric
from pytest_h20.probes.measure import all_reduce, write_bandwidth
from pytest_h20.probes.script import Missing
from pytest_h20.report.run import RunFolder
from pytest_h20.transport import Node

pytestmark = pytest.mark.h20_gate("fabric")


@pytest.fixture
def idle(inventory: Inventory, alone: None) -> None:
    """For what loads rails and GPUs: before an engine starts, never beside one that serves somebody."""
    if inventory.attach is not None:
        pytest.skip("attached: it would disturb the engine that runs, and be disturbed by it")


def test_hcas(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Each RDMA device the inventory names (rails and others) exists on the node."""
    judge(*fabric.hcas(facts.probes.of(node_name)))


def test_gpudirect(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """nvidia_peermem (or nv_peer_mem) is loaded, or driver and kernel can do dma-buf (F31). NCCL <= 2.22.3 and peermem:
    see the note."""
    judge(*fabric.gpudirect(facts.probes.of(node_name)))


def test_acs(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No PCIe bridge redirects peer traffic to the root complex. Judged if ``expect.acs_off``, else a warning."""
    judge(*fabric.acs(facts.probes.of(node_name)))


def test_peermem_and_nccl(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """NCCL up to 2.22.3 does not recognise nvidia_peermem (F31): vLLM <= 0.8.5 and SGLang <= 0.4.6 ship 2.21.5. A
    warning; the log decides."""
    judge(*fabric.peermem_and_nccl(facts.probes.of(node_name)))


def test_qos(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Trust state, PFC, ECN, TOS and pause settings are the same on all rails, and what is expected (F41). Unreadable
    ones are told."""
    judge(*fabric.qos(facts.probes.of(node_name)))


def test_port_active(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The port is ACTIVE and its physical link is up."""
    judge(*fabric.port_active(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_rate(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The port runs at the expected rate; without an expectation, at the rate of the fastest rail of the cluster."""
    judge(*fabric.rate(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_width(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The port uses the expected number of lanes; without an expectation, as many as the widest rail of the cluster."""
    judge(*fabric.width(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_firmware(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The HCA's firmware is the expected one; without an expectation, that of all HCAs of its kind (board id) in the
    cluster."""
    judge(*fabric.firmware(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_netdev(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The HCA's GIDs belong to the net device the inventory names, and ibdev2netdev (where it exists) says the same."""
    judge(*fabric.netdev(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_table(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The port has GIDs, among them a routable RoCE v2 one; show_gids (where it exists) lists the same."""
    judge(*fabric.gid_table(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_index(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The configured index holds the best GID of this rail (RoCE v2, IPv4-mapped, of its address); the right index is
    named if not."""
    judge(*fabric.gid_index(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_address(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The interface has the address the inventory gives, and the GID at the configured index is made of it (or is
    ``rails[].gid``)."""
    judge(*fabric.gid_address(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_mtu(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The rail's net device has the expected MTU; without an expectation, that of its peer rail (F38)."""
    judge(*fabric.mtu(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_subnet(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The rail and the rail of the same place on the other node are in one IPv4 network: rail-optimised fabrics route
    nothing else (F29, F30)."""
    judge(*fabric.subnet(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_reachable(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The peer rail answers pings as large as the MTU that may not be fragmented, sent from this rail's interface."""
    judge(*fabric.reachable(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_route(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The kernel's route to the peer rail leaves by this rail's interface; another device is a warning (RoCE uses the
    GID's device)."""
    judge(*fabric.route(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_link_flaps(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The link went down at most ``expect.link_down_max_per_day`` times in the last 24 hours (kernel log)."""
    judge(*fabric.link_flaps(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_pcie(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The HCA's PCIe link runs at its full speed and width (a NIC does not lower it when idle)."""
    judge(*fabric.pcie(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_distance(facts: GatheredFacts, rail: RailRef, judge: Judge) -> None:
    """The rail shares a PCIe switch with a GPU (PIX/PXB): across sockets (SYS) GPUDirect is slow. Judged if expected,
    else SYS warns."""
    judge(*fabric.distance(facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_qos_equal(facts: GatheredFacts, judge: Judge) -> None:
    """Trust, PFC, ECN, TOS and pause settings of each rail equal those of the same rail on the other nodes, where
    readable."""
    judge(*fabric.qos_equal(facts.probes))


def test_ib_write_bw(
    facts: GatheredFacts, nodes: Mapping[str, Node], rail: RailRef, run: RunFolder, idle: None, judge: Judge
) -> None:
    """``ib_write_bw`` from this rail to its peer reaches the expected part of the line rate (best of 3), and no error counter
    of either end rises meanwhile. The other direction is the peer rail's own test."""
    here = facts.probes.of(rail.node.name).rail(rail.rail.hca)
    wanted = here.view.expect.ib_write_bw is not False
    measured = write_bandwidth(nodes, here, record=run.evidence) if wanted else Missing("expect.ib_write_bw is false")
    judge(*fabric.judge_write_bandwidth(here, measured))


def test_all_reduce(facts: GatheredFacts, nodes: Mapping[str, Node], run: RunFolder, idle: None, judge: Judge) -> None:
    """An all-reduce over all GPUs of all nodes is right and reaches the bus bandwidth that follows from the rails; what it costs
    per output token is recorded beside it."""
    wanted = facts.probes.inventory.expect.all_reduce is not False
    measured = all_reduce(nodes, facts.probes, record=run.evidence) if wanted else Missing("expect.all_reduce is false")
    judge(*fabric.judge_all_reduce(facts.probes, measured))
