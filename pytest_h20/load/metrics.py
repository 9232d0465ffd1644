"""From recorded exchanges to records and figures. The definitions (also in docs/metrics.md):

TTFT   time to first token: first byte of the request handed to the kernel -> arrival of the event with the first token,
       reasoning or not. Connecting is not in it.
E2E    first byte of the request -> arrival of the answer's last byte.
TPOT   time per output token: (arrival of last token - arrival of first token) / (output tokens - 1), per request.
       None for one token. Output tokens are the server's count.
ITL    inter-token latency: gaps between the arrivals of successive token events, pooled over all requests. Where the
       server counts per event, a gap that brought k tokens counts k times with 1/k of its length; else an event is
       taken for one token, and `itl_basis` says "event".
whole  rates over [first request sent, last answer complete].
silence longest gap between two token events of one answer, whatever they brought.
arrivals moments at which tokens came: events closer than `TOGETHER` of the answer's mean gap per token are one (a buffer let go).
steady rates over [all streams busy, first stream out of requests]: the part in which the concurrency was the one asked
       for. Tokens are counted when they arrive, input tokens when the first token of their request arrives.
goodput requests per second that met every limit of the SLO, over the whole run.

Means are over complete requests (outcome ok, short or long); percentiles are linear between ranks, as numpy's.
Canaries (`canary.py`) are requests like any other in counts and rates; TTFT, TPOT, ITL, E2E and goodput are without them.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from operator import sub
from typing import Any

from pytest_h20.load.canary import CanaryAnswer, TextCounts, answer_of, period
from pytest_h20.load.histogram import Histogram
from pytest_h20.load.http1 import ProtocolError
from pytest_h20.load.loop import TimedExchange
from pytest_h20.load.plan import Slo
from pytest_h20.load.wire import Answer, read_answer

COMPLETE = ("ok", "short", "long")


@dataclass
class RequestRecord:
    """One request. Times in seconds of model time; `sent_s` counts from the start of the cell. None = did not happen."""

    number: int
    outcome: str
    detail: str
    status: int
    sent_s: float
    end_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    asked_input: int
    asked_output: int
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    events: int
    empty_before_first: int
    finish: str | None
    connect_s: float | None
    lag_s: float | None
    retried: bool
    canary: bool = False
    silence_s: float | None = None
    arrivals: int = 0

    @property
    def complete(self) -> bool:
        return self.outcome in COMPLETE

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """Of one latency, in milliseconds of model time. All None when there was no sample."""

    count: int
    mean: float | None = None
    median: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    """Further percentiles that were asked for, as `p75`."""

    @classmethod
    def of_seconds(cls, values: Iterable[float], percents: Sequence[float] = ()) -> Summary:
        ordered = sorted(1e3 * value for value in values)
        if not ordered:
            return cls(0)
        mean = math.fsum(ordered) / len(ordered)
        variance = math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)
        return cls(
            len(ordered),
            mean,
            percentile(ordered, 50),
            math.sqrt(variance),
            ordered[0],
            ordered[-1],
            percentile(ordered, 90),
            percentile(ordered, 95),
            percentile(ordered, 99),
            {f"p{percent:g}": percentile(ordered, percent) for percent in percents},
        )

    @classmethod
    def of_histogram(cls, histogram: Histogram, percents: Sequence[float] = ()) -> Summary:
        """Count, mean, minimum and maximum are exact, the rest within 0.4 %."""
        if not histogram.count:
            return cls(0)

        def ms(value: float | None) -> float | None:
            return None if value is None else 1e3 * value

        others = {f"p{percent:g}": 1e3 * (histogram.percentile(percent) or 0.0) for percent in percents}
        return cls(
            histogram.count,
            ms(histogram.mean),
            ms(histogram.percentile(50)),
            ms(histogram.std()),
            1e3 * histogram.least,
            1e3 * histogram.most,
            ms(histogram.percentile(90)),
            ms(histogram.percentile(95)),
            ms(histogram.percentile(99)),
            others,
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between ranks of sorted values, like numpy's default. Raises ValueError for no values."""
    if not ordered:
        raise ValueError("percentile of nothing")
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Rates:
    """Tokens or requests per second of model time, over `seconds`."""

    seconds: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float


