"""Gate ``weights``: the model is complete, undamaged and the same on every node. The write-up's red warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from pytest_h20.checks.frame import silence
from pytest_h20.checks.weights.full import full_verdicts
from pytest_h20.checks.weights.judge import WeightsJudge
from pytest_h20.checks.weights.runner import fast_check
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.inventory import Inventory
from pytest_h20.nodes import Node
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.report.run import RunFolder
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("weights")


@pytest.fixture(scope="module")
def weights(
    h20_facts: GatheredFacts, h20_nodes: Mapping[str, Node], h20_inventory: Inventory, h20_target: LaunchTarget, h20_run: RunFolder
) -> WeightsJudge:
    """The fast check of all nodes that answer, at once: seconds, a few blocks of each shard are read."""
    silent = [view for view in h20_facts.probes.views if view.silence]
    chosen = {n.name: h20_nodes[n.name] for n in h20_target.nodes if n.name not in [view.name for view in silent]}
    found = fast_check(chosen, h20_inventory, profile=h20_target.profile, record=h20_run.evidence)
    return WeightsJudge(found, h20_inventory, silence(silent))


def test_readable(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """The model's folder can be examined, in the container's path."""
    h20_judge(weights.check("weights.readable", node_name))


def test_names(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Shards 1 … N are all there: 158 of 163 start and answer garbage (F46)."""
    h20_judge(weights.check("weights.names", node_name))


def test_sizes(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Every shard is as long as its header says: no truncated download (F47, F48)."""
    h20_judge(weights.check("weights.sizes", node_name))


def test_headers(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Every header is valid, its offsets have neither gap nor overlap, and no tensor is in two shards."""
    h20_judge(weights.check("weights.headers", node_name))


def test_index(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Index and headers agree in both directions."""
    h20_judge(weights.check("weights.index", node_name))


def test_shapes(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """dtype and shape of every tensor are what config.json implies."""
    h20_judge(weights.check("weights.shapes", node_name))


def test_total(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """The bytes of all tensors are as many as inventory, config and index say."""
    h20_judge(weights.check("weights.total", node_name))


def test_blocks(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """A few random blocks of each shard hold something: no preallocated download that was never filled."""
    h20_judge(weights.check("weights.blocks", node_name))


def test_model(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Config and tokenizer are those of the published model: shapes do not tell two experts per token from eight."""
    h20_judge(weights.check("weights.model", node_name))


def test_leftovers(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """No trace of an unfinished download."""
    h20_judge(weights.check("weights.leftovers", node_name))


def test_small_files(weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """config, tokenizer and model code are there (F49)."""
    h20_judge(weights.check("weights.small_files", node_name))


def test_equal(weights: WeightsJudge, h20_judge: Judge) -> None:
    """Shards (name, size, header) and small files are the same on every node."""
    h20_judge(*weights.equal())


def test_sha256(weights: WeightsJudge, h20_nodes: Mapping[str, Node], h20_run: RunFolder, h20_judge: Judge) -> None:
    """SHA-256 of every file, against what is known offline, else node against node. Minutes once, then cached on the nodes."""
    log = logging.getLogger("pytest_h20.weights")
    chosen = {name: h20_nodes[name] for name in weights.facts.fast}
    if weights.silent:  # node against node, and one of them is not there
        h20_judge(weights.say("weights.sha256", "cluster").skip(weights.silent))
    h20_judge(*full_verdicts(weights, chosen, progress=lambda node, p: log.info("%s: %s", node, p), record=h20_run.evidence))
