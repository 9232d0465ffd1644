"""The HTTP side of the stand-in's engine: the reference server of the load generator with a model, both dialects, and faults.

Load (token ids, streamed, exact length) goes the reference server's own fast way; everything else is answered by ``replies.py``,
token by token at the same speed. Knobs beside those of ``replies.py``:

``slow_from`` + ``slow_factor``   so many times the write-up's time from so many requests at a time on
``ttft_factor``                   so much longer to every first token
``cell_factor``                   {``in128-out128-c8``: 1.12}: so many times the write-up's time while that cell runs
``stall_every``                   every so many-th request of a load goes silent half-way
``silences``                      [n, s]: every n-th request of a load is silent for s model seconds half-way, then goes on
``hiccups``                       every 50th token of a load comes so many times later than the others
``lumps``                         a proxy keeps so many tokens of a load back and lets them go at once
``accepts``                       tokens that a step gives where the engine was told to draft (speculative decoding)
``kv_pool``                       tokens that its KV cache holds; what does not fit is put back, and told in /metrics
``never_puts_back``               it does not
``slow_after_put_back``           once it has, so many times the time, for good
``new_shape_s``                   a prompt of a length that was not seen (a multiple of 5) waits so long for a kernel (model seconds)
``forgets_shapes``                every time, not only the first
``router``                        it is the router of a prefill/decode split (mini_lb): no /metrics, no version but those of its servers,
                                  200 to every stream, input logprobs of prefill and decode one after the other
``ends_at``                       answers of a load end after so many tokens at the latest
``long_prompts_kill``             so many long prompts at once end the server
``chat_factor``                   the chat route takes so many times as long
``short``                         load gets only this part of the tokens it asked for (early end)
``double_count``                  usage of a load says twice the tokens
``late_s``                        the machine itself keeps each of the last eight of a load back for so long (s)
``cache_hit_rate``                part of the prompts that /metrics and usage say came from the prefix cache
``running_cap``                   /metrics never tells more running requests than this
``batch``                         requests beyond so many wait
``ranks``                         it tells of so many data-parallel ranks, each of which can be named in a request
``soak_slower``                   so much slower with every hour of a soak (0.02: 2 % of its speed are gone after one hour)
``soak_shift``                    [hour, factor]: from that hour of a soak on so many times slower
``soak_stall``                    [hour, seconds]: at that hour of a soak nothing comes for so long (model time), once
``soak_hangs``                    from that hour of a soak on no token comes any more; everything else answers
``soak_ends``                     at that hour of a soak the engine ends
``soak_kv_leaks``                 so much more of the KV cache (1: all of it) is in use with every hour of a soak
``soak_sinks``                    so much of the answers is wrong after an hour of a soak, and so on
``fail_rate`` + ``fail_kind``     as ``load.reference.ReferenceConfig``
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_h20.load.canary import EOS
from pytest_h20.load.clock import allow_files
from pytest_h20.load.reference import (
    DONE,
    STREAM_HEAD,
    Generation,
    ReferenceConfig,
    ReferenceReply,
    ReferenceRequest,
    ReferenceServer,
    ReferenceStream,
    Schedule,
)
from pytest_h20.rehearsal.canaries import CanaryAnswers
from pytest_h20.rehearsal.drills import Struck
from pytest_h20.rehearsal.language import encode
from pytest_h20.rehearsal.replies import GeneratedReply, Refused, Replies
from pytest_h20.rehearsal.state import soak_hours
from pytest_h20.rehearsal.timing import Timing

LOAD_TOKENS = 64
"""A streamed request for at least so many tokens of exact length is load."""

NEVER_S = 1e6

CROWD_KEPT = 8
"""``late_s`` keeps back so many: a crowd would take minutes."""

HICCUP_EVERY = 50

KV_POOL = 600_000
"""Tokens: what a rank of TP16 has left beside a sixteenth of the weights, at 70 KB a token (MLA keeps the whole token on each)."""

ACCEPTS = 2.4
"""Tokens per step: one draft of which 85 % are accepted gives 1.85, three give 3.2."""

CROWDED, TOKENS_WHEN_CROWDED = 64, 4
"""From so many requests at a time on, so many tokens come in one event."""


@dataclass(frozen=True)
class Scripted(Generation):
    """A generation whose every byte was made beforehand."""

    answer: GeneratedReply | None = None


@dataclass(frozen=True)
class AskedCanary(Generation):
    """The answer to a canary, and what was asked."""

    text: str = ""


def config_of(knobs: Mapping[str, Any], engine: str, model: str, max_len: int, metrics: bool, drafts: bool = False) -> ReferenceConfig:
    """The reference server's own knobs. ``drafts``: the engine was told to decode speculatively."""
    accepts = float(knobs.get("accepts", ACCEPTS)) if drafts else 0.0
    config = ReferenceConfig(
        flavour="vllm" if engine == "vllm" else "sglang",
        model=model,
        model_path=model,
        max_model_len=max_len,
        accepts=accepts,
        tokens_per_event=max(1, round(accepts)),
        metrics=metrics and not knobs.get("no_metrics"),
        cache_hit_rate=float(knobs.get("cache_hit_rate", 0.0)),
        running_cap=int(knobs.get("running_cap", 0)),
        batch=int(knobs.get("batch", 0)),
        short=float(knobs.get("short", 1.0)),
        fail_rate=float(knobs.get("fail_rate", 0.0)),
        fail_kind=str(knobs.get("fail_kind", "http500")),
    )
    if knobs.get("stall_every"):
        config.fail_rate, config.fail_kind = 1.0 / int(knobs["stall_every"]), "stall"
    return config


