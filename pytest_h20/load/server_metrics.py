"""What the server says about itself in /metrics, under the names of either engine over their versions.

Names (engines.md 1.5 and 2.6, and recorded /metrics of vLLM 0.24, 0.32 and SGLang 0.5.16):
running requests   vllm:num_requests_running; sglang:num_running_reqs
waiting requests   vllm:num_requests_waiting; sglang:num_queue_reqs
prefix cache       vllm:prefix_cache_queries/hits_total (>= 0.9.2), vllm:gpu_prefix_cache_queries/hits_total (0.8.2 to
                   0.11.2), vllm:gpu_prefix_cache_hit_rate (a gauge, up to 0.9.0); sglang:cached_tokens_total over
                   prompt_tokens_total (newer), sglang:cache_hit_rate (a gauge of the last prefill, older)
KV cache in use    vllm:kv_cache_usage_perc (>= 0.9.2), vllm:gpu_cache_usage_perc (older); sglang:token_usage; all 0 to 1
put back           vllm:num_preemptions_total (a counter); sglang:num_retracted_reqs (a gauge: of its last interval)
drafts taken       vllm:spec_decode_num_drafts_total and vllm:spec_decode_num_accepted_tokens_total (vLLM's own mean acceptance length
                   is 1 + accepted / drafts, the token of the model itself counted; 0.32.0); sglang:spec_accept_length (a gauge of
                   its last interval, 0 without drafts; 0.5.6 and 0.5.23)
SGLang answers 404 without --enable-metrics. Its gauges move only with its own log interval (40 decode steps).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_h20.load.http1 import ProtocolError, Response
from pytest_h20.load.target import BaseUrl, Target

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{([^}\n]*)\})?[ \t]+(\S+)", re.MULTILINE)
_RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
_KV_USE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage")
_PREEMPTED = ("vllm:num_preemptions_total", "vllm:num_preemptions")
_RETRACTED = ("sglang:num_retracted_reqs",)
_GENERATED = ("vllm:generation_tokens_total", "sglang:generation_tokens_total")
_PROMPTED = ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total")
_DRAFTS = ("vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_drafts")
_ACCEPTED = ("vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens")
_ACCEPT_LENGTH = ("sglang:spec_accept_length",)
_CACHE_PAIRS = (
    ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"),
    ("vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_hits_total"),
    ("sglang:prompt_tokens_total", "sglang:cached_tokens_total"),
)
MOST = 16 * 2**20
"""Bytes of /metrics at most; real ones have some 100 KiB."""
_CACHE_GAUGES = ("vllm:gpu_prefix_cache_hit_rate", "sglang:cache_hit_rate")


@dataclass(frozen=True)
class MetricsSample:
    """One look at /metrics. None = the server does not tell."""

    running: float | None = None
    waiting: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cache_queries: float | None = None
    cache_hits: float | None = None
    cache_rate: float | None = None
    """A hit rate the server computes itself (older engines), 0..1."""
    kv_use: float | None = None
    """Of the engine whose cache is fullest, 0..1."""
    preempted: float | None = None
    """Requests put back since the server started."""
    retracted: float | None = None
    """Requests put back in the server's last interval."""
    drafts: float | None = None
    """Steps with drafts since the server started (vLLM)."""
    accepted: float | None = None
    """Drafts that were accepted in them."""
    accept_length: float | None = None
    """Tokens per step in the server's last interval (SGLang), mean over its engines that drafted; None where none did."""


