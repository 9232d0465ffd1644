"""Whatever a server sends, reading it gives a value or an ``H20Error`` in bounded time and memory, and a check gives verdicts."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.cluster.http import ask
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint import wire
from pytest_h20.endpoint.client import Api, load_sum
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.endpoint.reply import read_error, read_reply, read_usage
from pytest_h20.endpoint.sse import read_stream
from pytest_h20.endpoint.wire import Exchange, Piece, Wire
from pytest_h20.load.http1 import ProtocolError, Response
from tests.unit.checks.endpoint.running import ALL, run
from tests.unit.endpoint import recorded
from tests.unit.endpoint.liars import ODD_JSON, drip, endless, server
from tests.unit.mutants import mutate_bytes

ANSWERS = [recorded.recorded(server, name) for server in recorded.SERVERS for name in recorded.names(server)]
FIELDS = (
    "index",
    "role",
    "content",
    "reasoning",
    "finish_reason",
    "token_ids",
    "logprobs",
    "tool_calls",
    "message",
    "delta",
    "text",
    "usage",
    "choices",
    "top_logprobs",
    "logprob",
    "tokens",
    "token_logprobs",
    "bytes",
    "function",
    "arguments",
    "object",
    "error",
    "detail",
    "id",
    "prompt_tokens",
    "completion_tokens_details",
    "model",
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(ANSWERS), st.randoms(use_true_random=False))
def test_a_changed_answer_is_read_or_refused(answer: Exchange, rng: random.Random) -> None:
    body = mutate_bytes(rng, answer.body)
    with suppress(H20Error):
        repr(read_reply(recorded.exchange(answer.status, answer.header("content-type"), body)))
    assert read_error(500, body).status == 500
    read_stream([Piece(0.0, body[: len(body) // 2]), Piece(0.1, body[len(body) // 2 :])])
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(answer.body)
    with suppress(ProtocolError):
        Response().feed(mutate_bytes(rng, head + answer.body + b"\r\n0\r\n\r\n"))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(ANSWERS), st.sampled_from(FIELDS), ODD_JSON)
def test_a_field_of_another_type_is_read_or_refused(answer: Exchange, name: str, value: object) -> None:
    def changed(node: object) -> object:
        if isinstance(node, dict):
            return {k: value if k == name else changed(v) for k, v in node.items()}
        return [changed(v) for v in node] if isinstance(node, list) else node

    kind = answer.header("content-type")
    if "event-stream" in kind:
        events = [line[6:] for line in answer.body.decode().split("\n\n") if line.startswith("data: {")]
        body = "".join(f"data: {json.dumps(changed(json.loads(e)))}\n\n" for e in events).encode()
    elif "json" in kind:
        body = json.dumps(changed(json.loads(answer.body))).encode()
    else:
        return
    with suppress(H20Error):
        reply = read_reply(recorded.exchange(answer.status, kind, body))
        assert all(isinstance(c.said, str) for c in reply.ok().choices)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ODD_JSON)
def test_any_json_where_counts_are_looked_for(value: object) -> None:
    read_usage(value)
    load_sum(value)
    load_sum({"loads": value})
    load_sum([{"num_reqs": value}])


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000])
def test_json_without_a_bottom(deep: bytes) -> None:
    with pytest.raises(H20Error):
        read_reply(recorded.exchange(200, "application/json", deep))
    assert read_error(500, deep).style == "text"
    assert read_stream([Piece(0.0, b"data: " + deep + b"\n\n")]).problems


QUICK = [c for c in ALL.values() if c.id not in ("endpoint.disconnect", "endpoint.slow_client", "endpoint.openai_client", "answers.needle")]


@pytest.mark.parametrize("check", QUICK, ids=lambda c: c.id)
def test_a_whole_check_of_a_lying_server_ends_in_verdicts(check: object, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    true = Wire.exchange

    def lie(self: Wire, request: wire.Request, deadline_s: float, **how: object) -> Exchange:
        said = true(self, request, deadline_s, **how)  # type: ignore[arg-type]
        if rng.random() < 0.3:
            return said
        return dataclasses.replace(said, pieces=tuple(Piece(p.at_s, mutate_bytes(rng, p.data)) for p in said.pieces))

    monkeypatch.setattr(Wire, "exchange", lie)
    for _ in range(2):
        assert all(isinstance(v, Verdict) for v in run(check))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ servers that do not end


@pytest.mark.parametrize("what", [b"X: y\r\n", b"x"], ids=["headers", "body"])
def test_a_server_that_drips_is_left_at_the_deadline(what: bytes) -> None:
    with server(drip(what)) as url:
        began = time.monotonic()
        with pytest.raises(TransportError, match=r"within 0.3 s|no end of headers"):
            ask(url, "/health", timeout=0.3)
        assert time.monotonic() - began < 3


def test_an_answer_without_an_end_is_left_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_ANSWER", 2**20)
    with server(endless) as url, pytest.raises(TransportError, match="more than 1 MiB and no end"):
        ask(url, "/health", timeout=30)


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"5_0", b"f" * 5000, b""])
def test_a_chunk_size_is_hex_digits(size: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello\r\n"
    with server(lambda c: c.sendall(answer)) as url, pytest.raises(TransportError, match="not a chunk size"):
        ask(url, "/health", timeout=5)


def test_an_answer_that_is_cut_is_no_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"
    with server(lambda c: c.sendall(answer)) as url, pytest.raises(TransportError, match="cut after 5 bytes"):
        ask(url, "/health", timeout=5)


def test_a_context_of_ten_to_the_22_tokens_is_not_believed() -> None:
    """Prompts of that length would be built in our own memory."""
    listed = json.dumps({"object": "list", "data": [{"id": "m", "max_model_len": 10**22}]}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(listed) + listed
    with server(lambda c: c.sendall(answer)) as url:
        assert Api(EndpointContext(url, "vllm", "0.32.0", "m", max_model_len=2048)).max_len == 2048


def test_running_requests_are_counted_once_over_the_ranks_of_one_engine() -> None:
    """Every tensor-parallel rank of SGLang has a copy of the gauge."""
    gauges = "".join(f'sglang:num_running_reqs{{tp_rank="{rank}"}} 5\n' for rank in range(16)).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(gauges) + gauges
    with server(lambda c: c.sendall(answer)) as url:
        assert Api(EndpointContext(url, "sglang", "0.4.4", "m")).metrics().running == 5
