"""The stand-in is as fast as the write-up, and a healthy one keeps every limit."""

from __future__ import annotations

import pytest

from pytest_h20.config.environments import environments
from pytest_h20.config.limits import load_limits
from pytest_h20.load.cells import Cell
from pytest_h20.rehearsal.scenario import scenario_named
from pytest_h20.rehearsal.timing import BETTER, TABLES, Timing, TimingRow, rows_of

SCALE = 60.0


def timing(engine: str, **knobs: object) -> tuple[list[TimingRow], Timing]:
    rows = [TimingRow(int(i), int(o), int(c), a, b) for i, o, c, a, b in rows_of(scenario_named("").world().inventory, engine)]
    return rows, Timing(rows, SCALE, knobs)


def test_a_row_of_the_write_up_comes_back_as_it_stands() -> None:
    _, model = timing("sglang")
    ttft, tpot = model.seconds(256, 128)
    assert ttft * SCALE == pytest.approx(BETTER * 1.26311)
    assert tpot * SCALE == pytest.approx(BETTER * 0.24477)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_every_cell_keeps_its_limits(engine: str) -> None:
    rows, model = timing(engine)
    limits = load_limits(environments() / "thresholds" / TABLES[engine])
    assert len(rows) == 26
    for row in rows:
        ttft, tpot = (s * SCALE for s in model.seconds(row.input_len + row.output_len, row.streams))
        throughput = row.streams * row.output_len / (ttft + (row.output_len - 1) * tpot)
        held = limits.cell(Cell(row.input_len, row.output_len, row.streams).id)
        assert held["output_throughput"].accepts(1.0 * throughput), row
        if held.get("mean_tpot_ms") and held["mean_tpot_ms"].kind == "max":
            assert held["mean_tpot_ms"].accepts(1e3 * tpot), row


def test_between_two_rows_it_lies_between_them() -> None:
    _, model = timing("sglang")
    assert model.seconds(256, 8)[1] < model.seconds(256, 11)[1] < model.seconds(256, 16)[1]
    assert model.seconds(256, 2048)[1] == pytest.approx(2 * model.seconds(256, 1024)[1])


def test_slow_from_a_level_on() -> None:
    _, model = timing("sglang")
    _, slow = timing("sglang", slow_from=128, slow_factor=2.0)
    assert slow.seconds(256, 100) == model.seconds(256, 100)
    assert slow.seconds(256, 128)[1] * SCALE == pytest.approx(2 * 0.24477)


def test_one_cell_alone_is_slow() -> None:
    _, model = timing("sglang")
    _, slow = timing("sglang", cell_factor={"in128-out128-c8": 1.5})
    assert slow.seconds(256, 8)[1] * SCALE == pytest.approx(1.5 * 0.0852)
    assert slow.seconds(512, 8) == model.seconds(512, 8)
    assert slow.seconds(256, 16) == model.seconds(256, 16)
