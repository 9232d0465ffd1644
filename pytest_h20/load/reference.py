"""A server of tokens that knows the truth about its own timing. No engine: it has no model and takes every request as it comes;
the stand-in engine of the rehearsal (`rehearsal/server.py`), which answers and refuses as the real ones do, is built on it.

It streams tokens on a known schedule and records, with the clock of `clock.now`, when the kernel had each request and
when each token was handed to the kernel. A load generator pointed at it can be compared with what really happened:
that is how ours proves itself (`selfcheck.py`, `benchmarks/load_fidelity.py`). It stays here because the proof travels into
containers with the generator.

One thread, one epoll loop, one `send()` per event, standard library only, Python >= 3.8.

    python -m pytest_h20.load.reference --port 0 --ttft 0.2 --tpot 0.02     # prints {"url": ...} on its first line

Routes: `/v1/completions`, `/v1/chat/completions` (with reasoning fields), SGLang's `/generate` (cumulative events, as a
default server sends them), `/v1/models`, `/health`, `/health_generate`, `/version`, `/server_info`,
`/get_server_info`, `/model_info`, `/get_model_info`, `/metrics` in the names of either engine, `/flush_cache`,
`/reset_prefix_cache`, and for the test bench `GET /__truth[?full=1]`, `POST /__config {knob: value}`, `POST /__reset`.

To extend it override any of three hooks; none is called on the path of a token except `timing`, and that only when the
number of running requests has changed:

    class Stand(ReferenceServer):
        def handle(self, request): ...              # -> Reply, Generation or None (= not found); call super() for the rest
        def generation(self, request): ...          # -> Generation: how many tokens, their text, the finish reason
        def timing(self, request, running): ...     # -> Schedule(ttft_s, tpot_s), the engine's speed at that load
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load.clock import allow_files, no_collector_pauses, now, realtime_offset
from pytest_h20.load.http1 import LAST_CHUNK, Chunks, ProtocolError, chunk
from pytest_h20.load.poller import BROKEN, READ, WRITE, Poller

SO_TIMESTAMPNS = 35  # Linux, asm-generic/socket.h; the control message carries a struct timespec
TIMESPEC = struct.Struct("qq")
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
FAULTS = ("http500", "http503", "reset", "midstream", "eof", "truncate", "stream_error", "stall")


@dataclass
class ReferenceConfig:
    """The knobs, all changeable while running with `POST /__config`. Times are wall-clock seconds."""

    ttft: float = 0.2
    """From the kernel having the whole request to the first token event. 0 with tpot 0: as fast as the socket takes it."""
    tpot: float = 0.02
    """Between two token events of one stream, times `tokens_per_event`."""
    step: bool = False
    """All streams advance on one grid of `tpot`, like the decode step of a batching engine."""
    batch: int = 0
    """Engine slots; requests beyond it wait (0 = unlimited)."""
    prefill_rate: float = 0.0
    """Prompt tokens per second, shared by all requests and added to ttft (0 = off)."""
    flavour: str = "sglang"
    """`sglang` or `vllm`: shape of errors, model card, metric names and the reasoning field."""
    reasoning: int = 0
    """The first N tokens of a chat answer are reasoning."""
    reasoning_field: str = ""
    """Overrides the flavour's field (`reasoning_content` for sglang, `reasoning` for vllm)."""
    tokens_per_event: int = 1
    """More than one token in an event, as speculative decoding and --stream-interval give."""
    role_chunk: str = "first"
    """The role-only event of a chat: `first` (with token 1), `early` (at once, before any token), `none`."""
    usage: str = "honour"
    """`honour` stream_options, `always`, `never`, or `continuous` (in every event)."""
    incremental: bool = False
    """/generate sends only the new text (SGLang --stream-output / --incremental-streaming-output)."""
    text: str = " the and was for not"
    """Texts of the tokens for which `generation` gives none: its words, one after the other, over and over."""
    model: str = "reference"
    model_path: str = ""
    max_model_len: int = 163840
    prompt_tokens: int = 0
    """Reported prompt tokens (0 = words of a text, length of an id list)."""
    template_tokens: int = 0
    """Tokens that the chat template adds to the words of the messages."""
    short: float = 1.0
    """Stop after this share of the tokens asked for, whatever ignore_eos says."""
    completion_skew: int = 0
    """Added to the reported completion tokens only: a server that miscounts."""
    cache_hit_rate: float = 0.0
    """Share of prompt tokens /metrics reports as served from the prefix cache."""
    accepts: float = 0.0
    """Tokens per step of speculative decoding, as /metrics and meta_info tell it (0 = no drafts)."""
    metrics: bool = True
    """False: /metrics is 404, as SGLang without --enable-metrics."""
    running_cap: int = 0
    """/metrics never reports more running requests than this (0 = off)."""
    fail_rate: float = 0.0
    """Every 1/fail_rate-th request gets `fail_kind`."""
    fail_kind: str = "http500"
    """http500, http503, reset (before the headers), midstream (RST after half), eof (close after half, no last chunk),
    truncate (last chunk after half, no finish reason, no [DONE]), stream_error (an error object in a 200 stream),
    stall (silence after half)."""

    def update(self, values: dict[str, Any]) -> None:
        """Set knobs by name. Raises UsageError naming what is unknown or of the wrong kind."""
        known = {f.name: f for f in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"reference server: no knob {name!r}; knobs: {', '.join(sorted(known))}")
            kind = type(getattr(self, name))
            if kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = kind(value)
            if kind is bool and value in (0, 1):
                value = bool(value)
            if not isinstance(value, kind):
                raise UsageError(f"reference server: {name} = {value!r}, a {kind.__name__} is needed")
            setattr(self, name, value)
        if self.fail_kind not in FAULTS:
            raise UsageError(f"reference server: fail_kind = {self.fail_kind!r}, one of {', '.join(FAULTS)} is needed")


