"""Answers of both engines in all their versions, brought to one form, with what was seen on the way. Pure.

Nothing is repaired: a field that is absent stays ``None``, and :class:`SeenShape` says which spelling the server used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pytest_h20.core.errors import H20Error
from pytest_h20.endpoint.sse import Stream, read_stream
from pytest_h20.endpoint.wire import Exchange

REASONING_FIELDS = ("reasoning", "reasoning_content")
"""Every spelling in use: vLLM ≥ 0.16 ``reasoning``; vLLM ≤ 0.11.0 and SGLang ``reasoning_content``; vLLM 0.11.1-0.15.1 both."""

ErrorStyle = Literal["flat", "nested", "detail", "string", "text"]


class UnexpectedAnswer(H20Error):
    """The server answered something a correct request must not get. The text holds status and message."""


class TextsOnly(UnexpectedAnswer):
    """Something before the server takes no prompt of token ids: the request was right, and never reached it."""


@dataclass(frozen=True)
class SeenShape:
    """Which of the possible shapes a server showed, collected over all its answers.

    ``tool_calls`` of messages without any: ``omitted``, ``null`` or ``empty-list``. ``finish_on``: ``text-chunk`` when the
    finish reason came with text, ``own-chunk`` when apart. ``reasoning_fields``: keys that carried text.
    """

    reasoning_fields: frozenset[str] = frozenset()
    error_styles: frozenset[str] = frozenset()
    tool_calls: frozenset[str] = frozenset()
    usage_keys: frozenset[str] = frozenset()
    finish_on: frozenset[str] = frozenset()
    empty_content: frozenset[str] = frozenset()

    def merged(self, other: SeenShape) -> SeenShape:
        """Both together."""
        return SeenShape(**{f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self)})

    def to_dict(self) -> dict[str, Any]:
        """Sorted lists, for a report."""
        return {f.name: sorted(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class ApiError:
    """An error body in any of the shapes in use. ``style``: see :func:`read_error`."""

    status: int
    message: str
    style: ErrorStyle
    type: str = ""
    code: str = ""


@dataclass(frozen=True)
class Usage:
    """Token counts. ``reasoning``/``cached`` are None where the server does not tell them."""

    prompt: int | None
    completion: int | None
    total: int | None
    reasoning: int | None = None
    cached: int | None = None
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ToolCall:
    """One call a model asked for. ``arguments`` as sent: JSON text."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token. ``top``: alternatives with their logprobs, best first as sent."""

    token: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()
    bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Choice:
    """One alternative. ``content``/``reasoning`` None = absent or null. ``text`` of a plain completion is ``content``."""

    index: int
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    finish: str | None = None
    matched_stop: Any = None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    token_ids: tuple[int, ...] | None = None

    @property
    def said(self) -> str:
        """Everything that was generated, reasoning first, without the tags."""
        return (self.reasoning or "") + (self.content or "")


@dataclass(frozen=True)
class Delta:
    """One chunk of a stream, for one choice. ``at_s`` after the request was sent."""

    at_s: float
    index: int
    role: str | None
    content: str | None
    reasoning: str | None
    finish: str | None
    usage: Usage | None


