"""The load client against text that no sane server sends: a value, a ``ProtocolError`` or nothing, and soon."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.core.errors import H20Error
from pytest_h20.load import server_metrics
from pytest_h20.load.bench_serving import parse_sglang, parse_vllm
from pytest_h20.load.cells import Cell
from pytest_h20.load.http1 import ProtocolError, Response
from pytest_h20.load.server_metrics import get_text, parse_metrics
from pytest_h20.load.target import Target
from pytest_h20.load.wire import read_answer
from tests.unit.endpoint.liars import drip, endless, server
from tests.unit.load.streams import CHAT, HEAD, chunked, event, text
from tests.unit.mutants import mutate, mutate_bytes

GENERATE = tuple(
    event({"text": "a" * n, "meta_info": {"finish_reason": None, "prompt_tokens": 3, "completion_tokens": n, "cached_tokens": 0}})
    for n in range(1, 5)
)
PLAIN = (event(text("x")), event(text("y", "stop", usage={"prompt_tokens": 7, "completion_tokens": 2})), b"data: [DONE]\n\n")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from([("chat", CHAT), ("generate", GENERATE), ("completions", PLAIN)]), st.randoms(use_true_random=False))
def test_a_changed_stream_is_read_or_refused(case: tuple[str, tuple[bytes, ...]], rng: random.Random) -> None:
    kind, events = case
    raw = HEAD + chunked(*(mutate_bytes(rng, e) if rng.random() < 0.5 else e for e in events))
    raw = mutate_bytes(rng, raw) if rng.random() < 0.3 else raw
    half = len(raw) // 2
    with suppress(ProtocolError):
        read_answer(kind, [1.0, 2.0], [raw[:half], raw[half:]], want_text=True)
    response = Response()
    with suppress(ProtocolError):
        response.feed(raw[:half])
        response.feed(raw[half:])


@pytest.mark.parametrize("value", ["1e", "+-", "", "nan", "9" * 5000, "\u0663"])
def test_an_odd_line_of_metrics(value: str) -> None:
    for labels in ("", '{a="}', '{a="b"}'):
        parse_metrics(f"vllm:num_requests_running{labels} {value}\n")


def test_metrics_that_drip_or_never_end_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_metrics, "MOST", 2**20)
    for serve in (drip(b"X: y\r\n"), drip(b"x"), endless):
        with server(serve) as url:
            target = Target(url=url, model="m", dialect="vllm")
            address = target.metrics_address()
            assert address is not None
            began = time.monotonic()
            assert get_text(target, address, "/metrics", 0.4) is None
            assert time.monotonic() - began < 3


def test_metrics_of_a_sane_server() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with server(lambda c: c.sendall(answer)) as url:
        target = Target(url=url, model="m", dialect="vllm")
        address = target.metrics_address()
        assert address is not None
        assert get_text(target, address, "/metrics", 5.0) == "hello"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_changed_result_of_a_foreign_benchmark_is_read_or_refused(rng: random.Random) -> None:
    row = (
        '{"model_id": "m", "num_prompts": 8, "completed": 8, "duration": 2.5, "total_input_tokens": 800, "total_output_tokens": 800, '
        '"output_throughput": 320.0, "mean_ttft_ms": 10.1, "mean_tpot_ms": 2.2, "p99_ttft_ms": 1, "concurrency": 7.9, "errors": ["", "x"], '
        '"output_lens": [100, 100], "latencies": [0.1, 0.2], "max_concurrent_requests": 8, "mean_e2e_latency_ms": 20}'
    )
    for parse in (parse_sglang, parse_vllm):
        with suppress(H20Error):
            repr(parse(mutate(rng, row), Cell(100, 100, 8)))
