"""Which gate and which cell a kernel line belongs to, and what a cell's machines are in one line."""

from __future__ import annotations

from pytest_h20.checks.machines import CellMachines
from pytest_h20.core.verdict import GateName
from pytest_h20.probes.telemetry import Telemetry
from pytest_h20.run.machines import cell_load, gate_at, in_a_line

SPANS = {
    GateName.BRINGUP: [(100.0, 200.0), (210.0, 220.0)],
    GateName.RDMA: [(220.0, 230.0)],
    GateName.ENDPOINT: [(225.0, 300.0)],  # side by side on another worker
    GateName.THROUGHPUT: [(310.0, 900.0)],
}


def test_a_line_belongs_to_the_gate_that_ran() -> None:
    assert gate_at(150.0, SPANS) is GateName.BRINGUP
    assert gate_at(222.0, SPANS) is GateName.RDMA
    assert gate_at(500.0, SPANS) is GateName.THROUGHPUT


def test_of_gates_side_by_side_the_one_that_began_last_has_it() -> None:
    assert gate_at(227.0, SPANS) is GateName.ENDPOINT


def test_between_two_gates_the_one_before_has_it() -> None:
    assert gate_at(205.0, SPANS) is GateName.BRINGUP
    assert gate_at(305.0, SPANS) is GateName.ENDPOINT
    assert gate_at(950.0, SPANS) is GateName.THROUGHPUT


def test_before_all_of_them_the_first_has_it_and_without_a_stamp_the_last() -> None:
    assert gate_at(99.0, SPANS) is GateName.BRINGUP
    assert gate_at(None, SPANS) is GateName.THROUGHPUT


def machines(slow: int = -1) -> CellMachines:
    told = Telemetry("node01")
    for second in range(11):
        for index in range(8):
            told.feed(f"{index}, 400, {1100 if index == slow else 1980}, 2619, 60, 0x0, 90000, 0, 0", float(second))
        told.feed(f"t {500 + second} 0 {100 * second} 2", float(second))
    return CellMachines({"node01": told.since(0.0, 10.0)}, {}, scale=30.0)


def test_a_cell_is_one_line_for_the_terminal() -> None:
    load = cell_load("sglang", "in128-out128-c8", 0, machines(), (0.0, 10.0), 17.13)
    assert in_a_line(load) == "8 GPUs: 1980 MHz, 400 W, 60 °C, 17.1 Wh per 1,000 tokens"
    odd = cell_load("sglang", "in128-out128-c8", 0, machines(slow=3), (0.0, 10.0), None)
    assert in_a_line(odd).endswith("60 °C; apart: node01 GPU 3")
    nothing = cell_load("sglang", "in128-out128-c8", 0, CellMachines({}, {"node01": "gone"}), (0.0, 10.0), None)
    assert in_a_line(nothing) == "GPUs: nothing was told"


def test_the_record_is_in_model_time_and_keeps_the_odd_one() -> None:
    load = cell_load("sglang", "in128-out128-c8", 2, machines(slow=3), (0.0, 10.0), None)
    assert (load.seconds, load.repeat) == (300.0, 2)
    assert load.gpus[0].series["sm_mhz"][-1] == (300.0, 1980.0)
    assert load.gpus[0].spreads["power_w"] == (400.0, 400.0, 400.0)
    assert [g.index for g in load.gpus if g.apart] == [3]


def test_a_cell_between_two_samples_is_seen_by_those_before_it() -> None:
    from types import SimpleNamespace

    from pytest_h20.run.machines import Watched

    real, fast = (Watched(SimpleNamespace(clock=SimpleNamespace(scale=s), required=()), "sglang", None) for s in (1.0, 60.0))  # type: ignore[arg-type]
    assert real.span(100.0, 100.1) == (95.1, 100.1)
    assert real.span(100.0, 107.0) == (100.0, 107.0)
    assert fast.span(100.0, 101.0) == (96.0, 101.0)
    assert fast.span(100.0, 102.5) == (100.0, 102.5)
