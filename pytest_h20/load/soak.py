"""A load that goes on for hours: mixed lengths, streams that rest now and then, one figure of each kind per bin.

Memory and records are flat: an answer is read as soon as it is over and lives on in its bin, of which there are `SoakPlan.bins`
whatever the duration. A stream rests after a quarter of its answers (exponential, `rest_s` on average), so that requests come alone and
in bunches and the streams never run in step; in flight are a few less than `streams`.

Two clocks: latencies and rates are model time (`time_scale`), as in a cell. The soak's own hours run `leap` times faster than that: 1 on
real hardware; a rehearsal leaps, so that an hour of ageing is seen in seconds of traffic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load.canary import Canary, CanaryAnswer, TextCounts
from pytest_h20.load.cells import Cell
from pytest_h20.load.dialects import ROUTE_KINDS, RequestEncoder, get_request
from pytest_h20.load.histogram import Histogram
from pytest_h20.load.loop import LoadLoop, LoopOutcome, LoopSettings, TimedExchange
from pytest_h20.load.metrics import RequestRecord, gaps_of, percentile, read_one, text_of
from pytest_h20.load.prompts import PromptRecipe, PromptSource
from pytest_h20.load.server_metrics import parse_metrics
from pytest_h20.load.share import canary_exchange
from pytest_h20.load.target import Target
from pytest_h20.load.wire import Answer

MOST_KEPT = 50
"""Failures and stalls of which the particulars are kept; all are counted."""


@dataclass(frozen=True)
class SoakPlan:
    """How a soak is run. Seconds of model time but `duration_s`, which is the soak's own.

    lengths       pairs of input and output length, drawn evenly for each request
    bins          stretches of equal length, one point of every chart each
    rest_share    part of the answers after which a stream rests; rest_s on average
    canary_every  one of so many requests asks something with a known answer; 0 = none
    stall_s       a stream that is silent for so long and then goes on has stalled
    silence_s     all streams silent for so long: whoever looks after hangs is called; after four times that the soak is over
    """

    duration_s: float
    streams: int
    lengths: tuple[tuple[int, int], ...]
    seed: int = 20250405
    bins: int = 120
    rest_share: float = 0.25
    rest_s: float = 2.0
    canary_every: int = 20
    stall_s: float = 10.0
    silence_s: float = 60.0
    request_timeout_s: float = 900.0
    time_scale: float = 1.0
    leap: float = 1.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not self.duration_s > 0 or self.bins < 1 or self.streams < 1 or not self.lengths:
            raise UsageError("soak plan: a duration above 0, bins, streams and lengths are needed")
        if not (self.time_scale > 0 and self.leap > 0):
            raise UsageError("soak plan: time_scale and leap must be above 0")

    @property
    def bin_s(self) -> float:
        """Of the soak's own time."""
        return self.duration_s / self.bins


@dataclass(frozen=True)
class Bin:
    """One stretch of a soak. `hours`: its middle on the soak's clock. `seconds`: of traffic, model time. None: nothing to measure it by.

    in_flight        requests, mean
    kv_per_request   part of the KV cache in use per running request, of all samples: KV use at equal load
    answers, texts   what canaries said, and the texts of all others; for whoever judges them, not kept on disk
    """

    number: int
    hours: float
    seconds: float
    sent: int
    complete: int
    failed: int
    in_flight: float
    output_throughput: float
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    kv_per_request: float | None
    answers: tuple[CanaryAnswer, ...] = field(default=(), repr=False)
    texts: TextCounts = field(default_factory=TextCounts)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("answers", "texts")}


@dataclass(frozen=True)
class Stall:
    """Streams that were silent for more than `stall_s` and went on. `seconds`: the longest of them, model time."""

    hours: float
    seconds: float
    streams: int


