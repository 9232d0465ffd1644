"""The event stream parser: any cut, every line end, and every kind of damage."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.endpoint.sse import SseParser, read_stream
from pytest_h20.endpoint.wire import Piece
from tests.unit.endpoint.recorded import SERVERS, recorded


def pieces(data: bytes, places: list[int]) -> list[Piece]:
    marks = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [Piece(float(n), data[a:b]) for n, (a, b) in enumerate(itertools.pairwise(marks))]


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)


@given(
    st.lists(st.dictionaries(texts, texts, max_size=2), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 5000), max_size=60),
)
def test_what_was_written_is_read_whatever_the_cut(objects: list[dict[str, str]], end: str, comment: bool, places: list[int]) -> None:
    text = "".join((f": ping{end}" if comment else "") + f"data: {json.dumps(o, ensure_ascii=False)}{end}{end}" for o in objects)
    # JSON escapes CR and LF; U+2028 and U+0085 are no line ends for this format, and must not be taken for any.
    stream = read_stream(pieces((text + f"data: [DONE]{end}{end}").encode(), places))
    assert [o for _, o in stream.objects] == objects
    assert stream.clean
    assert len(stream.comments) == (len(objects) if comment else 0)


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=20))
def test_foreign_bytes_never_raise(data: bytes, places: list[int]) -> None:
    whole, cut = read_stream([Piece(0.0, data)]), read_stream(pieces(data, places))
    if not whole.problems:
        assert [e.data for e in whole.events] == [e.data for e in cut.events]
    assert bool(whole.problems) == bool(cut.problems)


def test_character_cut_in_the_middle() -> None:
    data = 'data: {"a":"中🚀"}\n\ndata: [DONE]\n\n'.encode()
    for at in range(len(data)):
        stream = read_stream([Piece(0.0, data[:at]), Piece(1.0, data[at:])])
        assert stream.clean
        assert stream.objects[0][1] == {"a": "中🚀"}


def test_arrival_is_that_of_the_last_byte() -> None:
    stream = read_stream([Piece(1.0, b'data: {"a":1}'), Piece(2.0, b"\n"), Piece(3.0, b"\ndata: [DONE]\n\n")])
    assert stream.objects[0][0] == 3.0


def test_the_grammar() -> None:
    parser = SseParser()
    events = parser.feed(b"\xef\xbb\xbfevent: e\nid: 7\nretry: 250\ndata: a\ndata:b\ndata\n:note\n\ndata:  two blanks\n\n\n\n")
    assert [(e.name, e.id, e.data) for e in events] == [("e", "7", "a\nb\n"), ("", "7", " two blanks")]
    assert (parser.comments, parser.problems) == (["note"], [])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'data: {"a":1}\n', "ends inside an event"),
        (b'data: {"a":1}', "ends inside an event"),
        (b'data: {"a":\n\ndata: [DONE]\n\n', "no JSON"),
        (b"data: 3\n\n", "no JSON object"),
        (b'data: {"a":"\xff"}\n\n', "no UTF-8"),
        (b'data: {"a":"\xe4\xb8', "no UTF-8"),
        (b'{"a":1}\n\n', "no field of an event"),
        (b'data: {"a":1}\ndata: {"b":1}\n\n', "no JSON"),
    ],
)
def test_damage_is_told(data: bytes, problem: str) -> None:
    stream = read_stream([Piece(0.0, data)])
    assert any(problem in p for p in stream.problems), stream.problems
    assert not stream.clean


def test_done_must_come_once_and_last() -> None:
    assert not read_stream([Piece(0.0, b"data: {}\n\n")]).clean
    assert not read_stream([Piece(0.0, b"data: [DONE]\n\ndata: [DONE]\n\n")]).clean
    late = read_stream([Piece(0.0, b"data: [DONE]\n\ndata: {}\n\n")])
    assert late.after_done == ("{}",)


def test_a_very_long_line() -> None:
    text = "x" * 3_000_000
    data = f'data: {{"a":"{text}"}}\n\ndata: [DONE]\n\n'.encode()
    stream = read_stream(Piece(0.0, data[at : at + 65536]) for at in range(0, len(data), 65536))
    assert stream.objects[0][1]["a"] == text


@pytest.mark.parametrize("server", SERVERS)
def test_recorded_stream_byte_by_byte(server: str) -> None:
    body = recorded(server, "chat-stream-usage").body
    whole = read_stream([Piece(0.0, body)])
    single = read_stream(Piece(0.0, body[at : at + 1]) for at in range(len(body)))
    assert whole.clean
    assert whole.objects == single.objects
