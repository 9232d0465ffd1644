"""Gate ``rdma``: three independent facts that the serving processes talk over RDMA.

1. NCCL's own logs of the serving ranks: every channel between nodes is ``NET/IB/…/GDRDMA``.
2. The byte counters of every rail rise during a fixed request by about what the layout must move.
3. Error and congestion counters do not rise.
"""

from __future__ import annotations

import pytest

from pytest_h20.checks.rdma import traffic as counters
from pytest_h20.checks.rdma.proof import NcclVerdicts
from pytest_h20.checks.rdma.traffic import Traffic
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.cells import RailRef
from pytest_h20.nccl import Job
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.endpoint import Endpoint, kv_transfer
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("rdma")


@pytest.fixture(autouse=True)
def _something_to_prove(h20_target: LaunchTarget) -> None:
    """Skipped with the reason where there is no RDMA between nodes to be proved."""
    if len(h20_target.nodes) < 2:
        pytest.skip("one node: nothing crosses the network")
    if not h20_target.has_rdma:
        pytest.skip("the inventory says that RDMA is stood in, or names no rails")


@pytest.fixture(scope="module")
def proof(h20_nccl_logs: Job, h20_target: LaunchTarget, h20_facts: GatheredFacts) -> NcclVerdicts:
    """The job's log, held against the inventory."""
    image_nccl = {name: v.nccl or "" for name, v in h20_facts.images.versions.items()}
    return NcclVerdicts(h20_nccl_logs, h20_target, image_nccl, h20_facts.probes.nodes)


@pytest.fixture(scope="session")
def moved(h20_endpoint: Endpoint, h20_nccl_logs: Job) -> Traffic:
    """Counters of all nodes around one request of fixed size; the rails go into the report's map."""
    return h20_endpoint.counted_request(h20_nccl_logs)


def test_job_runs_on_rdma(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """The verdict over the whole job: RDMA proven, sockets, mixed, intra-node only, or undetermined."""
    h20_judge(proof.job_verdict())


def test_all_channels_between_nodes_use_gdrdma(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Every inter-node channel is NET/IB with GPUDirect RDMA."""
    h20_judge(*proof.gdrdma())


def test_no_socket_channel_between_nodes(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """No inter-node channel fell back to TCP."""
    h20_judge(*proof.no_sockets())


def test_every_hca_of_the_inventory_is_used(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Each rail's HCA carries channels, and no other device does."""
    h20_judge(*proof.hcas())


def test_gid_index(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """RoCE v2 with the GID index of the inventory, per node."""
    h20_judge(*proof.gid_index())


def test_bootstrap_on_control_interface(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """OOB and bootstrap run on the control interface."""
    h20_judge(*proof.bootstrap())


def test_ranks_of_a_node_talk_over_nvlink(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Inside a node nothing goes through host memory or the network where NVLink joins the two GPUs."""
    h20_judge(*proof.inside())


def test_one_nccl_version(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Every rank runs the same NCCL."""
    h20_judge(*proof.one_version())


def test_no_fatal_and_no_retry_warnings(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """NCCL reports neither errors nor retries."""
    h20_judge(*proof.no_errors())


def test_log_is_complete(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """The logs of all ranks reach the first collective: a cut log proves nothing."""
    h20_judge(*proof.complete())


def test_stages_are_inside_nodes(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Ranks that reduce after every layer share a node where the layout has it so: only the pipeline crosses the network."""
    h20_judge(*proof.stages())


def test_logs_belong_to_the_ranks_that_run(proof: NcclVerdicts, h20_judge: Judge) -> None:
    """Logs of an attached engine are those of its running processes: what ended, or was written before they started, proves nothing."""
    h20_judge(*proof.running())


def test_kv_transfer(h20_endpoint: Endpoint, h20_judge: Judge) -> None:
    """The KV cache of a prefill/decode split goes over RDMA, by the logs of its servers."""
    verdict = kv_transfer(h20_endpoint.session, h20_endpoint.label)
    if verdict is None:
        pytest.skip("no prefill/decode split: attach.kv_logs of the inventory names no logs of its servers")
    h20_judge(verdict)


def test_rail_moves_its_share(moved: Traffic, rail: RailRef, h20_judge: Judge) -> None:
    """This rail's byte counters rise by about the expected volume."""
    h20_judge(counters.rail_volume(moved, rail.node.name, rail.rail.hca, rail.rail.port))


def test_rails_move_their_share_together(moved: Traffic, h20_target: LaunchTarget, h20_judge: Judge) -> None:
    """Where chance decides what one rail moves (experts by DeepEP, copies), all of them together move what the layout must."""
    h20_judge(counters.volume_together(moved, h20_target.nodes))


def test_rail_without_errors(moved: Traffic, rail: RailRef, h20_judge: Judge) -> None:
    """No error counter of this rail rises."""
    h20_judge(counters.rail_errors(moved, rail.node.name, rail.rail.hca, rail.rail.port))


def test_rail_without_congestion(moved: Traffic, rail: RailRef, h20_judge: Judge) -> None:
    """No congestion counter of this rail rises."""
    h20_judge(counters.rail_congestion(moved, rail.node.name, rail.rail.hca, rail.rail.port))


def test_management_device_stays_out(moved: Traffic, node_name: str, h20_target: LaunchTarget, h20_judge: Judge) -> None:
    """The management HCA does not carry collectives."""
    node = next(n for n in h20_target.nodes if n.name == node_name)
    if not node.other_hcas:
        pytest.skip("the inventory names no other HCAs on this node")
    h20_judge(*counters.unused_hcas_quiet(moved, node))