@dataclass
class Tally:
    """What one client process hands over: records and the token arrivals in a form that can be merged."""

    records: list[RequestRecord] = field(default_factory=list)
    itl: Histogram = field(default_factory=Histogram)
    itl_counted: bool = True
    steady_output: float = 0.0
    steady_input: float = 0.0
    clock_backwards: int = 0
    """Answers with a piece that is stamped before the piece it follows."""
    canaries: list[CanaryAnswer] = field(default_factory=list)
    texts: TextCounts = field(default_factory=TextCounts)


def outcome_of(exchange: TimedExchange, answer: Answer) -> tuple[str, str]:
    """(outcome, detail) of an exchange that the loop saw to the end of its answer."""
    if exchange.outcome:
        return exchange.outcome, exchange.detail or (answer.error or "")
    if answer.status != 200:
        return "http_error", f"HTTP {answer.status}: {answer.error or 'no text'}"
    if answer.error:
        return "stream_error", answer.error
    if answer.finish is None:
        return "cut", "no finish reason" + ("" if answer.done else " and no [DONE]")
    if answer.output_tokens is None:
        return "uncounted", "the server told no number of tokens"
    if answer.output_tokens == 0 or answer.first is None:
        return "short", "no token came"
    if answer.output_tokens < exchange.asked:
        return "short", f"{answer.output_tokens} of {exchange.asked} tokens, finish reason {answer.finish}"
    if answer.output_tokens > exchange.asked:
        return "long", f"{answer.output_tokens} tokens where {exchange.asked} were asked for"
    return "ok", ""


def read_one(
    exchange: TimedExchange, kind: str, started: float, scale: float, offset: float
) -> tuple[RequestRecord, Answer, CanaryAnswer | None, bool]:
    """One recorded answer, whose bytes are dropped: its record, what came, what a canary said, and whether its stamps ran backwards.
    Arguments as `tally`."""
    exchange.resolve(offset)
    canary = exchange.canary
    try:
        answer = read_answer(kind, exchange.stamps, exchange.parts, want_text=canary is not None)
    except ProtocolError as error:
        answer = Answer(status=exchange.status)
        exchange.outcome = exchange.outcome or "protocol"
        exchange.detail = exchange.detail or str(error)
    backwards = exchange.stamps != sorted(exchange.stamps)
    exchange.parts, exchange.stamps = [], []
    outcome, detail = outcome_of(exchange, answer)
    record = _record(exchange, answer, outcome, detail, started, scale)
    if record.complete:
        record.silence_s, record.arrivals = _pauses(answer.events, record.output_tokens or 0, scale)
    if canary is None:
        return record, answer, None, backwards
    text, ended, again = answer_of(canary, answer.text)
    said = CanaryAnswer(
        record.number,
        canary.id,
        canary.kind,
        outcome,
        record.detail,
        text,
        ended,
        record.output_tokens or 0,
        again,
        record.sent_s,
        record.end_s,
    )
    return record, answer, said, backwards


def tally(
    exchanges: Iterable[TimedExchange],
    kind: str,
    started: float,
    scale: float,
    steady: tuple[float, float] | None,
    offset: float = 0.0,
) -> Tally:
    """Read every recorded answer. `steady` and `started` are stamps, `scale` turns wall into model seconds, `offset`
    kernel stamps into ours.

    The recorded bytes of each exchange are dropped as it is read.
    """
    out = Tally()
    seen = empty = one_token = 0
    for exchange in exchanges:
        record, answer, said, backwards = read_one(exchange, kind, started, scale, offset)
        out.clock_backwards += backwards
        out.records.append(record)
        outcome = record.outcome
        if said is not None:
            out.canaries.append(said)
        elif (text_is := text_of(answer, kind)) is not None:
            seen, empty, one_token = seen + 1, empty + (text_is == "empty"), one_token + (text_is == "one token")
        events = answer.events
        if not events:
            continue
        if not answer.counted:
            out.itl_counted = False
        if record.complete and said is None:
            out.itl.add_many(gaps_of(events, answer.counted, scale))
        if steady is not None and outcome not in ("http_error", "stream_error", "protocol"):
            inside_output, inside_input = _inside(answer, steady)
            out.steady_output += inside_output
            out.steady_input += inside_input
    out.texts = TextCounts(seen, empty, one_token)
    return out