@dataclass(frozen=True)
class Reply:
    """One answer, streamed or not. ``deltas``, ``stream`` and ``usage_chunks`` are empty for a plain one.

    ``usage_chunks``: usage of chunks without choices; ``chunk_usages``: of chunks with choices (continuous usage).
    """

    exchange: Exchange
    id: str = ""
    object: str = ""
    model: str = ""
    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: ApiError | None = None
    seen: SeenShape = field(default_factory=SeenShape)
    stream: Stream | None = None
    deltas: tuple[Delta, ...] = ()
    usage_chunks: tuple[Usage, ...] = ()
    ids: frozenset[str] = frozenset()

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.exchange.status

    def ok(self) -> Reply:
        """This reply, when it is a served answer. Raises UnexpectedAnswer otherwise."""
        if self.error is not None:
            raise UnexpectedAnswer(f"{self._what}: {self.error.status}: {self.error.message[:300] or 'no message'}")
        if self.status != 200 or not self.choices:
            raise UnexpectedAnswer(f"{self._what}: status {self.status}, {len(self.choices)} choices: {self.exchange.body[:200]!r}")
        return self

    @property
    def choice(self) -> Choice:
        """The first choice. Raises UnexpectedAnswer when there is none."""
        return self.ok().choices[0]

    @property
    def counts(self) -> Usage:
        """The usage. Raises UnexpectedAnswer when the server sent none."""
        if self.usage is None:
            raise UnexpectedAnswer(f"{self._what}: no usage in the answer")
        return self.usage

    @property
    def _what(self) -> str:
        return f"{self.exchange.request.method} {self.exchange.request.target}"


