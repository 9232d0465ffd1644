"""Gate ``weights``: the model is complete, undamaged and the same on every node. The write-up's red warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from pytest_h20.checks.weights.full import full_verdicts
from pytest_h20.checks.weights.judge import WeightsJudge
from pytest_h20.nodes import Node
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.report.run import RunFolder

pytestmark = pytest.mark.h20_gate("weights")


def test_readable(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """The model's folder can be examined, in the container's path."""
    h20_judge(h20_weights.check("weights.readable", node_name))


def test_names(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Shards 1 … N are all there: 158 of 163 start and answer garbage (F46)."""
    h20_judge(h20_weights.check("weights.names", node_name))


def test_sizes(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Every shard is as long as its header says: no truncated download (F47, F48)."""
    h20_judge(h20_weights.check("weights.sizes", node_name))


def test_headers(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Every header is valid, its offsets have neither gap nor overlap, and no tensor is in two shards."""
    h20_judge(h20_weights.check("weights.headers", node_name))


def test_index(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Index and headers agree in both directions."""
    h20_judge(h20_weights.check("weights.index", node_name))


def test_shapes(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """dtype and shape of every tensor are what config.json implies."""
    h20_judge(h20_weights.check("weights.shapes", node_name))


def test_total(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """The bytes of all tensors are as many as inventory, config and index say."""
    h20_judge(h20_weights.check("weights.total", node_name))


def test_blocks(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """A few random blocks of each shard hold something: no preallocated download that was never filled."""
    h20_judge(h20_weights.check("weights.blocks", node_name))


def test_model(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """Config and tokenizer are those of the published model: shapes do not tell two experts per token from eight."""
    h20_judge(h20_weights.check("weights.model", node_name))


def test_leftovers(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """No trace of an unfinished download."""
    h20_judge(h20_weights.check("weights.leftovers", node_name))


def test_small_files(h20_weights: WeightsJudge, node_name: str, h20_judge: Judge) -> None:
    """config, tokenizer and model code are there (F49)."""
    h20_judge(h20_weights.check("weights.small_files", node_name))


def test_equal(h20_weights: WeightsJudge, h20_judge: Judge) -> None:
    """Shards (name, size, header) and small files are the same on every node."""
    h20_judge(*h20_weights.equal())


def test_sha256(h20_weights: WeightsJudge, h20_nodes: Mapping[str, Node], h20_run: RunFolder, h20_judge: Judge) -> None:
    """SHA-256 of every file, against what is known offline, else node against node. Minutes once, then cached on the nodes."""
    log = logging.getLogger("pytest_h20.weights")
    chosen = {name: h20_nodes[name] for name in h20_weights.facts.fast}
    if h20_weights.silent:  # node against node, and one of them is not there
        h20_judge(h20_weights.say("weights.sha256", "cluster").skip(h20_weights.silent))
    h20_judge(*full_verdicts(h20_weights, chosen, progress=lambda node, p: log.info("%s: %s", node, p), record=h20_run.evidence))
