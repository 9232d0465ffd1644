"""Requests to the stand-in's API and what they get: both dialects in the shapes of their versions, and every way to be wrong.

``knobs`` (``EngineTruth.http``). A knob that is a name alone is switched on with ``True``:

*what answers*      ``auth_open`` (whatever the key), ``other_model``,
                    ``other_version``, ``other_context`` (wrong max_model_len), ``unhealthy``,
                    ``ill_after_start`` (/health answers once), ``get_allowed``,
                    ``every_path``, ``no_metrics``, ``worker_answers_models`` (rank ≥ 1 lists the model, too)
*errors*            ``accepts_errors`` (200 for bad input), ``errors_are_500``, ``error_shape``, ``error_silent``,
                    ``dies_of_errors``, ``small_bodies_only``, ``hang_on`` (text: a request that holds it is never answered),
                    ``completion_kills`` (the so many-th generation), ``truncates``, ``truncates_quietly``
*counts*            ``prompt_count_off``, ``completion_count_off``, ``sum_off``, ``stream_count_off``, ``stream_usage_missing``,
                    ``continuous_missing``, ``continuous_falls``, ``reasoning_uncounted``, ``max_tokens_short``,
                    ``max_completion_tokens_ignored``
*streams*           ``stream_drops_text``, ``stream_ids_differ``, ``text_after_end``, ``no_done``, ``after_done``, ``stream_cut``,
                    ``no_blank_line``, ``broken_utf8``, ``broken_characters``, ``stream_content_type``, ``slot_leaks``
*generation*        ``never_repeats``, ``seed_ignored``, ``cache_spoils``, ``window``, ``same_ids``, ``mixes_answers``,
                    ``n_ignored``, ``stop_ignored``, ``stop_included``, ``logprobs_missing``, ``logprobs_positive``,
                    ``finish_always_length``, ``finish_always_stop``, ``wrong_role``, ``wrong_object``, ``schema_ignored``,
                    ``echo_short``, ``echo_ascii``, ``logit_bias_ignored``, ``tool_arguments``,
                    ``tools_lost_in_lumps`` (of several streamed calls the last, without its name), ``tools_one_index``
*reasoning*         ``not_split``, ``tag_leaks``, ``think_in_content``, ``reasoning_null``, ``fields_swapped``, ``never_closed``,
                    ``field_renamed``, ``late_reasoning``, ``eats_content``, ``newlines_are_content``, ``cut_is_content``,
                    ``user_tags_end_reasoning``, ``later_tags_swallowed``, ``parser_last_tag``,
                    ``parser_always_thinks`` (R1's in place of one that thinks by tag), ``completions_split``,
                    ``separate_ignored``, ``include_ignored``, ``history_keeps_reasoning``, ``history_field_fed_back``,
                    ``switch_ignored`` (it thinks all the same), ``switched_off_is_reasoning``,
                    ``history_dropped``, ``system_dropped``, ``leaks_into_next`` (an answer begins with the last one's end)
*answers*           ``stupid``, ``garbage``, ``needle_lost``, ``silent`` (every text is empty), ``thinks_long`` (no thought ends within
                    500 tokens), ``thinks_for_ever``

``server.py`` has the knobs of speed and load.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.engines.api import ApiShape, shape_for
from pytest_h20.engines.base import Version
from pytest_h20.load.http1 import LAST_CHUNK, chunk
from pytest_h20.rehearsal.language import END, EOS, NEWLINE, OFFSET, Language, decode, encode

BAD = {
    "max_tokens": "max_tokens must be at least 1",
    "temperature": "temperature must be in [0, 2]",
    "top_p": "top_p must be in (0, 1]",
}


LONG_THOUGHT = 500
"""Tokens."""


class Refused(Exception):
    """A request that is answered with an error status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class GeneratedReply:
    """A generation: one event per token when streamed, or one body. ``prompt``, ``completion``: tokens really processed."""

    stream: bool
    events: tuple[bytes, ...]
    tail: bytes
    body: dict[str, Any]
    prompt: int
    completion: int


@dataclass(frozen=True)
class TokenStep:
    """One token: its text sorted into fields, and the finish reason if it is the last. ``trim``: characters to take back."""

    token: int
    content: str = ""
    reasoning: str = ""
    finish: str | None = None
    trim: int = 0


