"""Gate ``bringup``: the engine starts on all nodes and becomes ready, and the server that answers is the one we started."""

from __future__ import annotations

import pytest

from pytest_h20.checks.bringup import alive, first_completion, ours, ready_in_time, same_versions
from pytest_h20.checks.libraries import ask_loaded, verdicts
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.state import ClusterState
from pytest_h20.nodes import Node
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.report.run import RunFolder
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("bringup")


def test_ready(h20_cluster: ClusterState, h20_target: LaunchTarget, h20_judge: Judge) -> None:
    """The ready line on rank 0, /health, and one completion, within the profile's time."""
    h20_judge(ready_in_time(h20_cluster, h20_target.profile.ready_timeout))


def test_answering_server_is_ours(h20_cluster: ClusterState, h20_judge: Judge) -> None:
    """The socket that listens on the port is held by a process in our container."""
    h20_judge(ours(h20_cluster))


def test_first_completion(h20_cluster: ClusterState, h20_target: LaunchTarget, h20_judge: Judge) -> None:
    """One token came back under the deadline: /health never runs a forward pass, so it proves little."""
    h20_judge(first_completion(h20_cluster, h20_target.profile.first_completion_timeout))


def test_every_rank_runs(h20_cluster: ClusterState, h20_nodes: dict[str, Node], h20_judge: Judge) -> None:
    """The container of every rank is still up once the server answers."""
    h20_judge(*alive(h20_cluster, h20_nodes))


def test_same_versions_on_all_nodes(h20_facts: GatheredFacts, h20_cluster: ClusterState, h20_judge: Judge) -> None:
    """Engine, torch and NCCL inside the image are the same on every node (F09)."""
    h20_judge(same_versions(h20_facts, h20_cluster))


def test_loaded_libraries(
    h20_facts: GatheredFacts,
    h20_cluster: ClusterState,
    h20_target: LaunchTarget,
    h20_nodes: dict[str, Node],
    h20_run: RunFolder,
    h20_judge: Judge,
) -> None:
    """What every rank has in its memory, by content: the same everywhere, one NCCL, the image's, and the settings that were given."""
    told = ask_loaded(h20_cluster, h20_nodes, record=h20_run.evidence)
    h20_judge(*verdicts(h20_target, told, h20_facts.probes.nodes))
