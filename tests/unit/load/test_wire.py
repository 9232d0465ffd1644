from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.load.http1 import CRLF2, ProtocolError, Response, chunk
from pytest_h20.load.wire import ONE_TOKEN, Answer, Piece, Run, Skimmer, read_answer
from tests.unit.load.streams import CHAT, HEAD, USAGE, chat, chunked, event, text


def read(kind: str, raw: bytes, cuts: tuple[int, ...] = ()) -> Answer:
    edges = [0, *sorted(set(cuts) & set(range(1, len(raw)))), len(raw)]
    parts = [raw[a:b] for a, b in itertools.pairwise(edges)]
    return read_answer(kind, [float(i + 1) for i in range(len(parts))], parts)


def stamps_of(raw: bytes, needle: bytes, cuts: tuple[int, ...]) -> float:
    """Stamp of the piece that brings the end of the first event containing `needle`."""
    end = raw.index(b"\n\n", raw.index(needle)) + 2
    edges = [*sorted(set(cuts) & set(range(1, len(raw)))), len(raw)]
    return float(next(i + 1 for i, edge in enumerate(edges) if edge >= end))


def test_tokens_are_the_servers_count_and_the_first_may_be_reasoning() -> None:
    raw = HEAD + chunked(*CHAT)
    answer = read("chat", raw, tuple(raw.index(part) + len(part) + 2 for part in CHAT))
    assert answer.output_tokens == 4
    assert answer.prompt_tokens == 7
    assert answer.reasoning_tokens == 2
    assert answer.finish == "stop"
    assert answer.done
    assert answer.first == stamps_of(raw, b"Hm", tuple(raw.index(part) + len(part) + 2 for part in CHAT))
    assert [count for _, count in answer.events] == [1, 2, 3]
    assert answer.last is not None
    assert answer.last > answer.events[-1][0]  # the finish reason brings the end-of-text token, which has no text


@given(st.lists(st.integers(1, 900), max_size=12))
def test_where_the_bytes_are_cut_changes_no_count_and_stamps_follow_the_last_byte(cuts: list[int]) -> None:
    raw = HEAD + chunked(*CHAT[:3], CHAT[3] + CHAT[4], *CHAT[5:])
    answer = read("chat", raw, tuple(cuts))
    whole = read("chat", raw)
    same = ("status", "prompt_tokens", "output_tokens", "finish", "done", "error")
    assert all(getattr(answer, name) == getattr(whole, name) for name in same)
    assert len(answer.events) == 3
    assert answer.first == stamps_of(raw, b"Hm", tuple(cuts))


@given(st.lists(st.integers(1, 700), max_size=10), st.sampled_from(["lf", "crlf"]))
def test_the_end_is_seen_exactly_once_and_only_where_the_quick_test_lets_it(cuts: list[int], newline: str) -> None:
    parts = CHAT if newline == "lf" else tuple(part.replace(b"\n", b"\r\n") for part in CHAT)
    parts = (*parts[:2], b": ping 0\r\n\r\n" if newline == "crlf" else b": ping\n\n", *parts[2:])
    raw = HEAD + chunked(*parts)
    edges = [0, *sorted({c for c in cuts if c < len(raw)}), len(raw)]
    response, held, ends = Response(), b"", []
    for start, end in itertools.pairwise(edges):
        piece = raw[start:end]
        held += piece
        if response.chunks and piece[-4:] != CRLF2 and len(piece) > 3:
            continue  # what the load loop does
        response.feed(held)
        if response.over():
            ends.append(end)
        held = b""
    assert ends == [len(raw)]
    assert response.status == 200
    assert response.keep_alive


def test_crlf_events_comments_and_several_data_lines() -> None:
    body = b": hello\r\n\r\n" + event(text("a"), b"\r\n\r\n") + b'event: x\r\ndata: {"choices": [{"text": "b",\r\n'
    body += b'data: "finish_reason": "length"}]}\r\n\r\n' + event(USAGE, b"\r\n\r\n") + b"data: [DONE]\r\n\r\n"
    for size in (1, 2, 3, 7, 1000):
        raw = HEAD + chunked(*(body[i : i + size] for i in range(0, len(body), size)))
        answer = read("completions", raw, tuple(range(0, len(raw), 5)))
        assert (len(answer.events), answer.finish, answer.output_tokens, answer.done) == (2, "length", 4, True)


def test_generate_counts_by_meta_info_also_where_the_text_is_empty() -> None:
    def step(shown: str, count: int, finish: Any = None) -> bytes:
        meta = {"finish_reason": finish, "prompt_tokens": 11, "completion_tokens": count, "cached_tokens": 10}
        return event({"text": shown, "output_ids": [1] * count, "meta_info": meta})

    tricky = 'say "completion_tokens": 99'
    parts = (step("", 1), step(tricky, 3), step(tricky + ".", 4, {"type": "length", "length": 4}), b"data: [DONE]\n\n")
    raw = HEAD + chunked(*parts)
    answer = read("generate", raw, tuple(raw.index(part) for part in parts))
    assert [count for _, count in answer.events] == [1, 3, 4]
    assert (answer.counted, answer.output_tokens, answer.cached_tokens, answer.finish) == (True, 4, 10, "length")
    assert answer.first == 2.0