@dataclass
class SoakEnd:
    """How it ended. `stopped`: duration (in time), interrupted, server_gone, silent. `hours`: on the soak's clock. `silent_hours`: when all
    streams fell silent for good."""

    stopped: str = ""
    hours: float = 0.0
    sent: int = 0
    complete: int = 0
    failed: int = 0
    last_complete_hours: float | None = None
    silent_hours: float | None = None
    longest_gap_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    stalled: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Silent(Exception):
    """Raised through the loop: nothing has come for so long that nothing is waited for any more."""


class SoakInterrupted(KeyboardInterrupt):
    """SIGINT. Every bin that was over has been handed out; `end` says the rest."""

    def __init__(self, end: SoakEnd) -> None:
        super().__init__("interrupted")
        self.end = end


class _Open:
    """A bin that still grows."""

    __slots__ = ("answers", "area", "complete", "failed", "itl", "kv_use", "running", "sent", "texts", "tokens", "ttft")

    def __init__(self) -> None:
        self.sent = self.complete = self.failed = 0
        self.tokens = self.area = 0.0
        # A sum of each, no list of ratios: what leaks is divided by who runs, and a moment with few of them would outweigh all others.
        self.kv_use = self.running = 0.0
        self.itl = Histogram()
        self.ttft: list[float] = []
        self.answers: list[CanaryAnswer] = []
        self.texts = [0, 0, 0]


