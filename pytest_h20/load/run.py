"""Run one cell against a server: warm up, measure, ask the server, judge."""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load import sanity
from pytest_h20.load.cells import Cell
from pytest_h20.load.clock import now
from pytest_h20.load.dialects import RequestEncoder
from pytest_h20.load.http1 import ProtocolError
from pytest_h20.load.loop import CellProgress, LoadLoop, LoopSettings, TimedExchange
from pytest_h20.load.metrics import (
    Rates,
    RequestRecord,
    Summary,
    goodput,
    merge,
    most_answering,
    outcome_of,
    tokens_per_arrival,
    whole_rates,
)
from pytest_h20.load.plan import LoadPlan
from pytest_h20.load.prompts import Prompt, PromptSource, calibration_texts, template_tokens
from pytest_h20.load.result import CellResult, ClientView, Flight, RequestCounts, TokenCounts
from pytest_h20.load.server_metrics import MetricsSample, ServerView, fetch, view
from pytest_h20.load.share import Share, ShareInterrupted, ShareJob, run_share
from pytest_h20.load.target import BaseUrl, Target
from pytest_h20.load.wire import Answer, read_answer

GENERATOR = "pytest-h20"
STREAMS_PER_PROCESS = 512
"""Streams one process carries at 50 tokens/s each with half of a core to spare (benchmarks/load_fidelity.py)."""
TOGETHER_S = 0.05
"""From the moment the last process is ready to the common start: long enough for a line through a pipe to be read."""


class CellInterrupted(KeyboardInterrupt):
    """SIGINT inside a cell. `result` has what was finished; its records are on disk when the plan names a file."""

    def __init__(self, result: CellResult) -> None:
        super().__init__(f"interrupted in cell {result.cell}")
        self.result = result


def run_cell(
    target: Target,
    cell: Cell,
    plan: LoadPlan | None = None,
    progress: Callable[[CellProgress], None] | None = None,
) -> CellResult:
    """Measure one cell. What the server does wrong is in the result (outcomes, sanity), never an exception.

    Raises UsageError for input that cannot be used, and CellInterrupted on SIGINT.
    """
    plan = plan or LoadPlan()
    notes: list[str] = []
    job, failure = prepare(target, cell, plan, notes)
    if failure:
        return build_result(job, [Share(failure=failure, stopped="server_gone", not_sent=job.planned() or 0)], None, notes)
    before = fetch(target)
    interrupted = False
    try:
        shares = _run_shares(job, progress)
    except ShareInterrupted as stop:
        shares, interrupted = [stop.share], True
    except _SharesInterrupted as stop:
        shares, interrupted = stop.shares, True
    after = None if interrupted else _settled(target, before, shares)
    samples = [sample for share in shares for sample in share.samples]
    result = build_result(job, shares, view(before, samples, after), notes)
    if interrupted:
        raise CellInterrupted(result)
    return result


def prepare(target: Target, cell: Cell, plan: LoadPlan, notes: list[str]) -> tuple[ShareJob, str]:
    """Calibrate the chat template and warm up. (job, why nothing can be measured or "")."""
    job = ShareJob(target, cell, plan)
    synthetic = plan.prompts.kind in ("random", "multi-turn")
    if synthetic and target.dialect == "chat":
        tokens, exact, failure = _calibrate(target, plan)
        if failure:
            return job, failure
        job = replace(job, template_tokens=tokens)
        notes.append(f"the chat template adds {tokens} tokens to every prompt")
        if not exact:
            notes.append("words are not one token each in this model: input lengths are not exact")
    needs_ids = target.dialect != "chat" and synthetic
    source = PromptSource(plan.prompts, cell, target.dialect, target.ids() if needs_ids else None, plan.seed, job.template_tokens)
    for number in range(plan.warmup):
        answer, outcome, detail = one_request(target, plan, replace(source.prompt(-1 - number), turns=1))
        if answer is None or outcome not in ("ok", "short", "long", "uncounted"):
            return job, f"the warm-up request failed: {outcome}: {detail}"
    return job, ""


def one_request(target: Target, plan: LoadPlan, prompt: Prompt, special: bool = False) -> tuple[Answer | None, str, str]:
    """Send one request outside of any clock: (answer or None, outcome, detail). `special`: as `RequestEncoder.encode`."""
    encoder = RequestEncoder(target, plan.temperature, plan.ignore_eos, plan.usage_each)
    exchange = TimedExchange(-1, encoder.encode(prompt, special), prompt.output_len, prompt.input_len)
    settings = LoopSettings(
        1,
        plan.request_timeout_s / plan.time_scale,
        encoder.kind,
        verify_tls=target.verify_tls,
        ca_file=target.ca_file,
        ended_file=target.ended_file,
    )
    loop = LoadLoop(encoder.address, iter((exchange,)), 1, settings)
    try:
        loop.open()
        loop.run()
        exchange.resolve(loop.outcome.offset)
        answer = read_answer(encoder.kind, exchange.stamps, exchange.parts, want_text=True)
    except MeasurementError as error:
        return None, "refused", str(error)
    except ProtocolError as error:
        return None, "protocol", str(error)
    outcome, detail = outcome_of(exchange, answer)
    return answer, outcome, detail


