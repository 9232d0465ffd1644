"""Cells after the matrix: how large they are made, and what an engine says of its KV cache."""

from __future__ import annotations

import math
import random

import pytest

from pytest_h20.checks.beyond import OVER
from pytest_h20.config.limits import parse_limits
from pytest_h20.core.errors import UsageError
from pytest_h20.load.cells import Cell
from pytest_h20.load.plan import Slo
from pytest_h20.load.target import Target
from pytest_h20.run import beyond
from pytest_h20.run.beyond import kv_pool, overload_cell, sweep
from pytest_h20.run.forecast import _beyond


@pytest.mark.parametrize("pool", [4_000, 56_000, 262_144, 626_000, 4_000_000])
def test_an_overload_asks_for_more_than_there_is(pool: int) -> None:
    cell = overload_cell(pool, 163_840)
    assert OVER * pool <= cell.concurrency * (cell.input_len + cell.output_len) <= OVER * pool + 2 * cell.concurrency
    assert cell.input_len + cell.output_len <= 163_840
    assert cell.output_len <= beyond.OVERLOAD_OUTPUT


def test_no_request_of_it_is_longer_than_the_context() -> None:
    cell = overload_cell(501_472, 2_048)
    assert cell.input_len + cell.output_len <= 2_048
    assert cell.concurrency * (cell.input_len + cell.output_len) >= OVER * 501_472


def test_the_sweep_has_as_many_short_requests_as_long_ones() -> None:
    lengths = sweep(7, 163_840, 2_000)
    assert sweep(7, 163_840, 2_000) == lengths
    for at, (low, high) in ((0, beyond.SHAPE_INPUT), (1, beyond.SHAPE_OUTPUT)):
        values = [pair[at] for pair in lengths]
        assert low <= min(values)
        assert max(values) <= high
        middle = math.sqrt(low * high)
        assert 0.45 < sum(value < middle for value in values) / len(values) < 0.55, "log-uniform"
    assert len(set(sweep(7, 163_840))) >= 20


def test_a_short_context_bounds_the_sweep() -> None:
    assert all(i + o <= 512 for i, o in sweep(7, 512))


@pytest.mark.parametrize(("context", "words"), [(4_096, (170, 682)), (163_840, (600, 2_400)), (1_024, (42, 170))])
def test_the_short_prompts_of_the_long_work_fit_the_context(context: int, words: tuple[int, int]) -> None:
    """A tiny vocabulary has three tokens a word: 2,400 words were 7,000 tokens, and an engine of 4,096 was never measured."""
    assert beyond.short_words(context) == words
    assert 3 * words[1] + 256 < context


@pytest.mark.parametrize("context", [1_024, 4_096, 8_192, 32_768])
def test_a_long_prompt_leaves_room_for_its_answer(context: int) -> None:
    """Of a vocabulary with one to three tokens a word. An engine's refusal of more than it claims was called its fault."""

    def tokens(text: str) -> int:
        return 40 + sum(1 + len(word) % 3 for word in text.split())

    codes = [str(12345 + at) for at in range(20)]
    few, more = beyond.short_words(context)
    for seed in range(25):
        dice = random.Random(seed)
        measured = [(words, tokens(beyond.sought_text(words, codes, dice))) for words in (few, more)]
        wanted, words = beyond.long_words(context, beyond.LONG_SHARE, measured)
        text = beyond.sought_text(words, codes, dice)
        assert 0.9 * wanted < tokens(text) <= context - 256
        assert [code for code in text.split() if code.strip(".") in codes] == [f"{code}." for code in codes]


METRICS = {
    'sglang:max_total_num_tokens{tp_rank="0",dp_rank="0"} 262144.0\nsglang:max_total_num_tokens{tp_rank="0",dp_rank="1"} 1000.0\n': 263_144,
    'vllm:cache_config_info{block_size="16",engine="0",kv_cache_size_tokens="501472",num_gpu_blocks="31342"} 1.0\n': 501_472,
    'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="1000"} 1.0\n': 16_000,
    "sglang:num_running_reqs 1.0\n": None,
    "": None,
}


@pytest.mark.parametrize(("text", "pool"), METRICS.items())
def test_the_engine_tells_its_kv_cache(text: str, pool: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "get_text", lambda target, address, path, timeout: text if path == "/metrics" else None)
    assert kv_pool(Target("http://h:1", "sglang", "m")) == pool


@pytest.mark.parametrize(("info", "pool"), [('{"max_total_num_tokens": 5000, "dp_size": 2}', 10_000), ("[]", None), ("nonsense", None)])
def test_an_sglang_without_metrics_tells_it_elsewhere(info: str, pool: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "get_text", lambda target, address, path, timeout: info if path == "/get_server_info" else None)
    assert kv_pool(Target("http://h:1", "sglang", "m")) == pool


@pytest.mark.parametrize(
    ("text", "slo"),
    [("ttft=2s,itl=80ms", Slo(2000.0, 80.0)), ("itl=80ms", Slo(None, 80.0)), ("ttft=0.5s", Slo(500.0, None))],
)
def test_a_service_level_is_read(text: str, slo: Slo) -> None:
    assert Slo.parse(text) == slo


@pytest.mark.parametrize("text", ["", "ttft", "ttft=2", "ttft=0s", "tpot=2s", "ttft=2s,ttft=3s", "ttft=-1s", "ttft=2s;itl=80ms"])
def test_a_service_level_that_cannot_be_read_says_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match="ttft=2s,itl=80ms"):
        Slo.parse(text)


def test_the_plan_counts_the_minutes_of_the_cells_after_the_matrix() -> None:
    limits = parse_limits(
        "name: x\norigin: {kind: file}\ncells: [{input: 128, output: 128, concurrency: 16, output_throughput: 100}]", "x.yaml"
    )
    cell = Cell(128, 128, 16)
    rates = {cell: limits.written(cell.id, "output_throughput") or 0.0}
    told = _beyond(("overload", "shapes", "chat", "long"), rates, 8192)
    assert round(told["overload"] / 60, 1) == 12.3, "256 x 256 tokens and 64 requests of 128, at 100 tok/s"
    assert round(told["long"] / 60, 1) == 1.4
    assert _beyond((), rates, 8192) == {}
    assert _beyond(("chat",), {}, 8192) == {}
