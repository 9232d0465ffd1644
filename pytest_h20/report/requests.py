"""A cell's requests as they were recorded: figures derived again, windows of the steady part, intervals.

Read are our own ``<cell>.requests.jsonl`` (one JSON object per request) and the per-request lists of bench_serving's JSON. The
definitions are those of :mod:`pytest_h20.load.metrics`: means over complete requests; throughput over [first request sent, last
answer complete]; the steady part from the moment all streams are busy to the last request sent.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h20.core.errors import MeasurementError
from pytest_h20.report import untrusted
from pytest_h20.report.model import METRICS
from pytest_h20.report.stats import mean_interval

COMPLETE = frozenset({"ok", "short", "long"})
WINDOWS = 40
"""Windows of the steady part: enough for a block bootstrap, few enough to hold many tokens each."""


@dataclass(frozen=True)
class RequestRow:
    """One complete request. Times in seconds; ``sent`` and ``end`` count from the start of the cell, None when not recorded.

    A canary's tokens count in rates, its times are in no figure.
    """

    ttft: float
    tpot: float | None
    tokens: int
    sent: float | None = None
    end: float | None = None
    canary: bool = False


def read_requests(path: Path) -> list[RequestRow]:
    """The complete requests of a file; empty when it holds no per-request data. Raises ``MeasurementError`` when unreadable."""
    try:
        text = untrusted.text(path)
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            return [r for r in map(_own, rows) if r is not None]
        data = json.loads(text)
    except FileNotFoundError:
        raise MeasurementError(f"{path.name}: the cell's own record is missing") from None
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path.name}: the cell's own record cannot be read: {error}") from None
    return _bench_serving(data) if isinstance(data, dict) else []


def requests_file(cell_file: Path) -> Path:
    """Where the requests of a cell are: beside its result when our load core wrote them, else in the file itself."""
    own = cell_file.with_name(cell_file.name.removesuffix(".json") + ".requests.jsonl")
    return own if own.exists() else cell_file


def figures(requests: Sequence[RequestRow]) -> dict[str, float]:
    """Mean TTFT and TPOT in ms, and output tokens/s where the requests have their times."""
    found = {}
    ordinary = [r for r in requests if not r.canary]
    if ordinary:
        found["mean_ttft_ms"] = 1000 * statistics.fmean(r.ttft for r in ordinary)
    tpots = [r.tpot for r in ordinary if r.tpot is not None]
    if tpots:
        found["mean_tpot_ms"] = 1000 * statistics.fmean(tpots)
    span = _span(requests)
    if span and span[1] > span[0]:
        found["output_throughput"] = sum(r.tokens for r in requests) / (span[1] - span[0])
    return found


def percentiles(requests: Sequence[RequestRow], wanted: Iterable[float] = ()) -> dict[str, float]:
    """Every other figure of a cell that the requests tell, by the names of :data:`pytest_h20.config.figures.METRIC_FIGURES`."""
    found: dict[str, float] = {}
    requests = [r for r in requests if not r.canary]
    times = {
        "ttft": [r.ttft for r in requests],
        "tpot": [r.tpot for r in requests if r.tpot is not None],
        "e2e": [r.end - r.sent for r in requests if r.end is not None and r.sent is not None],
    }
    for name, seconds in times.items():
        if not seconds:
            continue
        ordered = sorted(1000 * value for value in seconds)
        found |= {f"p{percent:g}_{name}_ms": _percentile(ordered, percent) for percent in (50, 90, 95, 99, *wanted)}
        found[f"median_{name}_ms"] = found[f"p50_{name}_ms"]
        found[f"mean_{name}_ms"] = statistics.fmean(ordered)
    return {metric: value for metric, value in found.items() if metric not in METRICS}


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between ranks, as :mod:`pytest_h20.load.metrics` has it."""
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def intervals(requests: Sequence[RequestRow]) -> dict[str, tuple[float, float]]:
    """95 % intervals of mean TTFT and TPOT in ms; requests are taken as independent."""
    found = {}
    requests = [r for r in requests if not r.canary]
    for metric, values in (
        ("mean_ttft_ms", [1000 * r.ttft for r in requests]),
        ("mean_tpot_ms", [1000 * r.tpot for r in requests if r.tpot is not None]),
    ):
        if len(values) >= 8:
            found[metric] = mean_interval(values)
    return found


