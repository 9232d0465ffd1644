"""One client process's part of a cell, as plain data in and out.

The same `Share` is run in this process, in a child (`python -m pytest_h20.load.share`, job on stdin, answer on stdout),
or in a node's container (`remote.py`), so there is one core and one form.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.load.arrivals import Arrivals
from pytest_h20.load.canary import Canary, CanaryAnswer, TextCounts, places
from pytest_h20.load.cells import Cell, requests_for
from pytest_h20.load.clock import now
from pytest_h20.load.dialects import RequestEncoder, get_request
from pytest_h20.load.histogram import Histogram
from pytest_h20.load.http1 import ProtocolError
from pytest_h20.load.loop import CellProgress, LoadLoop, LoopOutcome, LoopSettings, TimedExchange
from pytest_h20.load.metrics import RequestRecord, Tally, tally
from pytest_h20.load.plan import LoadPlan, Slo
from pytest_h20.load.prompts import Prompt, PromptRecipe, PromptSource
from pytest_h20.load.selfcheck_types import SelfCheck
from pytest_h20.load.server_metrics import MetricsSample, parse_metrics
from pytest_h20.load.target import Target, Vocabulary
from pytest_h20.load.wire import read_answer

if TYPE_CHECKING:  # not evaluated: the core runs on Python 3.8 too
    Report = Callable[[CellProgress], None]


@dataclass(frozen=True)
class ShareJob:
    """Part `index` of `of` of a cell."""

    target: Target
    cell: Cell
    plan: LoadPlan
    index: int = 0
    of: int = 1
    template_tokens: int = 0

    @property
    def concurrency(self) -> int:
        """Streams of this part."""
        base, rest = divmod(self.cell.concurrency, self.of)
        return base + (1 if self.index < rest else 0)

    def planned(self) -> int | None:
        """Requests of the whole cell, None when only time bounds it."""
        plan = self.plan
        turns = plan.prompts.turns if plan.prompts.kind == "multi-turn" else 1
        if plan.requests is not None:
            return plan.requests * turns
        if plan.duration_s is not None:
            return None
        return requests_for(self.cell, plan.recipe) * turns

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["plan"]["prompts"]["prompts"] = [prompt.to_json() for prompt in self.plan.prompts.prompts]
        vocabulary = self.target.vocabulary
        document["target"]["vocabulary"] = None if vocabulary is None else [vocabulary.low, vocabulary.high, sorted(vocabulary.special)]
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ShareJob:
        """Raises UsageError when the document is not one of `to_json`."""
        try:
            target = dict(document["target"])
            vocabulary = target.pop("vocabulary")
            plan = dict(document["plan"])
            recipe = dict(plan.pop("prompts"))
            recipe["prompts"] = tuple(_prompt(row) for row in recipe["prompts"])
            arrivals = dict(plan.pop("arrivals"))
            canaries = tuple(Canary(**row) for row in plan.pop("canaries"))
            percents = tuple(plan.pop("percentiles"))
            check = plan.pop("selfcheck")
            return cls(
                target=Target(
                    vocabulary=None if vocabulary is None else Vocabulary(vocabulary[0], vocabulary[1], frozenset(vocabulary[2])),
                    **target,
                ),
                cell=Cell(**document["cell"]),
                plan=LoadPlan(
                    prompts=PromptRecipe(**recipe),
                    arrivals=Arrivals(**arrivals),
                    slo=Slo(**plan.pop("slo")),
                    selfcheck=None if check is None else SelfCheck(**check),
                    canaries=canaries,
                    percentiles=percents,
                    **plan,
                ),
                index=document["index"],
                of=document["of"],
                template_tokens=document["template_tokens"],
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"load job: {type(error).__name__}: {error}") from None


def _prompt(row: dict[str, Any]) -> Prompt:
    messages = row.get("messages")
    ids = row.get("input_ids")
    return Prompt(
        row["input_len"],
        row["output_len"],
        ids=None if ids is None else tuple(ids),
        text=row.get("prompt"),
        messages=None if messages is None else tuple((m["role"], m["content"]) for m in messages),
    )


@dataclass
class Share:
    """What one part measured. Seconds of model time from the part's own start, unless a name says wall."""

    tally: Tally = field(default_factory=Tally)
    started_wall: float = 0.0
    """time.time() at the start of the clock."""
    setup_wall_s: float = 0.0
    """From being called to the first request sent: prompts, encoding, connections."""
    seconds: float = 0.0
    steady: tuple[float, float] | None = None
    flight_area: float = 0.0
    steady_area: float = 0.0
    peak: int = 0
    connects_s: list[float] = field(default_factory=list)
    reconnects: int = 0
    retries: int = 0
    longest_busy_wall_s: float = 0.0
    cpu_wall_s: float = 0.0
    parse_cpu_wall_s: float = 0.0
    clock_drift_wall_s: float = 0.0
    clock_steps: int = 0
    stopped: str = ""
    not_sent: int = 0
    samples: list[MetricsSample] = field(default_factory=list)
    failure: str = ""
    """Why nothing could be run at all."""

    def to_json(self) -> dict[str, Any]:
        document = {name: value for name, value in vars(self).items() if name not in ("tally", "samples")}
        document["samples"] = [asdict(sample) for sample in self.samples]
        document["tally"] = {
            "records": [record.to_json() for record in self.tally.records],
            "itl": self.tally.itl.to_json(),
            "itl_counted": self.tally.itl_counted,
            "steady_output": self.tally.steady_output,
            "steady_input": self.tally.steady_input,
            "clock_backwards": self.tally.clock_backwards,
            "canaries": [answer.to_json() for answer in self.tally.canaries],
            "texts": asdict(self.tally.texts),
        }
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Share:
        """Raises UsageError when the document is not one of `to_json`."""
        try:
            rest = dict(document)
            part = dict(rest.pop("tally"))
            records = [RequestRecord(**row) for row in part.pop("records")]
            itl = Histogram.from_json(part.pop("itl"))
            canaries = [CanaryAnswer(**row) for row in part.pop("canaries")]
            texts = TextCounts(**part.pop("texts"))
            samples = [MetricsSample(**row) for row in rest.pop("samples")]
            steady = rest.pop("steady")
            return cls(
                tally=Tally(records=records, itl=itl, canaries=canaries, texts=texts, **part),
                samples=samples,
                steady=None if steady is None else (steady[0], steady[1]),
                **rest,
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UsageError(f"load share: {type(error).__name__}: {error}") from None


class ShareInterrupted(KeyboardInterrupt):
    """SIGINT while a share ran; `share` holds everything that was complete."""

    def __init__(self, share: Share) -> None:
        super().__init__("interrupted")
        self.share = share


def run_share(job: ShareJob, report: Report | None = None, gate: Callable[[], float] | None = None) -> Share:
    """Run one part. Problems of the server are outcomes of requests; raises UsageError for input that cannot be used.

    `gate` is called once everything is encoded and connected, and tells when to start (`LoopSettings.gate`).
    KeyboardInterrupt is passed on as ShareInterrupted with what is finished.
    """
    called = now()
    target, cell, plan = job.target, job.cell, job.plan
    scale = plan.time_scale
    encoder = RequestEncoder(target, plan.temperature, plan.ignore_eos, plan.usage_each)
    needs_ids = target.dialect != "chat" and plan.prompts.kind in ("random", "multi-turn")
    source = PromptSource(plan.prompts, cell, target.dialect, target.ids() if needs_ids else None, plan.seed, job.template_tokens)
    planned = job.planned()
    turns = plan.prompts.turns if plan.prompts.kind == "multi-turn" else 1
    mine = None if planned is None else len(range(job.index, planned // turns, job.of))
    arrivals = plan.arrivals.share(job.index, job.of, plan.seed)
    settings = LoopSettings(
        concurrency=job.concurrency,
        request_timeout_s=plan.request_timeout_s / scale,
        kind=encoder.kind,
        duration_s=None if plan.duration_s is None else plan.duration_s / scale,
        cell_timeout_s=None if plan.cell_timeout_s is None else plan.cell_timeout_s / scale,
        ramp_s=arrivals.ramp_s / scale if arrivals.closed else 0.0,
        offsets=None if arrivals.closed else (at / scale for at in arrivals.offsets(plan.seed + job.index)),
        max_connections=max(1, plan.max_connections // job.of),
        kernel_stamps=plan.kernel_stamps,
        verify_tls=target.verify_tls,
        ca_file=target.ca_file,
        metrics_every_s=plan.metrics_every_s,
        ended_file=target.ended_file,
        gate=gate,
    )
    address = target.metrics_address()
    if address is not None and job.index == 0:
        settings.metrics = (address, get_request(address, address.path or "/metrics", target.headers))
    exchanges = _exchanges(job, source, encoder, mine)
    on_tick = None if report is None else _reporter(job, report, None if mine is None else mine * turns)
    loop = LoadLoop(encoder.address, exchanges, None if mine is None else mine * turns, settings, on_tick)
    wall_before, before = time.time(), now()
    try:
        loop.open()
        loop.run()
    except H20Error as error:
        if isinstance(error, UsageError):
            raise
        share = Share(failure=str(error), stopped="server_gone", not_sent=mine or 0)
        share.started_wall = wall_before
        return share
    except KeyboardInterrupt:
        share = _share(job, loop.outcome, called)
        share.stopped = "interrupted"
        raise ShareInterrupted(share) from None
    drift = (time.time() - wall_before) - (now() - before)
    share = _share(job, loop.outcome, called)
    share.clock_drift_wall_s = drift
    return share


def _exchanges(job: ShareJob, source: PromptSource, encoder: RequestEncoder, mine: int | None) -> Iterator[TimedExchange]:
    local, canaries = 0, places(job.plan.canaries, job.planned())
    while mine is None or local < mine:
        number = local * job.of + job.index
        canary = canaries.get(number)
        if canary is None:
            yield make_exchange(source.prompt(number), number, source, encoder)
        else:
            yield canary_exchange(canary, number, job.cell, encoder)
        local += 1


def canary_exchange(canary: Canary, number: int, cell: Cell, encoder: RequestEncoder) -> TimedExchange:
    """As long an answer as any other request of the cell; the length of its prompt is the server's to count."""
    prompt = Prompt(0, cell.output_len, text=canary.prompt)
    return TimedExchange(number, encoder.encode(prompt, special=True), prompt.output_len, 0, canary=canary)


def make_exchange(prompt: Prompt, number: int, source: PromptSource, encoder: RequestEncoder) -> TimedExchange:
    """The exchange of a prompt, which for a conversation knows its next turn."""
    followup = None
    if prompt.turn + 1 < prompt.turns:

        def followup(done: TimedExchange) -> TimedExchange | None:
            try:
                # only the text is wanted here; the stamps are read when the run is over
                answer = read_answer(encoder.kind, [0.0] * len(done.parts), done.parts, want_text=encoder.kind == "chat")
            except ProtocolError:
                return None
            if answer.error or answer.finish is None:
                return None
            following = source.followup(prompt, number, answer.text or answer.reasoning_text)
            return None if following is None else make_exchange(following, number, source, encoder)

    return TimedExchange(number, encoder.encode(prompt), prompt.output_len, prompt.input_len, followup)


MOST_TIMED = 64
"""Requests in flight whose pace is looked at in one tick: it costs their loop about a microsecond each."""


@dataclass
class _Pace:
    """Mean TTFT and TPOT so far, kept up from tick to tick: a request that is over is looked at once."""

    going: list[TimedExchange] = field(default_factory=list)
    taken: int = 0
    first_s: float = 0.0
    firsts: int = 0
    token_s: float = 0.0
    tokens: int = 0

    def take(self, outcome: LoopOutcome) -> int:
        """Look at what has changed; the pieces of requests that are not over."""
        self.going += outcome.exchanges[self.taken :]
        self.taken = len(outcome.exchanges)
        for exchange in self.going:
            if exchange.end and (found := _times(exchange, outcome.offset)) is not None:
                first, rest, pairs = found
                self.first_s, self.firsts = self.first_s + first, self.firsts + 1
                self.token_s, self.tokens = self.token_s + rest, self.tokens + pairs
        self.going = [exchange for exchange in self.going if not exchange.end]
        return sum(min(exchange.pieces, exchange.asked) for exchange in self.going)

    def means(self, offset: float) -> tuple[int, float | None, float | None]:
        """Requests, s until the first token, s between two."""
        found = [times for e in self.going[:MOST_TIMED] if (times := _times(e, offset)) is not None]
        firsts, tokens = self.firsts + len(found), self.tokens + sum(pairs for _, _, pairs in found)
        return (
            firsts,
            (self.first_s + sum(first for first, _, _ in found)) / firsts if firsts else None,
            (self.token_s + sum(rest for _, rest, _ in found)) / tokens if tokens else None,
        )


def _times(exchange: TimedExchange, offset: float) -> tuple[float, float, int] | None:
    """Seconds to the first piece of the answer, from there to the last, and the tokens that came in between; a piece counts as one.
    None when none has come, and of a request that failed."""
    head = exchange.parts[0] if exchange.parts else b""
    start = 1 if isinstance(head, bytes) and head.find(b"\r\n\r\n") == len(head) - 4 else 0  # its headers came alone
    if exchange.outcome or exchange.pieces <= start:
        return None
    first = exchange.stamp(start, offset)
    return first - exchange.sent, exchange.stamp(-1, offset) - first, max(0, min(exchange.pieces - start, exchange.asked) - 1)


def _reporter(job: ShareJob, report: Report, total: int | None) -> Callable[[LoopOutcome, int, int, float], None]:
    scale, output_len = job.plan.time_scale, job.cell.output_len
    pace = _Pace()

    def tick(outcome: LoopOutcome, done: int, failed: int, stamp: float) -> None:
        elapsed = (stamp - outcome.started) * scale
        live = pace.take(outcome)
        tokens = (done - failed) * output_len + live
        rate = tokens / elapsed if elapsed > 0 else 0.0
        left = None
        if total is not None and rate > 0:
            left = max(0.0, (total - done) * output_len - live) / rate
        timed, first, between = pace.means(outcome.offset)
        report(
            CellProgress(
                *(job.cell.id, done, total, failed, len(outcome.exchanges) - done, elapsed, rate, left, timed),
                ttft_ms=None if first is None else 1e3 * scale * first,
                tpot_ms=None if between is None else 1e3 * scale * between,
            )
        )

    return tick


def _share(job: ShareJob, outcome: LoopOutcome, called: float) -> Share:
    scale, origin = job.plan.time_scale, outcome.started
    window = None
    if outcome.all_busy is not None and outcome.first_idle is not None and outcome.first_idle > outcome.all_busy:
        window = (outcome.all_busy, outcome.first_idle)
    cpu_before = time.process_time()
    counted = tally(outcome.exchanges, _kind(job.target), origin, scale, window, outcome.offset)
    parse_cpu = time.process_time() - cpu_before
    samples = [parse_metrics(body.decode("utf-8", "replace")) for _, body in outcome.metrics]
    return Share(
        tally=counted,
        started_wall=time.time() - (now() - origin),
        setup_wall_s=(outcome.first_sent - called) if outcome.first_sent else 0.0,
        seconds=(outcome.ended - outcome.first_sent) * scale if outcome.first_sent else 0.0,
        steady=None if window is None else ((window[0] - origin) * scale, (window[1] - origin) * scale),
        flight_area=outcome.flight_area * scale,
        steady_area=outcome.steady_area * scale,
        peak=outcome.peak_in_flight,
        connects_s=[took * scale for took in outcome.connects],
        reconnects=outcome.reconnects,
        retries=outcome.retries,
        longest_busy_wall_s=outcome.busy_loop_s,
        cpu_wall_s=outcome.cpu_s,
        clock_steps=outcome.clock_steps,
        parse_cpu_wall_s=parse_cpu,
        stopped=outcome.stopped,
        not_sent=outcome.not_sent,
        samples=samples,
    )


def _kind(target: Target) -> str:
    from pytest_h20.load.dialects import ROUTE_KINDS

    return ROUTE_KINDS[target.dialect]


def main() -> int:
    """The child process: {"job": ...} on the first line of stdin; {"progress": ...} lines and one {"share": ...} out.

    Everything encoded and connected it says {"ready": true} and starts when a second line, {"start_at": seconds}, tells it to.
    """

    def put(document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    try:
        try:
            job = ShareJob.from_json(json.loads(sys.stdin.readline())["job"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"job on standard input: {type(error).__name__}: {error}") from None

        def gate() -> float:
            put({"ready": True})
            return float(json.loads(sys.stdin.readline() or "{}").get("start_at") or 0.0)

        try:
            share = run_share(job, lambda progress: put({"progress": asdict(progress)}), gate)
        except ShareInterrupted as interrupted:
            share = interrupted.share
        put({"share": share.to_json()})
        return 0
    except H20Error as error:
        put({"error": str(error)})
        return 2
    except KeyboardInterrupt:
        put({"error": "interrupted before the start"})
        return 130


if __name__ == "__main__":
    sys.exit(main())
