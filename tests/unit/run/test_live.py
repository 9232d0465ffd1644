"""What a run tells of this moment: beside the measurement, bounded, and gone when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h20.core.verdict import Limit, Origin
from pytest_h20.load import CellProgress
from pytest_h20.probes.telemetry import GpuSample, Lately, Telemetry
from pytest_h20.report.live.folder import Here, told
from pytest_h20.report.run import RunFolder
from pytest_h20.run import live
from tests.unit.report import samples

LIMIT = Limit(kind="min", value=500.0, unit="tok/s", origin=Origin(kind="blog"))
SAID = CellProgress("in128-out128-c8", 3, 8, 0, 5, 4.0, 312.0, 6.0, 8, 540.0, None)


def until(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def telemetry() -> Telemetry:
    found = Telemetry("node01")
    found.feed("gpu 0, 1, 00000000:1B:00.0, NVIDIA H20", 0.0)
    found.feed("gpu 1, 2, 00000000:1C:00.0, NVIDIA H20", 0.0)
    found.feed("rail mlx5_1/1 port_xmit_data", 0.0)
    for second in range(100):
        found.feed(f"0, {300 + second}, 1980, 2619, 60, 0x0, 90000, 0, 0", float(second))
        found.feed(f"t {1000 + second} 0 {second} 1", float(second))
        found.feed(f"r mlx5_1/1 {second * 250_000_000}", float(second))
    return found


def test_the_last_samples_of_each_and_no_more() -> None:
    lately = telemetry().lately(5)
    assert [s.power_w for s in lately.gpus[0]] == [395.0, 396.0, 397.0, 398.0, 399.0]
    assert lately.gpus[1] == (), "a GPU that is off the bus is there, and tells nothing"
    assert [at for at, _ in lately.rails["mlx5_1/1"]] == [94.0, 95.0, 96.0, 97.0, 98.0, 99.0]
    assert Telemetry("node02").lately(5) == Lately({}, {})


def test_rates_are_in_model_time(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    for scale, rate in ((1.0, 8.0), (4.0, 2.0)):
        now = live.machines_now(run, "sglang", {"node01": telemetry().lately(5)}, scale)
        assert now.rails[0].sent_gbit_s == (rate,) * 5  # 250e6 words of four bytes a second
        assert [g.sm_mhz for g in now.gpus] == [1980.0, None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.04)


@pytest.mark.usefixtures("quick")
def test_a_cell_is_told_while_it_runs_and_is_gone_after_it(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    samples_of = {"node01": Lately({0: (GpuSample(0, 390.0, 1980.0),)}, {})}
    telling = live.LiveLoad(run, "sglang:tuned", 1.0, lambda most: samples_of)
    telling.start()
    try:
        telling.cell = lambda: live.cell_now(run, "sglang:tuned", SAID, 2, 26, {"output_throughput": LIMIT, "p99_ttft_ms": LIMIT})
        assert until(lambda: bool(told(Here(run.path).look()).cells and told(Here(run.path).look()).machines))
        found = told(Here(run.path).look())
        (cell,) = found.cells
        assert (cell.cell, cell.number, cell.figures) == ("in128-out128-c8", 2, {"output_throughput": 312.0, "mean_ttft_ms": 540.0})
        assert cell.limits == {"output_throughput": LIMIT}
        assert found.machines[0].gpus[0].power_w == (390.0,)
        telling.cell = None
        assert until(lambda: not told(Here(run.path).look()).cells)
    finally:
        telling.stop()
    assert not list((run.path / ".live").iterdir())


@pytest.mark.usefixtures("quick")
def test_a_disk_that_takes_nothing_ends_nothing(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    (run.path / ".live").write_text("in the way")
    asked: list[int] = []

    def lately(most: int) -> dict[str, Lately]:
        asked.append(most)
        return {"node01": Lately({}, {})}

    telling = live.LiveLoad(RunFolder(run.path, run.header), "sglang", 1.0, lately)
    telling.start()
    assert until(lambda: len(asked) > 2), "it goes on"
    telling.stop()
    assert asked[0] == live.POINTS