@dataclass(frozen=True)
class Schedule:
    """When tokens leave: `ttft_s` after the request, then one token every `tpot_s`. Wall-clock seconds."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class ReferenceRequest:
    """One HTTP request. `body` is raw; `json()` parses it once. `received` is the kernel's stamp of its last byte."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    received: float
    connection: int
    _parsed: list[Any] = field(default_factory=list, repr=False, compare=False)

    def json(self) -> Any:
        """The body as JSON; raises ValueError when it is none."""
        if not self._parsed:
            self._parsed.append(json.loads(self.body))
        return self._parsed[0]


@dataclass(frozen=True)
class ReferenceReply:
    """A complete answer. `body` str or bytes goes out as it is, anything else as JSON; `delay_s` later than asked."""

    body: Any = b""
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0

    def encode(self) -> bytes:
        raw = self.body
        data = raw if isinstance(raw, bytes) else raw.encode() if isinstance(raw, str) else json.dumps(raw).encode()
        head = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}", f"Content-Type: {self.content_type}"]
        head += [f"{name}: {value}" for name, value in self.headers]
        head += [f"Content-Length: {len(data)}", "", ""]
        return "\r\n".join(head).encode() + data


@dataclass(frozen=True)
class Generation:
    """An answer made of tokens, streamed or whole as the request asked.

    kind            completions, chat or generate (SGLang's own route)
    output_tokens   how many are really sent
    pieces          text of each token; None = the configured text for every one
    reasoning       the first so many tokens go to the reasoning field of a chat answer
    """

    kind: str
    prompt_tokens: int
    output_tokens: int
    asked_tokens: int
    stream: bool
    finish: str = "length"
    pieces: Sequence[str] | None = None
    reasoning: int = 0
    usage: bool = False
    usage_each: bool = False
    model: str = ""


class _Connection:
    __slots__ = ("accepted", "buffer", "close_after", "closed", "fd", "head", "number", "out", "received", "served", "sock", "stream")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.fd, self.number = sock, sock.fileno(), number
        self.buffer, self.out = bytearray(), bytearray()
        self.head: tuple[str, str, dict[str, str], int] | None = None
        self.accepted, self.received, self.served = now(), 0.0, 0
        self.stream: ReferenceStream | None = None
        self.close_after = self.closed = False


class ReferenceStream:
    """One generation on its way, and afterwards its row of the truth."""

    __slots__ = (
        "blocked",
        "connection",
        "constant",
        "digest",
        "ended",
        "epoch",
        "fault",
        "first",
        "generation",
        "ident",
        "index",
        "last",
        "number",
        "per_event",
        "request",
        "reused",
        "sent",
        "start_base",
        "started",
        "times",
        "tpot",
    )

    def __init__(self, index: int, request: ReferenceRequest, generation: Generation, connection: _Connection) -> None:
        self.index, self.request, self.generation = index, request, generation
        self.connection: _Connection | None = connection
        self.number, self.reused = connection.number, connection.served
        self.sent = self.blocked = 0
        self.first = self.last = self.ended = self.tpot = self.start_base = 0.0
        self.times: list[float] = []
        self.fault, self.digest, self.started, self.epoch, self.per_event = "", "", False, -1, 1
        self.constant: dict[tuple[bool, int], bytes] = {}
        """Ready events by (reasoning, number of their first word)."""
        self.ident = f"{generation.kind}-{index:08d}"


