"""What runs where. ``cluster`` is plain data; ``nodes`` run commands and read files."""

from __future__ import annotations

import pytest

from pytest_h20.cluster.state import ClusterState
from pytest_h20.nodes import Node


def test_both_machines_take_part(h20_cluster: ClusterState, h20_nodes: dict[str, Node]) -> None:
    if h20_cluster.attached:
        pytest.skip("somebody else started this endpoint; its processes are not known")
    assert set(h20_cluster.role_nodes()) == set(h20_nodes)
    assert h20_cluster.versions.nccl, "the image did not tell its NCCL version"


def test_the_log_of_every_process_is_kept(h20_cluster: ClusterState, h20_nodes: dict[str, Node]) -> None:
    for role in h20_cluster.roles:
        assert h20_nodes[role.node].get(role.log_path), f"{role.log_path} on {role.node} is empty"
