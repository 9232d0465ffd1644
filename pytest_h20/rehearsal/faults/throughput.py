"""Faults of speed, and of figures that look like speed."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, http, ids, loading, together


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
    _fault("load-refused", "Every tenth request of a load is refused.", "a full queue", http(fail_rate=0.1, fail_kind="http503"), "sanity after_load", "requests were answered"),
    _fault("streams-cut-under-load", "Connections break under load.", "a proxy or a NAT table", http(fail_rate=0.05, fail_kind="midstream"), "sanity", "requests were answered"),
    _fault("dead-under-load", "The engine stops answering while it is under load.", "F40", http(completion_kills=60), "sanity bringup.stays_up bringup.stops", "rank0 (rank 0) on node01 ended (exit code 1); illegal_memory_access"),
    _fault("rubbish-under-load", "From 33 streams up answers are letters without sense.", "vllm#28830 on H20-3e, sglang#33397", http(rubbish_above=32), "answers", "all of which are right alone"),
    _fault("rubbish-after-100-requests", "After 100 requests answers are letters without sense.", "vllm#52448, #41331", http(rubbish_after=100), "answers", "all of which are right alone"),
    _fault("one-bad-replica", "Of sixteen replicas one answers nonsense.", "a data-parallel rank with damaged weights", together(http(rubbish_replica=16), loading(canaries=0.5, recipe="steady")), "answers", "right, all of which are right alone"),
    _fault("answers-swapped", "One user in a hundred gets another user's answer.", "sglang#25187", together(http(swap_every=100), loading(canaries=0.5, recipe="steady")), "swapped", "belong to somebody else"),
    _fault("twins-disagree", "Of identical prompts in flight at once some get another answer.", "a damaged prefix cache; issue 11", together(http("twins_differ"), loading(canaries=0.15)), "agreement", "say what the same prompt says alone"),
    _fault("never-ends", "After 100 requests answers begin and do not end.", "thinking until the limit; issue 11", http(never_ends_after=100), "cut", "did not end"),
    _fault("blank-under-load", "From 33 streams up answers have no text, and usage is right.", "issue 11", http(blank_above=32), "text", "blank"),
    _fault("flood-under-load", "From 33 streams up answers are exclamation marks.", "sglang#33397", http(flood_above=32), "text", "one token for ever"),
    _fault("spoilt-by-load", "After the heaviest cell no answer is right any more.", "issue 11", http(nonsense_after=100), "after_load", "after 3 cells: 0 of 64 right"),
    _fault("canaries-refused", "Prompts that are text are refused on the load's route.", "a gateway that takes token ids only", http("canaries_refused"), "answers", "answered none rightly even alone"),
    _fault("canaries-off", "The load carries nothing with a known answer.", "load.canaries: 0", loading(canaries=0.0), "answers", "no canary was sent"),
)  # fmt: skip