_FEW = 16
"""Tokens below which an answer is too short to say that it is one token for ever."""


def text_of(answer: Answer, kind: str) -> str | None:
    """Of a complete answer: "empty" (tokens are counted, no text), "one token" (or one short phrase, for ever), "text" for anything
    else; None where the text was not seen. A route that streams every token by itself is judged by events that are alike to the
    byte, `/generate` by its last event, which has the whole text."""
    if answer.finish is None or answer.error or not answer.output_tokens:
        return None
    if kind == "generate":
        if not answer.whole_text:
            return None
        if not answer.text:
            return "empty"
        return "one token" if answer.output_tokens >= _FEW and 0 < period(answer.text) <= 8 else "text"
    if not answer.events:
        return "empty"
    return "one token" if answer.compared >= _FEW // 2 and answer.same >= 0.95 * answer.compared else "text"


def _record(exchange: TimedExchange, answer: Answer, outcome: str, detail: str, started: float, scale: float) -> RequestRecord:
    tokens, first, last = answer.output_tokens, answer.first, answer.last
    tpot = None
    if tokens is not None and tokens > 1 and first is not None and last is not None and outcome in COMPLETE:
        tpot = (last - first) / (tokens - 1) * scale
    return RequestRecord(
        number=exchange.number,
        outcome=outcome,
        detail=detail[:300],
        status=exchange.status or answer.status,
        sent_s=(exchange.sent - started) * scale,
        end_s=(exchange.end - started) * scale,
        ttft_s=None if first is None else (first - exchange.sent) * scale,
        tpot_s=tpot,
        e2e_s=(exchange.end - exchange.sent) * scale if outcome in COMPLETE else None,
        asked_input=exchange.input_len,
        asked_output=exchange.asked,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=tokens if tokens is not None else (answer.events[-1][1] if answer.counted else None),
        cached_tokens=answer.cached_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        events=len(answer.events),
        empty_before_first=answer.empty_before_first,
        finish=answer.finish,
        connect_s=None if exchange.connect_s is None else exchange.connect_s * scale,
        lag_s=(exchange.sent - exchange.due) * scale if exchange.due else None,
        retried=exchange.retried,
        canary=exchange.canary is not None,
    )


TOGETHER = 0.1


def _pauses(events: list[tuple[float, int]], tokens: int, scale: float) -> tuple[float | None, int]:
    """(longest gap between two events in model seconds, None with fewer than two; moments at which tokens came)."""
    if len(events) < 2 or tokens < 2:
        return None, len(events)
    stamps = [stamp for stamp, _ in events]
    gaps = list(map(sub, stamps[1:], stamps))
    one = TOGETHER * (stamps[-1] - stamps[0]) / (tokens - 1)
    return max(0.0, max(gaps)) * scale, 1 + sum(gap > one for gap in gaps)


def tokens_per_arrival(records: Sequence[RequestRecord]) -> float | None:
    """Of the answer in the middle; of complete answers to the load itself that came in two pieces or more. None: there are none."""
    lumps = sorted((r.output_tokens or 0) / r.arrivals for r in records if r.complete and not r.canary and r.silence_s is not None)
    return percentile(lumps, 50) if lumps else None


