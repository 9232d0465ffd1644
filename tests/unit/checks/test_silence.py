"""A node that does not answer is one failure; everything else of it is skipped with that reason."""

from __future__ import annotations

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS, all_verdicts
from pytest_h20.checks.frame import REACHABLE, of_gate
from pytest_h20.core.verdict import Status
from tests.unit.probes.cluster import blog_cluster

DOWN = "node02: SSH to 10.63.65.208:22: connection refused"


def test_one_failure_and_the_other_node_is_judged_as_ever() -> None:
    cluster = blog_cluster()
    healthy = {(v.check, v.subject): v.status for v in all_verdicts(cluster.gather())}
    cluster.other.down = cluster.other.containers.daemon_error = DOWN
    told = all_verdicts(cluster.gather())
    (failure,) = [v for v in told if v.status.blocks]
    assert (failure.check, failure.subject) == (REACHABLE, "node02")
    assert DOWN in failure.reason
    skipped = [v for v in told if v.subject.startswith("node02") and v.check != REACHABLE]
    assert skipped
    assert {v.status for v in skipped} == {Status.SKIP}
    assert all("told once by environment.reachable" in v.reason for v in skipped)
    own = [v for v in told if v.subject == "node01" and not v.check.startswith("fabric.")]
    assert len(own) > 20
    assert all(v.status == healthy[(v.check, v.subject)] for v in own if "does not answer" not in v.reason)


def test_a_node_that_lost_one_tool_is_not_silent() -> None:
    cluster = blog_cluster()
    assert all(view.silence == "" for view in cluster.gather().views)


def test_every_registered_check_is_of_a_gate_that_is_walked() -> None:
    gates = ("environment", "fabric")
    walked = [check.id for gate in gates for check in of_gate(gate, NODE_CHECKS)]
    walked += [check.id for gate in gates for check in of_gate(gate, RAIL_CHECKS)]
    walked += [check.id for gate in gates for check in of_gate(gate, CLUSTER_CHECKS)]
    assert sorted(walked) == sorted((*NODE_CHECKS, *RAIL_CHECKS, *CLUSTER_CHECKS))
