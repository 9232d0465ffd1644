"""Pure judgement: facts of nodes held against expectations. No I/O; every check is in a registry with its id, title and
rules."""

from __future__ import annotations

from pytest_h20.checks.environment import containers, gpus, known_bad, machine, network
from pytest_h20.checks.environment.alike import differences, node_table
from pytest_h20.checks.fabric import presence, rails, wires
from pytest_h20.checks.frame import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS, all_verdicts

__all__ = [
    "CLUSTER_CHECKS",
    "NODE_CHECKS",
    "RAIL_CHECKS",
    "all_verdicts",
    "containers",
    "differences",
    "gpus",
    "known_bad",
    "machine",
    "network",
    "node_table",
    "presence",
    "rails",
    "wires",
]
