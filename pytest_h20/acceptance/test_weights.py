"""Gate ``weights``: the model is complete, undamaged and the same on every node. The write-up's red warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from pytest_h20.cluster.launch import Target
from pytest_h20.fixtures import Judge
from pytest_h20.inventory import Inventory
from pytest_h20.probes.weights.full import full_verdicts
from pytest_h20.probes.weights.judge import Judge as WeightsJudge
from pytest_h20.probes.weights.runner import fast_check
from pytest_h20.report.run import RunFolder
from pytest_h20.transport import Node

pytestmark = pytest.mark.h20_gate("weights")


@pytest.fixture(scope="module")
def weights(nodes: Mapping[str, Node], inventory: Inventory, target: Target, run: RunFolder) -> WeightsJudge:
    """The fast check of all nodes at once: seconds, no payload is read."""
    chosen = {n.name: nodes[n.name] for n in target.nodes}
    return WeightsJudge(fast_check(chosen, inventory, profile=target.profile, record=run.evidence), inventory)


def test_readable(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """The model's folder can be examined, in the container's path."""
    judge(weights.check("weights.readable", node_name))


def test_names(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """Shards 1 … N are all there: 158 of 163 start and answer garbage (F46)."""
    judge(weights.check("weights.names", node_name))


def test_sizes(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """Every shard is as long as its header says: no truncated download (F47, F48)."""
    judge(weights.check("weights.sizes", node_name))


def test_headers(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """Every header is valid, its offsets have neither gap nor overlap, and no tensor is in two shards."""
    judge(weights.check("weights.headers", node_name))


def test_index(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """Index and headers agree in both directions."""
    judge(weights.check("weights.index", node_name))


def test_shapes(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """dtype and shape of every tensor are what config.json implies."""
    judge(weights.check("weights.shapes", node_name))


def test_total(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """The bytes of all tensors are as many as inventory, config and index say."""
    judge(weights.check("weights.total", node_name))


def test_leftovers(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """No trace of an unfinished download."""
    judge(weights.check("weights.leftovers", node_name))


def test_small_files(weights: WeightsJudge, node_name: str, judge: Judge) -> None:
    """config, tokenizer and model code are there (F49)."""
    judge(weights.check("weights.small_files", node_name))


def test_equal(weights: WeightsJudge, judge: Judge) -> None:
    """Shards (name, size, header) and small files are the same on every node."""
    judge(*weights.equal())


def test_sha256(weights: WeightsJudge, nodes: Mapping[str, Node], run: RunFolder, judge: Judge) -> None:
    """SHA-256 of every file, against what is known offline, else node against node. Minutes once, then cached on the nodes."""
    log = logging.getLogger("pytest_h20.weights")
    chosen = {name: nodes[name] for name in weights.facts.fast}
    judge(*full_verdicts(weights, chosen, progress=lambda node, p: log.info("%s: %s", node, p), record=run.evidence))
