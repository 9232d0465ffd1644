"""The counted request: what a rail's counters say, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.checks.rdma.traffic import (
    Traffic,
    rail_congestion,
    rail_errors,
    rail_volume,
    rails_of,
    unused_hcas_quiet,
    verdicts_of,
    volume_together,
)
from pytest_h20.config.inventory import NodeSpec
from pytest_h20.core.verdict import Status
from pytest_h20.nccl import judge_job, parse_log
from pytest_h20.probes.counters import CounterSnapshot, ExpectedVolume, PortCounters
from pytest_h20.probes.script import Missing

EXPECTED = ExpectedVolume(400e6, 100e6, "4 rails")
QUIET = {"port_xmit_data": 0, "port_rcv_data": 0, "local_ack_timeout_err": 7, "out_of_sequence": 2, "np_cnp_sent": 40}
NODE = NodeSpec.model_validate(
    {
        "name": "node01",
        "address": "10.0.0.1",
        "control_interface": "eth0",
        "rails": [{"hca": "mlx5_1", "interface": "xgbe1"}],
        "other_hcas": [{"hca": "mlx5_0", "interface": "xgbe0"}],
    }
)


def ports(**values: int | None) -> CounterSnapshot:
    """One moment of the rail and of the management device; None takes a counter away."""
    kept = {name: value for name, value in {**QUIET, **values}.items() if value is not None}
    return CounterSnapshot(100.0, (PortCounters("mlx5_1", 1, kept), PortCounters("mlx5_0", 1, dict(QUIET))))


def moved(sent: float = 100e6, received: float = 100e6, **more: int | None) -> Traffic:
    before = ports(**{name: None for name, value in more.items() if value is None})
    after = ports(**{"port_xmit_data": int(sent), "port_rcv_data": int(received), **more})
    return Traffic({"node01": before}, {"node01": after}, 1000, EXPECTED, "1000 tokens")


@pytest.mark.parametrize(
    ("traffic", "status", "words"),
    [
        (moved(), Status.PASS, ""),
        (moved(50e6, 50e6), Status.PASS, ""),
        (moved(300e6, 300e6), Status.PASS, ""),
        (moved(301e6, 100e6), Status.WARN, "3.0 times the expected volume: somebody else uses it, too"),
        (moved(49e6, 100e6), Status.FAIL, "less than its share"),
        (moved(100e6, 49e6), Status.FAIL, "less than its share"),
        (moved(1e6, 1e6), Status.FAIL, "the rail stayed idle"),
        (moved(0, 100e6), Status.FAIL, "the rail stayed idle"),
        (moved(local_ack_timeout_err=3), Status.UNKNOWN, "counters went backwards: local_ack_timeout_err"),
    ],
)
def test_bytes_in_both_directions(traffic: Traffic, status: Status, words: str) -> None:
    verdict = rail_volume(traffic, "node01", "mlx5_1")
    assert verdict.status is status
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("of_nodes", "traffic", "status"),
    [
        (((400e6, 0.0),), moved(100e6, 1e3), Status.PASS),
        (((400e6, 0.0),), moved(1e3, 100e6), Status.FAIL),
        (((0.0, 400e6),), moved(1e3, 100e6), Status.PASS),
        (((0.0, 400e6),), moved(100e6, 1e3), Status.FAIL),
        (((0.0, 0.0),), moved(0, 0), Status.SKIP),
    ],
)
def test_a_stage_of_a_pipeline_is_judged_in_the_direction_in_which_it_sends(
    of_nodes: tuple[tuple[float, float], ...], traffic: Traffic, status: Status
) -> None:
    traffic = replace(traffic, expected=replace(EXPECTED, of_nodes=of_nodes))
    assert rail_volume(traffic, "node01", "mlx5_1").status is status


def test_bytes_that_nobody_counts_are_no_idle_rail() -> None:
    verdict = rail_volume(moved(port_rcv_data=None), "node01", "mlx5_1")
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "this driver has no byte counters")
    verdict = rail_volume(moved(), "node01", "mlx5_9")
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "mlx5_9 port 1 has no counters on node01")


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_node_that_was_read_once_proves_nothing(side: str) -> None:
    whole = moved()
    lost = {"node01": Missing("connection lost")}
    traffic = Traffic(lost if side == "before" else whole.before, lost if side == "after" else whole.after, 1000, EXPECTED, "1000 tokens")
    verdicts = verdicts_of(traffic, [NODE])
    together = ["rdma.volume_together"]
    assert [v.check for v in verdicts if v.check not in together] == [
        "rdma.rail_volume",
        "rdma.rail_errors",
        "rdma.rail_congestion",
        "rdma.management_hca_quiet",
    ]
    assert {(v.status, v.reason) for v in verdicts if v.check not in together} == {(Status.UNKNOWN, "connection lost")}
    assert [v.status for v in verdicts if v.check in together] == [Status.SKIP]


def test_a_model_of_unknown_shape_has_no_expectation() -> None:
    whole = moved()
    traffic = Traffic(whole.before, whole.after, 1000, Missing("no config.json", hint="give one"), "")
    volume, errors, congestion, together, quiet = verdicts_of(traffic, [NODE])
    assert (volume.status, volume.action, quiet.status) == (Status.UNKNOWN, "give one", Status.UNKNOWN)
    assert (together.status, together.action) == (Status.UNKNOWN, "give one")
    assert (errors.status, congestion.status) == (Status.PASS, Status.PASS), "these need none"


def test_events_of_the_rail_are_told_by_name_and_old_ones_are_not() -> None:
    errors = rail_errors(moved(local_ack_timeout_err=9), "node01", "mlx5_1")
    assert (errors.status, errors.measured, errors.reason) == (Status.FAIL, 2, "local_ack_timeout_err +2")
    congestion = rail_congestion(moved(np_cnp_sent=41), "node01", "mlx5_1")
    assert (congestion.status, congestion.reason) == (Status.FAIL, "np_cnp_sent +1")
    clean = rail_errors(moved(), "node01", "mlx5_1")
    assert (clean.status, clean.looked_at) == (Status.PASS, 2), "seven and two from before are not this request's"
    assert rail_congestion(moved(), "node01", "mlx5_1").looked_at == 1


def test_counters_that_are_not_there_or_fell_did_not_stand_still() -> None:
    """A driver without them, or a port that was reset meanwhile, was green."""
    bare = moved(local_ack_timeout_err=None, out_of_sequence=None, np_cnp_sent=None)
    errors, congestion = rail_errors(bare, "node01", "mlx5_1"), rail_congestion(bare, "node01", "mlx5_1")
    assert (errors.status, errors.reason) == (Status.UNKNOWN, "this driver has no error counters")
    assert (congestion.status, congestion.reason) == (Status.UNKNOWN, "this driver has no congestion counters")
    fell = moved(local_ack_timeout_err=0)
    assert rail_errors(fell, "node01", "mlx5_1").reason == "counters went backwards: local_ack_timeout_err"
    assert rail_congestion(fell, "node01", "mlx5_1").status is Status.PASS, "another counter's fall says nothing of these"


@pytest.mark.parametrize(("sent", "status"), [(0, Status.PASS), (49e6, Status.PASS), (51e6, Status.FAIL)])
def test_the_management_device_carries_no_collectives(sent: float, status: Status) -> None:
    whole = moved()
    loud = CounterSnapshot(101.0, (PortCounters("mlx5_0", 1, {**QUIET, "port_xmit_data": int(sent)}),))
    (verdict,) = unused_hcas_quiet(Traffic(whole.before, {"node01": loud}, 1, EXPECTED, ""), NODE)
    assert (verdict.subject, verdict.status) == ("node01 mlx5_0", status)
    assert "NCCL_IB_HCA must not name mlx5_0; it belongs to xgbe0" in verdict.action or status is Status.PASS


GDRDMA = """node01:1:2 [0] NCCL INFO comm 0x1 rank 0 nRanks 2 nNodes 2 localRanks 1 localRank 0 MNNVL 0
node01:1:2 [0] NCCL INFO NET/IB : Using [0]mlx5_1:1/RoCE [RO]; OOB bond0:10.0.0.1<0>
node01:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA
"""
TO_EXPERTS = ExpectedVolume(0.0, 0.0, "58 layers", together=100e6, chance="deepep carries tokens to the experts that they choose")


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (100e6, Status.PASS, ""),
        (51e6, Status.PASS, ""),
        (900e6, Status.PASS, ""),  # dummy tokens of the other groups, each expert served by itself
        (49e6, Status.FAIL, "the rails carried less than these tokens must move"),
        (1e6, Status.FAIL, "the rails stayed idle: this traffic went elsewhere"),
        (0, Status.FAIL, "the rails stayed idle"),
    ],
)
def test_tokens_on_their_way_to_experts_are_counted_over_all_rails(sent: float, status: Status, words: str) -> None:
    """They were "could not be measured" and red on every rail of a sound cluster."""
    traffic = replace(moved(sent, 0), expected=TO_EXPERTS)
    verdict = volume_together(traffic, [NODE])
    assert (verdict.status, verdict.looked_at) == (status, 1)
    assert words in verdict.reason
    rail = rail_volume(traffic, "node01", "mlx5_1")
    assert rail.status is Status.SKIP
    assert rail.reason.startswith("deepep carries tokens to the experts that they choose: what one rail moves is chance")


def test_a_rail_that_cannot_be_read_is_no_proof_and_no_fault() -> None:
    """Of two rails one is read: enough on that one is enough, less is not known."""
    two = NODE.model_copy(update={"rails": (*NODE.rails, NODE.rails[0].model_copy(update={"hca": "mlx5_9"}))})
    enough, less = (volume_together(replace(moved(sent, 0), expected=TO_EXPERTS), [two]) for sent in (60e6, 40e6))
    assert (enough.status, enough.looked_at) == (Status.PASS, 1)
    assert (less.status, less.reason) == (Status.UNKNOWN, "1 of 2 rails could not be read: mlx5_9 port 1 has no counters on node01")
    assert rail_volume(replace(moved(), expected=TO_EXPERTS), "node01", "mlx5_9").status is Status.UNKNOWN
    lost = replace(moved(local_ack_timeout_err=3), expected=TO_EXPERTS)
    assert volume_together(lost, [NODE]).status is Status.UNKNOWN, "the port was reset meanwhile"


def test_the_management_device_is_held_against_a_rail_s_part_of_what_all_move() -> None:
    for sent, status in ((0, Status.PASS), (49e6, Status.PASS), (51e6, Status.FAIL)):
        whole = replace(moved(), expected=TO_EXPERTS)
        loud = CounterSnapshot(101.0, (PortCounters("mlx5_0", 1, {**QUIET, "port_xmit_data": int(sent)}),))
        (verdict,) = unused_hcas_quiet(replace(whole, after={"node01": loud}), NODE)
        assert verdict.status is status


def test_the_last_stage_of_a_pipeline_names_the_one_before_it() -> None:
    nodes = [NODE.model_copy(update={"name": name}) for name in ("a", "b", "c")]
    same = {node.name: ports() for node in nodes}
    hop = 400e6
    traffic = Traffic(same, same, 1000, replace(EXPECTED, of_nodes=((hop, 0), (hop, hop), (0, hop))), "1000 tokens")
    job = judge_job([])
    assert [(r.node, r.peer_node) for r in rails_of(traffic, job, nodes, "vllm")] == [("a", "b"), ("b", "c"), ("c", "b")]
    ring = rails_of(replace(traffic, expected=EXPECTED), job, nodes, "vllm")
    assert [(r.node, r.peer_node, r.gb_expected) for r in ring] == [("a", "b", 0.1), ("b", "c", 0.1), ("c", "a", 0.1)]
    experts = rails_of(replace(traffic, expected=TO_EXPERTS), job, nodes, "sglang")
    assert [r.gb_expected for r in experts] == [None] * 3


@pytest.mark.parametrize(("sent", "status"), [(100e6, Status.PASS), (1e6, Status.FAIL)])
def test_the_map_of_rails_shows_what_all_of_them_did_together(sent: float, status: Status) -> None:
    channels = judge_job([parse_log(GDRDMA.encode(), "node01")], nodes={"node01": "node01"})
    (rail,) = rails_of(replace(moved(sent, sent), expected=TO_EXPERTS), channels, [NODE], "sglang")
    assert (rail.channels, rail.status) == (1, status)
