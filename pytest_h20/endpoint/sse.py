"""Server-sent events, strictly and purely: bytes in any cut, events out. Follows the WHATWG HTML standard, section 9.2.

What a browser would silently repair is kept as a ``problem``: bytes that are no UTF-8, an event without its closing blank line.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.endpoint.wire import Piece

DONE = "[DONE]"


@dataclass(frozen=True)
class Event:
    """One dispatched event. ``data`` lines are joined with LF. ``at_s``: arrival of its last byte."""

    data: str
    name: str = ""
    id: str = ""
    at_s: float = 0.0


@dataclass
class SseParser:
    """Incremental parser. A UTF-8 character, a CRLF or a line may be cut anywhere between two ``feed`` calls."""

    comments: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("strict"))
    _text: str = ""
    _skip_lf: bool = False
    _first: bool = True
    _data: list[str] = field(default_factory=list)
    _name: str = ""
    _id: str = ""
    _open: bool = False

    def feed(self, data: bytes, at_s: float = 0.0) -> list[Event]:
        """Events that ``data`` completed."""
        return self._take(self._decode(data, final=False), at_s)

    def close(self) -> list[Event]:
        """End of the stream: an event that lacks its blank line is not dispatched but told as a problem."""
        events = self._take(self._decode(b"", final=True), 0.0)
        if self._text or self._open:
            self.problems.append(f"the stream ends inside an event: {(self._text or self._data)!r:.80}")
        self._text, self._data, self._open = "", [], False
        return events

    def _decode(self, data: bytes, final: bool) -> str:
        try:
            return self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            self.problems.append(f"bytes that are no UTF-8: {error.object[error.start : error.start + 8]!r} ({error.reason})")
            held = error.object
            self._decoder.reset()
            return held.decode("utf-8", "replace")

    def _take(self, text: str, at_s: float) -> list[Event]:
        if self._first and text:
            self._first = False
            text = text.removeprefix("\ufeff")
        events: list[Event] = []
        self._text += text
        while True:
            if self._skip_lf and self._text:
                self._text = self._text.removeprefix("\n")
                self._skip_lf = False
            end = min((at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0), default=-1)
            if end < 0:
                return events
            line, closer = self._text[:end], self._text[end]
            self._text = self._text[end + 1 :]
            self._skip_lf = closer == "\r"
            event = self._line(line, at_s)
            if event is not None:
                events.append(event)

    def _line(self, line: str, at_s: float) -> Event | None:
        if not line:
            event = Event("\n".join(self._data), self._name, self._id, at_s) if self._data else None
            self._data, self._name, self._open = [], "", False
            return event
        self._open = True
        if line.startswith(":"):
            self.comments.append(line[1:])
            self._open = bool(self._data)
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name not in ("id", "retry"):
            self.problems.append(f"a line that is no field of an event: {line[:60]!r}")
        return None


@dataclass(frozen=True)
class Stream:
    """A whole stream. ``done``: ``[DONE]`` came, and came last (``after_done`` empty). ``objects``: the JSON of each event."""

    events: tuple[Event, ...]
    objects: tuple[tuple[float, dict[str, Any]], ...]
    done: int
    after_done: tuple[str, ...]
    comments: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Framed as it must be: well-formed, one ``[DONE]``, at the end."""
        return not self.problems and self.done == 1 and not self.after_done


def read_stream(pieces: Iterable[Piece]) -> Stream:
    """Parse the pieces of a body. Pure; what is wrong is listed in ``problems``, nothing is raised."""
    parser = SseParser()
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece.data, piece.at_s)
    events += parser.close()
    objects, after, problems = [], [], list(parser.problems)
    done = 0
    for event in events:
        if event.data == DONE:
            done += 1
            continue
        if done:
            after.append(event.data)
        try:
            value = json.loads(event.data)
        except (ValueError, RecursionError) as error:
            problems.append(f"an event that is no JSON ({error}): {event.data[:60]!r}")
            continue
        if isinstance(value, dict):
            objects.append((event.at_s, value))
        else:
            problems.append(f"an event that is no JSON object: {event.data[:60]!r}")
    return Stream(tuple(events), tuple(objects), done, tuple(after), tuple(parser.comments), tuple(problems))
