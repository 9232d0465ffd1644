"""What runs where. ``cluster`` is plain data; ``nodes`` run commands and read files."""

from __future__ import annotations

import pytest

from pytest_h20.cluster.state import ClusterState
from pytest_h20.transport import Node


def test_both_machines_take_part(cluster: ClusterState, nodes: dict[str, Node]) -> None:
    if cluster.attached:
        pytest.skip("somebody else started this endpoint; its processes are not known")
    assert set(cluster.role_nodes()) == set(nodes)
    assert cluster.versions.nccl, "the image did not tell its NCCL version"


def test_the_log_of_every_process_is_kept(cluster: ClusterState, nodes: dict[str, Node]) -> None:
    for role in cluster.roles:
        assert nodes[role.node].get(role.log_path), f"{role.log_path} on {role.node} is empty"
