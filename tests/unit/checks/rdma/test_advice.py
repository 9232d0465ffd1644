"""Advice is only for what is not done already, and only where it can help."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from pytest_h20.checks.fabric.rails import gid_address
from pytest_h20.checks.rdma.nccl_log import control_interface, gid_index
from pytest_h20.core.verdict import Status
from pytest_h20.nccl import Job
from pytest_h20.probes.rdma import RdmaFacts
from tests.unit.probes.cluster import blog_cluster


def job(verdict: str = "unknown", note: str = "") -> Job:
    process = SimpleNamespace(source="a", host="node01", pid=1, notes=[(note, "a:1")] if note else [])
    made: Any = SimpleNamespace(
        verdict=verdict,
        processes=[process],
        node_of_process={},
        nodes=["node01"],
        gid_indexes={},
        oob={},
        bootstrap={},
        advice=("find out why RDMA is off",),
        aliases={},
    )
    return cast(Job, made)


def test_subsystems_are_advised_where_they_are_not_set() -> None:
    for note in ("", "NCCL_DEBUG_SUBSYS set by environment to INIT", "NCCL_IB_HCA set to =mlx5_1"):
        assert gid_index(job(note=note), {"node01": 3})[0].action == "set NCCL_DEBUG=INFO and NCCL_DEBUG_SUBSYS=INIT,ENV,NET"
        assert "INIT,BOOTSTRAP,ENV,NET" in control_interface(job(note=note), {"node01": "xgbe0"})[0].action


def test_and_not_where_they_are() -> None:
    for value in ("INIT,BOOTSTRAP,ENV,NET,GRAPH", "all"):
        set_already = job(note=f"NCCL_DEBUG_SUBSYS set by environment to {value}")
        for finding in (*gid_index(set_already, {"node01": 3}), *control_interface(set_already, {"node01": "xgbe0"})):
            assert finding.ok is None
            assert "SUBSYS=" not in finding.action
            assert "on already" in finding.action


def test_a_job_on_sockets_has_no_gid_to_look_for() -> None:
    (finding,) = gid_index(job("sockets"), {"node01": 3})
    assert (finding.ok, finding.action) == (None, "find out why RDMA is off")
    assert "sockets" in finding.reason


def test_a_port_that_is_not_there_has_no_table() -> None:
    cluster = blog_cluster()
    for port in cluster.head.machine.rails:
        port.gids = {}
    facts = cluster.gather()
    rail = facts.of("node01").rails[0]
    (empty,) = gid_address(rail)
    assert (empty.status, "GID table is empty" in empty.reason) == (Status.UNKNOWN, True)
    node = facts.nodes["node01"]
    rdma = node.rdma
    assert isinstance(rdma, RdmaFacts)
    without = replace(rdma, ports=tuple(p for p in rdma.ports if p.device != rail.rail.hca))
    there = replace(facts, nodes={**facts.nodes, "node01": replace(node, rdma=without)})
    (absent,) = gid_address(there.of("node01").rails[0])
    assert absent.status is Status.UNKNOWN
    assert "table" not in absent.reason
    assert rail.rail.hca in absent.reason
