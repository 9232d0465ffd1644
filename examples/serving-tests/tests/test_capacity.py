"""What we promised to our users, measured with the plugin's load generator. A test with ``load`` is alone on the endpoint."""

from __future__ import annotations

import pytest

from pytest_h20.load import Cell
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.throughput import Load


@pytest.mark.h20_gate("throughput")
def test_promised(h20_load: Load, cell: Cell, h20_judge: Judge) -> None:
    """``cell`` runs this once for each cell of the inventory; limits/promised.yaml judges."""
    h20_judge(*h20_load.judge(h20_load.run(cell)))


def test_a_long_prompt_does_not_starve_the_others(h20_load: Load) -> None:
    """A cell of our own, judged by an assert. Ask whether its figures can be believed before using one."""
    result = h20_load.run(Cell(input_len=1024, output_len=32, concurrency=4))
    assert result.trustworthy, [f"{f.rule}: {f.text}" for f in result.blockers]
    assert result.tpot.p99 is not None
    assert result.tpot.p99 < 500, "ms per token, at the slowest request"