def _calibrate(target: Target, plan: LoadPlan) -> tuple[int, bool, str]:
    counts = []
    for text in calibration_texts():
        prompt = Prompt(0, 1, messages=(("user", text),))
        answer, outcome, detail = one_request(target, plan, prompt)
        if answer is None or answer.prompt_tokens is None:
            return 0, False, f"the chat template cannot be measured: {outcome}: {detail or 'no usage in the answer'}"
        counts.append(answer.prompt_tokens)
    tokens, exact = template_tokens(counts[0], counts[1])
    return tokens, exact, ""


# ---- processes ---------------------------------------------------------------------------------------------------
class _SharesInterrupted(KeyboardInterrupt):
    def __init__(self, shares: list[Share]) -> None:
        super().__init__("interrupted")
        self.shares = shares


def processes_for(plan: LoadPlan, cell: Cell) -> int:
    """How many client processes a cell gets: as the plan says, else one per 512 streams within the machine's cores."""
    if plan.processes:
        return min(plan.processes, cell.concurrency)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(math.ceil(cell.concurrency / STREAMS_PER_PROCESS), cores))


def _run_shares(job: ShareJob, progress: Callable[[CellProgress], None] | None) -> list[Share]:
    count = processes_for(job.plan, job.cell)
    if count == 1:
        return [run_share(job, progress)]
    package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (package_root, environment.get("PYTHONPATH", "")) if p)
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest_h20.load.share"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for index, child in enumerate(children):
            _tell(child, {"job": replace(job, index=index, of=count).to_json()})
        early = {number: Share.from_json(said["share"]) for number, child in enumerate(children) if "share" in (said := _hear(child))}
        start_at = now() + TOGETHER_S
        for number, child in enumerate(children):
            if number not in early:
                _tell(child, {"start_at": start_at})
        return _collect(children, progress, early)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(5)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _tell(child: subprocess.Popen[str], document: dict[str, Any]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(document) + "\n")
        child.stdin.flush()
    except OSError:
        raise MeasurementError(f"a load process ended before its work (exit status {child.poll()})") from None