def test_continuous_usage_counts_tokens_without_text() -> None:
    def usage(count: int) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": 3, "completion_tokens": count}}

    parts = (event(text("", **usage(1))), event(text("a", **usage(3))), event(text("b", "length", **usage(4))))
    raw = HEAD + chunked(*parts, b"data: [DONE]\n\n")
    answer = read("completions", raw, tuple(raw.index(part) for part in parts))
    assert answer.counted
    assert answer.events == [(2.0, 1), (3.0, 3), (4.0, 4)]
    assert answer.first == 2.0
    assert answer.output_tokens == 4


def test_an_empty_text_is_no_token_and_is_counted_as_such() -> None:
    raw = HEAD + chunked(event(text("")), event(text("a")), event(text("", "length")), event(USAGE))
    answer = read("completions", raw)
    assert answer.empty_before_first == 1
    assert len(answer.events) == 1


@pytest.mark.parametrize(
    ("raw", "status", "error"),
    [
        (b'HTTP/1.1 400 Bad\r\ncontent-length: 46\r\n\r\n{"object":"error","message":"bad","code":400}\n', 400, "bad"),
        (b'HTTP/1.1 404 No\r\ncontent-length: 30\r\n\r\n{"error": {"message": "none"}}', 404, "none"),
        (b'HTTP/1.1 422 No\r\n\r\n{"detail": [{"msg": "field"}]}', 422, "[{'msg': 'field'}]"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 21\r\n\r\nInternal Server Error", 500, "Internal Server Error"),
        (HEAD + chunked(event({"error": {"message": "too long", "code": 400}}), b"data: [DONE]\n\n"), 200, "too long"),
    ],
)
def test_errors_of_both_engines_in_every_shape(raw: bytes, status: int, error: str) -> None:
    for kind in ("generate", "chat", "completions"):
        answer = read(kind, raw)
        assert (answer.status, answer.error) == (status, error)
        assert answer.first is None


def test_an_aborted_generate_is_an_error() -> None:
    meta = {"finish_reason": {"type": "abort", "message": "out of memory"}, "completion_tokens": 2, "prompt_tokens": 1}
    answer = read("generate", HEAD + chunked(event({"text": "a", "meta_info": meta})))
    assert answer.error == "out of memory"


def test_a_whole_document_is_read_too() -> None:
    body = json.dumps(
        {
            "choices": [{"message": {"content": "x", "reasoning": "y"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    ).encode()
    answer = read("chat", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert (answer.output_tokens, answer.text, answer.reasoning_text, answer.done) == (2, "x", "y", True)


def test_interim_answers_are_passed_over() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + chunked(*CHAT)
    response = Response()
    response.feed(raw)
    assert (response.status, response.done) == (200, True)
    assert read("chat", raw).output_tokens == 4


@given(st.binary(max_size=200), st.sampled_from(["chat", "completions", "generate"]), st.booleans())
def test_foreign_bytes_raise_nothing_but_protocol_errors(data: bytes, kind: str, headed: bool) -> None:
    raw = HEAD + data if headed else data
    with contextlib.suppress(ProtocolError):
        Response().feed(raw)
    with contextlib.suppress(ProtocolError):
        answer = read(kind, raw, (3, 50))
        assert answer.output_tokens is None or answer.output_tokens >= 0


@given(st.binary(max_size=120), st.sampled_from(["chat", "completions", "generate"]))
def test_foreign_events_raise_nothing_but_protocol_errors(data: bytes, kind: str) -> None:
    raw = HEAD + chunked(b"data: " + data + b"\n\n", *CHAT)
    with contextlib.suppress(ProtocolError):
        assert read(kind, raw).status == 200


def test_recorded_streams_of_both_engines(transcripts: Path) -> None:
    """Counts and text agree with what each server put into its usage, in every recorded stream."""
    seen = 0
    for path in sorted(transcripts.glob("*/api/*.sse")):
        described = json.loads(path.with_suffix(".json").read_text())
        route, body = described["request"]["path"], described["request"].get("body")
        kinds = {"/generate": "generate", "/v1/completions": "completions", "/v1/chat/completions": "chat"}
        if route not in kinds or not isinstance(body, dict) or body.get("n", 1) != 1:
            continue
        data = path.read_bytes()
        raw = HEAD + chunked(*(data[i : i + 300] for i in range(0, len(data), 300)))
        answer = read_answer(kinds[route], [1.0], [raw], want_text=True)
        if b'"error"' in data:
            assert answer.error, path.name
            continue
        if "disconnect" in path.name:
            assert answer.finish is None
            continue
        seen += 1
        assert answer.done, path.name
        assert answer.finish in ("stop", "length"), path.name
        if answer.output_tokens is not None:
            assert 0 < len(answer.events) <= answer.output_tokens, path.name
            if (body.get("ignore_eos") or body.get("sampling_params", {}).get("ignore_eos")) and kinds[route] != "chat":
                asked = body.get("max_tokens") or body["sampling_params"]["max_new_tokens"]
                assert answer.output_tokens == asked, path.name
    assert seen >= 15


# ---- skimming ----------------------------------------------------------------------------------------------------
def generate(tokens: int, finish: str | None = None) -> bytes:
    meta = {"id": "0", "finish_reason": finish and {"type": finish}, "prompt_tokens": 3, "completion_tokens": tokens, "cached_tokens": 0}
    return b"data: " + json.dumps({"text": " a" * tokens, "meta_info": meta}, separators=(",", ":")).encode() + b"\n\n"


def compact(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def skimmed(kind: str, pieces: list[bytes]) -> list[Piece]:
    """What the load loop keeps of these pieces, each a whole chunk."""
    skimmer, kept, before = Skimmer(kind), list[Piece](), 0
    for piece in pieces:
        tokens = skimmer.tokens(piece, before + 1)
        last = kept[-1] if kept else None
        if tokens and isinstance(last, Run) and tokens in (before + 1, ONE_TOKEN if before == ONE_TOKEN else 0):
            last.pieces += 1
        else:
            kept.append(Run(tokens) if tokens else piece)
        before = tokens
    return kept


GENERATE = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([generate, lambda n: generate(n) + generate(n + 1)])), max_size=30)
OPENAI = st.lists(
    st.sampled_from(
        [
            compact(text(" a")),
            compact(text('\u4f60 \\"finish_reason\\":null')),
            compact(text("")),
            compact(text(" a", usage=None)),
            compact(text(" a")) + compact(text(" b")),
            compact(chat({"reasoning_content": "x"})),
            compact(chat({"role": "assistant", "content": ""})),
            compact({"error": {"message": "no", "text": "x"}}),
            b": comment\n\n",
            compact(text("x", "length")),
        ]
    ),
    max_size=30,
)


def same(kind: str, pieces: list[bytes]) -> int:
    """Reading what was skimmed and reading everything gives one answer; returns how many pieces were not kept.

    The first event is kept whatever it is, as in the load loop.
    """
    stamps = [float(i) for i in range(len(pieces) + 1)]
    first, kept = pieces[0], skimmed(kind, pieces[1:])
    assert read_answer(kind, stamps, [HEAD, first, *kept]) == read_answer(kind, stamps, [HEAD, *pieces])
    return sum(piece.pieces for piece in kept if isinstance(piece, Run))


@given(GENERATE, st.booleans())
def test_a_skimmed_stream_of_generate_reads_as_the_whole_one(steps: list[tuple[int, Any]], ends: bool) -> None:
    count, pieces = 1, [chunk(generate(1))]
    for step, make in steps:
        count += step
        pieces.append(chunk(make(count)))
    if ends:
        pieces += [chunk(generate(count + 2, "length")), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]
    same("generate", pieces)


@given(OPENAI)
def test_a_skimmed_openai_stream_reads_as_the_whole_one(events: list[bytes]) -> None:
    same("completions", [*map(chunk, [*events, event(USAGE), b"data: [DONE]\n\n"]), b"0\r\n\r\n"])


@given(st.lists(st.integers(0, 2), max_size=20))
def test_continuous_usage_is_counted_in_a_skimmed_stream(steps: list[int]) -> None:
    counts = list(itertools.accumulate([1, *steps]))
    events = [compact(text(" a", usage={"prompt_tokens": 7, "completion_tokens": n})) for n in counts]
    assert same("completions", [*map(chunk, events), b"0\r\n\r\n"]) == len(counts) - 1


def test_plain_tokens_are_skimmed_and_nothing_else() -> None:
    plain = [chunk(generate(n)) for n in range(1, 200)]
    kept = skimmed("generate", plain)
    assert kept == [Run(1, 199)]
    skimmer = Skimmer("generate")
    assert skimmer.tokens(chunk(generate(7)), 7) == 7
    for other in (
        chunk(generate(7))[:-1],
        chunk(generate(7)) + chunk(generate(8)),
        chunk(generate(7) + generate(8)),
        chunk(generate(7, "stop")),
        chunk(b"data: [DONE]\n\n"),
        b"0" + chunk(generate(7)),
        b"\r\n",
        b"",
    ):
        assert skimmer.tokens(other, 7) == 0, other


@given(st.binary(max_size=80), st.sampled_from(["generate", "completions", "chat"]), st.integers(0, 200))
def test_foreign_pieces_are_kept_or_skimmed_without_error(data: bytes, kind: str, expected: int) -> None:
    skimmer = Skimmer(kind)
    skimmer.tokens(chunk(generate(3)), 3)
    assert skimmer.tokens(data, expected) == 0
    assert skimmer.tokens(chunk(b"data: " + data + b"\n\n"), expected) == 0
