"""The figures of a cell while it runs: for those who look, not for judgement."""

from __future__ import annotations

import pytest

from pytest_h20.load import Cell, CellProgress, LoadPlan, Target, run_cell

from .conftest import Serve


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_told_while_it_runs_is_what_comes_out(serve: Serve, stamps: bool, processes: int) -> None:
    """Means so far, of the requests that are over and of those that have begun; the pieces of two processes weighed."""
    server = serve(ttft=0.05, tpot=0.03)
    told: list[CellProgress] = []
    plan = LoadPlan(requests=8, warmup=0, kernel_stamps=stamps, processes=processes)
    result = run_cell(Target(server.url, "vllm", "reference", vocab_size=32000), Cell(16, 24, 8), plan, told.append)
    known = [p for p in told if p.ttft_ms is not None and p.tpot_ms is not None]
    assert known, "the first figures come while it runs"
    assert known[-1].timed == 8
    assert result.ttft.mean is not None
    assert result.tpot.mean is not None
    # all eight had begun by then: their first tokens are the result's, and their pace is that of the tokens so far
    assert known[-1].ttft_ms == pytest.approx(result.ttft.mean, rel=0.01)
    assert known[-1].tpot_ms == pytest.approx(result.tpot.mean, rel=0.5)
    assert all(p.ttft_ms is None for p in told if p.timed == 0)
