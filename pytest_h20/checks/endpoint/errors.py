"""Bad requests: each gets a clean 4xx in the engine's own shape, and the engine is alive afterwards. A table and one judge."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pytest_h20.checks.endpoint.frame import CheckList
from pytest_h20.checks.endpoint.serving import known_question
from pytest_h20.checks.endpoint.wire import alive_after, as_json
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint.capabilities import Outcome
from pytest_h20.endpoint.client import CHAT, COMPLETIONS, Api
from pytest_h20.endpoint.reply import ApiError, read_error
from pytest_h20.endpoint.wire import Exchange

CHECKS = CheckList("endpoint")

Send = Callable[[Api], Exchange]


@dataclass(frozen=True)
class Case:
    """One bad request. ``capability``: the row that says whether this version refuses it; ``statuses``: narrower than 4xx."""

    name: str
    title: str
    send: Send
    capability: str = ""
    statuses: tuple[int, ...] = ()
    framework: bool = False


def _chat(**fields: Any) -> Send:
    def send(api: Api) -> Exchange:
        body = {
            "model": api.ctx.model_id,
            "messages": [{"role": "user", "content": known_question()}],
            "temperature": 0,
            "max_tokens": 4,
            **fields,
        }
        return api.post(CHAT, {k: v for k, v in body.items() if v is not None})

    return send


def _completion(prompt: Any, **fields: Any) -> Send:
    return lambda api: api.post(COMPLETIONS, {"model": api.ctx.model_id, "prompt": prompt, "max_tokens": 4, **fields})


def _raw(body: bytes, content_type: str = "application/json") -> Send:
    return lambda api: api.raw("POST", CHAT, body, headers={"Content-Type": content_type})


def _unknown_model(api: Api) -> Exchange:
    """A POST where the version refuses it; SGLang serves any name there, but says 404 to a GET of an unknown model."""
    if api.ctx.shape.unknown_model_refused:
        return _chat(model="h20-no-such-model")(api)
    return api.get("/v1/models/h20-no-such-model")


def _too_long(stream: bool) -> Send:
    def send(api: Api) -> Exchange:
        text = "9.8 " * (api.max_len + 64)
        return _chat(messages=[{"role": "user", "content": text}], stream=stream or None)(api)

    return send


def _wrong_type(api: Api) -> Exchange:
    valid = {"model": api.ctx.model_id, "messages": [{"role": "user", "content": known_question()}], "max_tokens": 1}
    return api.raw("POST", CHAT, as_json(valid), headers={"Content-Type": "text/plain"})


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_IMAGE_TURN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
_BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no-such-type"}}}

CASES: tuple[Case, ...] = (
    Case("unknown_model", "An unknown model is refused", _unknown_model, statuses=(404,)),
    Case("malformed_json", "Malformed JSON is refused", _raw(b'{"model": "m", "messages": [')),
    Case("array_body", "A JSON array as body is refused", _raw(b"[1, 2, 3]")),
    Case("empty_body", "An empty body is refused", _raw(b"")),
    Case("content_type", "A body that is not declared as JSON is refused", _wrong_type),
    Case("messages_text", "Messages that are a text are refused", _chat(messages="hi")),
    Case("messages_missing", "A chat without messages is refused", lambda api: api.post(CHAT, {"model": api.ctx.model_id})),
    Case("messages_empty", "An empty conversation is refused", _chat(messages=[])),
    Case("unknown_role", "An unknown role is refused", _chat(messages=[{"role": "robot", "content": "x"}]), "unknown_role"),
    Case("max_tokens_negative", "Negative max_tokens are refused", _chat(max_tokens=-5)),
    Case("max_tokens_zero", "max_tokens 0 is refused", _chat(max_tokens=0), "max_tokens_zero"),
    Case("max_tokens_text", "max_tokens that are a text are refused", _chat(max_tokens="many")),
    Case("max_tokens_huge", "max_tokens beyond the context are refused", _chat(max_tokens=10**9)),
    Case("temperature_negative", "A negative temperature is refused", _chat(temperature=-1)),
    Case("temperature_5", "Temperature 5 is refused", _chat(temperature=5), "temperature_5"),
    Case("top_p_high", "top_p above 1 is refused", _chat(top_p=1.5)),
    Case("top_p_zero", "top_p 0 is refused", _chat(top_p=0)),
    Case("n_zero", "n = 0 is refused", _chat(n=0)),
    Case("top_logprobs_100", "100 top_logprobs are refused", _chat(logprobs=True, top_logprobs=100), "top_logprobs_100"),
    Case("top_logprobs_alone", "top_logprobs without logprobs are refused", _chat(top_logprobs=3), "top_logprobs_alone"),
    Case(
        "stream_options_alone",
        "stream_options without stream are refused",
        _chat(stream_options={"include_usage": True}),
        "stream_options_alone",
    ),
    Case("response_format", "An unknown response format is refused", _chat(response_format={"type": "xml"})),
    Case("bad_schema", "A broken JSON schema is refused", _chat(response_format=_BAD_SCHEMA), "structured_output"),
    Case("image_part", "An image on a text model is refused", _chat(messages=_IMAGE_TURN), "image_part"),
    Case("tools_without_parser", "Tools without a parser are refused", _chat(tools=[_TOOL]), "tools_without_parser"),
    Case("prompt_too_long", "A prompt over the context is refused", _too_long(False)),
    Case("prompt_too_long_stream", "A streamed prompt over the context is refused before the stream", _too_long(True)),
    Case("prompt_empty", "An empty prompt is refused", _completion("")),
    Case("prompt_no_ids", "A prompt of no ids is refused", _completion([])),
    Case("out_of_vocabulary", "A token id outside the vocabulary is refused", _completion([1, 999_999_999]), "out_of_vocabulary"),
    Case("unknown_path", "An unknown path is 404", lambda api: api.get("/h20-no-such-path"), statuses=(404,), framework=True),
    Case("wrong_method", "GET on the chat route is 405", lambda api: api.get(CHAT), statuses=(405,), framework=True),
)


def shape_problems(error: ApiError, styles: AbstractSet[str], framework: bool) -> list[str]:
    """What is wrong with an error body. FastAPI's own ``detail`` is right for its own errors only. Pure.

    ``styles``: those of this version; behind a router also its own, since SGLang's gateway words refusals anew: ``{"error": {…}}``, a plain
    text for a body that it cannot read, nothing for a path or method that it does not have, ``data: {'error': …}`` in a stream.
    """
    own = {"text"} if "text" in styles else set()
    wanted = {"detail"} | own if framework else {*styles} | ({"detail"} if error.status == 422 else set())
    problems = [] if error.message.strip() or (own and error.status in (404, 405)) else ["the error has no message"]
    if error.style not in wanted:
        problems.append(f"the error has the shape {error.style!r}, not {' or '.join(sorted(wanted))}")
    return problems


def _refused_inside(exchange: Exchange) -> ApiError | None:
    """The refusal that a stream consists of, as its servers wrote it: plain, or (SGLang before #21900) as an event; None for any other."""
    first = exchange.body.strip().removeprefix(b"data:").strip().split(b"\n", 1)[0]
    error = read_error(exchange.status, first)
    return (
        error if error.style in ("flat", "nested") and error.message.strip() and error.code in ("", "None", "400", "413", "422") else None
    )


def _expected(api: Api, case: Case) -> str | None:
    """Why this case is not judged on this version, or None."""
    shape = api.ctx.shape
    if case.name == "tools_without_parser" and api.ctx.tool_parser:
        return "the profile asks for a tool parser"
    if case.name == "array_body" and shape.array_body_status == 500:
        return f"{api.ctx.who} answers 500 to a JSON array (recorded from SGLang 0.5.16 and vLLM 0.24.0)"
    if case.name in _MALFORMED and 500 in shape.malformed_status:
        return f"{api.ctx.who} answers 500 to a body that does not validate (SGLang before 0.4.8)"
    if case.capability == "structured_output":
        return api.why_not("structured_output")
    return api.why_not(case.capability, _REFUSED) if case.capability else None


_REFUSED: Outcome = "refused"
_MALFORMED = frozenset({"malformed_json", "empty_body", "content_type", "messages_text", "messages_missing", "max_tokens_text"})


def _register(case: Case) -> None:
    @CHECKS.add(f"endpoint.error_{case.name}", case.title, action="the server must refuse this cleanly: see the evidence file")
    def check(api: Api, say: Say) -> Verdict:
        """A 4xx with a message in this version's shape, and a token right afterwards."""
        reason = _expected(api, case)
        if reason:
            return say.skip(reason)
        exchange = case.send(api)
        problems: list[str] = []
        streamed = b'"stream": true' in exchange.request.body
        if api.behind is not None and streamed and exchange.status == 200 and (inside := _refused_inside(exchange)) is not None:
            if dead := alive_after(api):
                return say.problems(dead, of=1, status=exchange.status, message=inside.message[:300], shape=inside.style)
            return say.warn(
                exchange.status,
                "the router answered 200 before its servers had, and passed their refusal on as the stream: to a client it is an empty "
                "answer. sglang_router's mini_lb does so with every stream",
                action="SGLang calls mini_lb for debugging only: its gateway (without --mini-lb) keeps the status",
                details={"message": inside.message[:300], "shape": inside.style},
            )
        if case.statuses and exchange.status not in case.statuses:
            problems.append(f"status {exchange.status} instead of {' or '.join(map(str, case.statuses))}")
        elif not 400 <= exchange.status < 500:
            problems.append(f"status {exchange.status} instead of a 4xx")
        error = read_error(exchange.status, exchange.body)
        if exchange.status >= 400:
            nested_get = case.name == "unknown_model" and exchange.request.method == "GET"
            style = "nested" if nested_get and error.style == "nested" else api.ctx.shape.error_style
            styles = {style} if api.behind is None else {style, "nested", "text"}
            problems += shape_problems(error, styles, case.framework or (nested_get and error.style == "detail"))
        problems += alive_after(api)
        return say.problems(problems, of=1, status=exchange.status, message=error.message[:300], shape=error.style)


for _case in CASES:
    _register(_case)