def gaps_of(events: list[tuple[float, int]], counted: bool, scale: float) -> list[float]:
    """The gap before each token but the first, model seconds; stamps that run backwards give 0."""
    if not counted or events[-1][1] - events[0][1] == len(events) - 1:  # counts only grow: one token an event
        stamps = [stamp for stamp, _ in events]
        return [gap * scale if gap > 0 else 0.0 for gap in map(sub, stamps[1:], stamps)]
    gaps = []
    before, tokens = events[0]
    for stamp, so_far in events[1:]:
        gap = (stamp - before) * scale if stamp > before else 0.0
        brought = so_far - tokens
        gaps += [gap / brought] * brought
        before, tokens = stamp, so_far
    return gaps


def _inside(answer: Answer, window: tuple[float, float]) -> tuple[float, float]:
    """(output tokens, input tokens) that arrived within the window.

    Where events are not counted by the server, its total is spread evenly over them.
    """
    start, end = window
    events = answer.events
    low = bisect_left(events, (start, 0))
    high = bisect_left(events, (end, sys.maxsize))
    output = 0.0
    if high > low:
        output = events[high - 1][1] - (events[low - 1][1] if low else 0)
        if not answer.counted and answer.output_tokens:
            output *= answer.output_tokens / len(events)
    first = answer.first
    inside = first is not None and start <= first <= end
    return output, float(answer.prompt_tokens or 0) if inside else 0.0


def whole_rates(records: Sequence[RequestRecord], seconds: float) -> Rates | None:
    """Rates of the complete requests over the whole run, None when nothing was complete."""
    complete = [record for record in records if record.complete]
    if not complete or seconds <= 0:
        return None
    output = sum(record.output_tokens or 0 for record in complete)
    given = sum(record.prompt_tokens or 0 for record in complete)
    return Rates(seconds, given / seconds, output / seconds, (given + output) / seconds, len(complete) / seconds)


def most_answering(records: Iterable[RequestRecord]) -> int | None:
    """The most requests whose answer had begun and not ended at one moment, by the stamps of their first and last token.

    None where no answer has two tokens. An engine that computes only some of the requests at a time begins the answer of
    the next one when it has ended another.
    """
    changes: list[tuple[float, int]] = []
    for record in records:
        if record.ttft_s is None or record.tpot_s is None or record.output_tokens is None:
            continue
        first = record.sent_s + record.ttft_s
        changes += [(first, 1), (first + record.tpot_s * (record.output_tokens - 1), -1)]
    now = most = 0
    for _, change in sorted(changes):  # at one stamp the end comes before the beginning
        now += change
        most = max(most, now)
    return most if changes else None


def goodput(records: Sequence[RequestRecord], slo: Slo, seconds: float) -> tuple[float, float] | None:
    """(requests/s that met the SLO, their share of all requests sent), None without an SLO or without time."""
    records = [record for record in records if not record.canary]
    if not slo or seconds <= 0 or not records:
        return None
    good = sum(1 for record in records if record.complete and meets(record, slo))
    return good / seconds, good / len(records)


def meets(record: RequestRecord, slo: Slo) -> bool:
    """Whether every limit that is set was kept; what could not be measured was not kept (one token has no TPOT)."""
    pairs = ((record.ttft_s, slo.ttft_ms), (record.e2e_s, slo.e2e_ms))
    for value, limit in pairs:
        if limit is not None and (value is None or 1e3 * value > limit):
            return False
    if slo.tpot_ms is None or (record.output_tokens or 0) == 1:
        return True
    return record.tpot_s is not None and 1e3 * record.tpot_s <= slo.tpot_ms


def merge(parts: Sequence[Tally]) -> Tally:
    """The tallies of several processes as one."""
    out = Tally()
    for part in parts:
        out.records.extend(part.records)
        out.itl.merge(part.itl)
        out.itl_counted = out.itl_counted and part.itl_counted
        out.steady_output += part.steady_output
        out.steady_input += part.steady_input
        out.clock_backwards += part.clock_backwards
        out.canaries.extend(part.canaries)
        both = zip(vars(out.texts).values(), vars(part.texts).values())  # noqa: B905 - Python 3.8
        out.texts = TextCounts(*(one + other for one, other in both))
    out.canaries.sort(key=lambda answer: answer.sent_s)
    out.records.sort(key=lambda record: record.sent_s)
    return out
