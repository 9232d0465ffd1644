"""Faults of speed, and of figures that look like speed."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, http, ids


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str, scenario: str = "quick") -> Fault:
    return Fault(name, "throughput", sentence, source, change, ids("throughput", red), phrase, scenario=scenario)


FAULTS = (
    _fault("slow-from-128", "From 128 streams up the engine is half as fast.", "F41, F70; issue 3", http(slow_from=128, slow_factor=2.0),
           "output_throughput mean_tpot_ms", "c200"),
    _fault("slow-prefill", "The first token takes eight times as long.", "chunked prefill set too small", http(ttft_factor=8.0), "output_throughput", "throughput"),
    _fault("one-cell-12-percent-slow", "One cell is 12 % below its limit.", "issue 3", http(cell_factor={"in128-out128-c8": 1 / (0.88 * 0.9)}),
           "output_throughput mean_tpot_ms", "c8"),
    _fault("own-machine-too-busy", "The rehearsal's own machine is so busy that the stand-in is late: nobody's fault, and nothing measured.", "issue 3: load 8 on two cores",
           http(late_s=0.1), "output_throughput mean_tpot_ms", "this machine is too busy to measure"),
    _fault("stalls", "Some streams go silent half-way.", "F18, F69", http(stall_every=50), "sanity", "finished", "quick@60"),
    _fault("early-eos", "Answers end before their exact length.", "ignore_eos is ignored", http(short=0.7), "sanity", "another output length"),
    _fault("double-count", "The server counts every token twice.", "speculative decoding counted wrongly", http("double_count"), "sanity", "another output length"),
    _fault("prefix-cache-inflates", "Prompts come from the prefix cache.", "issue 3: prompts that repeat", http(cache_hit_rate=0.9), "sanity", "prefix cache"),
    _fault("admits-too-few", "The engine runs at most 64 requests at a time.", "--max-running-requests", http(batch=64, running_cap=64), "sanity", "64 running requests"),
    _fault("load-refused", "Every tenth request of a load is refused.", "a full queue", http(fail_rate=0.1, fail_kind="http503"), "sanity", "requests were answered"),
    _fault("streams-cut-under-load", "Connections break under load.", "a proxy or a NAT table", http(fail_rate=0.05, fail_kind="midstream"), "sanity", "requests were answered"),
    _fault("dead-under-load", "The engine stops answering while it is under load.", "F40", http(completion_kills=60), "sanity bringup.stays_up bringup.stops", "rank0 (rank 0) on node01 ended (exit code 1); illegal_memory_access"),
)  # fmt: skip
