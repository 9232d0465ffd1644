"""What a figure means, whoever writes a limit for it: which direction is better, its unit, and the values that can be true.

A limits file chooses how good is good enough. It cannot choose that slow is good, that 55 ms are written as 55600 µs, or that a
bound holds when it is missed by 99 %.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """One figure that can be limited. ``low`` … ``high``: a limit outside of it is a wrong unit or a slip of the pen."""

    title: str
    unit: str
    better: Direction
    low: float
    high: float

    @property
    def bound(self) -> Literal["min", "max"]:
        """The kind of limit that means "good enough"."""
        return "min" if self.better == "higher" else "max"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of limit that can be written for it."""
        return (self.bound, "within", *(("ratio",) if self.better == "higher" else ()), "info")


_STATISTICS = {"mean": "Mean", "median": "Median", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_TIMES = {"ttft": (0.1, 120_000.0), "tpot": (0.1, 10_000.0), "itl": (0.01, 10_000.0), "e2e": (1.0, 3_600_000.0)}

METRIC_FIGURES: dict[str, Figure] = {
    "output_throughput": Figure("Output throughput", "tok/s", "higher", 0.1, 1e6),
    "input_throughput": Figure("Input throughput", "tok/s", "higher", 0.001, 1e8),
    "total_throughput": Figure("Total throughput", "tok/s", "higher", 0.001, 1e8),
    "longest_silence_ms": Figure("Longest silence of a stream", "ms", "lower", 1.0, 3_600_000.0),
    "tokens_per_arrival": Figure("Tokens that arrive at once", "tokens", "lower", 1.0, 1e5),
    "request_throughput": Figure("Request throughput", "requests/s", "higher", 1e-5, 1e6),
    **{
        f"{name}_{time}_ms": Figure(f"{word} {time.upper()}", "ms", "lower", low, high)
        for time, (low, high) in _TIMES.items()
        for name, word in _STATISTICS.items()
    },
}
"""The figures of a load cell, by the names they have in limits files, CSV and verdicts."""

_PERCENTILE = re.compile(r"p([1-9]\d?|99\.9)_(ttft|tpot|itl|e2e)_ms")


def percentile_of(metric: str) -> float | None:
    """75 of ``p75_ttft_ms``; None for a figure that is no percentile."""
    found = _PERCENTILE.fullmatch(metric)
    return float(found[1]) if found else None


def metric_figure(metric: str) -> Figure | None:
    """The figure of a load cell by its name: one of :data:`METRIC_FIGURES`, or any percentile of a time (``p1`` to ``p99``, ``p99.9``)."""
    known = METRIC_FIGURES.get(metric)
    if known is not None or percentile_of(metric) is None:
        return known
    percent, time, _ = metric.split("_")
    return Figure(f"{percent} {time.upper()}", "ms", "lower", *_TIMES[time])


CHECK_FIGURES: dict[str, Figure] = {
    "answers.accuracy": Figure("Lower bound of the share of right answers", "", "higher", 0.01, 1.0),
    "bringup.first_completion": Figure("First completion after the ready line", "s", "lower", 0.01, 3600.0),
    "bringup.ready": Figure("From the first container to the ready line", "s", "lower", 1.0, 86_400.0),
    "compute.all_reduce": Figure("Bus bandwidth of all-reduce inside a node", "GB/s", "higher", 0.1, 1e5),
    "compute.gemm_bf16": Figure("Matrix products in BF16", "TFLOP/s", "higher", 0.1, 1e6),
    "compute.gemm_fp32": Figure("Matrix products in FP32", "TFLOP/s", "higher", 0.1, 1e6),
    "compute.gemm_fp8": Figure("Matrix products in FP8", "TFLOP/s", "higher", 0.1, 1e6),
    "compute.hbm": Figure("Bandwidth of GPU memory", "GB/s", "higher", 1.0, 1e6),
    "compute.host_link": Figure("Bandwidth between host and GPU", "GB/s", "higher", 0.1, 1e5),
    "compute.nvlink": Figure("Bandwidth from GPU to GPU", "GB/s", "higher", 0.1, 1e5),
    "compute.power": Figure("Power of the GPUs under a burn", "W", "higher", 1.0, 1e5),
    "endpoint.determinism": Figure("Share of equal repeats", "", "higher", 0.01, 1.0),
    "endpoint.disconnect": Figure("From a client's end to the end of its request", "s", "lower", 0.01, 600.0),
    "endpoint.prefix_reuse": Figure("Share of equal answers with a cached prefix", "", "higher", 0.01, 1.0),
    "environment.clock_skew": Figure("Clocks of two nodes differ by", "s", "lower", 0.0, 3600.0),
    "environment.clock_to_us": Figure("A node's clock differs from ours by", "s", "lower", 0.0, 3600.0),
    "environment.docker_disk": Figure("Free space where docker keeps its data", "GiB", "higher", 0.1, 1e7),
    "environment.gpu_idle": Figure("Memory in use per idle GPU", "MiB", "lower", 0.0, 1e6),
    "environment.gpu_memory": Figure("Memory per GPU", "MiB", "higher", 1.0, 1e7),
    "environment.gpu_temperature": Figure("Temperature of idle GPUs", "C", "lower", 1.0, 120.0),
    "environment.nofile": Figure("Open files in the container", "files", "higher", 1.0, 1e10),
    "environment.nvlink": Figure("Active NVLinks per GPU", "links", "higher", 1.0, 1000.0),
    "environment.run_disk": Figure("Free space for a run's logs", "GiB", "higher", 0.1, 1e7),
    "environment.shm": Figure("/dev/shm in the container", "GiB", "higher", 0.01, 1e6),
    "environment.stack": Figure("Stack in the container", "KiB", "higher", 1.0, 1e10),
    "environment.swap": Figure("Swap in use", "MiB", "lower", 0.0, 1e8),
    "environment.uptime": Figure("Time since the last boot", "h", "higher", 0.01, 1e6),
    "fabric.all_reduce": Figure("Bus bandwidth of all-reduce", "GB/s", "higher", 0.1, 1e5),
    "fabric.gpu_read_bw": Figure("ib_read_bw from GPU memory to GPU memory", "Gbit/s", "higher", 0.1, 1e5),
    "fabric.gpu_write_bw": Figure("ib_write_bw from GPU memory to GPU memory", "Gbit/s", "higher", 0.1, 1e5),
    "fabric.ib_write_bw": Figure("ib_write_bw to the peer rail", "Gbit/s", "higher", 0.1, 1e5),
    "fabric.link_flaps": Figure("Link downs per rail and day", "link downs in 24 h", "lower", 0.0, 1e4),
    "fabric.rails_together": Figure("All rails of a node at once", "Gbit/s", "higher", 0.1, 1e6),
    "fabric.rate": Figure("Line rate of a rail", "Gbit/s", "higher", 1.0, 1e5),
    "fabric.width": Figure("Lanes of a rail", "lanes", "higher", 1.0, 64.0),
}
"""The checks whose figure can be limited. All others are right or wrong: nobody can ask for "a little wrong"."""
