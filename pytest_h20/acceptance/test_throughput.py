"""Gate ``throughput``: every cell of input length × output length × concurrency holds its limits, and can be believed."""

from __future__ import annotations

import pytest

from pytest_h20.fixtures import Judge
from pytest_h20.load.cells import Cell
from pytest_h20.loading import Load

pytestmark = pytest.mark.h20_gate("throughput")


def test_throughput(load: Load, cell: Cell, judge: Judge) -> None:
    """Output tokens per second, TTFT and TPOT of one cell against its limits; sanity before judgement."""
    if cell not in load.cells:
        pytest.skip(f"{load.label} does not measure {cell.id} (its profile names other cells)")
    judge(*(verdict for repeat in load.repeats for verdict in load.judge(load.run(cell, repeat), repeat)))


def test_crosscheck(load: Load, judge: Judge) -> None:
    """The engine's own benchmark agrees on one cell (``--h20-load-crosscheck``)."""
    if not load.session.value("h20_load_crosscheck"):
        pytest.skip("only with --h20-load-crosscheck")
    from pytest_h20.foreign_load import crosscheck

    judge(*crosscheck(load))
