"""Reading answers: server-sent events, and what in them is a token.

While requests are in flight only the framing is looked at (`http1.Response`), and that as little as possible. Everything
else happens when the run is over, on the recorded (stamp, bytes) pairs: `read_answer`.

Where the kernel stamps the bytes, nothing is lost by looking at them at once, and much is saved: most pieces are one whole
chunk with one plain token, of which only a number is kept (`Skimmer`). Keeping all of them costs a megabyte per thousand
tokens of `/generate`, and touching that memory more than reading the pieces while they are in the cache.

What counts as a token (written down because other tools differ):
* an event with non-empty `text`, `content`, `reasoning_content` (SGLang, DeepSeek) or `reasoning` (vLLM >= 0.11.1), or,
  where the server counts per event (`/generate`, continuous usage), one whose count is above the last;
* the role-only event of a chat, an empty text, usage, comments and `[DONE]` are none;
* the event that carries the finish reason ends the answer and is taken as the last token's arrival: the end-of-text
  token has no text but is in the server's count;
* the number of tokens is the server's (`usage`, `meta_info`), never the number of events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from pytest_h20.load.http1 import ProtocolError, Response

_TOKEN = re.compile(rb'"(?:text|content|reasoning_content|reasoning)": ?"(?!")')
_COUNT = re.compile(rb'"completion_tokens": ?(\d{1,15})(?!\d)')

ONE_TOKEN = -1
"""A plain token of a stream that does not tell how many there were."""
_TAIL = 600
"""How far from the end of a `/generate` event its counts are looked for; meta_info is some 200 bytes long."""


@dataclass
class Run:
    """Successive pieces of one plain token each, of which only this is kept. After the first of them there were `first`
    tokens, after the next one more, and so on; `ONE_TOKEN`: the stream does not tell."""

    first: int
    pieces: int = 1
    same: int = 0
    """Of them, those that are to the byte the one before."""

    @property
    def last(self) -> int:
        """Tokens after the last of them. Not for `ONE_TOKEN`."""
        return self.first + self.pieces - 1


Piece = Union[bytes, Run]  # noqa: UP007 - evaluated, and the core runs on Python 3.8


class Skimmer:
    """Tells plain tokens of a route (generate, completions, chat) from everything else."""

    def __init__(self, kind: str) -> None:
        self._generate = kind == "generate"
        self._heads: dict[int, bytes] = {}
        """What a piece of this length begins with, when it is one chunk with one event."""
        self._ends: dict[int, bytes] = {}
        """What the event with this number of tokens ended with when it was last taken apart. Mostly all streams say the same."""

    def tokens(self, piece: bytes, expected: int) -> int:
        """How many tokens there are with this piece (`ONE_TOKEN`: not told), 0 for a piece that must be kept.

        The piece begins where a chunk begins. Not 0: it is exactly one chunk with exactly one event, which brings a token, no
        finish reason and no final usage. Nothing is guessed: `expected`, the likely number, only makes it faster.
        """
        head = self._heads.get(len(piece))
        if head is None:
            head = self._heads[len(piece)] = _head_of_length(len(piece))
        if not piece.startswith(head) or piece.count(b"\n") != 4:
            return 0
        end = self._ends.get(expected)
        if end is not None and piece.endswith(end):
            return expected
        if not piece.endswith(b"\n\n\r\n") or piece.count(b"\r") != 2:
            return 0
        return self._of_generate(piece) if self._generate else _of_openai(piece)

    def _of_generate(self, piece: bytes) -> int:
        at = piece.rfind(b'"completion_tokens":', max(0, len(piece) - _TAIL))
        begin = piece.rfind(b'"finish_reason":null', max(0, at - _TAIL), at) if at >= 0 else -1
        match = _COUNT.match(piece, at) if begin >= 0 else None
        if match is None:
            return 0
        tokens = int(match.group(1))
        self._ends[tokens] = piece[begin:]
        return tokens


def _of_openai(piece: bytes) -> int:
    if b'"finish_reason":null' not in piece or _TOKEN.search(piece) is None:
        return 0
    at = piece.rfind(b'"usage":')
    if at < 0 or piece.startswith(b"null", at + 8):
        return ONE_TOKEN
    match = _COUNT.search(piece, at)
    return int(match.group(1)) if match is not None else 0


def _head_of_length(length: int) -> bytes:
    """Of a piece that is one chunk: its size line and the field name. Sizes are written without leading zeros in practice; what
    is written otherwise is kept and read in full."""
    for digits in range(1, 8):
        size = length - digits - 4  # the line's CRLF and the chunk's
        if size > 0 and len(b"%x" % size) == digits:
            return b"%x\r\ndata: " % size
    return b"\0"  # too short: no piece begins so


@dataclass
class Answer:
    """What one response said. Stamps are the clock of `clock.now`; token counts are the server's, None = not told."""

    status: int = 0
    first: float | None = None
    """Arrival of the first token, reasoning or not."""
    last: float | None = None
    """Arrival of the last token (or of the finish reason)."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish: str | None = None
    done: bool = False
    """`[DONE]` was seen, or the answer was one whole document."""
    error: str | None = None
    events: list[tuple[float, int]] = field(default_factory=list)
    """(arrival, tokens so far) of each token event. Without counts from the server: events so far."""
    counted: bool = False
    """The second number in `events` is the server's count."""
    empty_before_first: int = 0
    """Events with empty text before the first token: in some servers a token without visible text."""
    text: str = ""
    """When it is wanted; that of a finished `/generate` always."""
    reasoning_text: str = ""
    whole_text: bool = False
    """`text` is the whole answer's."""
    compared: int = field(default=0, compare=False)
    """Token events that were held against the one before: not those of `/generate`, nor where a run that was skimmed begins or ends."""
    same: int = field(default=0, compare=False)
    """Of them, those that are the same to the byte."""


