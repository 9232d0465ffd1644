"""A small engine of our own for tests: both dialects, deterministic, exact token counts, and a switch for every way to be wrong.

It speaks the API of vLLM 0.32 or SGLang 0.5.16 as recorded. A token is one character, but for ``</think>`` and the ids of
token-id prompts. Known questions get their reference reasoning and answer; everything else gets endless letters that depend on
every token of the prompt.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pytest_h20.checks.endpoint.questions import shipped

END, NEWLINE, EOS, OFFSET = 7, 10, 1, 2000
BAD = {  # request error case -> what the engine says about it
    "max_tokens": "max_tokens must be at least 1",
    "temperature": "temperature must be in [0, 2]",
    "top_p": "top_p must be in (0, 1]",
}


def encode(text: str) -> list[int]:
    """One id per character, ``</think>`` is one token."""
    ids = []
    for part in re.split(r"(</think>)", text):
        ids += [END] if part == "</think>" else [NEWLINE if c == "\n" else OFFSET + ord(c) for c in part]
    return ids


def decode(ids: list[int]) -> str:
    """The text of ids; ids of token-id prompts are letters."""
    return "".join(
        "</think>" if i == END else "\n" if i == NEWLINE else "" if i == EOS else chr(i - OFFSET) if i >= OFFSET else chr(97 + i % 26)
        for i in ids
    )


@dataclass
class FakeEngine:
    """One server on loopback. ``faults``: names of what goes wrong; see the tests for which check each must turn red."""

    engine: str = "vllm"
    version: str = "0.32.0"
    model: str = "fake-r1"
    max_len: int = 2048
    faults: frozenset[str] = frozenset()
    api_key: str = ""
    tool_parser: bool = False
    token_s: float = 0.0
    running: int = 0
    dead: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: ThreadingHTTPServer | None = None
    answers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    served: int = 0

    def __enter__(self) -> FakeEngine:
        for question in shipped():
            self.answers[question.question] = f"{question.reasoning}\n</think>\n\n{question.answer}"
        engine = self

        class Handler(_Handler):
            fake = engine

        self.server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def has(self, fault: str) -> bool:
        """Whether this goes wrong."""
        return fault in self.faults

    # ---------------------------------------------------------------- generation

    def template(self, messages: list[dict[str, Any]]) -> list[int]:
        """R1's template: earlier reasoning is cut off, the prompt ends in ``<think>``."""
        out = "^"
        for message in messages:
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            if message["role"] == "assistant" and not self.has("history_keeps_reasoning"):
                content = content.split("</think>")[-1]
            if self.has("history_field_fed_back"):
                content = (message.get("reasoning_content") or message.get("reasoning") or "") + content
            if self.has("history_dropped") and message is not messages[-1]:
                continue
            if self.has("system_dropped") and message["role"] == "system":
                continue
            out += f"|{message['role'][0]}|{content}"
        return encode(out + "|A|<think>\n")

    def tokens(self, prompt: list[int], body: dict[str, Any], known: str | None, choices: list[str] | None) -> Iterator[int]:
        """Ids without end; EOS is one of them where the text ends by itself."""
        bias = {int(k): v for k, v in (body.get("logit_bias") or {}).items()}
        forced = next((k for k, v in bias.items() if v >= 100), None)
        if forced is not None and not self.has("logit_bias_ignored"):
            while True:
                yield forced
        script: list[int] = []
        if known is not None:
            text = known
            if choices is not None:
                answer = json.dumps("none") if self.has("schema_ignored") else json.dumps(choices[0])
                text = known.split("</think>")[0] + "</think>" + answer
            if self.has("never_repeats"):
                text = f"{random.getrandbits(30)} {text}"
            script = [*encode(text), EOS]
        yield from script
        seed = 0
        if float(body.get("temperature", 1)) > 0:
            seed = random.getrandbits(30) if body.get("seed") is None or self.has("seed_ignored") else int(body["seed"])
        if self.has("never_repeats"):
            seed = random.getrandbits(30)
        if self.has("cache_spoils") and self.seen_before(prompt):
            seed = 99
        attended = prompt if not self.has("window") else prompt[-200:]
        state = int.from_bytes(hashlib.blake2s(f"{attended}{seed}".encode(), digest_size=6).digest(), "big")
        while True:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            yield OFFSET + 97 + (state >> 33) % 26

    prompts_seen: set[str] = field(default_factory=set)

    def seen_before(self, prompt: list[int]) -> bool:
        """Whether this prompt came before."""
        key = hashlib.blake2s(str(prompt).encode()).hexdigest()
        known = key in self.prompts_seen
        self.prompts_seen.add(key)
        return known


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Refused(Exception):
    """A 4xx (or whatever status) with a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    fake: FakeEngine
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    # ---------------------------------------------------------------- answers

    def answer(self, status: int, value: Any, kind: str = "application/json") -> None:
        data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        flat = self.fake.engine == "sglang"
        if self.fake.has("error_shape"):
            flat = not flat
        message = "" if self.fake.has("error_silent") else message
        body = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        self.answer(status, {"object": "error", **body} if flat else {"error": body})

    def allowed(self) -> bool:
        fake = self.fake
        if not fake.api_key or fake.has("auth_open") or self.path in ("/health", "/metrics"):
            return True
        if self.headers.get("Authorization") == f"Bearer {fake.api_key}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        fake = self.fake
        if not self.allowed():
            return
        if self.path == "/health":
            self.answer(503 if fake.has("unhealthy") else 200, b"")
        elif self.path == "/v1/models":
            row: dict[str, Any] = {"id": fake.model, "object": "model", "owned_by": fake.engine, "max_model_len": fake.max_len}
            if fake.has("other_model"):
                row["id"] = "someone-else"
            if fake.has("other_context"):
                row["max_model_len"] = fake.max_len // 2
            self.answer(200, {"object": "list", "data": [row]})
        elif self.path in ("/version", "/server_info"):
            known = (self.path == "/version") == (fake.engine == "vllm")
            version = "0.1.0" if fake.has("other_version") else fake.version
            self.answer(200 if known else 404, {"version": version} if known else {"detail": "Not Found"})
        elif self.path == "/metrics":
            name = "vllm:num_requests_running" if fake.engine == "vllm" else "sglang:num_running_reqs"
            self.answer(404 if fake.has("no_metrics") else 200, f'{name}{{model_name="x"}} {fake.running}.0\n'.encode(), "text/plain")
        elif self.path.startswith("/v1/models/") and fake.engine == "sglang":
            self.answer(404, {"error": {"message": "The model does not exist", "code": "model_not_found"}})
        elif self.path in ("/v1/chat/completions", "/v1/completions"):
            self.answer(200 if fake.has("get_allowed") else 405, {"detail": "Method Not Allowed"})
        else:
            self.answer(200 if fake.has("every_path") else 404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        fake = self.fake
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.allowed():
            return
        if fake.dead:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        try:
            body = self.body(data)
            fake.requests.append((self.path, body))
            if self.path == "/v1/chat/completions":
                self.generate(body, chat=True)
            elif self.path == "/v1/completions":
                self.generate(body, chat=False)
            elif self.path in ("/tokenize", "/v1/tokenize"):
                ids = fake.template(body["messages"]) if "messages" in body else encode(body["prompt"])
                self.answer(200, {"count": len(ids), "tokens": ids})
            elif self.path == "/generate" and fake.engine == "sglang":
                rows = [[None, i, None] for i in encode(body["text"])]
                self.answer(200, {"text": "", "meta_info": {"input_token_logprobs": rows}})
            elif self.path == "/separate_reasoning" and fake.engine == "sglang":
                text = body["text"].removeprefix("<think>")
                before, _, after = text.rpartition("</think>") if fake.has("parser_last_tag") else text.partition("</think>")
                self.answer(200, {"reasoning_text": before, "text": after})
            else:
                self.answer(404, {"detail": "Not Found"})
        except Refused as refused:
            if fake.has("dies_of_errors"):
                fake.dead = True
            if fake.has("accepts_errors"):
                self.answer(200, {"choices": []})
            elif fake.has("errors_are_500"):
                self.answer(500, b"Internal Server Error", "text/plain")
            else:
                self.refuse(refused.status, refused.message)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def body(self, data: bytes) -> dict[str, Any]:
        if self.fake.has("small_bodies_only") and len(data) > 1 << 20:
            raise Refused(500, "too large")
        if "json" not in self.headers.get("Content-Type", ""):
            raise Refused(400, "Unsupported Media Type: Only 'application/json' is allowed")
        try:
            value = json.loads(data)
        except ValueError:
            raise Refused(400, "JSON decode error") from None
        if not isinstance(value, dict):
            raise Refused(400, "Input should be a valid dictionary")
        return value

    # ---------------------------------------------------------------- a request

    def validate(self, body: dict[str, Any], chat: bool) -> None:
        fake = self.fake
        vllm = fake.engine == "vllm"
        if vllm and body.get("model", fake.model) != fake.model:
            raise Refused(404, "The model does not exist.")
        if chat and (not isinstance(body.get("messages"), list) or not body["messages"]):
            raise Refused(400, "messages must be a list that is not empty")
        if not chat and body.get("prompt") in (None, "", []):
            raise Refused(400, "prompt is empty")
        for name in ("max_tokens", "max_completion_tokens"):
            most = body.get(name, 1)
            if not isinstance(most, int) or most < (1 if vllm else 0) or most > fake.max_len:
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
        if not vllm:
            return
        if body.get("top_logprobs") and not body.get("logprobs"):
            raise Refused(400, "when using `top_logprobs`, `logprobs` must be set to true.")
        if (body.get("top_logprobs") or 0) > 20:
            raise Refused(400, "top_logprobs above 20")
        if body.get("stream_options") and not body.get("stream"):
            raise Refused(400, "Stream options can only be defined when `stream=True`.")
        if body.get("tools") and not fake.tool_parser:
            raise Refused(400, "tools need --tool-call-parser")
        if chat and any(isinstance(m["content"], list) and m["content"][0]["type"] != "text" for m in body["messages"]):
            raise Refused(400, "not a multimodal model")

    def generate(self, body: dict[str, Any], chat: bool) -> None:
        fake = self.fake
        self.validate(body, chat)
        known = None
        if chat:
            prompt = fake.template(body["messages"])
            last = body["messages"][-1]["content"]
            question = last if isinstance(last, str) else last[0].get("text", "")
            known = fake.answers.get(question)
            if known is None and "secret number is" in question:
                found = re.search(r"secret number is (\d+)", question)
                known = f"Looking.\n</think>\n\n{found[1] if found and not fake.has('needle_lost') else 0}"
            if known is not None and fake.has("stupid"):
                known = known.split("</think>")[0] + "</think>\n\nno idea"
        else:
            given = body["prompt"]
            prompt = encode(given) if isinstance(given, str) else list(given)
            if max(prompt) > 10**7:
                raise Refused(400, "Token id is out of vocabulary")
            text = decode(prompt)
            if text.endswith("|A|<think>\n"):
                known = fake.answers.get(text.rpartition("|u|")[2].removesuffix("|A|<think>\n"))
        limit = body.get("max_tokens", body.get("max_completion_tokens", 256))
        if fake.has("max_completion_tokens_ignored") and "max_completion_tokens" in body:
            limit = 3
        if len(prompt) + (1 if fake.engine == "vllm" else limit) > fake.max_len:
            if not fake.has("truncates"):
                raise Refused(400, f"This model's maximum context length is {fake.max_len} tokens.")
            prompt = prompt[-(fake.max_len - limit) :]
        if fake.has("truncates_quietly"):
            prompt = prompt[-1024:]
        form = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
        with fake.lock:
            fake.running += 1
            fake.served += 1
            number = fake.served
        leaked = False
        try:
            if body.get("stream"):
                self.stream(body, chat, prompt, limit, known, form.get("enum"), number)
            else:
                self.plain(body, chat, prompt, limit, known, form.get("enum"), number)
        except (BrokenPipeError, ConnectionResetError):
            if fake.has("slot_leaks"):
                leaked = True
            raise
        finally:
            if not leaked:
                with fake.lock:
                    fake.running -= 1

    def run(self, body: dict[str, Any], prompt: list[int], limit: int, known: str | None, enum: Any) -> Iterator[tuple[int, str | None]]:
        """(id, finish reason or None) of each token."""
        fake = self.fake
        for count, token in enumerate(fake.tokens(prompt, body, known, enum), 1):
            if fake.token_s:
                time.sleep(fake.token_s)
            if token == END and ((fake.has("thinks_long") and limit < 500) or fake.has("thinks_for_ever")):
                yield token - 1, "length"  # the thought goes on to the end of the budget
                return
            if token == EOS and not body.get("ignore_eos"):
                yield token, "length" if fake.has("finish_always_length") else "stop"
                return
            short = limit - 1 if fake.has("max_tokens_short") and limit > 4 else limit
            if count >= short:
                yield token, "stop" if fake.has("finish_always_stop") else "length"
                return
            yield token, None

    def pieces(self, body: dict[str, Any], chat: bool, steps: Iterator[tuple[int, str | None]]) -> Iterator[dict[str, Any]]:
        """Steps with their text sorted into fields: ``content``, ``reasoning``, ``finish``, ``ids``."""
        fake = self.fake
        split = chat and not fake.has("not_split")
        if fake.engine == "sglang" and body.get("separate_reasoning") is False and not fake.has("separate_ignored"):
            split = False
        if fake.has("user_tags_end_reasoning") and chat and "</think>" in json.dumps(body["messages"][-1], ensure_ascii=False):
            split = False
        thinking = split
        stops = body.get("stop") or []
        said = ""
        held = 0
        for token, finish in steps:
            text = "\ufffd" if fake.has("broken_characters") and token > OFFSET + 0x3000 else decode([token])
            text = "" if fake.has("silent") else text
            step: dict[str, Any] = {"ids": [token], "finish": finish, "content": "", "reasoning": ""}
            if thinking and token == END:
                thinking = False
                text = "</think>" if fake.has("tag_leaks") else ""
                held = 5
            elif split and token == END and fake.has("later_tags_swallowed"):
                text = ""
            if split and not thinking and fake.has("late_reasoning") and held == 1:
                step["reasoning"] = "late"
            held = max(0, held - 1)
            if split and not thinking and fake.has("eats_content") and text == "1":
                text = ""
            if thinking and not text.strip() and fake.has("newlines_are_content"):
                step["content"] = text
            else:
                step["reasoning" if thinking else "content"] = text
            if fake.has("cut_is_content") and finish == "length" and thinking:
                step["content"], step["reasoning"] = text, ""
            said += text
            hit = next((s for s in stops if s in said), None)
            if hit and not fake.has("stop_ignored"):
                if not fake.has("stop_included"):
                    step["trim"] = len(hit)
                step["finish"] = "stop"
                yield step
                return
            yield step

    def collect(self, body: dict[str, Any], chat: bool, prompt: list[int], limit: int, known: str | None, enum: Any) -> dict[str, Any]:
        fake = self.fake
        out: dict[str, Any] = {"content": "", "reasoning": "", "ids": [], "finish": None}
        for step in self.pieces(body, chat, self.run(body, prompt, limit, known, enum)):
            out["content"] += step["content"]
            out["reasoning"] += step["reasoning"]
            out["ids"] += step["ids"]
            out["finish"] = step["finish"]
            if step.get("trim"):
                key = "content" if out["content"] else "reasoning"
                out[key] = out[key][: -step["trim"]]
        if chat and fake.engine == "vllm" and body.get("include_reasoning") is False and not fake.has("include_ignored"):
            out["reasoning"] = ""
        return out

    def usage(self, prompt: list[int], ids: list[int], reasoning_ids: int) -> dict[str, Any]:
        fake = self.fake
        asked = len(prompt) + fake.has("prompt_count_off")
        said = len(ids) + fake.has("completion_count_off")
        value: dict[str, Any] = {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said + fake.has("sum_off"),
        }
        if fake.engine == "sglang":
            value["reasoning_tokens"] = 0 if fake.has("reasoning_uncounted") else reasoning_ids
        else:
            value["completion_tokens_details"] = {"reasoning_tokens": 0}
        return value

    @staticmethod
    def reasoning_ids(ids: list[int], chat: bool) -> int:
        return (ids.index(END) if END in ids else len(ids)) if chat else 0

    def field(self) -> str:
        name = "reasoning_content" if self.fake.engine == "sglang" else "reasoning"
        return {"reasoning": "reasoning_content", "reasoning_content": "reasoning"}[name] if self.fake.has("field_renamed") else name

    def logprobs(self, body: dict[str, Any], chat: bool, ids: list[int], prompt: list[int]) -> Any:
        if not body.get("logprobs"):
            return None
        fake = self.fake
        seen = prompt[-200:] if fake.has("window") else prompt
        state = int(hashlib.blake2s(str(seen).encode()).hexdigest()[:6], 16) / 16**6
        figures = [0.5 if fake.has("logprobs_positive") else -0.1 - state / 10 for _ in ids]
        ids = ids[:-1] if fake.has("logprobs_missing") else ids
        tokens = [decode([i]) for i in ids]
        if chat:
            return {
                "content": [
                    {"token": t, "logprob": f, "top_logprobs": [{"token": t, "logprob": f}, {"token": "~", "logprob": f - 2}]}
                    for t, f in zip(tokens, figures, strict=False)
                ]
            }
        tops = [{t: f, "~": f - 2 - state} for t, f in zip(tokens, figures, strict=False)]
        return {"tokens": tokens, "token_logprobs": figures[: len(tokens)], "top_logprobs": tops}

    def plain(self, body: dict[str, Any], chat: bool, prompt: list[int], limit: int, known: str | None, enum: Any, number: int) -> None:
        fake = self.fake
        choices, all_ids, reasoned = [], [], 0
        for index in range(body.get("n", 1) if not fake.has("n_ignored") else 1):
            out = self.collect(body, chat, prompt, limit, known, enum)
            ids = out["ids"]
            all_ids += ids
            reasoned += self.reasoning_ids(ids, chat)
            choice: dict[str, Any] = {
                "index": index,
                "finish_reason": out["finish"],
                "logprobs": self.logprobs(body, chat, ids, prompt),
            }
            if chat:
                content = out["content"] or (None if fake.engine == "vllm" and not fake.has("not_split") else "")
                message: dict[str, Any] = {"role": "robot" if fake.has("wrong_role") else "assistant", "content": content}
                message[self.field()] = out["reasoning"] or None
                if fake.engine == "sglang":
                    message["tool_calls"] = None
                if isinstance(body.get("tool_choice"), dict):
                    arguments = '{"state": "sideways"}' if fake.has("tool_arguments") else '{"state": "on"}'
                    message["tool_calls"] = [{"id": "1", "function": {"name": "set_rail", "arguments": arguments}}]
                    choice["finish_reason"] = "stop"
                choice["message"] = message
            else:
                text = out["content"]
                if body.get("echo"):
                    text = self.echo(body, prompt) + text
                choice["text"] = text
                if fake.has("completions_split"):
                    choice["reasoning"] = "split all the same"
            choices.append(choice)
        if fake.has("mixes_answers") and sum(prompt) % 3 == 0 and chat and choices[0]["message"]["content"]:
            choices[0]["message"]["content"] = "\n\n6000"
        self.answer(
            200,
            {
                "id": "same" if fake.has("same_ids") else f"id-{number}",
                "object": ("chat.completion" if chat else "text_completion") if not fake.has("wrong_object") else "thing",
                "model": body.get("model"),
                "choices": choices,
                "usage": self.usage(prompt, all_ids, reasoned),
            },
        )

    def echo(self, body: dict[str, Any], prompt: list[int]) -> str:
        text = body["prompt"] if isinstance(body["prompt"], str) else decode(prompt)
        if self.fake.has("echo_ascii"):
            text = text.encode("ascii", "replace").decode()
        return text[:500] if self.fake.has("echo_short") else text

    def stream(self, body: dict[str, Any], chat: bool, prompt: list[int], limit: int, known: str | None, enum: Any, number: int) -> None:
        fake = self.fake
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if fake.has("stream_content_type") else "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        options = body.get("stream_options") or {}
        head = {
            "id": f"id-{number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "model": body.get("model"),
        }
        ids: list[int] = []

        def send(choice: dict[str, Any] | None, usage: dict[str, Any] | None = None) -> None:
            value: dict[str, Any] = {**head, "choices": [choice] if choice is not None else []}
            if fake.has("stream_ids_differ"):
                value["id"] = f"id-{number}-{len(ids)}"
            if usage is not None:
                value["usage"] = usage
            self.event(json.dumps(value, ensure_ascii=False))

        def usage_now(fields: list[int]) -> dict[str, Any] | None:
            if not (options.get("continuous_usage_stats") and not fake.has("continuous_missing")):
                return None
            value = self.usage(prompt, fields, self.reasoning_ids(fields, chat))
            if fake.has("continuous_falls"):
                value["completion_tokens"] = max(0, 9 - len(fields))
            return value

        if chat:
            send(
                {
                    "index": 0,
                    "delta": {"role": "user" if fake.has("wrong_role") else "assistant", "content": ""},
                    "finish_reason": None,
                }
            )
        elif body.get("echo"):
            send({"index": 0, "text": self.echo(body, prompt), "finish_reason": None})
        count = body.get("n", 1) if not fake.has("n_ignored") else 1
        total: list[int] = []
        for index in range(count):
            ids = []
            said = ""
            for step in self.pieces(body, chat, self.run(body, prompt, limit, known, enum)):
                ids += step["ids"]
                total += step["ids"]
                if step.get("trim"):  # held back text would not have been sent by a real engine
                    step["content"], step["reasoning"] = "", ""
                if body.get("stop"):
                    said += step["content"] + step["reasoning"]
                    if step["finish"] is None:
                        continue
                    stop = body["stop"][0]
                    whole = self.collect(body, chat, prompt, limit, known, enum)
                    step["content"], step["reasoning"] = whole["content"], whole["reasoning"]
                    said = stop
                if fake.has("stream_drops_text") and len(ids) == 5:
                    step["content"], step["reasoning"] = "", ""
                if fake.engine == "vllm" and body.get("include_reasoning") is False and not fake.has("include_ignored"):
                    step["reasoning"] = ""
                choice: dict[str, Any] = {"index": index, "finish_reason": step["finish"], "logprobs": None}
                if chat:
                    delta: dict[str, Any] = {}
                    if step["reasoning"]:
                        delta[self.field()] = step["reasoning"]
                    if step["content"] or not step["reasoning"]:
                        delta["content"] = step["content"]
                    choice["delta"] = delta
                else:
                    choice["text"] = step["content"] + step["reasoning"]
                send(choice, usage_now(ids))
                if step["finish"] and fake.has("text_after_end"):
                    send({"index": index, "delta": {"content": "x"}, "text": "x", "finish_reason": None})
        if options.get("include_usage") and not fake.has("stream_usage_missing"):
            usage = self.usage(prompt, total, self.reasoning_ids(total, chat))
            usage["completion_tokens"] += fake.has("stream_count_off")
            send(None, usage)
        if not fake.has("no_done"):
            self.event("[DONE]")
        if fake.has("after_done"):
            self.event('{"choices": []}')
        self.wfile.write(b"" if fake.has("stream_cut") else b"0\r\n\r\n")
        if fake.has("stream_cut"):
            self.close_connection = True

    def event(self, text: str) -> None:
        end = "\n" if self.fake.has("no_blank_line") else "\n\n"
        data = f"data: {text}{end}".encode()
        if self.fake.has("broken_utf8"):
            data = data.replace(b'"index"', b'"ind\xff"')
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
