"""Gate ``bringup``: the engine starts on all nodes and becomes ready, and the server that answers is the one we started."""

from __future__ import annotations

import pytest

from pytest_h20.cluster.checks import alive, first_completion, ours, ready_in_time, same_versions
from pytest_h20.cluster.launch import Target
from pytest_h20.cluster.state import ClusterState
from pytest_h20.fixtures import Judge
from pytest_h20.gathering import GatheredFacts
from pytest_h20.transport import Node

pytestmark = pytest.mark.h20_gate("bringup")


def test_ready(cluster: ClusterState, target: Target, judge: Judge) -> None:
    """The ready line on rank 0, /health, and one completion, within the profile's time."""
    judge(ready_in_time(cluster, target.profile.ready_timeout))


def test_answering_server_is_ours(cluster: ClusterState, judge: Judge) -> None:
    """The socket that listens on the port is held by a process in our container."""
    judge(ours(cluster))


def test_first_completion(cluster: ClusterState, target: Target, judge: Judge) -> None:
    """One token came back under the deadline: /health never runs a forward pass, so it proves little."""
    judge(first_completion(cluster, target.profile.first_completion_timeout))


def test_every_rank_runs(cluster: ClusterState, nodes: dict[str, Node], judge: Judge) -> None:
    """The container of every rank is still up once the server answers."""
    judge(*alive(cluster, nodes))


def test_same_versions_on_all_nodes(facts: GatheredFacts, cluster: ClusterState, judge: Judge) -> None:
    """Engine, torch and NCCL inside the image are the same on every node (F09)."""
    judge(same_versions(facts, cluster))