def sse(document: Any) -> bytes:
    """One server-sent event holding a JSON document, in the engines' compact form."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


DONE = chunk(b"data: [DONE]\n\n") + LAST_CHUNK
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class ReferenceServer:
    """See the module's text. `serve_forever` blocks until `stop`; both may be called from other threads' signals."""

    def __init__(self, config: ReferenceConfig | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        """Binds and listens at once. Raises UsageError when the address cannot be had."""
        self.config = config or ReferenceConfig()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
            self._listener.listen(4096)
        except (OSError, OverflowError) as error:
            self._listener.close()
            raise UsageError(f"reference server: cannot listen on {host} port {port}: {error}") from None
        self._listener.setblocking(False)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._poller = Poller()
        self._poller.register(self._listener.fileno(), READ)
        self._wake_reader, self._wake_writer = os.pipe()
        self._poller.register(self._wake_reader, READ)
        self._connections: dict[int, _Connection] = {}
        self._accepted = 0
        self._heap: list[tuple[float, int, Any]] = []
        self._sequence = 0
        self._eager: deque[ReferenceStream] = deque()  # streams without a schedule: as fast as the socket takes it
        self._waiting: deque[ReferenceStream] = deque()  # requests without an engine slot
        self._event_cache: dict[Any, bytes] = {}
        self._words_of, self._words = "", [""]
        self._alive = True
        self._prefill_free = 0.0
        self._epoch = 0  # counts changes of `running`
        self.running = 0
        """Requests that hold an engine slot."""
        self.reset()

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def reset(self) -> None:
        """Forget the rows and the counters."""
        self.streams: list[ReferenceStream] = []
        self.calls: dict[str, int] = {}
        self.max_send_lag = self.max_intake_lag = 0.0
        self.in_flight = self.peak_in_flight = 0
        self.prompt_tokens_total = self.generation_tokens_total = self.requests_total = 0
        self._offset = realtime_offset()

    # ---- hooks ---------------------------------------------------------------------------------------------------
    def handle(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        """Answer a request. None = not found. Raise ValueError for a body that cannot be used (400)."""
        config = self.config
        if request.method == "POST" and request.path in ("/v1/completions", "/v1/chat/completions", "/generate"):
            return self.generation(request)
        if request.path == "/v1/models":
            card: dict[str, Any] = {
                "id": config.model,
                "object": "model",
                "created": 1700000000,
                "owned_by": config.flavour,
                "root": config.model_path or config.model,
                "max_model_len": config.max_model_len,
            }
            return ReferenceReply({"object": "list", "data": [card]})
        if request.path == "/metrics":
            return ReferenceReply(self.metrics_text(), content_type="text/plain; version=0.0.4") if config.metrics else None
        if request.path in ("/health", "/health_generate", "/ping", "/flush_cache", "/reset_prefix_cache"):
            return ReferenceReply(b"")
        if request.path == "/version":
            return ReferenceReply({"version": "0.0.0"}) if config.flavour == "vllm" else None
        if request.path in ("/server_info", "/get_server_info"):
            return ReferenceReply({"internal_states": [{}], "version": "0.0.0"})
        if request.path in ("/model_info", "/get_model_info"):
            path = config.model_path or config.model
            return ReferenceReply({"model_path": path, "tokenizer_path": path, "is_generation": True})
        return None

    def generation(self, request: ReferenceRequest) -> Generation:
        """What a generation request gets: by default as many tokens as it asked for."""
        config = self.config
        query = request.json()
        if not isinstance(query, dict):
            raise ValueError("body is not an object")
        options = query.get("stream_options") or {}
        usage = config.usage in ("always", "continuous") or (config.usage == "honour" and bool(options.get("include_usage")))
        each = config.usage == "continuous" or (config.usage == "honour" and bool(options.get("continuous_usage_stats")))
        if request.path == "/generate":
            kind = "generate"
            prompt: Any = query.get("text", query.get("input_ids", ""))
            asked = int((query.get("sampling_params") or {}).get("max_new_tokens", 128))
        elif request.path == "/v1/completions":
            kind, prompt, asked = "completions", query.get("prompt", ""), int(query.get("max_tokens") or 16)
        else:
            kind = "chat"
            prompt = " ".join(str(message.get("content")) for message in query.get("messages") or [])
            asked = int(query.get("max_completion_tokens") or query.get("max_tokens") or 128)
        counted = len(prompt) if isinstance(prompt, list) else len(str(prompt).split())
        short = config.short < 1.0
        return Generation(
            kind=kind,
            prompt_tokens=config.prompt_tokens or counted + (config.template_tokens if kind == "chat" else 0),
            output_tokens=max(1, int(asked * config.short)) if short else asked,
            asked_tokens=asked,
            stream=bool(query.get("stream")),
            finish="stop" if short else "length",
            reasoning=config.reasoning if kind == "chat" else 0,
            usage=usage,
            usage_each=each,
            model=str(query.get("model") or config.model),
        )

    def timing(self, request: ReferenceRequest, running: int) -> Schedule:
        """The speed of the engine for this request while `running` requests hold a slot (itself included).

        Asked when the request gets its slot, before its first token, and before a token whenever `running` changed.
        """
        return Schedule(self.config.ttft, self.config.tpot)

    def stream_head(self, stream: ReferenceStream) -> bytes:
        """Status line and headers of a streamed answer."""
        return STREAM_HEAD

    def metrics_text(self) -> str:
        """/metrics in the flavour's names (vLLM >= 0.9.2, SGLang 0.4.4 and later)."""
        config = self.config
        running = min(self.running, config.running_cap) if config.running_cap else self.running
        hits = int(self.prompt_tokens_total * config.cache_hit_rate)
        if config.flavour == "vllm":
            values: dict[str, float] = {
                "vllm:num_requests_running": running,
                "vllm:num_requests_waiting": len(self._waiting),
                "vllm:prefix_cache_queries_total": self.prompt_tokens_total,
                "vllm:prefix_cache_hits_total": hits,
                "vllm:prompt_tokens_total": self.prompt_tokens_total,
                "vllm:generation_tokens_total": self.generation_tokens_total,
            }
        else:
            values = {
                "sglang:num_running_reqs": running,
                "sglang:num_queue_reqs": len(self._waiting),
                "sglang:prompt_tokens_total": self.prompt_tokens_total,
                "sglang:generation_tokens_total": self.generation_tokens_total,
                "sglang:cached_tokens_total": hits,
                "sglang:num_requests_total": self.requests_total,
            }
        if config.accepts and config.flavour == "vllm":
            steps = self.generation_tokens_total / config.accepts
            values["vllm:spec_decode_num_drafts_total"] = steps
            values["vllm:spec_decode_num_accepted_tokens_total"] = self.generation_tokens_total - steps
        elif config.accepts:
            values["sglang:spec_accept_length"] = config.accepts if self.generation_tokens_total else 0.0
        return "".join(f'{name}{{model_name="{config.model}"}} {float(value)}\n' for name, value in values.items())

    def error_reply(self, status: int, message: str) -> ReferenceReply:
        """An error body in the flavour's shape (engines.md 1.4, 2.6)."""
        kind = "NotFoundError" if status == 404 else "BadRequestError" if status < 500 else "InternalServerError"
        flat = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
        if self.config.flavour == "vllm":
            del flat["object"]
            return ReferenceReply({"error": flat}, status)
        return ReferenceReply(flat, status)

    # ---- sockets -------------------------------------------------------------------------------------------------
    def _send(self, connection: _Connection, data: bytes) -> bool:
        """One send(); what the kernel does not take is kept and follows. True when all of it went."""
        if connection.closed:
            return False
        if not connection.out:
            try:
                sent = connection.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(connection)
                return False
            if sent == len(data):
                return True
            data = data[sent:]
        connection.out += data
        self._poller.modify(connection.fd, READ | WRITE)
        return False

    def _flush(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(connection.out)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        del connection.out[:sent]
        if not connection.out:
            self._poller.modify(connection.fd, READ)
            if connection.close_after and connection.stream is None:
                self._drop(connection)

    def _drop(self, connection: _Connection, reset: bool = False) -> None:
        if connection.closed:
            return
        connection.closed = True
        self._connections.pop(connection.fd, None)
        with contextlib.suppress(OSError):
            self._poller.unregister(connection.fd)
            if reset:  # linger 0: close sends RST
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sock.close()
        stream = connection.stream
        if stream is not None:
            stream.fault = stream.fault or "client_gone"
            self._finish(stream)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    sys.stderr.write("reference server: out of file descriptors\n")
                    return
                if error.errno == errno.ECONNABORTED:
                    continue
                raise
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sys.platform == "linux":
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._accepted += 1
            connection = _Connection(sock, self._accepted)
            self._connections[connection.fd] = connection
            self._poller.register(connection.fd, READ)

    def _readable(self, connection: _Connection) -> None:
        try:
            data, ancillary, _, _ = connection.sock.recvmsg(262144, 64)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if not data:
            self._drop(connection)
            return
        # The truth starts when the kernel had the bytes, not when this loop came round to them.
        connection.received = read_at = now()
        if ancillary:
            seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2][:16])
            stamp = seconds + nanoseconds * 1e-9 - self._offset
            if 0.0 <= read_at - stamp < 10.0:
                connection.received = stamp
                self.max_intake_lag = max(self.max_intake_lag, read_at - stamp)
        connection.buffer += data
        self._parse(connection)

    def _parse(self, connection: _Connection) -> None:
        while not connection.closed and connection.stream is None:
            buffer = connection.buffer
            if connection.head is None:
                end = buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
                del buffer[: end + 4]
                try:
                    method, target, _ = lines[0].split(" ", 2)
                    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
                    length = -1 if "chunked" in headers.get("transfer-encoding", "") else int(headers.get("content-length", "0"))
                except ValueError:
                    connection.close_after = True
                    self._reply(connection, self.error_reply(400, "malformed HTTP request"))
                    return
                if headers.get("expect", "").lower() == "100-continue":
                    self._send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
                connection.head = (method, target, headers, length)
                connection.close_after = headers.get("connection", "").lower() == "close"
            method, target, headers, length = connection.head
            if length < 0:
                chunks = Chunks()
                try:
                    body = chunks.feed(bytes(buffer))
                except ProtocolError as error:
                    connection.close_after = True
                    self._reply(connection, self.error_reply(400, str(error)))
                    return
                if not chunks.done:
                    return
                buffer[:] = chunks.leftover
            else:
                if len(buffer) < length:
                    return
                body = bytes(buffer[:length])
                del buffer[:length]
            connection.head = None
            path, _, query = target.partition("?")
            request = ReferenceRequest(method, path, query, headers, body, connection.received, connection.number)
            self._route(connection, request)
            connection.served += 1

    def _reply(self, connection: _Connection, reply: ReferenceReply) -> None:
        self._send(connection, reply.encode())
        if connection.close_after and not connection.out:
            self._drop(connection)

    def _route(self, connection: _Connection, request: ReferenceRequest) -> None:
        try:
            answer: ReferenceReply | Generation | None = self._control(request)
            if answer is None:
                self.calls[request.path] = self.calls.get(request.path, 0) + 1
                answer = self.handle(request)
        except UsageError as error:
            answer = ReferenceReply({"error": str(error)}, 400)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            answer = self.error_reply(400, f"cannot use this body: {error}")
        if answer is None:
            answer = self.error_reply(404, f"no route {request.method} {request.path}")
        if isinstance(answer, Generation):
            self._start(connection, request, answer)
        elif answer.delay_s > 0:
            reply = answer
            self._push(now() + answer.delay_s, lambda: self._reply(connection, reply))
        else:
            self._reply(connection, answer)

    def _control(self, request: ReferenceRequest) -> ReferenceReply | None:
        if request.path == "/__truth":
            return ReferenceReply(self.truth(full="full=1" in request.query))
        if request.path == "/__reset":
            self.reset()
            return ReferenceReply({})
        if request.path == "/__config":
            if request.body:
                self.config.update(request.json())
                self._event_cache.clear()
            return ReferenceReply(asdict(self.config))
        return None

    # ---- a request's life ----------------------------------------------------------------------------------------
    def _start(self, connection: _Connection, request: ReferenceRequest, generation: Generation) -> None:
        config = self.config
        self.requests_total += 1
        stream = ReferenceStream(len(self.streams) + 1, request, generation, connection)
        stream.digest = hashlib.blake2b(request.body, digest_size=8).hexdigest()
        stream.per_event = max(1, config.tokens_per_event)
        self.streams.append(stream)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.prompt_tokens_total += generation.prompt_tokens
        connection.stream = stream
        if config.fail_rate and stream.index % max(1, round(1 / config.fail_rate)) == 0:
            stream.fault = config.fail_kind
            if stream.fault in ("http500", "http503"):
                connection.stream = None
                self._finish(stream)
                self._reply(connection, self.error_reply(int(stream.fault[4:]), "injected"))
                return
            if stream.fault == "reset":
                self._drop(connection, reset=True)
                return
        if config.batch and self.running >= config.batch:
            self._waiting.append(stream)
        else:
            self._admit(stream, request.received)

    def _admit(self, stream: ReferenceStream, base: float) -> None:
        """Give the stream an engine slot; its prefill starts at `base`."""
        config, connection, generation = self.config, stream.connection, stream.generation
        assert connection is not None
        self.running += 1
        self._epoch += 1
        stream.started = True
        if config.prefill_rate:
            base = max(base, self._prefill_free) + generation.prompt_tokens / config.prefill_rate
            self._prefill_free = base
        stream.start_base = base
        if generation.stream:
            # The headers leave at once, as those of a Starlette StreamingResponse do.
            head = self.stream_head(stream)
            if generation.kind == "chat" and config.role_chunk == "early":
                head += chunk(sse(self._chat_event(stream, {"role": "assistant", "content": ""})))
            self._send(connection, head)
            self._prepare(stream)
        self._push(self._first_due(stream), stream)

    def _first_due(self, stream: ReferenceStream) -> float:
        stream.epoch = self._epoch
        schedule = self.timing(stream.request, self.running)
        stream.tpot = schedule.tpot_s
        due = stream.start_base + schedule.ttft_s
        if not stream.generation.stream:
            return due + schedule.tpot_s * (stream.generation.output_tokens - 1)
        if self.config.step and schedule.tpot_s:
            due = math.ceil(due / schedule.tpot_s) * schedule.tpot_s
        return due

    def _push(self, due: float, item: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, item))

    # ---- events --------------------------------------------------------------------------------------------------
    def _chat_event(self, stream: ReferenceStream, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        if self.config.flavour == "sglang":
            choice["matched_stop"] = None
        return {
            "id": stream.ident,
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": stream.generation.model,
            "choices": [choice],
        }

    def _text_event(self, stream: ReferenceStream, text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {
            "id": stream.ident,
            "object": "text_completion",
            "created": 1700000000,
            "model": stream.generation.model,
            "choices": [choice],
        }

    @property
    def reasoning_field(self) -> str:
        return self.config.reasoning_field or ("reasoning" if self.config.flavour == "vllm" else "reasoning_content")

    def _prepare(self, stream: ReferenceStream) -> None:
        """Called before a stream's first token, and again when `per_event` has changed."""
        stream.constant = {}

    def words(self) -> list[str]:
        """What `config.text` consists of."""
        if self._words_of != self.config.text:
            self._words_of = self.config.text
            self._words = re.findall(r"\s*\S+", self.config.text) or [self.config.text]
        return self._words

    def _text(self, generation: Generation, start: int, end: int) -> str:
        if generation.pieces is None:
            words = self.words()
            return "".join(words[i % len(words)] for i in range(start, end))
        return "".join(generation.pieces[start:end])

    def _usage(self, generation: Generation, count: int, final: bool) -> dict[str, Any]:
        completion = count + (self.config.completion_skew if final else 0)
        usage: dict[str, Any] = {
            "prompt_tokens": generation.prompt_tokens,
            "total_tokens": generation.prompt_tokens + completion,
            "completion_tokens": completion,
        }
        if self.config.flavour == "sglang":
            usage["reasoning_tokens"] = min(count, generation.reasoning)
        return usage

    def _generate_event(self, generation: Generation, start: int, count: int) -> bytes:
        """SGLang's own route: text and ids are cumulative unless the server was told otherwise."""
        base = start if self.config.incremental else 0
        final = count >= generation.output_tokens
        key = (base, count, final, generation.prompt_tokens) if generation.pieces is None else None
        data = self._event_cache.get(key) if key else None
        if data is None:
            completion = count + (self.config.completion_skew if final else 0)
            data = chunk(
                sse(
                    {
                        "text": self._text(generation, base, count),
                        "output_ids": [19] * (count - base),
                        "meta_info": {
                            "id": "0123456789abcdef0123456789abcdef",
                            "finish_reason": {"type": generation.finish, "length": count} if final else None,
                            "prompt_tokens": generation.prompt_tokens,
                            "completion_tokens": completion,
                            "cached_tokens": int(generation.prompt_tokens * self.config.cache_hit_rate),
                        },
                    }
                )
            )
            if key:
                self._event_cache[key] = data
        return data

    def _event(self, stream: ReferenceStream, count: int) -> bytes:
        """The event that brings the stream from `stream.sent` to `count` tokens."""
        generation, start = stream.generation, stream.sent
        if generation.kind == "generate":
            return self._generate_event(generation, start, count)
        reasoning = generation.kind == "chat" and start < generation.reasoning
        # Token events without own text come again word for word within a stream: each is serialised once.
        again = generation.pieces is None and not generation.usage_each and count - start == stream.per_event
        key = (reasoning, start % len(self.words())) if again else None
        if key in stream.constant:
            return stream.constant[key]
        text = self._text(generation, start, count)
        if generation.kind == "chat":
            document = self._chat_event(stream, {self.reasoning_field if reasoning else "content": text})
        else:
            document = self._text_event(stream, text)
        if generation.usage_each:
            document["usage"] = self._usage(generation, count, False)
        data = chunk(sse(document))
        if key is not None:
            stream.constant[key] = data
        return data

    def _tail(self, stream: ReferenceStream) -> bytes:
        generation, data = stream.generation, b""
        if generation.kind != "generate":
            last = (
                self._chat_event(stream, {}, generation.finish)
                if generation.kind == "chat"
                else self._text_event(stream, "", generation.finish)
            )
            data = chunk(sse(last))
            if generation.usage:
                document = dict(last, choices=[], usage=self._usage(generation, generation.output_tokens, True))
                data += chunk(sse(document))
        return data + DONE

    def _emit(self, stream: ReferenceStream, due: float) -> bool | None:
        """Send the next token event. True: the stream is over. None: it has gone silent for good."""
        connection, generation = stream.connection, stream.generation
        if connection is None or connection.closed:
            return True
        if not generation.stream:
            self._whole(stream, connection)
            return True
        if stream.fault and stream.sent >= max(1, generation.output_tokens // 2):
            return self._fail(stream, connection)
        count = min(generation.output_tokens, stream.sent + stream.per_event)
        if generation.reasoning and stream.sent < generation.reasoning:
            count = min(count, generation.reasoning)
        data = self._event(stream, count)
        if stream.sent == 0 and generation.kind == "chat" and self.config.role_chunk == "first":
            data = chunk(sse(self._chat_event(stream, {"role": "assistant", "content": ""}))) + data
        last = count >= generation.output_tokens
        if last:
            data += self._tail(stream)
        stamp = now()
        if due and stamp - due > self.max_send_lag:
            self.max_send_lag = stamp - due
        if not self._send(connection, data):
            stream.blocked += 1
        stream.times.append(stamp)
        if stream.sent == 0:
            stream.first = stamp
        self.generation_tokens_total += count - stream.sent
        stream.sent, stream.last = count, stamp
        return last

    def _fail(self, stream: ReferenceStream, connection: _Connection) -> bool | None:
        fault = stream.fault
        if fault == "midstream":
            self._drop(connection, reset=True)
        elif fault == "eof":
            self._drop(connection)
        elif fault == "truncate":
            self._send(connection, LAST_CHUNK)
        elif fault == "stream_error":
            error = {"error": {"object": "error", "message": "injected", "type": "InternalServerError", "code": 500}}
            self._send(connection, chunk(sse(error)) + DONE)
        else:  # stall: the slot is given back, the client never hears of it
            stream.ended = now()
            self._free_slot(stream)
            return None
        return True

    def _whole(self, stream: ReferenceStream, connection: _Connection) -> None:
        generation = stream.generation
        count = generation.output_tokens
        split = min(count, generation.reasoning)
        document: dict[str, Any]
        if generation.kind == "generate":
            document = {
                "text": self._text(generation, 0, count),
                "output_ids": [19] * count,
                "meta_info": {
                    "id": stream.ident,
                    "finish_reason": {"type": generation.finish, "length": count},
                    "prompt_tokens": generation.prompt_tokens,
                    "cached_tokens": 0,
                    "completion_tokens": count + self.config.completion_skew,
                    **({"spec_verify_ct": math.ceil((count - 1) / self.config.accepts)} if self.config.accepts else {}),
                },
            }
        else:
            choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": generation.finish}
            if generation.kind == "chat":
                reasoning = self._text(generation, 0, split) if split else None
                choice["message"] = {"role": "assistant", "content": self._text(generation, split, count), self.reasoning_field: reasoning}
            else:
                choice["text"] = self._text(generation, 0, count)
            document = {
                "id": stream.ident,
                "created": 1700000000,
                "model": generation.model,
                "choices": [choice],
                "object": "chat.completion" if generation.kind == "chat" else "text_completion",
                "usage": self._usage(generation, count, True),
            }
        stream.first = stream.last = now()
        stream.sent = count
        self.generation_tokens_total += count
        self._reply(connection, ReferenceReply(document))

    def _free_slot(self, stream: ReferenceStream) -> None:
        if stream.started:
            stream.started = False
            self.running -= 1
            self._epoch += 1
            while self._waiting:
                waiting = self._waiting.popleft()
                if waiting.connection is not None and not waiting.ended:
                    self._admit(waiting, now())
                    break

    def _finish(self, stream: ReferenceStream) -> None:
        connection = stream.connection
        if connection is None:
            return
        stream.connection = None
        if not stream.ended:
            stream.ended = now()
        self.in_flight -= 1
        stream.constant = {}
        self._free_slot(stream)
        if connection.stream is stream:
            connection.stream = None
            if not connection.closed:
                if connection.close_after and not connection.out:
                    self._drop(connection)
                elif connection.buffer:
                    self._parse(connection)

    # ---- loop ----------------------------------------------------------------------------------------------------
    def stop(self) -> None:
        """End `serve_forever`. Safe in a signal handler and from another thread."""
        self._alive = False
        with contextlib.suppress(OSError):  # it may have ended already
            os.write(self._wake_writer, b"x")

    def serve_forever(self) -> None:
        """Serve until `stop`; closes every socket on the way out."""
        try:
            with no_collector_pauses():
                self._loop()
        finally:
            for connection in list(self._connections.values()):
                connection.sock.close()
            self._connections.clear()
            self._listener.close()
            self._poller.close()
            reader, writer, self._wake_writer = self._wake_reader, self._wake_writer, -1
            os.close(reader)
            os.close(writer)

    def _loop(self) -> None:
        heap, eager, listener = self._heap, self._eager, self._listener.fileno()
        while self._alive:
            wait = 0.0
            if not eager:
                wait = 0.5
                if heap:
                    # epoll counts whole milliseconds: sleep short of the deadline, then poll without waiting.
                    wait = min(wait, max(0.0, heap[0][0] - now() - 0.001))
            for fd, events in self._poller.poll(wait):
                if fd == listener:
                    self._accept()
                    continue
                connection = self._connections.get(fd)
                if connection is None:
                    continue
                if events & WRITE:
                    self._flush(connection)
                if not connection.closed and events & (READ | BROKEN):
                    self._readable(connection)
            stamp, budget = now(), 32  # a bounded number of sends, then look at the sockets again
            while heap and budget and heap[0][0] <= stamp:
                due, _, item = heapq.heappop(heap)
                if not isinstance(item, ReferenceStream):
                    item()
                    continue
                if item.epoch != self._epoch and item.connection is not None:
                    if item.sent == 0:
                        due = self._first_due(item)
                        if due > stamp:
                            self._push(due, item)
                            continue
                    else:
                        item.epoch = self._epoch
                        item.tpot = self.timing(item.request, self.running).tpot_s
                budget -= 1
                over = self._emit(item, due)
                if over:
                    self._finish(item)
                elif over is False:
                    if item.tpot:
                        self._push(due + item.tpot * item.per_event, item)
                    else:
                        eager.append(item)
            for _ in range(min(len(eager), 32)):
                stream = eager.popleft()
                if stream.connection is not None and stream.connection.out and not stream.connection.closed:
                    eager.append(stream)  # the socket is full: let it drain
                    continue
                over = self._emit(stream, 0.0)
                if over:
                    self._finish(stream)
                elif over is False:
                    eager.append(stream)

    # ---- truth ---------------------------------------------------------------------------------------------------
    def truth(self, full: bool = False) -> dict[str, Any]:
        """What really happened: a summary and a row per request. Seconds, clock of `clock.now`.

        ttft = first token event handed to the kernel - kernel's stamp of the request's last byte
        tpot = (last - first token event) / (tokens sent - 1)
        throughput = tokens of complete requests / (last token event - first request), tokens/s
        """
        rows: list[dict[str, Any]] = []
        for stream in self.streams:
            row: dict[str, Any] = {
                "i": stream.index,
                "path": stream.request.path,
                "asked": stream.generation.asked_tokens,
                "sent": stream.sent,
                "prompt_tokens": stream.generation.prompt_tokens,
                "connection": stream.number,
                "reused": stream.reused,
                "received": stream.request.received,
                "first": stream.first,
                "last": stream.last,
                "ended": stream.ended,
                "digest": stream.digest,
                "blocked": stream.blocked,
                "fault": stream.fault,
                "ttft": None,
                "tpot": None,
            }
            if stream.sent and stream.generation.stream:
                row["ttft"] = stream.first - stream.request.received
                if stream.sent > 1:
                    row["tpot"] = (stream.last - stream.first) / (stream.sent - 1)
            if full:
                row["times"] = stream.times
            rows.append(row)
        complete = [row for row in rows if row["ended"] and not row["fault"] and row["sent"]]
        summary: dict[str, Any] = {
            "requests": len(rows),
            "complete": len(complete),
            "peak_in_flight": self.peak_in_flight,
            "calls": dict(self.calls),
            "max_send_lag": self.max_send_lag,
            "max_intake_lag": self.max_intake_lag,
            "distinct_prompts": len({row["digest"] for row in rows}),
            "blocked": sum(row["blocked"] for row in rows),
            "tokens": sum(row["sent"] for row in complete),
            "ttft": None,
            "tpot": None,
            "throughput": None,
        }
        ttfts = [row["ttft"] for row in complete if row["ttft"] is not None]
        tpots = [row["tpot"] for row in complete if row["tpot"] is not None]
        if ttfts:
            summary["ttft"] = sum(ttfts) / len(ttfts)
        if tpots:
            summary["tpot"] = sum(tpots) / len(tpots)
        if complete:
            span = max(row["last"] for row in complete) - min(row["received"] for row in complete)
            if span > 0:
                summary["throughput"] = summary["tokens"] / span
        return {"summary": summary, "rows": rows}


class ReferenceProcess:
    """The server in a child process, so that it shares no interpreter lock with the client it judges.

    with ReferenceProcess(ReferenceConfig(ttft=0.1)) as server:
        server.url; server.truth(); server.configure(tpot=0.05); server.reset()
    """

    def __init__(self, config: ReferenceConfig | None = None, host: str = "127.0.0.1") -> None:
        self._config, self._host = config or ReferenceConfig(), host
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> ReferenceProcess:
        """Raises MeasurementError when the child does not come up."""
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(part for part in (package_root, environment.get("PYTHONPATH", "")) if part)
        argv = [
            sys.executable,
            "-m",
            "pytest_h20.load.reference",
            "--host",
            self._host,
            "--port",
            "0",
            "--config",
            json.dumps(asdict(self._config)),
            "--with-parent",
        ]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        try:
            self.url = str(json.loads(line)["url"])
        except (ValueError, KeyError):
            self._process.kill()
            text = self._process.stderr.read().strip()
            self._close()
            raise MeasurementError(f"the built-in reference server did not start: {text or 'no output'}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise MeasurementError("the built-in reference server is not running")
        return self._process.pid

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        import urllib.request

        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy of the environment
        try:
            with opener.open(urllib.request.Request(self.url + path, data=data), timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except OSError as error:
            raise MeasurementError(f"the built-in reference server does not answer {path}: {error}") from None

    def truth(self, full: bool = False) -> dict[str, Any]:
        """See `ReferenceServer.truth`."""
        document: dict[str, Any] = self._call("/__truth?full=1" if full else "/__truth")
        return document

    def configure(self, **knobs: Any) -> None:
        """Change knobs of the running server."""
        self._call("/__config", knobs)

    def reset(self) -> None:
        """Forget what was recorded so far."""
        self._call("/__reset", {})


def _stop_with_parent(server: ReferenceServer) -> None:
    """stdin is a pipe held by the parent: its end of file means that the parent is gone, however it went."""
    import threading

    def watch() -> None:
        while os.read(0, 4096):
            pass
        server.stop()

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m pytest_h20.load.reference`: serve until SIGTERM or SIGINT. Exit status 2 on bad input."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m pytest_h20.load.reference", description="Inference server without a model that knows its own timing."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 = any free one (default); the first line printed tells")
    parser.add_argument("--config", default="{}", help="all knobs as one JSON object")
    parser.add_argument("--with-parent", action="store_true", help="stop when stdin ends")
    for knob in fields(ReferenceConfig):
        kind = type(knob.default)
        parser.add_argument("--" + knob.name.replace("_", "-"), type=int if kind is bool else kind, default=None)
    options = vars(parser.parse_args(argv))
    host, port, document, with_parent = (options.pop(name) for name in ("host", "port", "config", "with_parent"))
    config = ReferenceConfig()
    try:
        config.update(json.loads(document))
        config.update({name: value for name, value in options.items() if value is not None})
        allow_files(65536)
        server = ReferenceServer(config, host, port)
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if with_parent:
        _stop_with_parent(server)
    print(json.dumps({"url": server.url, "pid": os.getpid()}), flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