def _hear(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Its first line: ready to start, or already its share when nothing could be run."""
    assert child.stdout is not None
    line = child.stdout.readline()
    try:
        document: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        raise MeasurementError(f"a load process said {line[:80]!r} (exit status {child.poll()})") from None
    if "error" in document:
        raise UsageError(str(document["error"]))
    return document


def _collect(
    children: Sequence[subprocess.Popen[str]], progress: Callable[[CellProgress], None] | None, early: dict[int, Share]
) -> list[Share]:
    """Read all children as they speak. SIGINT reaches them too (same process group); their shares are kept.

    ``early``: the shares of those that had nothing to run.
    """
    import selectors

    shares = dict(early)
    latest: dict[int, CellProgress] = {}
    interrupted = False
    with selectors.DefaultSelector() as selector:
        for number, child in enumerate(children):
            if number in early:
                continue
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ, number)
        while selector.get_map():
            try:
                for key, _ in selector.select():
                    child = children[key.data]
                    assert child.stdout is not None
                    line = child.stdout.readline()
                    if not line:
                        selector.unregister(child.stdout)
                        continue
                    document = json.loads(line)
                    if "share" in document:
                        shares[key.data] = Share.from_json(document["share"])
                        selector.unregister(child.stdout)
                    elif "error" in document:
                        raise MeasurementError(f"a load process failed: {document['error']}")
                    elif "progress" in document and progress is not None:
                        latest[key.data] = CellProgress(**document["progress"])
                        if len(latest) == len(children) - len(early):
                            progress(_together(list(latest.values())))
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                for child in children:
                    if child.poll() is None:
                        child.send_signal(2)
    if interrupted:
        raise _SharesInterrupted([shares[number] for number in sorted(shares)])
    if len(shares) < len(children):
        lost = [number for number in range(len(children)) if number not in shares]
        codes = ", ".join(str(children[number].wait()) for number in lost)
        raise MeasurementError(f"{len(lost)} of {len(children)} load processes ended without a result (exit status {codes})")
    return [shares[number] for number in sorted(shares)]


def _together(parts: Sequence[CellProgress]) -> CellProgress:
    totals = [part.total for part in parts]
    left = [part.left_s for part in parts]
    return CellProgress(
        parts[0].cell,
        sum(p.done for p in parts),
        None if None in totals else sum(t or 0 for t in totals),
        sum(p.failed for p in parts),
        sum(p.in_flight for p in parts),
        max(p.elapsed_s for p in parts),
        sum(p.tokens_per_s for p in parts),
        None if None in left else max(value or 0.0 for value in left),
        sum(p.timed for p in parts),
        _weighed([(p.timed, p.ttft_ms) for p in parts]),
        _weighed([(p.timed, p.tpot_ms) for p in parts]),
    )


def _weighed(means: Sequence[tuple[int, float | None]]) -> float | None:
    known = [(count, mean) for count, mean in means if mean is not None]
    return sum(count * mean for count, mean in known) / sum(count for count, _ in known) if known else None


# ---- result ------------------------------------------------------------------------------------------------------
def _settled(target: Target, before: MetricsSample | None, shares: Sequence[Share]) -> MetricsSample | None:
    """/metrics after the cell. Engines count a request a moment after its last byte, so look again for two seconds."""
    if before is None:
        return None
    expected = sum(r.output_tokens or 0 for share in shares for r in share.tally.records if r.complete)
    sample: MetricsSample | None = None
    for attempt in range(8):
        sample = fetch(target)
        if sample is None or sample.generation_tokens is None or before.generation_tokens is None:
            return sample
        if sample.generation_tokens - before.generation_tokens >= expected and (attempt or not sample.running):
            return sample
        time.sleep(0.25)
    return sample


def build_result(job: ShareJob, shares: Sequence[Share], server: ServerView | None, notes: Sequence[str], where: str = "") -> CellResult:
    """One result from the shares of all client processes; writes the records when the plan names a file.

    `where` names the machine the shares ran on, when it is not this one.
    """
    plan, cell = job.plan, job.cell
    whole_tally = merge([share.tally for share in shares])
    records = whole_tally.records
    complete = [record for record in records if record.complete]
    ordinary = [record for record in complete if not record.canary]
    seconds = 0.0
    if complete:
        seconds = max(r.end_s for r in complete) - min(r.sent_s for r in records)
    outcomes: dict[str, int] = {}
    for record in records:
        outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
    not_sent = sum(share.not_sent for share in shares)
    planned = job.planned()
    if not_sent:
        outcomes["not_sent"] = not_sent
    failures = list(
        dict.fromkeys(
            [share.failure for share in shares if share.failure]
            + [f"{r.outcome}: {r.detail}" for r in records if not r.complete and r.detail]
        )
    )
    stopped = next((share.stopped for share in shares if share.stopped), "")
    result = CellResult(
        cell=cell,
        generator=GENERATOR,
        url=_public_url(job.target),
        dialect=job.target.dialect,
        model=job.target.model,
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(s.started_wall for s in shares) or time.time())),
        recipe="custom" if plan.requests is not None or plan.duration_s is not None else plan.recipe,
        arrivals=plan.arrivals.kind,
        prompts=plan.prompts.describe(),
        seed=plan.seed,
        requests=RequestCounts(
            planned,
            len(records),
            len(complete),
            len(records) - len(complete) + not_sent,
            outcomes,
            sum(share.retries for share in shares),
            tuple(failures[:5]),
        ),
        tokens=_tokens(complete),
        ttft=Summary.of_seconds((r.ttft_s for r in ordinary if r.ttft_s is not None), plan.percentiles),
        tpot=Summary.of_seconds((r.tpot_s for r in ordinary if r.tpot_s is not None), plan.percentiles),
        itl=Summary.of_histogram(whole_tally.itl, plan.percentiles),
        itl_basis="token" if whole_tally.itl_counted and whole_tally.itl.count else "event",
        e2e=Summary.of_seconds((r.e2e_s for r in ordinary if r.e2e_s is not None), plan.percentiles),
        connect=Summary.of_seconds(took for share in shares for took in share.connects_s),
        lag=Summary.of_seconds(r.lag_s for r in records if r.lag_s is not None),
        whole=whole_rates(records, seconds),
        steady=_steady(shares),
        flight=_flight(shares, complete),
        time_scale=plan.time_scale,
        slo=plan.slo,
        server=server,
        client=_client(shares, complete, where),
        selfcheck=plan.selfcheck,
        stopped=stopped,
        notes=tuple(notes) + _own_notes(plan, records, complete, shares),
        records_path=plan.records_path,
        silence_ms=max((1e3 * r.silence_s for r in ordinary if r.silence_s is not None), default=None),
        tokens_per_arrival=tokens_per_arrival(ordinary),
        canaries=tuple(whole_tally.canaries),
        texts=whole_tally.texts,
    )
    good = goodput(records, plan.slo, seconds)
    if good is not None:
        result = replace(result, goodput_requests_per_s=good[0], goodput_share=good[1])
    if plan.records_path is not None:
        write_records(plan.records_path, records)
    return sanity.judged(result, plan.tpot_floor_ms, plan.drafts)


def _public_url(target: Target) -> str:
    address = BaseUrl.parse(target.url)
    return f"{'https' if address.tls else 'http'}://{address.authority}{address.path}"


def _tokens(complete: Sequence[RequestRecord]) -> TokenCounts:
    cached = [r.cached_tokens for r in complete if r.cached_tokens is not None]
    reasoning = [r.reasoning_tokens for r in complete if r.reasoning_tokens is not None]
    return TokenCounts(
        asked_input=sum(r.asked_input for r in complete),
        asked_output=sum(r.asked_output for r in complete),
        input=sum(r.prompt_tokens or 0 for r in complete),
        output=sum(r.output_tokens or 0 for r in complete),
        cached=sum(cached) if cached else None,
        reasoning=sum(reasoning) if reasoning else None,
        wrong_input=sum(1 for r in complete if r.asked_input and r.prompt_tokens != r.asked_input),
        wrong_output=sum(1 for r in complete if r.output_tokens != r.asked_output),
        canary_input=sum(r.prompt_tokens or 0 for r in complete if r.canary),
    )


def _steady(shares: Sequence[Share]) -> Rates | None:
    """The sum of the parts' own steady rates: each part keeps its streams busy by itself."""
    windows = [share.steady for share in shares]
    if not windows or any(window is None for window in windows):
        return None
    given = output = requests = 0.0
    for share in shares:
        assert share.steady is not None
        start, end = share.steady
        given += share.tally.steady_input / (end - start)
        output += share.tally.steady_output / (end - start)
        done = [r.output_tokens or 0 for r in share.tally.records if r.complete]
        if sum(done):  # counted in tokens: whole requests would be counted by chance at the window's edges
            requests += share.tally.steady_output / (end - start) * len(done) / sum(done)
    shortest = min(window[1] - window[0] for window in windows if window is not None)
    return Rates(shortest, given, output, given + output, requests)


def _flight(shares: Sequence[Share], complete: Sequence[RequestRecord]) -> Flight:
    seconds = max((share.seconds for share in shares), default=0.0)
    mean = sum(share.flight_area for share in shares) / seconds if seconds > 0 else 0.0
    steady: float | None = 0.0
    for share in shares:
        if share.steady is None or steady is None:
            steady = None
        else:
            steady += share.steady_area / (share.steady[1] - share.steady[0])
    latency = Summary.of_seconds(r.e2e_s for r in complete if r.e2e_s is not None).mean
    return Flight(mean, steady if shares else None, sum(share.peak for share in shares), latency, most_answering(complete))


def _client(shares: Sequence[Share], complete: Sequence[RequestRecord], where: str) -> ClientView:
    cpu = sum(share.cpu_wall_s + share.parse_cpu_wall_s for share in shares)
    tokens = sum(r.output_tokens or 0 for r in complete)
    drifts = [share.clock_drift_wall_s for share in shares]
    return ClientView(
        processes=len(shares),
        cpu_s=cpu,
        cpu_s_per_1000_tokens=1e3 * cpu / tokens if tokens else None,
        start_to_first_request_s=max((share.setup_wall_s for share in shares), default=0.0),
        longest_busy_s=max((share.longest_busy_wall_s for share in shares), default=0.0),
        clock_backwards=sum(share.tally.clock_backwards for share in shares),
        clock_drift_s=max(drifts, key=abs) if drifts else 0.0,
        reconnects=sum(share.reconnects for share in shares),
        clock_steps=sum(share.clock_steps for share in shares),
        host=where or socket.gethostname(),
        python=platform.python_version(),
    )


def _own_notes(
    plan: LoadPlan, records: Sequence[RequestRecord], complete: Sequence[RequestRecord], shares: Sequence[Share]
) -> tuple[str, ...]:
    notes = []
    if plan.time_scale != 1.0:
        notes.append(f"compressed time: every figure is wall time x {plan.time_scale:g}")
    empty = sum(1 for r in records if r.empty_before_first)
    if empty:
        notes.append(f"{empty} answers began with events without text, which are not taken for the first token")
    several = [r for r in complete if r.events and (r.output_tokens or 0) > 1.05 * r.events]
    if several:
        tokens = sum(r.output_tokens or 0 for r in several) / sum(r.events for r in several)
        notes.append(f"{tokens:.1f} tokens per event: ITL is of events, tokens are the server's count")
    reconnects = sum(share.reconnects for share in shares)
    if reconnects:
        notes.append(f"{reconnects} connections had to be opened again during the run")
    return tuple(notes)


def write_records(path: str, records: Sequence[RequestRecord]) -> None:
    """One JSON object per request and line. Raises UsageError when the file cannot be written."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(asdict(record)) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write the records to {path}: {error.strerror or error}") from None