def read_answer(kind: str, stamps: list[float], parts: Sequence[Piece], want_text: bool = False) -> Answer:
    """Everything we want to know from the recorded pieces of one response. Raises ProtocolError.

    `kind` is generate, completions or chat. Incomplete responses are read as far as they go. Text cannot be had from a
    response that was skimmed.
    """
    answer = Answer()
    response = Response()
    begin, rest = 0, b""  # pieces until the head is whole, and what the last of them brings of the body
    while not response.status:
        part = parts[begin] if begin < len(parts) else None
        if not isinstance(part, bytes):  # the head never ends: nothing is skimmed before it is whole
            return answer
        rest = response.feed(part)
        begin += 1
    answer.status = response.status
    times = stamps[begin - 1 :]
    if "text/event-stream" in response.header("content-type").lower():
        payloads = _Events(response, rest).read(parts[begin:])
        if kind == "generate":
            _read_generate(answer, times, payloads, want_text)
        else:
            _read_openai(answer, times, payloads, want_text)
    else:
        body = rest + b"".join(response.feed(piece) for piece in parts[begin:] if isinstance(piece, bytes))
        _read_document(answer, body, times[-1] if times else 0.0)
    return answer


class _Events:
    """Takes the pieces of a body apart into events. `payloads`: (number of its stamp, data) of each event; of a run the number is
    that of the first.

    The endpoint's checks have a reader of their own (`endpoint/sse.py`): that one judges the form, this one must be fast.
    """

    __slots__ = ("_held", "_response", "_rest", "payloads")

    def __init__(self, response: Response, begin: bytes) -> None:
        """`begin`: what the body began with, in the piece that ended the head: number 0."""
        self.payloads: list[tuple[int, Piece]] = []
        self._response = response
        self._rest = b""  # an unfinished event
        self._held = b""  # a CR that may be the first half of CRLF
        self._body(begin, 0)

    def read(self, pieces: Sequence[Piece]) -> list[tuple[int, Piece]]:
        """Nearly every piece is one chunk with one event; that case is told apart cheaply and exactly."""
        out, response = self.payloads, self._response
        clean = response.between_chunks and not (self._rest or self._held)
        number = 0
        for piece in pieces:
            number += 1
            if isinstance(piece, Run):
                out.append((number, piece))
                number += piece.pieces - 1
                continue
            if clean and piece[-4:] == b"\n\n\r\n":
                line = piece.find(b"\r\ndata: ", 0, 18)
                size = len(piece)
                if (
                    line > 0
                    and piece.find(b"\n", line + 2) == size - 4
                    and piece.find(b"\r", line + 2) == size - 2
                    and piece[:line] == b"%x" % (size - line - 4)
                ):
                    out.append((number, piece[line + 8 : -4]))
                    continue
            self._body(response.feed(piece), number)
            clean = response.between_chunks and not (self._rest or self._held)
        return out

    def _body(self, data: bytes, number: int) -> None:
        data, self._held = self._held + data, b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                data, self._held = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            payload = _general_event(event)
            if payload is not None:
                self.payloads.append((number, payload))


