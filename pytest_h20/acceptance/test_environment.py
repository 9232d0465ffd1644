"""Gate ``environment``: every machine is as it must be, and the machines are alike.

Facts are gathered once; each registered check of the gate is a test, per node or for all of them. docs/checks-environment.md lists them.
"""

from __future__ import annotations

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS
from pytest_h20.checks.frame import ClusterCheck, NodeCheck, of_gate
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("environment")


@pytest.mark.parametrize("check", of_gate("environment", NODE_CHECKS), ids=lambda check: check.name)
def test_node(check: NodeCheck, h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """One property of one machine."""
    h20_judge(*check(h20_facts.probes.of(node_name)))


@pytest.mark.parametrize("check", of_gate("environment", CLUSTER_CHECKS), ids=lambda check: check.name)
def test_nodes(check: ClusterCheck, h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """One property of all machines together."""
    h20_judge(*check(h20_facts.probes))
