"""The reader of HTTP answers on bytes in any cut, and the writer of chunks."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.load.http1 import LAST_CHUNK, MAX_HEAD, ProtocolError, Response, chunk
from tests.unit.load.streams import HEAD

CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n1\r\n \r\nA\r\nworld\r\n12\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places."""
    marks = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def read(parts: list[bytes], method: str = "GET") -> tuple[Response, bytes]:
    """A whole answer in the given cuts: the reader, and the body."""
    reader = Response(method)
    body = b"".join([reader.feed(part) for part in parts])
    reader.close()
    return reader, body


def sizes(reader: Response) -> list[int]:
    """Of the chunks."""
    assert reader.chunks is not None
    return reader.chunks.sizes


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_any_cut_reads_the_same(places: list[int]) -> None:
    reader, body = read(cut(CHUNKED, places))
    assert body == b"hello world\r\n12\n"
    assert (reader.status, reader.done, sizes(reader), reader.leftover) == (200, True, [5, 1, 10, 0], b"")


@given(st.binary(max_size=300), st.lists(st.integers(0, 1000), max_size=10))
def test_content_length_and_what_is_left_over(body: bytes, places: list[int]) -> None:
    raw = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(body) + body + b"EXTRA"
    reader, got = read(cut(raw, places))
    assert (reader.status, got, reader.leftover) == (404, body, b"EXTRA")


@given(st.binary(max_size=200))
def test_foreign_bytes_raise_only_protocol_errors(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read([data])
    with contextlib.suppress(ProtocolError):
        read([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data])


def test_until_close() -> None:
    reader = Response()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == b"abc"
    assert not reader.done
    assert reader.close()
    assert not reader.keep_alive


@pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (200, "HEAD")])
def test_answers_without_a_body(status: int, method: str) -> None:
    reader, body = read([b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status], method)
    assert (reader.done, body) == (True, b"")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "not an HTTP answer"),
        (b"HTTP/2 200\r\n\r\n", "status line is"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "status line is"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "does not end in CRLF"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * (MAX_HEAD + 10), "no end of headers"),
    ],
)
def test_what_is_no_http_is_said(raw: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        read([raw])


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 1000), max_size=10))
def test_what_is_written_in_chunks_is_read_again(parts: list[bytes], places: list[int]) -> None:
    reader, body = read(cut(HEAD + b"".join(map(chunk, parts)) + LAST_CHUNK, places))
    assert (body, sizes(reader), reader.over()) == (b"".join(parts), [*map(len, parts), 0], True)


def test_a_piece_that_is_whole_chunks_need_not_be_shown() -> None:
    reader = Response()
    assert not reader.between_chunks
    for piece, between in ((HEAD, True), (b"2\r\nab", False), (b"\r\n1", False), (b"\r\nc\r\n", True), (LAST_CHUNK, False)):
        reader.feed(piece)
        assert reader.between_chunks is between
    assert reader.over()


def test_what_follows_an_answer_is_told_and_is_no_part_of_it() -> None:
    for raw in (HEAD + chunk(b"a") + LAST_CHUNK, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"):
        reader, body = read([raw + b"X"])
        assert (body, reader.done) == (b"a", True)
        with pytest.raises(ProtocolError, match="bytes after the end of the answer: b'X'"):
            reader.over()


@pytest.mark.parametrize(
    ("version", "connection", "again"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True), ("1.1", "Keep-Alive", True)],
)
def test_whether_the_connection_may_be_used_again(version: str, connection: str, again: bool) -> None:
    reader, _ = read([f"HTTP/{version} 200 OK\r\nConnection: {connection}\r\nContent-Length: 0\r\n\r\n".encode()])
    assert reader.keep_alive is again


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"5_0", b"f" * 5000, b""])
def test_a_chunk_size_is_hex_digits(size: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a chunk size"):
        read([HEAD + size + b"\r\nhello\r\n0\r\n\r\n"])


def test_a_content_length_of_five_thousand_digits() -> None:
    with pytest.raises(ProtocolError, match="Content-Length"):
        read([b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"])