def _general_event(event: bytes) -> bytes | None:
    """The data of an event in the full grammar: several data lines, other fields, comments."""
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines) if lines else None


def _load(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"an event is not JSON ({error}): {payload[:60]!r}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"an event is not an object: {payload[:60]!r}")
    return document


def _error_text(document: dict[str, Any]) -> str | None:
    error = document.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    if error:
        return str(error)
    if document.get("object") == "error":
        return str(document.get("message") or document)
    return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _take_usage(answer: Answer, usage: Any) -> None:
    if not isinstance(usage, dict):
        return
    for name in ("prompt_tokens", "reasoning_tokens"):
        value = _count(usage.get(name))
        if value is not None:
            setattr(answer, name, value)
    completion = _count(usage.get("completion_tokens"))
    if completion is not None:
        answer.output_tokens = completion
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and _count(details.get("cached_tokens")) is not None:
        answer.cached_tokens = details["cached_tokens"]


def _take_choice(answer: Answer, document: dict[str, Any]) -> bool:
    """Finish reason of an OpenAI event; True when it has one."""
    choices = document.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        finish = choices[0].get("finish_reason")
        if finish:
            answer.finish = str(finish)
            return True
    return False


def _read_openai(answer: Answer, times: list[float], payloads: Sequence[tuple[int, Piece]], want_text: bool) -> None:
    arrivals: list[float] = []
    is_token = _TOKEN.search
    first_token = b""
    last_token: Piece = b""
    for number, payload in payloads:
        if isinstance(payload, Run):
            arrivals += times[number : number + payload.pieces]
            answer.compared += payload.pieces - 1
            answer.same += payload.same
            last_token = payload
            continue
        if is_token(payload):
            arrivals.append(times[number])
            if isinstance(last_token, bytes) and last_token:
                answer.compared += 1
                answer.same += payload == last_token
            first_token, last_token = first_token or payload, payload
            continue
        if payload == b"[DONE]":
            answer.done = True
            continue
        document = _load(payload)
        error = _error_text(document)
        if error is not None:
            answer.error = error
        _take_usage(answer, document.get("usage"))
        if _take_choice(answer, document):
            answer.last = times[number]
        elif not arrivals and _is_empty_text(document):
            answer.empty_before_first += 1
    if arrivals:
        answer.events = [(stamp, number) for number, stamp in enumerate(arrivals, 1)]
        answer.first, answer.last = arrivals[0], max(arrivals[-1], answer.last or 0.0)
    if isinstance(last_token, Run):
        if last_token.first != ONE_TOKEN:
            if answer.output_tokens is None and first_token:  # cut in a run
                _take_usage(answer, _load(first_token).get("usage"))
            answer.output_tokens = max(answer.output_tokens or 0, last_token.last)
            _count_per_event(answer, times, payloads)
    elif last_token:
        document = _load(last_token)  # the finish reason and continuous usage can sit on a token
        _take_choice(answer, document)
        usage = document.get("usage")
        if isinstance(usage, dict):
            if (_count(usage.get("completion_tokens")) or 0) > (answer.output_tokens or 0):
                _take_usage(answer, usage)
            _count_per_event(answer, times, payloads)
    if want_text:
        _collect_text(answer, payloads)


def _is_empty_text(document: dict[str, Any]) -> bool:
    choices = document.get("choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict) and choices[0].get("text") == ""


def _count_per_event(answer: Answer, times: list[float], payloads: Sequence[tuple[int, Piece]]) -> None:
    """Continuous usage: every event says how many tokens there are so far, with or without visible text."""
    events: list[tuple[float, int]] = []
    for number, payload in payloads:
        if isinstance(payload, Run):
            _extend(events, times, number, payload)
            continue
        match = _COUNT.search(payload, max(0, payload.rfind(b'"usage"')))
        if match is not None and int(match.group(1)) > (events[-1][1] if events else 0):
            events.append((times[number], int(match.group(1))))
    if events:
        answer.events, answer.counted = events, True
        answer.first = events[0][0]


def _extend(events: list[tuple[float, int]], times: list[float], number: int, run: Run) -> None:
    """Add a run's events, those that bring more tokens than there were."""
    before = events[-1][1] if events else 0
    skip = max(0, before - run.first + 1)
    if skip < run.pieces:
        events += [(stamp, count) for count, stamp in enumerate(times[number : number + run.pieces], run.first)][skip:]


def _collect_text(answer: Answer, payloads: Sequence[tuple[int, Piece]]) -> None:
    text, reasoning = [], []
    for _, payload in payloads:
        if isinstance(payload, Run) or payload == b"[DONE]":
            continue
        choices = _load(payload).get("choices")
        for choice in choices if isinstance(choices, list) else []:
            given = choice if isinstance(choice, dict) else {}
            delta = given["delta"] if isinstance(given.get("delta"), dict) else {}
            text.append(str(given.get("text") or delta.get("content") or ""))
            reasoning.append(str(delta.get("reasoning_content") or delta.get("reasoning") or ""))
    answer.text, answer.reasoning_text = "".join(text), "".join(reasoning)


def _read_generate(answer: Answer, times: list[float], payloads: Sequence[tuple[int, Piece]], want_text: bool) -> None:
    """SGLang's /generate. Events grow with every token (cumulative text and ids), so only the count is looked for;
    it stands in meta_info after the text, which cannot contain it unescaped."""
    first, final, final_at = b"", b"", 0.0
    events, count_at = answer.events, _COUNT.match
    for number, payload in payloads:
        if isinstance(payload, Run):
            _extend(events, times, number, payload)
            continue
        at = payload.rfind(b'"completion_tokens":')
        match = count_at(payload, at) if at >= 0 else None
        if match is None:
            if payload == b"[DONE]":
                answer.done = True
                continue
            error = _error_text(_load(payload))
            if error is not None:
                answer.error = error
            continue
        count = int(match.group(1))
        if count > (events[-1][1] if events else 0):
            events.append((times[number], count))
        first, final, final_at = first or payload, payload, times[number]
    if not final:
        return
    answer.counted = True
    if events:
        answer.first, answer.last = events[0][0], events[-1][0]
    document = _load(final)
    _take_meta(answer, document.get("meta_info"))
    if answer.finish is not None:
        answer.last = max(answer.last or 0.0, final_at)
    elif answer.output_tokens is not None and events:
        answer.output_tokens = max(answer.output_tokens, events[-1][1])  # cut in a run
    if want_text or answer.finish is not None:
        answer.text = str(document.get("text") or "")
        # Told to stream only what is new, the last event has no more than the end: then the first one's text is not in it.
        answer.whole_text = answer.text.startswith(str(_load(first).get("text") or ""))
    if want_text and not answer.whole_text:
        answer.text = "".join(str(_load(p).get("text") or "") for _, p in payloads if isinstance(p, bytes) and p != b"[DONE]")


def _take_meta(answer: Answer, meta: Any) -> None:
    if not isinstance(meta, dict):
        return
    answer.prompt_tokens = _count(meta.get("prompt_tokens"))
    answer.output_tokens = _count(meta.get("completion_tokens"))
    answer.cached_tokens = _count(meta.get("cached_tokens"))
    answer.reasoning_tokens = _count(meta.get("reasoning_tokens"))
    finish = meta.get("finish_reason")
    if isinstance(finish, dict):
        answer.finish = str(finish.get("type"))
        if answer.finish == "abort":
            answer.error = str(finish.get("message") or "aborted by the server")
    elif finish:
        answer.finish = str(finish)


def _read_document(answer: Answer, body: bytes, stamp: float) -> None:
    """One whole answer: a non-streaming one, or an error."""
    if not body.strip():
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        if answer.status >= 400:
            answer.error = body[:200].decode("utf-8", "replace").strip()
            return
        raise ProtocolError(f"neither events nor JSON: {body[:60]!r}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"the answer is no object: {body[:60]!r}")
    if answer.status >= 400:
        answer.error = _error_text(document) or str(document.get("detail") or document)[:200]
        return
    answer.error = _error_text(document)
    _take_usage(answer, document.get("usage"))
    _take_meta_document(answer, document)
    if answer.output_tokens:
        answer.first = answer.last = stamp
        answer.events, answer.counted = [(stamp, answer.output_tokens)], True
    answer.done = answer.error is None


def _take_meta_document(answer: Answer, document: dict[str, Any]) -> None:
    if "meta_info" in document:
        _take_meta(answer, document["meta_info"])
        answer.text = str(document.get("text") or "")
        return
    if _take_choice(answer, document):
        choice = document["choices"][0]
        message = choice["message"] if isinstance(choice.get("message"), dict) else {}
        answer.text = str(choice.get("text") or message.get("content") or "")
        answer.reasoning_text = str(message.get("reasoning_content") or message.get("reasoning") or "")
