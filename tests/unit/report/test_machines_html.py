"""The page's part about the machines under load: one line per GPU, the odd one out in colour, kernel lines on the time axis."""

from __future__ import annotations

import re

from pytest_h20.core.verdict import GateName
from pytest_h20.report.html.machines import machines
from pytest_h20.report.model import CellLoad, GpuLoad, HostLoad, KernelLine

SERIES = tuple((float(second), 1980.0 - second % 3) for second in range(0, 60, 2))


def gpu(index: int, **fields: object) -> GpuLoad:
    spreads = {"sm_mhz": (1978.0, 1980.0, 1980.0), "power_w": (380.0, 400.0, 410.0)}
    return GpuLoad(node="node01", index=index, serial=f"165{index}", spreads=spreads, series={"sm_mhz": SERIES}, samples=30, **fields)


def load(*gpus: GpuLoad, **fields: object) -> CellLoad:
    hosts = {"node01": HostLoad(run_queue=(1.0, 3.0, 9.0), memory_bytes=2**30, rails={"mlx5_1/1": {"port_xmit_data": 2_000_000_000}})}
    return CellLoad(engine="sglang", cell="in128-out128-c8", seconds=60.0, gpus=gpus, hosts=hosts, **fields)


def line(**fields: object) -> KernelLine:
    said = {"node": "node01", "gate": GateName.THROUGHPUT, "severity": "reset", "meaning": "Xid 145: NVLink", "text": "[1.0] <b>"}
    return KernelLine(**{**said, **fields})


def test_a_quiet_cell_is_folded_and_every_gpu_has_its_line() -> None:
    page = str(machines([load(*map(gpu, range(8)), energy_wh_per_1k=17.13)], []))
    assert page.count("<polyline") == 8
    assert "h20-odd" not in page
    assert re.search(r"<details>", page)
    assert "8 GPUs, 1\u202f980 MHz, 400 W, 17.1 Wh per 1,000 tokens (GPUs alone)" in page
    assert "rails carried 2 GB" in page
    assert "containers hold 1.0 GiB" in page


def test_the_odd_one_is_open_coloured_and_named() -> None:
    page = str(machines([load(*map(gpu, range(7)), gpu(7, apart="node01 GPU 7: SM clock 1188 MHz"))], []))
    assert "<details open>" in page
    assert page.count('class="h20-odd"') == 1
    assert "serial 1657" in page
    assert "SM clock 1188 MHz" in page


def test_a_throttled_gpu_is_odd_and_one_at_its_power_limit_is_not() -> None:
    assert "h20-odd" in str(machines([load(gpu(0, throttled={"hw_power_brake_slowdown": 3}))], []))
    assert "h20-odd" not in str(machines([load(gpu(0, throttled={"sw_power_cap": 30}))], []))


def test_a_kernel_line_lies_on_the_time_axis_of_its_cell() -> None:
    page = str(machines([load(gpu(0))], [line(engine="sglang", cell="in128-out128-c8", after_s=30.0)]))
    mark = re.search(r'class="h20-kernel"', page)
    assert mark is not None
    assert 'x1="164.0"' in page
    assert "Xid 145: NVLink" in page
    assert "&lt;b&gt;" in page
    assert "outside of the cells" not in page


def test_a_line_outside_of_the_cells_comes_last() -> None:
    page = str(machines([load(gpu(0))], [line(), line(severity="info", meaning="came up")]))
    assert "Kernel lines outside of the cells" in page
    assert "came up" not in page


def test_gaps_and_silent_nodes_are_told() -> None:
    page = str(machines([load(gpu(0), gaps=("node02: nothing about its GPUs",), missing={"node03": "connection refused"})], []))
    assert "nothing about its GPUs" in page
    assert "node03: connection refused" in page


def test_the_engines_own_gauges_are_beside_the_machines() -> None:
    page = str(machines([load(gpu(0), gauges={"running": 200.0, "waiting": 12.0, "kv_use": 0.834, "put_back": 4.0})], []))
    assert "the engine: at most 200 running, at most 12 waiting, 4 put back (preempted or retracted), KV cache at most 83 % in use" in page
    assert "the engine" not in str(machines([load(gpu(0))], []))


def test_many_lines_are_bounded() -> None:
    page = str(machines([], [line(text=f"[{i}.0] x") for i in range(500)]))
    assert "and 480 more" in page