def read_error(status: int, body: bytes) -> ApiError:
    """An error body in any shape.

    ``flat``: ``{"object":"error","message"}`` (SGLang, vLLM ≤ 0.10.0); ``nested``: ``{"error":{"message"}}`` (vLLM ≥ 0.10.1,
    SGLang's native routes); ``detail``: FastAPI's own 404/405/422; ``string``: ``{"error":"Unauthorized"}``; ``text``: no JSON.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ApiError(status, body[:500].decode("utf-8", "replace").strip(), "text")
    if not isinstance(value, dict):
        return ApiError(status, str(value)[:500], "text")
    inner = value.get("error")
    if isinstance(inner, dict):
        return ApiError(status, str(inner.get("message") or ""), "nested", str(inner.get("type") or ""), str(inner.get("code")))
    if isinstance(inner, str):
        return ApiError(status, inner, "string")
    if "message" in value:
        return ApiError(status, str(value["message"] or ""), "flat", str(value.get("type") or ""), str(value.get("code")))
    if "detail" in value:
        return ApiError(status, str(value["detail"])[:500], "detail")
    return ApiError(status, body[:500].decode("utf-8", "replace"), "text")


def read_reply(exchange: Exchange) -> Reply:
    """Normalise one exchange with ``/v1/chat/completions`` or ``/v1/completions``."""
    if exchange.header("content-type").split(";")[0].strip().lower() == "text/event-stream":
        return _read_stream(exchange)
    if exchange.status != 200:
        error = read_error(exchange.status, exchange.body)
        return Reply(exchange, error=error, seen=SeenShape(error_styles=frozenset({error.style})))
    try:
        value = json.loads(exchange.body)
    except (ValueError, RecursionError) as problem:
        raise UnexpectedAnswer(f"{exchange.request.target}: the answer is no JSON ({problem}): {exchange.body[:80]!r}") from None
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"{exchange.request.target}: the answer is no object: {exchange.body[:80]!r}")
    if "choices" not in value and ("error" in value or value.get("object") == "error"):
        error = read_error(exchange.status, exchange.body)
        return Reply(exchange, error=error, seen=SeenShape(error_styles=frozenset({error.style})))
    choices, seen = [], SeenShape()
    for raw in _objects(value.get("choices")):
        message = raw.get("message")
        body = message if isinstance(message, dict) else {"content": raw.get("text")}
        choice, shape = _choice(raw, body)
        choices.append(choice)
        seen = seen.merged(shape)
    usage = read_usage(value.get("usage"))
    if usage is not None:
        seen = seen.merged(SeenShape(usage_keys=usage.keys))
    return Reply(
        exchange,
        str(value.get("id") or ""),
        str(value.get("object") or ""),
        str(value.get("model") or ""),
        tuple(choices),
        usage,
        None,
        seen,
    )


def read_usage(value: Any) -> Usage | None:
    """Usage in both dialects: reasoning tokens at top level (SGLang) or in ``completion_tokens_details`` (vLLM ≥ 0.28)."""
    if not isinstance(value, dict):
        return None
    keys = {key for key, item in value.items() if item is not None}
    details = _mapping(value.get("completion_tokens_details"))
    prompt_details = _mapping(value.get("prompt_tokens_details"))
    keys |= {f"completion_tokens_details.{key}" for key in details}
    keys |= {f"prompt_tokens_details.{key}" for key in prompt_details}
    reasoning = _count(details.get("reasoning_tokens"))
    return Usage(
        prompt=_count(value.get("prompt_tokens")),
        completion=_count(value.get("completion_tokens")),
        total=_count(value.get("total_tokens")),
        reasoning=_count(value.get("reasoning_tokens")) if reasoning is None else reasoning,
        cached=_count(prompt_details.get("cached_tokens")),
        keys=frozenset(keys),
    )


def _choice(raw: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[Choice, SeenShape]:
    reasoning, carried = _reasoning(body)
    calls = tuple(_tool_calls(body.get("tool_calls")))
    is_chat = "message" in raw
    shape = SeenShape(
        reasoning_fields=carried,
        tool_calls=frozenset({_empty_kind(body)}) if is_chat and not calls else frozenset(),
        empty_content=frozenset({"null" if body.get("content") is None else "empty"})
        if is_chat and not body.get("content")
        else frozenset(),
    )
    choice = Choice(
        index=_count(raw.get("index")) or 0,
        role=_text(body.get("role")),
        content=_text(body.get("content")),
        reasoning=reasoning,
        finish=_text(raw.get("finish_reason")),
        matched_stop=raw.get("matched_stop", raw.get("stop_reason")),
        tool_calls=calls,
        logprobs=_logprobs(raw.get("logprobs")),
        token_ids=tuple(_whole_numbers(raw["token_ids"])) if isinstance(raw.get("token_ids"), list) else None,
    )
    return choice, shape


def _reasoning(body: Mapping[str, Any]) -> tuple[str | None, frozenset[str]]:
    """The reasoning text in whatever field it is, and which fields carried it."""
    carried = frozenset(name for name in REASONING_FIELDS if isinstance(body.get(name), str) and body[name])
    for name in REASONING_FIELDS:
        if isinstance(body.get(name), str):
            return body[name], carried
    return None, carried


def _empty_kind(body: Mapping[str, Any]) -> str:
    if "tool_calls" not in body:
        return "omitted"
    return "null" if body["tool_calls"] is None else "empty-list"


def _tool_calls(value: Any) -> Iterable[ToolCall]:
    for item in _objects(value):
        function = _mapping(item.get("function"))
        yield ToolCall(str(function.get("name") or ""), str(function.get("arguments") or ""), str(item.get("id") or ""))


def _logprobs(value: Any) -> tuple[TokenLogprob, ...] | None:
    """Chat form (``content`` list) and completion form (parallel lists)."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        return tuple(
            TokenLogprob(
                str(item.get("token")),
                _number(item.get("logprob")),
                _alternatives((t.get("token"), t.get("logprob")) for t in _objects(item.get("top_logprobs"))),
                tuple(_whole_numbers(item["bytes"])) if isinstance(item.get("bytes"), list) else None,
            )
            for item in _objects(value["content"])
        )
    tokens, figures = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(figures, list):
        return None
    tops = value.get("top_logprobs")
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    return tuple(
        TokenLogprob(str(token), _number(figure), _alternatives(_mapping(top).items()))
        for token, figure, top in zip(tokens, figures, tops, strict=False)
    )


@dataclass
class _Growing:
    """One choice of a stream while it grows."""

    role: str | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish: str | None = None
    matched_stop: Any = None
    calls: dict[int, list[str]] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def choice(self, index: int) -> Choice:
        return Choice(
            index,
            self.role,
            "".join(self.content) if self.content else None,
            "".join(self.reasoning) if self.reasoning else None,
            self.finish,
            self.matched_stop,
            tuple(ToolCall(name, arguments, id_) for _, (name, arguments, id_) in sorted(self.calls.items())),
            tuple(self.logprobs) or None,
            tuple(self.token_ids) or None,
        )