class EngineServer(ReferenceServer):
    """Rank 0 (or the API server). ``tokens_file``: where the tokens processed so far are written, before a client can know.

    ``late_file``: a line per request of a load, how late (s) its first, its last and its latest tokens left, written likewise.
    ``log``: takes access-log lines. ``on_completion``: called when a generation begins.
    """

    def __init__(
        self,
        replies: Replies,
        timing: Timing,
        config: ReferenceConfig,
        tokens_file: Path,
        late_file: Path,
        log: Callable[[str], None],
        on_completion: Callable[[], None] = lambda: None,
    ) -> None:
        allow_files(8192)
        super().__init__(config)
        self.replies = replies
        self.knobs = replies.knobs
        self.dead = False
        self.healths = 0
        self.struck: Struck | None = None
        self._timing = timing
        self._log = log
        self._on_completion = on_completion
        self._tokens = os.open(tokens_file, os.O_RDWR | os.O_CREAT, 0o600)
        self._lates = os.open(late_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._due = 0.0
        self._late_first: dict[int, float] = {}
        self._late_most: dict[int, float] = {}
        self._held = self._put_back = 0
        self._shapes: set[int] = set()
        self._compiles: set[int] = set()
        self._kept: dict[int, bytearray] = {}
        self._heaviest = 0
        self._canaries = CanaryAnswers(replies.language, replies.knobs)
        self._folder = tokens_file.parent
        self._stalled = False

    # ------------------------------------------------------------------ routes
    def handle(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        """Everything the suite asks of an engine."""
        reply = self._hanging(request) or self._stranger(request) or self._handled(request)
        if not isinstance(reply, Generation):
            status = 404 if reply is None else reply.status
            client = f"127.0.0.1:{40000 + request.connection % 20000}"
            self._log(f'INFO:     {client} - "{request.method} {request.path} HTTP/1.1" {status}\n')
        return ReferenceReply({"detail": "Not Found"}, 404) if reply is None else reply

    def _hanging(self, request: ReferenceRequest) -> ReferenceReply | None:
        text = self.knobs.get("hang_on")
        hangs = bool(text) and str(text).encode() in request.body
        posts = request.method == "POST" and request.path in _GENERATE
        drilled = self.struck.request() if posts and self.struck is not None else ""
        if drilled in ("hang", "error"):
            return (
                ReferenceReply(b"", delay_s=NEVER_S)
                if drilled == "hang"
                else ReferenceReply(b"Internal Server Error", 500, "text/plain; charset=utf-8")
            )
        if drilled == "cut":
            return ReferenceReply(_CUT["/generate" if request.path == "/generate" else "other"], content_type="text/event-stream")
        self.replies.language.spoilt = self.replies.language.spoilt or drilled == "lie"
        return ReferenceReply(b"", delay_s=NEVER_S) if hangs or (self.dead and posts) else None

    def _stranger(self, request: ReferenceRequest) -> ReferenceReply | None:
        """Who has not the key gets no further than to health and metrics, in both engines."""
        key = self.replies.api_key
        known = not key or request.headers.get("authorization") == f"Bearer {key}" or self.replies.has("auth_open")
        return (
            None if known or request.path in ("/health", "/health_generate", "/metrics") else ReferenceReply({"error": "Unauthorized"}, 401)
        )

    def _handled(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        try:
            return self._get(request) if request.method == "GET" else self._post(request)
        except Refused as refused:
            if self.replies.has("dies_of_errors"):
                self.dead = True
            if self.replies.has("accepts_errors"):
                return ReferenceReply({"choices": []})
            if self.replies.has("errors_are_500") or refused.status == 500:
                return ReferenceReply(b"Internal Server Error", 500, "text/plain; charset=utf-8")
            told = self.replies.error(refused.status, refused.message)
            if self.replies.has("router") and b'"stream": true' in request.body:
                return ReferenceReply(told, 200, "text/event-stream; charset=utf-8")
            return ReferenceReply(told, refused.status)

    def _get(self, request: ReferenceRequest) -> ReferenceReply | None:
        replies, path = self.replies, request.path
        shape = replies.shape
        if replies.has("router") and path in ("/version", "/server_info", "/metrics", "/get_load"):
            return None
        if replies.has("router") and path == "/get_server_info":
            return ReferenceReply({"prefill": [{"version": replies.version}], "decode": [{"version": replies.version}]})
        if path in ("/health", "/health_generate", "/ping"):
            self.healths += 1
            ill = replies.has("unhealthy") or (replies.has("ill_after_start") and self.healths > 1)
            ill = ill or (self.struck is not None and self.struck.ill())
            alive = not ill and not (self.dead and shape.health != "constant")
            return ReferenceReply(b"", 200 if alive else 503 if ill else shape.dead_engine_health[0])
        if path == "/v1/models":
            return ReferenceReply({"object": "list", "data": [self._card()]})
        if path in (shape.version_route, "/version" if replies.vllm else "/get_server_info"):
            version = "0.1.0" if replies.has("other_version") else replies.version
            ranks = {"dp_size": self.knobs["ranks"]} if "ranks" in self.knobs else {}
            return ReferenceReply({shape.version_key: version} | ({} if replies.vllm else {"model_path": replies.model, **ranks}))
        if path in shape.model_info_routes:
            return ReferenceReply({"model_path": replies.model, "tokenizer_path": replies.model, "is_generation": True})
        if path == "/metrics":
            return ReferenceReply(self.metrics_text(), content_type="text/plain; version=0.0.4") if self.config.metrics else None
        if path == "/get_load" and not replies.vllm:
            return ReferenceReply([{"dp_rank": 0, "num_reqs": self.running, "num_waiting_reqs": 0, "num_tokens": 0}])
        if path.startswith("/v1/models/") and not replies.vllm:
            return ReferenceReply({"error": {"message": "The model does not exist", "code": "model_not_found"}}, 404)
        if path in _GENERATE:
            return ReferenceReply({"detail": "Method Not Allowed"}, 200 if replies.has("get_allowed") else 405)
        return ReferenceReply({}) if replies.has("every_path") else None

    def _card(self) -> dict[str, Any]:
        replies = self.replies
        name = "someone-else" if replies.has("other_model") else replies.model
        card: dict[str, Any] = {"id": name, "object": "model", "created": 1743811200, "owned_by": replies.shape.owned_by}
        card["root"] = replies.model
        if replies.shape.models_has_max_model_len:
            card["max_model_len"] = replies.max_len // (2 if replies.has("other_context") else 1)
        return card

    def _post(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        replies, path = self.replies, request.path
        if path in ("/flush_cache", "/reset_prefix_cache"):
            return ReferenceReply(b"")
        if path not in (*_GENERATE, "/tokenize", "/v1/tokenize", "/separate_reasoning"):
            return None
        body = replies.body(request.body, request.headers.get("content-type", ""))
        if path in (replies.shape.tokenize_route, "/tokenize" if replies.vllm else ""):
            ids = replies.language.template(body["messages"]) if "messages" in body else encode(str(body["prompt"]))
            return ReferenceReply({"count": len(ids), "max_model_len": replies.max_len, "tokens": ids})
        if path == "/separate_reasoning" and replies.has("router"):
            return None
        if path == "/separate_reasoning" and not replies.vllm:
            if body.get("reasoning_parser") != "deepseek-r1" and "<think>" not in body["text"] and not replies.has("parser_always_thinks"):
                return ReferenceReply({"reasoning_text": "", "text": body["text"]})
            text = str(body["text"]).removeprefix("<think>")
            before, _, after = text.rpartition("</think>") if replies.has("parser_last_tag") else text.partition("</think>")
            return ReferenceReply({"reasoning_text": before, "text": after})
        if path == "/generate" and not replies.vllm and body.get("return_logprob"):
            rows = [[None, i, None] for i in encode(str(body["text"]))] * (2 if replies.has("router") else 1)
            return ReferenceReply({"text": "", "meta_info": {"input_token_logprobs": rows}})
        if path not in _GENERATE or (path == "/generate" and replies.vllm):
            return None
        self._on_completion()
        self._spoil()
        if self._is_load(path, body):
            return self._load(request, body)
        if path == "/generate" and "routed_dp_rank" in body and "ranks" in self.knobs:
            return ReferenceReply(
                {"text": " 2", "meta_info": {"prompt_tokens": 5, "completion_tokens": 1, "dp_rank": body["routed_dp_rank"]}}
            )
        if path == "/generate":
            return self.generation(request)
        try:
            answer = replies.generate(body, path == "/v1/chat/completions")
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise Refused(400, f"Input should be valid: {error}") from None
        return Scripted(
            kind="scripted",
            prompt_tokens=answer.prompt,
            output_tokens=len(answer.events),
            asked_tokens=len(answer.events),
            stream=answer.stream,
            answer=answer,
        )

    def _is_load(self, path: str, body: Mapping[str, Any]) -> bool:
        if path == "/generate":
            return bool(body.get("stream"))
        plain = not any(body.get(k) for k in ("logprobs", "echo", "stop", "logit_bias", "n"))
        if not (plain and body.get("stream") and int(body.get("max_tokens") or 0) >= LOAD_TOKENS):
            return False
        if path == "/v1/chat/completions":
            return bool(body.get("ignore_eos"))
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return body.get("skip_special_tokens") is False  # a canary
        return bool(body.get("ignore_eos")) and isinstance(prompt, list) and len(prompt) >= LOAD_TOKENS

    def _load(self, request: ReferenceRequest, body: Mapping[str, Any]) -> Generation:
        if request.path != "/generate" and self.replies.vllm and body.get("model", self.replies.model) != self.replies.model:
            raise Refused(404, f"The model `{body.get('model')}` does not exist.")
        generation = self.generation(request)
        if self.knobs.get("double_count"):
            self.config.completion_skew = generation.output_tokens
        longest = int(self.knobs.get("ends_at", 0))
        if longest and generation.output_tokens > longest:
            generation = replace(generation, output_tokens=longest, finish="stop")
        text, tokens, running = body.get("text", body.get("prompt")), generation.output_tokens, self.running + 1
        if not isinstance(text, str):
            pieces = self._canaries.ordinary(running, tokens)
            return generation if pieces is None else replace(generation, pieces=pieces)
        if self.knobs.get("canaries_refused"):
            raise Refused(400, "prompts must be lists of token ids")
        sunk = float(self.knobs.get("soak_sinks", 0.0)) * (soak_hours(self._folder) or 0.0)
        rank = body.get("routed_dp_rank")
        pieces = self._canaries.pieces(text, tokens, running, self.requests_total, request.connection, sunk, rank)
        self._canaries.took_off(text)
        if 0 < int(self.knobs.get("long_prompts_kill", 0)) <= self._canaries.long:
            self.stop()
        told = {**vars(generation), "pieces": pieces, "prompt_tokens": len(text) // 4 + 1}
        stops = not body.get("sampling_params", body).get("ignore_eos") and EOS in pieces
        if stops:
            told |= {"pieces": pieces[: pieces.index(EOS)], "output_tokens": pieces.index(EOS), "finish": "stop"}
        return AskedCanary(**told, text=text)

    def _spoil(self) -> None:
        """``nonsense_after``: the heaviest cell is over, and nothing is right any more."""
        most = self.knobs.get("nonsense_after")
        self._heaviest = max(self._heaviest, self.running)
        if most is not None and self._heaviest > int(most) and not self.running:
            self.replies.language.spoilt = True

    # ------------------------------------------------------------------ speed
    def timing(self, request: ReferenceRequest, running: int) -> Schedule:
        """The write-up's speed at this load."""
        ttft, tpot = self._timing.seconds(self._sizes.get(request.connection, 256), running)
        factor = self._slower() * (float(self.knobs.get("slow_after_put_back", 1.0)) if self._put_back else 1.0)
        if request.path == "/v1/chat/completions":
            factor *= float(self.knobs.get("chat_factor", 1.0))
        return Schedule(ttft * factor, tpot * factor)

    def _slower(self) -> float:
        """What the hours of a soak have done to the speed."""
        per_hour, shift = float(self.knobs.get("soak_slower", 0.0)), self.knobs.get("soak_shift")
        if not per_hour and not shift:
            return 1.0
        hours = soak_hours(self._folder) or 0.0
        return (float(shift[1]) if shift and hours >= float(shift[0]) else 1.0) / max(0.05, 1.0 - per_hour * hours)

    @property
    def _pool(self) -> int:
        return int(self.knobs.get("kv_pool", KV_POOL))

    def metrics_text(self) -> str:
        """Also the KV cache: its size, how full it is, and requests that were put back."""
        leaked = float(self.knobs.get("soak_kv_leaks", 0.0)) * (soak_hours(self._folder) or 0.0)
        use = min(1.0, max(0.0, self._held / self._pool + leaked))
        if self.config.flavour == "vllm":
            lines = [
                f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{self._pool // 16}"}} 1.0',
                f"vllm:gpu_cache_usage_perc {use}",
                f"vllm:num_preemptions_total {float(self._put_back)}",
            ]
        else:
            lines = [
                f"sglang:max_total_num_tokens {float(self._pool)}",
                f"sglang:token_usage {use}",
                f"sglang:num_retracted_reqs {float(self._put_back if self.running else 0)}",
            ]
        return super().metrics_text() + "\n".join(lines) + "\n"

    @property
    def _sizes(self) -> dict[int, int]:
        return self.__dict__.setdefault("_size_by_connection", {})  # type: ignore[no-any-return]

    def _start(self, connection: Any, request: ReferenceRequest, generation: Generation) -> None:
        # One request at a time per connection: its number tells the size without parsing the body again.
        size = self._sizes[request.connection] = generation.prompt_tokens + generation.asked_tokens
        self._held += size
        if self._held > self._pool and not self.knobs.get("never_puts_back"):
            self._put_back += 1
        super()._start(connection, request, generation)

    def _first_due(self, stream: ReferenceStream) -> float:
        # Under load SGLang's tokenizer process falls behind and hands out several tokens at a time; here it keeps the work of a
        # compressed minute within what two cores can do.
        if self.running >= CROWDED and stream.sent == 0 and not isinstance(stream.generation, Scripted):
            stream.per_event = TOKENS_WHEN_CROWDED
            self._prepare(stream)
        return super()._first_due(stream) + self._compiling(stream)

    def _compiling(self, stream: ReferenceStream) -> float:
        seconds, length = float(self.knobs.get("new_shape_s", 0.0)), stream.generation.prompt_tokens
        if not seconds or length % 5:
            return 0.0
        if length not in self._shapes or self.knobs.get("forgets_shapes"):
            self._shapes.add(length)
            self._compiles.add(stream.index)
        return seconds / self._timing.scale if stream.index in self._compiles else 0.0

    # ------------------------------------------------------------------ how late this machine lets us be
    def _emit(self, stream: ReferenceStream, due: float) -> bool | None:
        self._due = due
        ends = not isinstance(stream.generation, Scripted) and stream.generation.output_tokens - stream.sent <= stream.per_event
        if due and ends and self.running <= CROWD_KEPT:
            time.sleep(float(self.knobs.get("late_s", 0.0)))
        if (hangs := self.knobs.get("soak_hangs")) and (soak_hours(self._folder) or 0.0) >= float(hangs):
            return None  # it is never due again
        stall = self.knobs.get("soak_stall")
        if stall and stream.sent and not self._stalled and (soak_hours(self._folder) or 0.0) >= float(stall[0]):
            self._stalled = True
            time.sleep(float(stall[1]) / self._timing.scale)
        if due:
            late = time.monotonic() - due
            if stream.sent == 0:
                self._late_first[stream.index] = self._late_most[stream.index] = late
            elif late > self._late_most.get(stream.index, 0.0):
                self._late_most[stream.index] = late
        over = super()._emit(stream, due)
        if over is False and not isinstance(stream.generation, Scripted):
            self._hold(stream)
        return over

    def _hold(self, stream: ReferenceStream) -> None:
        """``silences`` and ``hiccups``: the next token comes so much later (model seconds, times of the ordinary gap)."""
        every, seconds = self.knobs.get("silences", (0, 0.0))
        half = stream.generation.output_tokens // 2
        if every and stream.index % every == 0 and 0 <= stream.sent - half < stream.per_event:
            stream.tpot = float(seconds) / self._timing.scale / stream.per_event
        elif times := self.knobs.get("hiccups"):
            if stream.sent % HICCUP_EVERY or stream.per_event > 1:  # in a crowd that would be a silence
                return
            stream.tpot = self.timing(stream.request, self.running).tpot_s * float(times)
        else:
            return
        stream.epoch = -1  # after that token the speed is looked up again

    def _send(self, connection: Any, data: bytes) -> bool:
        """``lumps``: something between us keeps so many tokens of a load back and lets them go at once."""
        lump, stream = int(self.knobs.get("lumps", 0)), connection.stream
        if not lump or stream is None or isinstance(stream.generation, Scripted) or not stream.generation.stream:
            return super()._send(connection, data)
        held = self._kept.setdefault(connection.fd, bytearray())
        held += data
        if (stream.sent + stream.per_event) % lump and not data.endswith(DONE):
            return True
        return super()._send(connection, bytes(self._kept.pop(connection.fd)))

    def _tell_late(self, stream: ReferenceStream) -> None:
        first, last = self._late_first.pop(stream.index, 0.0), time.monotonic() - self._due if self._due else 0.0
        most = max(first, last, self._late_most.pop(stream.index, 0.0))
        os.write(self._lates, b"%.6f %.6f %.6f\n" % (max(0.0, first), max(0.0, last), max(0.0, most)))

    # ------------------------------------------------------------------ scripted answers
    def stream_head(self, stream: ReferenceStream) -> bytes:
        """The headers of a stream."""
        if self.replies.has("stream_content_type"):
            return STREAM_HEAD.replace(b"text/event-stream", b"text/plain")
        return STREAM_HEAD

    def _prepare(self, stream: ReferenceStream) -> None:
        if not isinstance(stream.generation, Scripted):
            super()._prepare(stream)

    def _event(self, stream: ReferenceStream, count: int) -> bytes:
        generation = stream.generation
        if isinstance(generation, Scripted) and generation.answer is not None:
            return b"".join(generation.answer.events[stream.sent : count])
        return super()._event(stream, count)

    def _tail(self, stream: ReferenceStream) -> bytes:
        generation = stream.generation
        if isinstance(generation, Scripted) and generation.answer is not None:
            self._count(stream.sent)
            return generation.answer.tail
        self._count(stream.sent)
        self._tell_late(stream)
        return super()._tail(stream)

    def _usage(self, generation: Generation, count: int, final: bool) -> dict[str, Any]:
        usage = super()._usage(generation, count, final)
        if generation.kind == "completions" and self.config.cache_hit_rate:
            usage["prompt_tokens_details"] = {"cached_tokens": int(generation.prompt_tokens * self.config.cache_hit_rate)}
        return usage

    def _whole(self, stream: ReferenceStream, connection: Any) -> None:
        generation = stream.generation
        if not isinstance(generation, Scripted) or generation.answer is None:
            self._count(generation.output_tokens)
            super()._whole(stream, connection)
            return
        stream.first = stream.last = time.monotonic()
        stream.sent = generation.output_tokens
        self.generation_tokens_total += generation.answer.completion
        self._count(0)
        self._reply(connection, ReferenceReply(json.dumps(generation.answer.body, ensure_ascii=False).encode()))

    def _count(self, more: int) -> None:
        """Write down the tokens: the rails' counters follow them. ``more``: of the stream that is about to end."""
        total = self.prompt_tokens_total + self.generation_tokens_total + more
        os.pwrite(self._tokens, b"%020d" % total, 0)

    def _finish(self, stream: ReferenceStream) -> None:
        if stream.connection is not None:
            self._held -= stream.generation.prompt_tokens + stream.generation.asked_tokens
        if stream.connection is not None and isinstance(stream.generation, AskedCanary):
            self._canaries.landed(stream.generation.text)
        super()._finish(stream)

    # ------------------------------------------------------------------ slots
    def _free_slot(self, stream: ReferenceStream) -> None:
        if stream.started and stream.fault == "client_gone" and self.replies.has("slot_leaks"):
            stream.started = False  # the engine goes on for nobody
            return
        super()._free_slot(stream)


_CUT = {
    "/generate": b'data: {"text": "4", "meta_info": {"prompt_tokens": 9, "completion_tokens": 1, "finish_reason": null}}\n\n',
    "other": b'data: {"choices": [{"index": 0, "text": "4", "finish_reason": null}]}\n\n',
}
"""The first event of an answer, and then a proper end of the HTTP message."""
_GENERATE: Sequence[str] = ("/v1/completions", "/v1/chat/completions", "/generate")


class WorkerServer(ReferenceServer):
    """SGLang on a node of rank 1 and higher: a health route that says nothing, and no model."""

    def __init__(self, model: str, knobs: Mapping[str, Any]) -> None:
        super().__init__(ReferenceConfig(flavour="sglang", model=model))
        self._lists = bool(knobs.get("worker_answers_models"))

    def handle(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        """``/health`` is 200 whatever happens (F68)."""
        if request.path in ("/health", "/health_generate", "/ping"):
            return ReferenceReply(b"")
        if request.path == "/v1/models" and self._lists:
            return ReferenceReply({"object": "list", "data": [{"id": self.config.model, "object": "model", "owned_by": "sglang"}]})
        return ReferenceReply({"detail": "Not Found"}, 404)