def series(text: str) -> dict[str, list[float]]:
    """Prometheus text -> the values of each name's series (one per data-parallel engine). SGLang's copies per tensor- and
    pipeline-parallel rank are one engine: of those only rank 0 counts. What is no number is left out, NaN too."""
    found: dict[str, list[float]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if labels and (_label(labels, "tp_rank") not in (None, "0") or _label(labels, "pp_rank") not in (None, "0")):
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if number == number:
            found.setdefault(name, []).append(number)
    return found


def parse_metrics(text: str) -> MetricsSample:
    """Prometheus text -> sample. Series of one name are added up, but of the KV cache the fullest counts. Unknown text gives
    all None."""
    found = series(text)

    def first(names: Iterable[str], of: Callable[[list[float]], float] = sum) -> float | None:
        return next((of(found[name]) for name in names if name in found), None)

    queries, hits = next(((asked, hit) for asked, hit in _CACHE_PAIRS if asked in found and hit in found), ("", ""))
    return MetricsSample(
        first(_RUNNING),
        first(_WAITING),
        first(_PROMPTED),
        first(_GENERATED),
        first((queries,)),
        first((hits,)),
        first(_CACHE_GAUGES),
        first(_KV_USE, max),
        first(_PREEMPTED),
        first(_RETRACTED),
        first(_DRAFTS),
        first(_ACCEPTED),
        first(_ACCEPT_LENGTH, _mean_above_0) or None,
    )


def _mean_above_0(values: list[float]) -> float:
    told = [value for value in values if value > 0]
    return sum(told) / len(told) if told else 0.0


def acceptance(before: MetricsSample | None, during: Iterable[MetricsSample], after: MetricsSample | None) -> float | None:
    """Tokens per step of speculative decoding between two looks, as the server counts them; None: it does not draft, or does not tell.

    Exact of counters (vLLM); of a gauge the mean of its values, each of which is of one interval (SGLang).
    """
    if before is not None and after is not None and None not in (before.drafts, before.accepted, after.drafts, after.accepted):
        steps, accepted = after.drafts - before.drafts, after.accepted - before.accepted  # type: ignore[operator]
        return 1 + accepted / steps if steps > 0 and accepted >= 0 else None
    told = [sample.accept_length for sample in (*during, after) if sample is not None and sample.accept_length is not None]
    return sum(told) / len(told) if told else None


def _label(labels: str, name: str) -> str | None:
    match = re.search(rf'(?:^|,){name}="([^"]*)"', labels)
    return match.group(1) if match else None


@dataclass(frozen=True)
class ServerView:
    """A cell as the server saw it. None = the server does not tell.

    cache_hit_rate_before is over the server's life up to the cell (or its own gauge), cache_hit_rate over the cell.
    """

    samples: int
    running_max: float | None = None
    waiting_max: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cache_hit_rate_before: float | None = None
    cache_hit_rate: float | None = None
    kv_use_max: float | None = None
    put_back: float | None = None
    """Requests that were preempted or retracted: all of them by a counter (vLLM), the most at once by a gauge (SGLang)."""
    acceptance: float | None = None
    """Tokens per step of speculative decoding (:func:`acceptance`)."""


def view(before: MetricsSample | None, during: list[MetricsSample], after: MetricsSample | None) -> ServerView | None:
    """The cell's view from samples, None when the server told nothing at all."""
    known = [sample for sample in (before, *during, after) if sample is not None and sample != MetricsSample()]
    if not known:
        return None

    def most(values: list[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return max(numbers) if numbers else None

    def risen(start: float | None, end: float | None) -> float | None:
        return None if start is None or end is None or end < start else end - start

    prompts = generated = rate = rate_before = None
    if before is not None:
        rate_before = _share(before.cache_hits, before.cache_queries)
        if rate_before is None:
            rate_before = before.cache_rate
    if before is not None and after is not None:
        prompts = risen(before.prompt_tokens, after.prompt_tokens)
        generated = risen(before.generation_tokens, after.generation_tokens)
        rate = _share(risen(before.cache_hits, after.cache_hits), risen(before.cache_queries, after.cache_queries))
    if rate is None:
        rate = most([sample.cache_rate for sample in during])
        if rate is None and after is not None:
            rate = after.cache_rate
    put_back = risen(before.preempted if before else None, after.preempted if after else None)
    if put_back is None:
        put_back = most([sample.retracted for sample in during])
    return ServerView(
        len(during),
        most([sample.running for sample in during]),
        most([sample.waiting for sample in during]),
        prompts,
        generated,
        rate_before,
        rate,
        most([sample.kv_use for sample in during]),
        put_back,
        acceptance(before, during, after),
    )


def _share(part: float | None, of: float | None) -> float | None:
    return None if part is None or not of else part / of


def fetch(target: Target, timeout_s: float = 10.0) -> MetricsSample | None:
    """One look at the target's /metrics, None when it has none or does not answer. Wall-clock seconds."""
    address = target.metrics_address()
    if address is None:
        return None
    text = get_text(target, address, address.path or "/metrics", timeout_s)
    return None if text is None else parse_metrics(text)


def get_text(target: Target, address: BaseUrl, path: str, timeout_s: float) -> str | None:
    """A plain GET with the target's headers; None for anything but a complete 200 within `timeout_s` in all and `MOST` bytes."""
    end = time.monotonic() + timeout_s
    head = {"Host": address.authority, **dict(target.headers), "Connection": "close"}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    response, body, received = Response(), bytearray(), 0
    try:
        with contextlib.closing(socket.create_connection((address.host, address.port), timeout=timeout_s)) as plain:
            sock = _secured(plain, target, address)
            sock.settimeout(max(0.001, end - time.monotonic()))
            sock.sendall("\r\n".join(lines).encode())
            while not response.done:
                sock.settimeout(max(0.001, end - time.monotonic()))
                data = sock.recv(65536)
                received += len(data)
                if received > MOST or time.monotonic() > end or not (data or response.close()):
                    return None
                body += response.feed(data)
    except (OSError, ProtocolError):
        return None
    return body.decode("utf-8", "replace") if response.status == 200 else None


def _secured(plain: socket.socket, target: Target, address: BaseUrl) -> socket.socket:
    if not address.tls:
        return plain
    context = ssl.create_default_context(cafile=target.ca_file)
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=address.host)