def _read_stream(exchange: Exchange) -> Reply:
    stream = read_stream(exchange.pieces)
    growing: dict[int, _Growing] = {}
    deltas: list[Delta] = []
    usage_chunks: list[Usage] = []
    seen = SeenShape()
    error: ApiError | None = None
    first: dict[str, Any] = {}
    ids: set[str] = set()
    for at_s, value in stream.objects:
        if "error" in value or value.get("object") == "error":
            error = read_error(exchange.status, json.dumps(value).encode())
            seen = seen.merged(SeenShape(error_styles=frozenset({error.style})))
            continue
        first = first or value
        ids.add(str(value.get("id") or ""))
        usage = read_usage(value.get("usage"))
        if usage is not None:
            seen = seen.merged(SeenShape(usage_keys=usage.keys))
        raws = _objects(value.get("choices"))
        if not raws and usage is not None:
            usage_chunks.append(usage)
        for raw in raws:
            delta, shape = _grow(growing, raw, at_s, usage)
            deltas.append(delta)
            seen = seen.merged(shape)
    return Reply(
        exchange=exchange,
        id=str(first.get("id") or ""),
        object=str(first.get("object") or ""),
        model=str(first.get("model") or ""),
        choices=tuple(grown.choice(index) for index, grown in sorted(growing.items())),
        usage=usage_chunks[-1] if usage_chunks else next((d.usage for d in reversed(deltas) if d.usage), None),
        error=error,
        seen=seen,
        stream=stream,
        deltas=tuple(deltas),
        usage_chunks=tuple(usage_chunks),
        ids=frozenset(ids),
    )


def _grow(growing: dict[int, _Growing], raw: Mapping[str, Any], at_s: float, usage: Usage | None) -> tuple[Delta, SeenShape]:
    index = _count(raw.get("index")) or 0
    grown = growing.setdefault(index, _Growing())
    body = _mapping(raw.get("delta")) if "delta" in raw else {"content": raw.get("text")}
    reasoning, carried = _reasoning(body)
    content, finish, role = (_text(v) for v in (body.get("content"), raw.get("finish_reason"), body.get("role")))
    if content is not None:
        grown.content.append(content)
    if reasoning is not None:
        grown.reasoning.append(reasoning)
    grown.role = role or grown.role
    if finish:
        grown.finish, grown.matched_stop = finish, raw.get("matched_stop", raw.get("stop_reason"))
    for number, item in enumerate(_objects(body.get("tool_calls"))):
        function = _mapping(item.get("function"))
        call = grown.calls.setdefault(_count(item.get("index", number)) or 0, ["", "", ""])
        call[0] += str(function.get("name") or "")
        call[1] += str(function.get("arguments") or "")
        call[2] = call[2] or str(item.get("id") or "")
    grown.logprobs += _logprobs(raw.get("logprobs")) or ()
    if isinstance(raw.get("token_ids"), list):
        grown.token_ids += _whole_numbers(raw["token_ids"])
    has_text = bool(content or reasoning)
    shape = SeenShape(
        reasoning_fields=carried,
        finish_on=frozenset({"text-chunk" if has_text else "own-chunk"}) if finish else frozenset(),
    )
    return Delta(at_s, index, role, content, reasoning, finish, usage), shape


def prompt_tokens(reply: Reply) -> int:
    """``usage.prompt_tokens``. Raises UnexpectedAnswer when the server did not tell it."""
    count = reply.ok().counts.prompt
    if count is None:
        raise UnexpectedAnswer("usage has no prompt_tokens")
    return count


def _objects(value: Any) -> Sequence[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole_numbers(values: Iterable[Any]) -> list[int]:
    return [value for value in values if _count(value) is not None]


def _alternatives(items: Iterable[tuple[Any, Any]]) -> tuple[tuple[str, float], ...]:
    return tuple((str(token), figure) for token, value in items if (figure := _number(value)) is not None)
