"""Roofline, server metrics, sanity rules, results: what is made of the figures."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_h20.load.schema as schema_module
from pytest_h20.core.errors import UsageError
from pytest_h20.core.gpus import GPUS
from pytest_h20.engines.layout import Layout
from pytest_h20.load import Cell, CellResult
from pytest_h20.load.metrics import Rates, RequestRecord, Summary, most_answering
from pytest_h20.load.result import write_json
from pytest_h20.load.roofline import ModelSpec, spec_of
from pytest_h20.load.roofline import decode_bound as bound_of
from pytest_h20.load.sanity import check, judged
from pytest_h20.load.server_metrics import MetricsSample, ServerView, acceptance, parse_metrics, series, view
from pytest_h20.rehearsal.sparse import R1_CONFIG
from pytest_h20.run.throughput import step_floor_ms
from tests.unit.load.results import GOOD

R1 = cast(ModelSpec, spec_of(R1_CONFIG))
# Research note on engines, section 4.3: batch, TPOT_hw ms.
TABLE = [
    (1, 0.86),
    (2, 1.17),
    (4, 1.77),
    (8, 2.85),
    (16, 4.66),
    (32, 7.16),
    (64, 9.63),
    (100, 10.7),
    (128, 11.0),
    (200, 11.4),
    (256, 11.6),
    (512, 12.5),
    (1024, 17.3),
]

decode_bound = functools.partial(bound_of, gpu=GPUS["10de:2329"])


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"B{row[0]}")
def test_the_research_table_is_reproduced(row: tuple[float, ...]) -> None:
    batch, hardware = row
    assert 1e3 * decode_bound(int(batch), 192, model=R1) == pytest.approx(hardware, rel=0.005)


def test_roofline_edges() -> None:
    apart = decode_bound(64, 4096, model=R1, kv_groups=16)
    assert apart < decode_bound(64, 4096, model=R1), "with DP attention each group has its own cache"
    assert decode_bound(64, gpu=GPUS["10de:20b2"], model=R1) > 0, "an A100 has no FP8: BF16 counts"
    with pytest.raises(UsageError, match="roofline"):
        decode_bound(0, model=R1)


def test_copies_have_the_gpus_and_requests_of_their_own() -> None:
    cell, h20 = Cell(128, 128, 64), GPUS["10de:2329"]
    alone = step_floor_ms(replace(cell, concurrency=32), Layout(8), h20, R1)
    assert step_floor_ms(cell, Layout(8, replicas=2, nodes=2), h20, R1) == pytest.approx(alone), "the floor of one copy with half of them"
    lenient = 1e3 * decode_bound(64, 192, 16, model=R1, kv_groups=2)
    assert lenient < 0.8 * alone, "a client that counts wrongly by a fifth is below the floor of a copy, and above that of all GPUs"
    joined = step_floor_ms(cell, Layout(8, replicas=2, nodes=2, joined=True), h20, R1)
    assert lenient < joined < alone, "copies that share their experts hold everything else twice"
    assert step_floor_ms(cell, Layout(16, nodes=2), h20, R1) == pytest.approx(1e3 * decode_bound(64, 192, 16, model=R1))


def test_a_model_is_what_its_config_says() -> None:
    assert R1.active_parameters == pytest.approx(36.63e9, rel=0.002)
    assert R1.kv_bytes_per_token == 70_272
    half = spec_of({**R1_CONFIG, "num_hidden_layers": 32})
    assert half is not None
    assert half.kv_bytes_per_token == 32 * 576 * 2
    assert decode_bound(8, model=half) < decode_bound(8, model=R1)
    for other in ({"model_type": "llama"}, {"kv_lora_rank": None}, {"quantization_config": None}):
        assert spec_of({**R1_CONFIG, **other}) is None


# ---- /metrics ----------------------------------------------------------------------------------------------------
def test_metrics_of_both_engines_as_recorded(transcripts: Path) -> None:
    vllm = parse_metrics((transcripts / "vllm-0.24.0-h200/api/get-metrics-after.txt").read_text())
    assert vllm == MetricsSample(0, 0, 965, 4443, 943, 496, kv_use=0, preempted=0)
    sglang = parse_metrics((transcripts / "sglang-0.5.16-h200/api/get-metrics-after.txt").read_text())
    assert sglang == MetricsSample(0, 0, 1201, 5401, 1201, 904, 0, kv_use=0, retracted=0)


def test_metrics_of_an_engine_on_two_h200_after_load() -> None:
    """vLLM 0.24.0, DeepSeek-V3-tiny, TP=2 over two nodes, after the suite and a second run (the GPU lab)."""
    sample = parse_metrics((Path(__file__).resolve().parents[2] / "corpus/recorded/vllm-0.24-2xh200-metrics.txt").read_text())
    assert (sample.running, sample.waiting, sample.kv_use, sample.preempted) == (0, 0, 0, 0)
    assert sample.prompt_tokens
    assert sample.generation_tokens
    assert sample.cache_queries
    assert sample.cache_hits is not None
    assert sample.cache_hits < sample.cache_queries


def test_drafts_of_an_engine_on_two_h200() -> None:
    """vLLM 0.24.0 with ``--speculative-config``, DeepSeek-V3-tiny with a layer that proposes poorly; after some of the checks."""
    text = (Path(__file__).resolve().parents[2] / "corpus/recorded/vllm-0.24-mtp-metrics.txt").read_text()
    sample = parse_metrics(text)
    assert (sample.drafts, sample.accepted, sample.accept_length) == (170, 23, None)
    before = parse_metrics("vllm:spec_decode_num_drafts_total 0\nvllm:spec_decode_num_accepted_tokens_total 0\n")
    assert acceptance(before, (), sample) == pytest.approx(1 + 23 / 170)


def test_old_names_ranks_and_engines() -> None:
    old = 'vllm:gpu_prefix_cache_hit_rate{model_name="m"} 0.25\nvllm:num_requests_running{engine="0"} 3.0\n'
    assert parse_metrics(old + 'vllm:num_requests_running{engine="1"} 4\n') == MetricsSample(running=7, cache_rate=0.25)
    ranks = 'sglang:num_running_reqs{tp_rank="0"} 5\nsglang:num_running_reqs{tp_rank="1"} 5\n'
    assert parse_metrics(ranks).running == 5
    between = "vllm:gpu_prefix_cache_queries_total 10\nvllm:gpu_prefix_cache_hits_total 5\nsglang:token_usage NaN\n"
    assert parse_metrics(between) == MetricsSample(cache_queries=10, cache_hits=5)
    assert parse_metrics("") == MetricsSample()
    assert series('# HELP a\na 1\na{x="1"} 2.5 1700000000\na_total 9\nb none\n') == {"a": [1.0, 2.5], "a_total": [9.0]}


def test_the_fullest_cache_counts_and_requests_put_back_are_of_the_cell() -> None:
    text = 'vllm:kv_cache_usage_perc{engine="0"} 0.4\nvllm:kv_cache_usage_perc{engine="1"} 0.9\nvllm:num_preemptions_total 7\n'
    during = parse_metrics(text)
    assert (during.kv_use, during.preempted) == (0.9, 7)
    assert parse_metrics("vllm:gpu_cache_usage_perc 0.5\n").kv_use == 0.5
    seen = view(MetricsSample(preempted=4), [during, MetricsSample(kv_use=0.2)], MetricsSample(preempted=9))
    assert seen is not None
    assert (seen.kv_use_max, seen.put_back) == (0.9, 5)
    gauges = [parse_metrics(f"sglang:num_retracted_reqs {n}\nsglang:token_usage 0.97\n") for n in (0, 3, 1)]
    retracted = view(MetricsSample(running=0), gauges, MetricsSample(running=0))
    assert retracted is not None
    assert (retracted.kv_use_max, retracted.put_back) == (0.97, 3)
    unknown = view(MetricsSample(running=0), [MetricsSample(running=1)], MetricsSample(running=0))
    assert unknown is not None
    assert (unknown.kv_use_max, unknown.put_back) == (None, None)


@given(st.text(max_size=200))
def test_foreign_metrics_say_nothing(text: str) -> None:
    assert parse_metrics("# " + text.replace("\n", " ")) == MetricsSample()
    parse_metrics(text)


def test_a_view_is_of_the_cell_not_of_the_servers_life() -> None:
    before = MetricsSample(0, 0, 1000, 500, 1000, 900)
    after = MetricsSample(0, 0, 1500, 900, 1500, 905)
    during = [MetricsSample(running=3, waiting=1), MetricsSample(running=8, waiting=0)]
    assert view(before, during, after) == ServerView(2, 8, 1, 500, 400, 0.9, 0.01)
    restarted = view(before, [], MetricsSample(0, 0, 5, 5, 5, 0))
    assert restarted is not None
    assert restarted.generation_tokens is None
    assert view(None, [], None) is None
    assert view(MetricsSample(), [MetricsSample()], None) is None
    gauge = view(MetricsSample(cache_rate=0.5), [MetricsSample(cache_rate=0.1)], MetricsSample(cache_rate=0.0))
    assert gauge is not None
    assert (gauge.cache_hit_rate_before, gauge.cache_hit_rate) == (0.5, 0.1)


# ---- sanity ------------------------------------------------------------------------------------------------------


def with_part(part: str, **changes: Any) -> CellResult:
    return replace(GOOD, **{part: replace(getattr(GOOD, part), **changes)})


def findings(result: CellResult, floor: float | None = 9.6) -> dict[str, str]:
    return {finding.rule: finding.status for finding in check(result, floor)}


def test_a_sound_cell_passes_every_rule() -> None:
    assert set(findings(GOOD).values()) == {"ok"}
    assert judged(GOOD, 9.6).trustworthy
    assert not GOOD.trustworthy  # nobody looked


BROKEN: list[tuple[str, str, CellResult]] = [
    ("finished", "failed", with_part("requests", complete=191, failed=1, outcomes={"ok": 191, "timeout": 1})),
    (
        "finished",
        "failed",
        replace(with_part("requests", sent=64, complete=64, failed=128, outcomes={"ok": 64, "not_sent": 128}), stopped="server_gone"),
    ),
    ("finished", "failed", with_part("requests", complete=0, failed=192, outcomes={"refused": 192})),
    ("usage", "failed", with_part("tokens", wrong_output=3, output=24500)),
    ("usage", "failed", with_part("tokens", wrong_input=1)),
    ("usage", "failed", with_part("requests", outcomes={"ok": 191, "uncounted": 1})),
    ("littles_law", "failed", with_part("flight", mean=60.0)),
    ("littles_law", "failed", with_part("flight", steady_mean=50.0)),
    ("littles_law", "unknown", replace(GOOD, whole=None)),
    ("steady_part", "unknown", with_part("steady", seconds=10.0)),
    ("steady_part", "unknown", replace(GOOD, steady=None)),
    ("tpot_floor", "failed", with_part("tpot", mean=9.0)),
    ("server_running", "failed", with_part("server", running_max=48)),
    ("server_running", "unknown", with_part("server", running_max=48, samples=2)),
    ("server_running", "unknown", replace(GOOD, server=None)),
    ("server_tokens", "failed", with_part("server", generation_tokens=50000)),
    ("server_tokens", "failed", with_part("server", generation_tokens=12000)),
    ("prefix_cache", "failed", with_part("server", cache_hit_rate=0.5)),
    ("prefix_cache", "failed", replace(with_part("tokens", cached=20000), server=None)),
    ("clock", "failed", with_part("client", clock_backwards=1)),
    ("clock", "failed", with_part("client", clock_drift_s=-3600.0)),
    ("clock", "failed", with_part("client", clock_steps=1)),
    ("client", "failed", with_part("selfcheck", ttft_error=0.021)),
    ("client", "unknown", with_part("selfcheck", ttft_error=None)),
    ("client", "unknown", with_part("selfcheck", concurrency=32)),
    ("client", "unknown", replace(GOOD, selfcheck=None)),
    ("schedule", "failed", replace(GOOD, arrivals="poisson", lag=replace(GOOD.ttft, p99=900.0))),
]


@pytest.mark.parametrize(("rule", "status", "broken"), BROKEN, ids=[f"{r}-{i}" for i, (r, _, _) in enumerate(BROKEN)])
def test_each_rule_has_its_fault(rule: str, status: str, broken: CellResult) -> None:
    found = findings(broken)
    assert found[rule] == status
    blocking = {f.rule for f in judged(broken, 9.6).blockers}
    if status == "failed" or rule in ("littles_law", "client"):
        assert rule in blocking
        assert not judged(broken, 9.6).trustworthy


def test_a_client_that_was_late_itself_is_told_as_that() -> None:
    def text(result: CellResult, rule: str) -> str:
        return next(f.text for f in judged(result).sanity if f.rule == rule)

    assert "too busy" in text(with_part("flight", mean=70.0), "littles_law"), "more in flight than the answers account for"
    assert "too busy" not in text(with_part("flight", mean=60.0), "littles_law"), "fewer is no lateness"
    assert "too busy" in text(with_part("selfcheck", ttft_error=0.05, server_lag_s=0.04), "client")
    assert "too busy" not in text(with_part("selfcheck", ttft_error=0.05, server_lag_s=0.0), "client"), "a client that is just slow"


def test_rules_know_what_they_cannot_know() -> None:
    assert findings(GOOD, floor=None)["tpot_floor"] == "unknown"
    assert findings(replace(GOOD, cell=Cell(128, 1, 64), tpot=Summary(0)))["tpot_floor"] == "ok"
    assert findings(replace(GOOD, recipe="blog", steady=Rates(1.0, 1, 1, 2, 1)))["steady_part"] == "ok"
    assert findings(replace(with_part("server", cache_hit_rate=0.6), prompts="multi-turn, 3 turns"))["prefix_cache"] == "ok"
    lost = with_part("requests", complete=190, failed=2, outcomes={"ok": 190, "cut": 2})
    assert findings(lost)["server_tokens"] == "unknown"
    assert findings(replace(GOOD, client=None))["clock"] == "unknown"


@pytest.mark.parametrize(
    ("tpot", "accepted", "drafts", "status"),
    [
        (9.0, None, None, "failed"),  # one token a step, and faster than the hardware
        (5.0, 2.4, 4.0, "ok"),  # 2.4 tokens a step
        (5.0, 2.4, None, "ok"),  # the server tells of drafts that nobody announced
        (3.0, 2.4, 4.0, "failed"),  # not even so many explain it
        (9.0, 1.0, 4.0, "failed"),  # it drafts, and nothing is accepted
        (3.0, None, 4.0, "ok"),  # it does not tell how many, four at most
        (2.0, None, 4.0, "failed"),
        (2.0, None, 0.0, "unknown"),  # nobody tells anything
    ],
)
def test_the_hardwares_bound_of_a_step_is_shared_by_the_tokens_of_a_step(
    tpot: float, accepted: float | None, drafts: float | None, status: str
) -> None:
    result = replace(with_part("tpot", mean=tpot), server=replace(GOOD.server, acceptance=accepted)) if GOOD.server else GOOD
    found = next(f for f in judged(result, 9.6, drafts).sanity if f.rule == "tpot_floor")
    assert found.status == status, found.text
    assert found.blocks is (status == "failed")


def test_accepted_drafts_are_counted_by_each_engines_own_figures() -> None:
    counters = "vllm:spec_decode_num_drafts_total {}\nvllm:spec_decode_num_accepted_tokens_total {}\n"
    before, after = parse_metrics(counters.format(100, 150)), parse_metrics(counters.format(300, 430))
    assert acceptance(before, [], after) == pytest.approx(2.4)
    assert acceptance(before, [], before) is None  # nothing was drafted
    assert acceptance(after, [], before) is None  # the server started anew
    gauge = 'sglang:spec_accept_length{{tp_rank="0",dp_rank="0"}} {}\nsglang:spec_accept_length{{tp_rank="0",dp_rank="1"}} {}\n'
    looks = [parse_metrics(gauge.format(*pair)) for pair in ((2.0, 3.0), (0.0, 3.5), (0.0, 0.0))]
    assert acceptance(looks[2], looks[:2], looks[2]) == pytest.approx(3.0)
    assert acceptance(looks[2], [], looks[2]) is None  # 0: no drafts
    server = view(before, [], after)
    assert server is not None
    assert server.acceptance == pytest.approx(2.4)


def bursty(answering: int | None, **server: Any) -> CellResult:
    """SGLang 0.5.16 on an H200: its gauge showed 26 of 256 in 6 looks, its own log had 256."""
    result = with_part("server", running_max=26.0, samples=6, **server)
    return replace(
        result, cell=Cell(128, 128, 256), requests=replace(GOOD.requests, planned=512), flight=replace(GOOD.flight, answering=answering)
    )


@pytest.mark.parametrize(
    ("answering", "put_back", "status"),
    [(256, None, "ok"), (244, 0.0, "ok"), (242, 0.0, "failed"), (26, 0.0, "failed"), (256, 9.0, "failed"), (None, 0.0, "failed")],
)
def test_answers_side_by_side_show_the_bursts_that_a_gauge_misses(answering: int | None, put_back: float | None, status: str) -> None:
    result = bursty(answering, put_back=put_back)
    finding = next(f for f in judged(result).sanity if f.rule == "server_running")
    assert finding.status == status
    assert ("between the looks" in finding.text) == (status == "ok")


def test_answers_are_counted_from_their_first_to_their_last_token() -> None:
    def record(sent: float, ttft: float | None, tokens: int, tpot: float | None = 0.1) -> RequestRecord:
        part = RequestRecord(
            1, "ok", "", 200, sent, 9.0, ttft, tpot, 9.0, 8, tokens, 8, tokens, None, None, tokens, 0, "length", None, None, False
        )
        return replace(part, tpot_s=tpot if tokens > 1 else None)

    waits = [record(0.0, 1.0, 11), record(0.0, 2.0, 11), record(0.0, 3.0, 11)]  # all in flight at once, each computed after the other
    assert most_answering(waits) == 1
    assert most_answering([record(0.0, 1.0, 11), record(0.0, 1.5, 11), record(0.0, 3.0, 11)]) == 2
    assert most_answering([record(0.0, 1.0, 1), record(0.0, None, 11)]) is None
    assert most_answering([]) is None


def test_sglang_does_not_show_short_answers_running() -> None:
    """Seen on SGLang 0.5.16: a gauge that is refreshed every 40 steps stayed at 0 while 32 tokens at a time were made."""
    idle = replace(with_part("server", running_max=0.0, samples=4), dialect="sglang")
    assert findings(replace(idle, cell=Cell(32, 32, 64)))["server_running"] == "unknown"
    assert findings(idle)["server_running"] == "failed"


def test_one_token_of_a_short_prompt_may_be_found_again() -> None:
    short = Cell(32, 32, 4)
    assert findings(replace(with_part("server", cache_hit_rate=1 / 32), cell=short))["prefix_cache"] == "ok"
    assert findings(replace(with_part("server", cache_hit_rate=2 / 32), cell=short))["prefix_cache"] == "failed"


# ---- results -----------------------------------------------------------------------------------------------------
def test_results_survive_json_and_follow_the_schema() -> None:
    result = judged(GOOD, 9.6)
    document = json.loads(json.dumps(result.to_json()))
    assert CellResult.from_json(document) == result
    stored = json.loads((Path(schema_module.__file__).parent / "schema.json").read_text())
    assert stored == schema_module.build(), "run python -m pytest_h20.load.schema > pytest_h20/load/schema.json"
    jsonschema.Draft202012Validator.check_schema(stored)
    validator = jsonschema.Draft202012Validator(stored)
    validator.validate(document)
    for field, value in (("seed", "x"), ("cell_id", "c1"), ("more", 1)):
        assert not validator.is_valid({**document, field: value})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema": 99}, "schema 99"),
        ({"seed": "x"}, "seed"),
        ({"more": 1}, "unknown fields more"),
        ({"ttft": 3}, "ttft: an object"),
        ({"notes": "x"}, "notes: a list"),
        ({"cell": {"input_len": 1}}, "cell"),
    ],
)
def test_wrong_results_are_refused_by_field(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        CellResult.from_json({**GOOD.to_json(), **change})


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(str(path), {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(str(path), {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(UsageError, match="cannot write"):
        write_json(str(tmp_path / "no" / "a.json"), {})
