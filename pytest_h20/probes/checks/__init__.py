"""Pure judgement: facts of nodes held against expectations. No I/O; every check is in a registry with its id, title and
rules."""

from __future__ import annotations

from pytest_h20.probes.checks import containers, fabric, gpus, machine, network
from pytest_h20.probes.checks.common import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS, all_verdicts
from pytest_h20.probes.checks.compare import differences, node_table

__all__ = [
    "CLUSTER_CHECKS",
    "NODE_CHECKS",
    "RAIL_CHECKS",
    "all_verdicts",
    "containers",
    "differences",
    "fabric",
    "gpus",
    "machine",
    "network",
    "node_table",
]
