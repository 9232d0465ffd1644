"""The client of the checks: sends what a check wants, byte for byte, and gives back normalised answers with what it saw."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from pytest_h20.core.errors import H20Error, ServerEnded
from pytest_h20.endpoint.capabilities import Outcome, skip_reason
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.endpoint.reply import Reply, SeenShape, TextsOnly, UnexpectedAnswer, read_reply
from pytest_h20.endpoint.split import SplitVersions, versions_behind
from pytest_h20.endpoint.wire import LOOK_S, Exchange, Pace, Wire
from pytest_h20.load.server_metrics import MetricsSample, parse_metrics

T = TypeVar("T")
S = TypeVar("S")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOST_CONTEXT = 2**24
"""Tokens of context that are believed: prompts of that length are built here, in our memory."""
SMALL_IDS = tuple(range(300, 1500))
"""Token ids that exist in every vocabulary in question (R1: 129,280; the lab's model: 2,048) and are plain text in both."""


@dataclass
class Api:
    """One endpoint, spoken to. Safe to use from several threads.

    ``seen`` grows with every answer; :meth:`recording` collects the exchanges of one check for its evidence.
    """

    ctx: EndpointContext
    seen: SeenShape = field(default_factory=SeenShape)
    _kept: dict[str, Reply] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _log: list[Exchange] | None = field(default=None, repr=False)

    @cached_property
    def wire(self) -> Wire:
        """The connection maker."""
        return Wire(self.ctx.base_url.rstrip("/"), self.ctx.headers, self.ctx.ended_file)

    # ---------------------------------------------------------------- sending

    def raw(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        bare: bool = False,
        deadline_s: float | None = None,
        leave: Callable[[bytes], bool] | None = None,
        pace: Pace | None = None,
    ) -> Exchange:
        """Exactly these bytes. Raises TransportError and ProtocolError like :meth:`Wire.exchange`."""
        given = {"Content-Type": "application/json", **(headers or {})} if method == "POST" else dict(headers or {})
        request = self.wire.request(method, path, body, given, bare=bare)
        exchange = self.wire.exchange(request, deadline_s or self.ctx.seconds(), leave=leave, pace=pace)
        with self._lock:
            if self._log is not None:
                self._log.append(exchange)
        return exchange

    def post(self, path: str, body: Mapping[str, Any], **how: Any) -> Exchange:
        """A JSON body."""
        return self.raw("POST", path, json.dumps(body, ensure_ascii=False).encode(), **how)

    def get(self, path: str, **how: Any) -> Exchange:
        """A GET."""
        return self.raw("GET", path, **how)

    def document(self, path: str, **how: Any) -> Any:
        """The JSON of a GET that must answer 200. Raises UnexpectedAnswer."""
        exchange = self.get(path, **how)
        if exchange.status != 200:
            raise UnexpectedAnswer(f"GET {path}: status {exchange.status}: {exchange.body[:200]!r}")
        try:
            return json.loads(exchange.body)
        except (ValueError, RecursionError) as error:
            raise UnexpectedAnswer(f"GET {path}: no JSON ({error}): {exchange.body[:80]!r}") from None

    @cached_property
    def behind(self) -> SplitVersions | None:
        """The servers behind, where this address is a router of SGLang's in front of them."""
        try:
            return versions_behind(self.document("/get_server_info", deadline_s=self.ctx.seconds(0.2)))
        except H20Error:
            return None

    def at(self, url: str) -> Api:
        """The same questions to a server behind this address; what is exchanged is this one's evidence."""
        return Api(replace(self.ctx, base_url=url, servers=()), _log=self._log)

    def reply(self, path: str, body: Mapping[str, Any], **how: Any) -> Reply:
        """POST and normalise."""
        reply = read_reply(self.post(path, body, **how))
        with self._lock:
            self.seen = self.seen.merged(reply.seen)
        return reply

    def chat(self, messages: str | Sequence[Mapping[str, Any]], *, how: Mapping[str, Any] | None = None, **fields: Any) -> Reply:
        """A chat request, greedy and thinking unless told otherwise. A plain string is one user message; a field None is left out."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        own = {"messages": turns, "chat_template_kwargs": self.thinking(True)}
        return self.reply(CHAT, self._body(own, fields), **(how or {}))

    def thinking(self, on: bool) -> dict[str, bool] | None:
        """``chat_template_kwargs`` that switch thinking, or None where the model has no switch."""
        return {self.ctx.thinking_switch: on} if self.ctx.thinking_switch else None

    def complete(self, prompt: str | Sequence[int], *, how: Mapping[str, Any] | None = None, **fields: Any) -> Reply:
        """A plain completion of text or token ids, greedy unless told otherwise."""
        reply = self.reply(COMPLETIONS, self._body({"prompt": prompt}, fields), **(how or {}))
        if reply.status == 422 and not isinstance(prompt, str) and b"StringOrArray" in reply.exchange.body:  # sglang_router 0.3.2, recorded
            raise TextsOnly("SGLang's gateway in front takes no prompt of token ids at /v1/completions: ask a server behind it")
        return reply

    def _body(self, own: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        body = {"model": self.ctx.model_id, **own, "temperature": 0, **fields}
        return {key: value for key, value in body.items() if value is not None}

    def once(self, key: str, ask: Callable[[], Reply]) -> Reply:
        """A reply that several checks look at; where it is taken again it is evidence again."""
        if key not in self._kept:
            self._kept[key] = ask()
            return self._kept[key]
        with self._lock:
            if self._log is not None:
                self._log.append(self._kept[key].exchange)
        return self._kept[key]

    def together(self, work: Callable[[S], T], items: Sequence[S], workers: int | None = None) -> list[T]:
        """``work`` on all items at a time, results in order; the first error is raised after all have ended."""
        with ThreadPoolExecutor(max_workers=max(1, workers or len(items)), thread_name_prefix="h20-endpoint") as pool:
            futures = [pool.submit(work, item) for item in items]
        return [future.result() for future in futures]

    def unless_ended(self, what: str, work: Callable[[], T]) -> T:
        """What ``work`` comes to, which waits for the server by a client that is not ours. Raises ServerEnded as soon as the server is
        known to have ended; the client waits on, beside."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=do, name="h20-other-client", daemon=True).start()
        while not wait((future,), LOOK_S).done:
            if self.ctx.ended_file and os.path.exists(self.ctx.ended_file):
                raise ServerEnded(f"{what}: given up: the engine has ended")
        return future.result()

    # ---------------------------------------------------------------- state of the server

    def dead(self) -> str | None:
        """Why the engine is not alive, or None: one token must come within the deadline (``/health`` proves too little)."""
        try:
            try:
                reply = self.complete(list(SMALL_IDS[:4]), max_tokens=1)
            except TextsOnly:
                reply = self.complete("1", max_tokens=1)
            reply.ok()
        except H20Error as error:
            return str(error)
        return None

    @cached_property
    def max_len(self) -> int:
        """Context in tokens: the server's own figure, else the profile's, else 4096."""
        with contextlib.suppress(UnexpectedAnswer, KeyError, TypeError, IndexError, AttributeError):
            served = self.document("/v1/models")["data"][0].get("max_model_len")
            if isinstance(served, int) and 0 < served <= MOST_CONTEXT:
                return served
        return self.ctx.max_model_len or 4096

    def budget(self, tokens: int) -> int:
        """``tokens``, but never more than half of the context."""
        return max(1, min(tokens, self.max_len // 2))

    def metrics(self) -> MetricsSample:
        """What ``/metrics`` says; nothing is known where there is none."""
        url = self.ctx.head_metrics_url
        if url:
            base, _, path = url.partition("/metrics")
            wire = Wire(base, self.ctx.headers, self.ctx.ended_file)
            exchange = wire.exchange(wire.request("GET", "/metrics" + path), self.ctx.seconds())
        else:
            exchange = self.get("/metrics")
        return parse_metrics(exchange.body.decode("utf-8", "replace")) if exchange.status == 200 else MetricsSample()

    def running(self) -> float | None:
        """Requests that the engine is generating for.

        vLLM: its gauge in ``/metrics``. SGLang renews that gauge only every 40 decode steps, so its load route (``/v1/loads``,
        before ``/get_load``) is asked first, and the gauge where there is none.
        """
        if self.ctx.engine == "sglang":
            for path in ("/v1/loads", "/get_load"):
                with contextlib.suppress(UnexpectedAnswer):
                    found = load_sum(self.document(path))
                    if found is not None:
                        return found
        return self.metrics().running

    # ---------------------------------------------------------------- tokens

    def token_ids(self, text: str, *, special: bool = False) -> list[int] | None:
        """Ids of ``text``, with special tokens added only if asked, by whatever way this server has; None where it has none.

        vLLM: ``/tokenize``. SGLang: ``/v1/tokenize`` (0.5.5+), else, or where that breaks, the input tokens that its native
        ``/generate`` reports with logprobs.
        """
        route = self.ctx.shape.tokenize_route
        if route:
            asked = {"model": self.ctx.model_id, "prompt": text, "add_special_tokens": special}
            found = _ids(self._maybe(route, asked))
            if found is not None:
                return found
        if self.ctx.engine == "sglang":
            return self.generate_ids(text)
        return None

    def generate_ids(self, text: str) -> list[int] | None:
        """SGLang's own account of a text prompt's tokens, from ``/generate`` with input logprobs."""
        asked = {
            "text": text,
            "sampling_params": {"temperature": 0, "max_new_tokens": 1},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        value = self._maybe("/generate", asked)
        meta = value.get("meta_info") if isinstance(value, dict) else None
        rows = meta.get("input_token_logprobs") if isinstance(meta, dict) else None
        if not isinstance(rows, list):
            return None
        ids = [row[1] for row in rows if isinstance(row, list) and len(row) > 1 and isinstance(row[1], int)]
        # A router puts the prompt as decode tells it behind the prompt as prefill tells it (sglang_router: mini_lb.py, pd_router.rs).
        half = len(ids) // 2
        return ids[:half] if self.behind is not None and ids[:half] == ids[half:] else ids

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int] | None:
        """Ids of a templated conversation (vLLM's ``/tokenize`` takes messages), or None."""
        route = self.ctx.shape.tokenize_route
        if self.ctx.engine != "vllm" or not route:
            return None
        return _ids(self._maybe(route, {"model": self.ctx.model_id, "messages": list(messages)}))

    @cached_property
    def end_think_id(self) -> int | None:
        """Id of ``</think>`` where it is one token, else None. A beginning-of-sentence token in front is left out."""
        ids = self.token_ids("</think>")
        if ids and len(ids) == 2:
            bare = self.token_ids("a")
            if bare and bare[0] == ids[0]:
                ids = ids[1:]
        return ids[0] if ids and len(ids) == 1 else None

    def _maybe(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of a route that a version may lack; None when it has no good answer. No answer at all is an error as ever."""
        exchange = self.post(path, body)
        try:
            return json.loads(exchange.body) if exchange.status == 200 else None
        except (ValueError, RecursionError):
            return None

    # ---------------------------------------------------------------- capabilities and evidence

    def why_not(self, name: str, default: Outcome = "supported") -> str | None:
        """Why ``name`` cannot be judged on this version, or None."""
        return skip_reason(self.ctx.engine, self.ctx.parsed_version, name, default)

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Exchange]]:
        """Collect every exchange until the end of the block."""
        log: list[Exchange] = []
        with self._lock:
            before, self._log = self._log, log
        try:
            yield log
        finally:
            with self._lock:
                self._log = before


def load_sum(value: Any) -> float | None:
    """Running requests in SGLang's ``/v1/loads`` (``num_running_reqs``) or ``/get_load`` (``num_reqs``). Pure."""
    rows = value.get("loads") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        return None
    counts = [row.get("num_running_reqs", row.get("num_reqs")) for row in rows if isinstance(row, dict)]
    known = [float(count) for count in counts if isinstance(count, int) and abs(count) < 10**15]
    return sum(known) if known and len(known) == len(counts) else None


def _ids(value: Any) -> list[int] | None:
    tokens = value.get("tokens") if isinstance(value, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(t, int) for t in tokens):
        return None
    return tokens
