"""Gate ``fabric``: the RDMA fabric before the engine. Cheap readings first; the tests that load the rails come last."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_h20.checks.fabric import rails
from pytest_h20.checks.fabric.measure import all_reduce, write_bandwidth
from pytest_h20.config.cells import RailRef
from pytest_h20.config.inventory import Inventory
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


def test_hcas(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Each RDMA device the inventory names (rails and others) exists on the node."""
    h20_judge(*rails.hcas(h20_facts.probes.of(node_name)))


def test_gpudirect(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """nvidia_peermem (or nv_peer_mem) is loaded, or driver and kernel can do dma-buf (F31). NCCL <= 2.22.3 and peermem:
    see the note."""
    h20_judge(*rails.gpudirect(h20_facts.probes.of(node_name)))


def test_acs(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No PCIe bridge redirects peer traffic to the root complex. Judged if ``expect.acs_off``, else a warning."""
    h20_judge(*rails.acs(h20_facts.probes.of(node_name)))


def test_peermem_and_nccl(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """NCCL up to 2.22.3 does not recognise nvidia_peermem (F31): vLLM <= 0.8.5 and SGLang <= 0.4.6 ship 2.21.5. A
    warning; the log decides."""
    h20_judge(*rails.peermem_and_nccl(h20_facts.probes.of(node_name)))


def test_qos(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Trust state, PFC, ECN, TOS and pause settings are the same on all rails, and what is expected (F41). Unreadable
    ones are told."""
    h20_judge(*rails.qos(h20_facts.probes.of(node_name)))


def test_port_active(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The port is ACTIVE and its physical link is up."""
    h20_judge(*rails.port_active(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_rate(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The port runs at the expected rate; without an expectation, at the rate of the fastest rail of the cluster."""
    h20_judge(*rails.rate(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_width(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The port uses the expected number of lanes; without an expectation, as many as the widest rail of the cluster."""
    h20_judge(*rails.width(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_firmware(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The HCA's firmware is the expected one; without an expectation, that of all HCAs of its kind (board id) in the
    cluster."""
    h20_judge(*rails.firmware(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_netdev(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The HCA's GIDs belong to the net device the inventory names, and ibdev2netdev (where it exists) says the same."""
    h20_judge(*rails.netdev(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_table(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The port has GIDs, among them a routable RoCE v2 one; show_gids (where it exists) lists the same."""
    h20_judge(*rails.gid_table(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_index(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The configured index holds the best GID of this rail (RoCE v2, IPv4-mapped, of its address); the right index is
    named if not."""
    h20_judge(*rails.gid_index(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_gid_address(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The interface has the address the inventory gives, and the GID at the configured index is made of it (or is
    ``rails[].gid``)."""
    h20_judge(*rails.gid_address(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_mtu(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The rail's net device has the expected MTU; without an expectation, that of its peer rail (F38)."""
    h20_judge(*rails.mtu(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_subnet(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The rail and the rail of the same place on the other node are in one IPv4 network: rail-optimised fabrics route
    nothing else (F29, F30)."""
    h20_judge(*rails.subnet(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_reachable(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The peer rail answers pings as large as the MTU that may not be fragmented, sent from this rail's interface."""
    h20_judge(*rails.reachable(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_route(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The kernel's route to the peer rail leaves by this rail's interface; another device is a warning (RoCE uses the
    GID's device)."""
    h20_judge(*rails.route(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_link_flaps(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The link went down at most ``expect.link_down_max_per_day`` times in the last 24 hours (kernel log)."""
    h20_judge(*rails.link_flaps(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_pcie(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The HCA's PCIe link runs at its full speed and width (a NIC does not lower it when idle)."""
    h20_judge(*rails.pcie(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_distance(h20_facts: GatheredFacts, rail: RailRef, h20_judge: Judge) -> None:
    """The rail shares a PCIe switch with a GPU (PIX/PXB): across sockets (SYS) GPUDirect is slow. Judged if expected,
    else SYS warns."""
    h20_judge(*rails.distance(h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)))


def test_qos_equal(h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """Trust, PFC, ECN, TOS and pause settings of each rail equal those of the same rail on the other nodes, where
    readable."""
    h20_judge(*rails.qos_equal(h20_facts.probes))


def test_ib_write_bw(
    h20_facts: GatheredFacts, h20_nodes: Mapping[str, Node], rail: RailRef, h20_run: RunFolder, idle: None, h20_judge: Judge
) -> None:
    """``ib_write_bw`` from this rail to its peer reaches the expected part of the line rate (best of 3), and no error counter
    of either end rises meanwhile. The other direction is the peer rail's own test."""
    here = h20_facts.probes.of(rail.node.name).rail(rail.rail.hca)
    wanted = here.view.expect.ib_write_bw is not False
    measured = write_bandwidth(h20_nodes, here, record=h20_run.evidence) if wanted else Missing("expect.ib_write_bw is false")
    h20_judge(*rails.judge_write_bandwidth(here, measured))


def test_all_reduce(h20_facts: GatheredFacts, h20_nodes: Mapping[str, Node], h20_run: RunFolder, idle: None, h20_judge: Judge) -> None:
    """An all-reduce over all GPUs of all nodes is right and reaches the bus bandwidth that follows from the rails; what it costs
    per output token is recorded beside it."""
    wanted = h20_facts.probes.inventory.expect.all_reduce is not False
    measured = all_reduce(h20_nodes, h20_facts.probes, record=h20_run.evidence) if wanted else Missing("expect.all_reduce is false")
    h20_judge(*rails.judge_all_reduce(h20_facts.probes, measured))