@dataclass
class Replies:
    """The API's semantics. One per server; not thread-safe."""

    engine: str
    version: str
    model: str
    max_len: int
    knobs: Mapping[str, Any]
    parser: bool = True
    tool_parser: bool = False
    api_key: str = ""
    thinking_switch: str = ""
    """Argument of the chat template that switches thinking; none: the model always thinks."""
    language: Language = field(init=False)
    shape: ApiShape = field(init=False)
    served: int = 0
    last_said: str = ""

    def __post_init__(self) -> None:
        self.language = Language(self.has)
        self.shape = shape_for("vllm" if self.engine == "vllm" else "sglang", Version.parse(self.version))

    def has(self, name: str) -> bool:
        """Whether a knob is on."""
        return bool(self.knobs.get(name))

    @property
    def vllm(self) -> bool:
        """Which dialect."""
        return self.engine == "vllm"

    # ------------------------------------------------------------------ bodies
    def body(self, data: bytes, content_type: str) -> dict[str, Any]:
        """The request's JSON. Raises ``Refused``."""
        if self.has("small_bodies_only") and len(data) > 1 << 20:
            raise Refused(500, "too large")
        if "json" not in content_type:
            raise Refused(400, "Unsupported Media Type: Only 'application/json' is allowed")
        try:
            value = json.loads(data)
        except ValueError:
            raise Refused(400, "JSON decode error") from None
        if not isinstance(value, dict):
            raise Refused(self.shape.array_body_status or 400, "Input should be a valid dictionary")
        return value

    def error(self, status: int, message: str) -> dict[str, Any]:
        """An error body in this version's shape."""
        flat = self.shape.error_style == "flat"
        if self.has("error_shape"):
            flat = not flat
        body = {
            "message": "" if self.has("error_silent") else message,
            "type": "BadRequestError" if status < 500 else "InternalServerError",
            "param": None,
            "code": status,
        }
        return {"object": "error", **body} if flat else {"error": body}

    def validate(self, body: Mapping[str, Any], chat: bool) -> None:
        """What this dialect refuses. Raises ``Refused``."""
        vllm = self.vllm
        if vllm and body.get("model", self.model) != self.model:
            raise Refused(404, f"The model `{body.get('model')}` does not exist.")
        if chat and (not isinstance(body.get("messages"), list) or not body["messages"]):
            raise Refused(400, "messages must be a list that is not empty")
        if not chat and body.get("prompt") in (None, "", []):
            raise Refused(400, "prompt is empty")
        for name in ("max_tokens", "max_completion_tokens"):
            most = body.get(name, 1)
            if not isinstance(most, int) or most < (1 if vllm else 0) or most > self.max_len:
                raise Refused(400, BAD["max_tokens"])
        if not 0 <= body.get("temperature", 1) <= (2 if vllm else 1e9):
            raise Refused(400, BAD["temperature"])
        if not 0 < body.get("top_p", 1) <= 1:
            raise Refused(400, BAD["top_p"])
        if body.get("n", 1) < 1:
            raise Refused(400, "n must be at least 1")
        form = body.get("response_format") or {}
        if form.get("type", "text") not in ("text", "json_object", "json_schema"):
            raise Refused(400, "unknown response_format")
        if form.get("type") == "json_schema" and form["json_schema"]["schema"].get("type") == "no-such-type":
            raise Refused(400, 'Unsupported type "no-such-type"')
        if chat and not vllm and any(m["role"] not in ("system", "user", "assistant", "tool") for m in body["messages"]):
            raise Refused(400, "'role' must be one of")
        if vllm:
            self._validate_vllm(body, chat)

    def _validate_vllm(self, body: Mapping[str, Any], chat: bool) -> None:
        if body.get("top_logprobs") and not body.get("logprobs"):
            raise Refused(400, "when using `top_logprobs`, `logprobs` must be set to true.")
        if (body.get("top_logprobs") or 0) > 20:
            raise Refused(400, "top_logprobs above 20")
        if body.get("stream_options") and not body.get("stream"):
            raise Refused(400, "Stream options can only be defined when `stream=True`.")
        if body.get("tools") and not self.tool_parser:
            raise Refused(400, "tools need --tool-call-parser")
        if chat and any(isinstance(m["content"], list) and m["content"][0]["type"] != "text" for m in body["messages"]):
            raise Refused(400, "not a multimodal model")

    # ------------------------------------------------------------------ generation
    def generate(self, body: dict[str, Any], chat: bool) -> GeneratedReply:
        """The answer to a request. Raises ``Refused``."""
        self.validate(body, chat)
        known = None
        if chat:
            prompt = self.language.template(body["messages"])
            last = body["messages"][-1]["content"]
            known = self.language.known(last if isinstance(last, str) else last[0].get("text", ""))
        else:
            given = body["prompt"]
            prompt = encode(given) if isinstance(given, str) else list(given)
            if not isinstance(given, str) and max(prompt) > 10**7:
                raise Refused(400, "Token id is out of vocabulary")
            known = self.language.known_prompt(prompt)
        limit = body.get("max_tokens", body.get("max_completion_tokens", 256))
        if self.has("max_completion_tokens_ignored") and "max_completion_tokens" in body:
            limit = 3
        if len(prompt) + (1 if self.vllm else limit) > self.max_len:
            if not self.has("truncates"):
                raise Refused(400, f"This model's maximum context length is {self.max_len} tokens.")
            prompt = prompt[-(self.max_len - limit) :]
        if self.has("truncates_quietly"):
            prompt = prompt[-1024:]
        self.served += 1
        enum = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {}).get("enum")
        runs = []
        for _ in range(body.get("n", 1) if not self.has("n_ignored") else 1):
            steps = self._sorted(body, chat, self._run(body, prompt, max(1, limit), known, enum))
            runs.append(self._changed(list(steps), chat))
        if body.get("stream"):
            return self._streamed(body, chat, prompt, runs)
        return self._plain(body, chat, prompt, runs)

    def _thinks(self, body: Mapping[str, Any]) -> bool:
        given = body.get("chat_template_kwargs") or {}
        return not self.thinking_switch or given.get(self.thinking_switch) is not False or self.has("switch_ignored")

    def _said(self, prompt: list[int], body: Mapping[str, Any], known: str | None, enum: Any) -> Iterator[int]:
        """The tokens of an answer; of one without thought those after its end."""
        said = self.language.tokens(prompt, body, known, enum)
        if known is not None and END in encode(known) and not self._thinks(body):
            said = itertools.islice(itertools.dropwhile(lambda token: token != END, said), 1, None)
        return said

    def _run(
        self, body: Mapping[str, Any], prompt: list[int], limit: int, known: str | None, enum: Any
    ) -> Iterator[tuple[int, str | None]]:
        for count, token in enumerate(self._said(prompt, body, known, enum), 1):
            if token == END and (self.has("thinks_for_ever") or (self.has("thinks_long") and limit < LONG_THOUGHT)):
                yield NEWLINE, "length"  # the thought goes on to the end of the budget
                return
            if token == EOS and not body.get("ignore_eos"):
                yield token, "length" if self.has("finish_always_length") else "stop"
                return
            short = limit - 1 if self.has("max_tokens_short") and limit > 4 else limit
            if count >= short:
                yield token, "stop" if self.has("finish_always_stop") else "length"
                return
            yield token, None

    def _sorted(self, body: Mapping[str, Any], chat: bool, tokens: Iterator[tuple[int, str | None]]) -> Iterator[TokenStep]:
        """Tokens with their text in the field it belongs to."""
        has = self.has
        split = chat and self.parser and not has("not_split")
        if not self.vllm and body.get("separate_reasoning") is False and not has("separate_ignored"):
            split = False
        if has("user_tags_end_reasoning") and chat and "</think>" in json.dumps(body["messages"][-1], ensure_ascii=False):
            split = False
        thinking, held, said = split and (self._thinks(body) or has("switched_off_is_reasoning")), 0, ""
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        for token, finish in tokens:
            text = "\ufffd" if has("broken_characters") and token > OFFSET + 0x3000 else decode([token])
            text = "" if has("silent") else text
            content = reasoning = ""
            if thinking and token == END:
                thinking = False
                text = "</think>" if has("tag_leaks") else ""
                held = 5
            elif split and token == END and has("later_tags_swallowed"):
                text = ""
            if split and not thinking and has("late_reasoning") and held == 1:
                reasoning = "late"
            held = max(0, held - 1)
            if split and not thinking and has("eats_content") and text == "1":
                text = ""
            if thinking and not (has("newlines_are_content") and not text.strip()):
                reasoning = text
            else:
                content = text
            if has("cut_is_content") and finish == "length" and thinking:
                content, reasoning = text, ""
            said += text
            hit = next((s for s in stops if s in said), None)
            if hit and not has("stop_ignored"):
                yield TokenStep(token, content, reasoning, "stop", 0 if has("stop_included") else len(hit))
                return
            yield TokenStep(token, content, reasoning, finish)

    def _changed(self, steps: list[TokenStep], chat: bool) -> list[TokenStep]:
        """What the parser's faults make of a whole answer."""
        if not chat:
            return steps
        if self.has("fields_swapped"):
            steps = [TokenStep(s.token, s.reasoning, s.content, s.finish, s.trim) for s in steps]
        if self.has("reasoning_null"):
            steps = [TokenStep(s.token, s.content, "", s.finish, s.trim) for s in steps]
        if self.has("leaks_into_next") and steps:
            first = steps[0]
            steps[0] = TokenStep(first.token, first.content, self.last_said[-24:] + first.reasoning, first.finish, first.trim)
        self.last_said = "".join(s.content for s in steps) or self.last_said
        return steps

    # ------------------------------------------------------------------ shapes
    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the reasoning field."""
        names = self.shape.reasoning_fields
        if not self.has("field_renamed"):
            return names
        return ("reasoning_content" if names[0] == "reasoning" else "reasoning",)

    def usage(self, prompt: int, ids: Sequence[int], reasoning: int) -> dict[str, Any]:
        """Counts as this version tells them."""
        asked = prompt + self.has("prompt_count_off")
        said = len(ids) + self.has("completion_count_off")
        value: dict[str, Any] = {
            "prompt_tokens": asked,
            "total_tokens": asked + said + self.has("sum_off"),
            "completion_tokens": said,
        }
        path = self.shape.reasoning_tokens_path
        if path == ("reasoning_tokens",):
            value["reasoning_tokens"] = 0 if self.has("reasoning_uncounted") else reasoning
        elif path:
            value["completion_tokens_details"] = {"reasoning_tokens": 0}
        return value

    @staticmethod
    def _reasoned(ids: Sequence[int], chat: bool) -> int:
        return (list(ids).index(END) if END in ids else len(ids)) if chat else 0

    def _logprobs(self, body: Mapping[str, Any], chat: bool, ids: Sequence[int], prompt: Sequence[int]) -> Any:
        if not body.get("logprobs"):
            return None
        seen = prompt[-200:] if self.has("window") else prompt
        state = int(hashlib.blake2s(str(list(seen)).encode()).hexdigest()[:6], 16) / 16**6
        figures = [0.5 if self.has("logprobs_positive") else -0.1 - state / 10 for _ in ids]
        ids = ids[:-1] if self.has("logprobs_missing") else ids
        tokens = [decode([i]) for i in ids]
        pairs = list(zip(tokens, figures, strict=False))
        if chat:
            return {
                "content": [
                    {"token": t, "logprob": f, "top_logprobs": [{"token": t, "logprob": f}, {"token": "~", "logprob": f - 2}]}
                    for t, f in pairs
                ]
            }
        return {
            "tokens": tokens,
            "token_logprobs": figures[: len(tokens)],
            "top_logprobs": [{t: f, "~": f - 2 - state} for t, f in pairs],
        }

    def _echo(self, body: Mapping[str, Any], prompt: Sequence[int]) -> str:
        text: str = body["prompt"] if isinstance(body["prompt"], str) else decode(prompt)
        if self.has("echo_ascii"):
            text = text.encode("ascii", "replace").decode()
        return text[:500] if self.has("echo_short") else text

    def _hidden(self, body: Mapping[str, Any]) -> bool:
        """vLLM's include_reasoning: false."""
        known = "include_reasoning" in self.shape.extras
        return self.vllm and known and body.get("include_reasoning") is False and not self.has("include_ignored")

    def _plain(self, body: dict[str, Any], chat: bool, prompt: list[int], runs: list[list[TokenStep]]) -> GeneratedReply:
        choices, every, reasoned = [], 0, 0
        all_ids: list[int] = []
        for index, steps in enumerate(runs):
            content, reasoning = "".join(s.content for s in steps), "".join(s.reasoning for s in steps)
            trim = steps[-1].trim
            if trim and content:
                content = content[:-trim]
            elif trim:
                reasoning = reasoning[:-trim]
            if self._hidden(body):
                reasoning = ""
            ids = [s.token for s in steps]
            all_ids += ids
            every += len(ids)
            reasoned += self._reasoned(ids, chat)
            choice: dict[str, Any] = {
                "index": index,
                "finish_reason": steps[-1].finish,
                "logprobs": self._logprobs(body, chat, ids, prompt),
            }
            if chat:
                choice["message"] = self._message(body, choice, content, reasoning)
            else:
                choice["text"] = (self._echo(body, prompt) if body.get("echo") else "") + content
                if self.has("completions_split"):
                    choice[self.fields[0]] = "split all the same"
            choices.append(choice)
        # By the prompt and not by the number of the request: which of them come in which order is chance.
        if self.has("mixes_answers") and chat and len(prompt) % 5 == 0:
            choices[0]["message"]["content"] = "\n\n6000"
        kind = "thing" if self.has("wrong_object") else "chat.completion" if chat else "text_completion"
        document = {
            "id": "same" if self.has("same_ids") else f"id-{self.served:08d}",
            "object": kind,
            "created": 1743811200,
            "model": body.get("model", self.model),
            "choices": choices,
            "usage": self.usage(len(prompt), all_ids, reasoned),
        }
        return GeneratedReply(False, tuple([b""] * max(1, every)), b"", document, len(prompt), every)

    def _message(self, body: Mapping[str, Any], choice: dict[str, Any], content: str, reasoning: str) -> dict[str, Any]:
        empty = None if self.shape.truncated_content == "null" and not self.has("not_split") else ""
        message: dict[str, Any] = {
            "role": "robot" if self.has("wrong_role") else "assistant",
            "content": content or empty,
        }
        message |= dict.fromkeys(self.fields, reasoning or None) if self.parser else {}
        if self.shape.tool_calls_when_empty != "omitted":
            message["tool_calls"] = None if self.shape.tool_calls_when_empty == "null" else []
        if isinstance(body.get("tool_choice"), dict):
            arguments = '{"state": "sideways"}' if self.has("tool_arguments") else '{"state": "on"}'
            message["tool_calls"] = [{"id": "1", "type": "function", "function": {"name": "set_rail", "arguments": arguments}}]
            choice["finish_reason"] = "stop"
        elif calls := self._calls(body):
            message["tool_calls"] = calls
            choice["finish_reason"] = "tool_calls"
        return message

    def _calls(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is called where the choice among several tools is free: each once, a tool with a number with two."""
        tools = body.get("tools") or []
        if len(tools) < 2 or body.get("tool_choice") is not None or not self.tool_parser or self.has("silent"):
            return []
        made: list[dict[str, Any]] = []
        for tool in tools:
            (name, kind), *_ = tool["function"]["parameters"]["properties"].items()
            for value in (3, 7) if kind["type"] == "integer" else (kind["enum"][0],):
                function = {"name": tool["function"]["name"], "arguments": json.dumps({name: value})}
                made.append({"id": f"call-{len(made)}", "type": "function", "function": function})
        return made

    def _pieces(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The calls as a stream brings them: the name, then the arguments in two halves."""
        for index, call in enumerate(calls):
            if self.has("tools_lost_in_lumps") and index < len(calls) - 1:
                continue
            function, at = call["function"], 0 if self.has("tools_one_index") else index
            name = "" if self.has("tools_lost_in_lumps") else function["name"]
            half = len(function["arguments"]) // 2
            yield {"index": at, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
            for part in (function["arguments"][:half], function["arguments"][half:]):
                yield {"index": at, "id": None, "type": "function", "function": {"name": None, "arguments": part}}

    # ------------------------------------------------------------------ streams
    def _event(self, text: str) -> bytes:
        data = f"data: {text}\n{'' if self.has('no_blank_line') else chr(10)}".encode()
        if self.has("broken_utf8"):
            data = data.replace(b'"index"', b'"ind\xff"')
        return chunk(data)

    def _streamed(self, body: dict[str, Any], chat: bool, prompt: list[int], runs: list[list[TokenStep]]) -> GeneratedReply:
        has, options = self.has, body.get("stream_options") or {}
        number, sent = self.served, 0
        kind = "chat.completion.chunk" if chat else "text_completion"

        def event(choice: dict[str, Any] | None, usage: dict[str, Any] | None = None) -> bytes:
            name = "same" if has("same_ids") else f"id-{number:08d}" + (f"-{sent}" if has("stream_ids_differ") else "")
            value: dict[str, Any] = {"id": name, "object": kind, "created": 1743811200, "model": body.get("model", self.model)}
            value["choices"] = [choice] if choice is not None else []
            if usage is not None:
                value["usage"] = usage
            return self._event(json.dumps(value, ensure_ascii=False))

        events: list[bytes] = []
        opening = b""
        if chat:
            role = "user" if has("wrong_role") else "assistant"
            delta: dict[str, Any] = {"role": role, "content": ""}
            if not self.vllm and self.parser:
                delta |= dict.fromkeys(self.fields)
            opening = event({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})
            for piece in self._pieces(self._calls(body)):
                opening += event({"index": 0, "delta": {"tool_calls": [piece]}, "logprobs": None, "finish_reason": None})
        elif body.get("echo"):
            opening = event({"index": 0, "text": self._echo(body, prompt), "logprobs": None, "finish_reason": None})
        total: list[int] = []
        known = self.vllm or self.shape.version.at_least("0.5.16")
        running = options.get("continuous_usage_stats") and known and not has("continuous_missing")
        for index, steps in enumerate(runs):
            held_content, held_reasoning = "", ""
            if body.get("stop"):  # a real engine holds back what might become the stop string
                whole = self._plain({**body, "stream": False}, chat, prompt, [steps])
                said = whole.body["choices"][0]
                held_content = (said["message"]["content"] or "") if chat else said["text"]
                held_reasoning = (said["message"].get(self.fields[0]) or "") if chat else ""
            for at, step in enumerate(steps):
                sent += 1
                total.append(step.token)
                content, reasoning = step.content, step.reasoning
                if body.get("stop"):
                    content, reasoning = (held_content, held_reasoning) if step.finish else ("", "")
                if has("stream_drops_text") and at == 4:
                    content, reasoning = "", ""
                if self._hidden(body):
                    reasoning = ""
                usage = self._usage_now(prompt, [s.token for s in steps[: at + 1]], chat) if running else None
                events.append(self._step(event, index, chat, content, reasoning, step.finish, usage))
                if step.finish and has("text_after_end"):
                    events[-1] += event({"index": index, "delta": {"content": "x"}, "text": "x", "finish_reason": None})
        tail = b""
        if options.get("include_usage") and not has("stream_usage_missing"):
            usage = self.usage(len(prompt), total, self._reasoned(total, chat))
            usage["completion_tokens"] += has("stream_count_off")
            tail += event(None, usage)
        tail += b"" if has("no_done") else self._event("[DONE]")
        tail += self._event('{"choices": []}') if has("after_done") else b""
        tail += b"" if has("stream_cut") else LAST_CHUNK
        events[0] = opening + events[0]
        return GeneratedReply(True, tuple(events), tail, {}, len(prompt), len(total))

    def _usage_now(self, prompt: Sequence[int], ids: list[int], chat: bool) -> dict[str, Any]:
        value = self.usage(len(prompt), ids, self._reasoned(ids, chat))
        if self.has("continuous_falls"):
            value["completion_tokens"] = max(0, 9 - len(ids))
        return value

    def _step(self, event: Any, index: int, chat: bool, content: str, reasoning: str, finish: str | None, usage: Any) -> bytes:
        """The chunk of one token. SGLang sends the finish reason in a chunk of its own."""
        apart = finish is not None and not self.vllm
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": None if apart else finish}
        if not chat:
            choice["text"] = content + reasoning
            last: dict[str, Any] = {"index": index, "logprobs": None, "text": "", "finish_reason": finish}
        else:
            delta: dict[str, Any] = {}
            if reasoning:
                delta |= dict.fromkeys(self.fields, reasoning)
            if content or not reasoning:
                delta["content"] = content
            choice["delta"] = delta
            empty = dict.fromkeys(self.fields) if self.parser else {}
            last = {"index": index, "logprobs": None, "delta": empty, "finish_reason": finish}
        data: bytes = event(choice, usage)
        return data + event(last, usage) if apart else data