def windows(requests: Sequence[RequestRow], concurrency: int, count: int = WINDOWS) -> tuple[float, ...]:
    """Output tokens per second in ``count`` equal windows of the steady part; empty when there is none (a single wave).

    Tokens of a request are taken as evenly spaced from its first to its last: the record has no stamp of each.
    """
    timed = sorted((r for r in requests if r.sent is not None), key=lambda r: r.sent or 0.0)
    if len(timed) <= concurrency:
        return ()
    start, end = timed[concurrency - 1].sent or 0.0, timed[-1].sent or 0.0
    if end <= start:
        return ()
    width = (end - start) / count
    filled = [0.0] * count
    for request in timed:
        first = (request.sent or 0.0) + request.ttft
        last = first + (request.tpot or 0.0) * (request.tokens - 1)
        _spread(filled, first - start, last - start, request.tokens, width)
    return tuple(tokens / width for tokens in filled)


def _spread(filled: list[float], first: float, last: float, tokens: int, width: float) -> None:
    """Add a request's tokens to the windows they fall into; times count from the start of the first window."""
    if last <= first:
        index = math.floor(first / width)
        if 0 <= index < len(filled):
            filled[index] += tokens
        return
    rate = tokens / (last - first)
    for index in range(max(0, math.floor(first / width)), min(len(filled), math.floor(last / width) + 1)):
        overlap = min(last, (index + 1) * width) - max(first, index * width)
        filled[index] += rate * max(0.0, overlap)


def _span(requests: Sequence[RequestRow]) -> tuple[float, float] | None:
    sent = [r.sent for r in requests if r.sent is not None]
    ends = [r.end for r in requests if r.end is not None]
    return (min(sent), max(ends)) if requests and len(sent) == len(ends) == len(requests) else None


def _own(row: Mapping[str, Any]) -> RequestRow | None:
    if row.get("outcome") not in COMPLETE or not _is_number(row.get("ttft_s")):
        return None
    return RequestRow(
        ttft=float(row["ttft_s"]),
        tpot=_optional(row.get("tpot_s")),
        tokens=int(row.get("output_tokens") or 0),
        sent=_optional(row.get("sent_s")),
        end=_optional(row.get("end_s")),
        canary=bool(row.get("canary")),
    )


def _bench_serving(data: Mapping[str, Any]) -> list[RequestRow]:
    """Lists as in bench_serving: ``ttfts`` and ``latencies`` (or ``itls``) in seconds, ``output_lens``."""
    ttfts, lengths = data.get("ttfts"), data.get("output_lens")
    if not isinstance(ttfts, list) or not isinstance(lengths, list) or len(ttfts) != len(lengths):
        return []
    ends = _latencies(ttfts, data)
    found = []
    for ttft, length, latency in zip(ttfts, lengths, ends, strict=True):
        if not _is_number(ttft) or not _is_number(length) or length < 1:
            continue  # a failed request: bench_serving leaves its length at 0
        tpot = (latency - ttft) / (length - 1) if latency is not None and length > 1 else None
        found.append(RequestRow(ttft=float(ttft), tpot=tpot, tokens=int(length)))
    return found


def _latencies(ttfts: Sequence[Any], data: Mapping[str, Any]) -> Iterable[float | None]:
    latencies, gaps = data.get("latencies"), data.get("itls")
    if isinstance(latencies, list) and len(latencies) == len(ttfts):
        return [_optional(value) for value in latencies]
    if isinstance(gaps, list) and len(gaps) == len(ttfts):
        return [_sum(ttft, row) for ttft, row in zip(ttfts, gaps, strict=True)]
    return [None] * len(ttfts)


def _sum(ttft: object, gaps: object) -> float | None:
    if not isinstance(ttft, (int, float)) or not isinstance(gaps, list) or not all(map(_is_number, gaps)):
        return None
    return float(ttft) + math.fsum(gaps)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _optional(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and _is_number(value) else None