class Soak:
    """One soak, from `run` to its end. `canaries` gives prompts with known answers without end; `on_bin` takes each bin when it is over,
    `on_silence` is called once with the seconds (model time) for which all streams have been silent."""

    def __init__(
        self,
        target: Target,
        plan: SoakPlan,
        canaries: Iterator[Canary],
        on_bin: Callable[[Bin], None],
        on_silence: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._target, self._plan, self._canaries, self._on_bin, self._on_silence = target, plan, canaries, on_bin, on_silence
        self._encoder = RequestEncoder(target, plan.temperature, True, False)
        self._kind = ROUTE_KINDS[target.dialect]
        self._open: dict[int, _Open] = {}
        self._next_bin = 0
        self._gaps: list[tuple[float, float]] = []
        self._pieces, self._spoke, self._told = 0, 0.0, False
        self._started = 0.0
        self.end = SoakEnd()

    def run(self) -> SoakEnd:
        """Send until the time is over, the engine is gone, or SIGINT (raises `SoakInterrupted`). Raises MeasurementError when no connection
        can be opened."""
        plan = self._plan
        wall = plan.duration_s / plan.leap / plan.time_scale
        dice = random.Random(plan.seed)
        settings = LoopSettings(
            concurrency=plan.streams,
            request_timeout_s=plan.request_timeout_s / plan.time_scale,
            kind=self._encoder.kind,
            duration_s=wall,
            ramp_s=min(0.02 * wall, 10.0),
            rest=lambda: dice.expovariate(1 / plan.rest_s) / plan.time_scale if dice.random() < plan.rest_share else 0.0,
            kernel_stamps=True,
            verify_tls=self._target.verify_tls,
            ca_file=self._target.ca_file,
            ended_file=self._target.ended_file,
            metrics_every_s=max(0.02, wall / plan.bins / 4) if plan.leap > 1 else 1.0,
        )
        address = self._target.metrics_address()
        if address is not None:
            settings.metrics = (address, get_request(address, address.path or "/metrics", self._target.headers))
        loop = LoadLoop(self._encoder.address, self._exchanges(), None, settings, self._tick)
        loop.open()
        try:
            loop.run()
        except _Silent:
            self._finish(loop.outcome, "silent")
            return self.end
        except KeyboardInterrupt:
            self._finish(loop.outcome, "interrupted")
            raise SoakInterrupted(self.end) from None
        self._finish(loop.outcome, loop.outcome.stopped)
        return self.end

    def _exchanges(self) -> Iterator[TimedExchange]:
        plan, dialect = self._plan, self._target.dialect
        ids = self._target.ids() if dialect != "chat" else None
        cells = [Cell(given, asked, plan.streams) for given, asked in plan.lengths]
        sources = [PromptSource(PromptRecipe(), cell, dialect, ids, plan.seed) for cell in cells]
        dice = random.Random(plan.seed + 1)
        number = 0
        while True:
            kind = dice.randrange(len(cells))
            canary = next(self._canaries, None) if plan.canary_every and number % plan.canary_every == plan.canary_every // 2 else None
            if canary is not None:
                yield canary_exchange(canary, number, cells[kind], self._encoder)
            else:
                prompt = sources[kind].prompt(number)
                yield TimedExchange(number, self._encoder.encode(prompt), prompt.output_len, prompt.input_len)
            number += 1

    # ---- while it runs -----------------------------------------------------------------------------------------
    def _tick(self, outcome: LoopOutcome, done: int, failed: int, stamp: float) -> None:
        live = self._harvest(outcome)
        oldest = min((e.sent for e in live if e.sent), default=stamp)
        self._close(self._bin_of(min(oldest, stamp)))
        pieces = sum(e.pieces for e in live) + 1_000_000 * done  # a number that changes with every piece that comes
        if pieces != self._pieces or not live or not self._spoke:
            self._pieces, self._spoke = pieces, stamp
        silent = (stamp - self._spoke) * self._plan.time_scale
        if silent >= self._plan.silence_s and not self._told:
            self._told = True
            self._on_silence(silent)
        if silent >= 4 * self._plan.silence_s:
            self.end.silent_hours = self._hours(self._spoke)
            raise _Silent

    def _harvest(self, outcome: LoopOutcome) -> list[TimedExchange]:
        """Read every answer that is over and drop it; those that are not."""
        self._started = outcome.started
        live = [e for e in outcome.exchanges if not e.end]
        if len(live) < len(outcome.exchanges):
            over = [e for e in outcome.exchanges if e.end]
            outcome.exchanges[:] = live
            for exchange in over:
                record, answer, said, _ = read_one(exchange, self._kind, self._started, self._plan.time_scale, outcome.offset)
                self._take(record, answer, said)
        for stamp, body in outcome.metrics:
            sample = parse_metrics(body.decode("utf-8", "replace"))
            if sample.running and sample.kv_use is not None:
                bin_ = self._bin(stamp)
                bin_.kv_use += sample.kv_use
                bin_.running += sample.running
        outcome.metrics.clear()
        return live

    def _take(self, record: RequestRecord, answer: Answer, said: CanaryAnswer | None) -> None:
        plan, end = self._plan, self.end
        sent, over = self._started + record.sent_s / plan.time_scale, self._started + record.end_s / plan.time_scale
        if record.outcome == "cancelled":
            return
        end.sent += 1
        self._bin(sent).sent += 1
        for at, seconds in self._spread(sent, over):
            self._bin(at).area += seconds
        last = self._bin(over)
        if record.complete:
            last.complete += 1
            end.complete += 1
            end.last_complete_hours = max(end.last_complete_hours or 0.0, self._hours(over))
        else:
            last.failed += 1
            end.failed += 1
            if len(end.failures) < MOST_KEPT:
                end.failures.append(f"minute {60 * self._hours(over):.1f}: {record.outcome}: {record.detail}")
        if said is not None:
            last.answers.append(said)
        elif (text := text_of(answer, self._kind)) is not None:
            for place, counts in enumerate((True, text == "empty", text == "one token")):
                last.texts[place] += counts
        events = answer.events
        if not events:
            return
        self._tokens(answer)
        if record.complete and said is None:
            first = self._bin(events[0][0])
            if record.ttft_s is not None:
                first.ttft.append(record.ttft_s)
            gaps = gaps_of(events, answer.counted, plan.time_scale)
            last.itl.add_many(gaps)
        before = events[0][0]
        for after, _ in events[1:]:
            gap, since, before = (after - before) * plan.time_scale, before, after
            if gap > end.longest_gap_s:
                end.longest_gap_s = gap
            if gap >= plan.stall_s and len(self._gaps) < 20 * MOST_KEPT:
                self._gaps.append((since, after))

    def _tokens(self, answer: Answer) -> None:
        """Every token to the bin in which it came. Where the server counts none per event, its total is spread evenly over them."""
        events = answer.events
        each = (answer.output_tokens or len(events)) / len(events)
        before = 0
        for stamp, so_far in events:
            self._bin(stamp).tokens += (so_far - before) if answer.counted else each
            before = so_far

    def _spread(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """A stretch cut at the bins' edges: (a moment inside, seconds of model time)."""
        first, last = self._bin_of(start), self._bin_of(end)
        edge = self._plan.bin_s / self._plan.leap / self._plan.time_scale
        for number in range(first, last + 1):
            low, high = max(start, self._started + number * edge), min(end, self._started + (number + 1) * edge)
            if high > low:
                yield (low + high) / 2, (high - low) * self._plan.time_scale

    # ---- bins --------------------------------------------------------------------------------------------------
    def _hours(self, stamp: float) -> float:
        return max(0.0, stamp - self._started) * self._plan.time_scale * self._plan.leap / 3600

    def _bin_of(self, stamp: float) -> int:
        return int(self._hours(stamp) * 3600 / self._plan.bin_s)

    def _bin(self, stamp: float) -> _Open:
        number = max(self._next_bin, self._bin_of(stamp))
        return self._open.setdefault(number, _Open())

    def _close(self, before: int) -> None:
        while self._next_bin < min(before, self._plan.bins):
            found = self._open.pop(self._next_bin, None) or _Open()
            self._on_bin(self._closed(self._next_bin, found))
            self._next_bin += 1

    def _closed(self, number: int, found: _Open) -> Bin:
        plan = self._plan
        seconds = plan.bin_s / plan.leap

        def ms(histogram: Histogram, percent: float) -> float | None:
            value = histogram.percentile(percent) if histogram.count else None
            return None if value is None else 1e3 * value

        ttft = sorted(found.ttft)
        return Bin(
            number=number,
            hours=(number + 0.5) * plan.bin_s / 3600,
            seconds=seconds,
            sent=found.sent,
            complete=found.complete,
            failed=found.failed,
            in_flight=found.area / seconds,
            output_throughput=found.tokens / seconds,
            itl_p50_ms=ms(found.itl, 50),
            itl_p99_ms=ms(found.itl, 99),
            ttft_p50_ms=1e3 * percentile(ttft, 50) if ttft else None,
            ttft_p99_ms=1e3 * percentile(ttft, 99) if ttft else None,
            kv_per_request=found.kv_use / found.running if found.running else None,
            answers=tuple(found.answers),
            texts=TextCounts(*found.texts),
        )

    def _finish(self, outcome: LoopOutcome, stopped: str) -> None:
        if not outcome.started:
            raise MeasurementError("the soak ended before its first request")
        self._harvest(outcome)
        plan, end = self._plan, self.end
        end.stopped = stopped or "duration"
        whole = end.stopped == "duration"
        end.hours = plan.duration_s / 3600 if whole else min(plan.duration_s / 3600, self._hours(outcome.ended))
        self._close(plan.bins if whole else int(end.hours * 3600 / plan.bin_s))
        self._open.clear()
        for start, over in sorted(self._gaps):
            self._stall(start, over)

    def _stall(self, start: float, over: float) -> None:
        """Gaps that overlap are one stall of several streams."""
        hours, seconds = self._hours(start), (over - start) * self._plan.time_scale
        stalls = self.end.stalls
        if stalls and (hours - stalls[-1].hours) * 3600 / self._plan.leap < stalls[-1].seconds:
            known = stalls[-1]
            stalls[-1] = Stall(known.hours, max(known.seconds, seconds), known.streams + 1)
            return
        self.end.stalled += 1
        if len(stalls) < MOST_KEPT:
            stalls.append(Stall(hours, seconds, 1))
