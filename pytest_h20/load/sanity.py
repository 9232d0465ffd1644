"""Is a cell's figure a measurement at all? Pure rules over a `CellResult`; each gives a finding with its numbers.

A cell that fails a rule is "could not measure": never red and never green.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_h20.load.result import CellResult, Sanity

LITTLE_LIMIT = 0.05
"""Relative difference allowed between concurrency and throughput x latency (issue: within 5 %)."""
CACHE_LIMIT = 0.02
"""Share of prompt tokens from the prefix cache above which the prompts were not fresh. Chat templates and BOS are
shared by all prompts: at 128 tokens a handful of them, which engines cache in blocks of 16 or more (vLLM)."""
RUNNING_SHARE = 0.95
SGLANG_REFRESH_STEPS = 40
"""Decode steps between two values of SGLang's gauges: the default of its --decode-log-interval (0.5.16)."""
COUNTER_LIMIT = 0.01
"""The server's own token counter against the sum of its usages."""
CLOCK_STEP_S = 0.5
ACCEPTANCE_SLACK = 1.1
"""What a gauge of some intervals may be below the mean over a cell."""
STARVED_S = 0.005
"""A reference server that sends later than this was starved of CPU, and so was the client beside it."""


def check(result: CellResult, tpot_floor_ms: float | None = None, drafts: float | None = None) -> tuple[Sanity, ...]:
    """Apply every rule. `tpot_floor_ms`: the hardware's bound of one step (`roofline.decode_bound`), None when it is not known.
    `drafts`: `LoadPlan.drafts`."""
    return (
        finished(result),
        usage(result),
        littles_law(result),
        steady_part(result),
        tpot_floor(result, tpot_floor_ms, drafts),
        server_running(result),
        server_tokens(result),
        prefix_cache(result),
        clock(result),
        schedule(result),
        client(result),
    )


def judged(result: CellResult, tpot_floor_ms: float | None = None, drafts: float | None = None) -> CellResult:
    """The result with its findings."""
    return replace(result, sanity=check(result, tpot_floor_ms, drafts))


def tokens_per_step(result: CellResult, drafts: float | None = None) -> float | None:
    """Tokens that a decode step of this cell gave, as the server tells it; 1 without drafts; None: it drafts and does not tell.

    `drafts`: `LoadPlan.drafts`; a server that nobody asked and that tells an acceptance length drafts all the same.
    """
    told = result.server.acceptance if result.server is not None else None
    return told if told is not None else None if drafts is not None else 1.0


def finished(result: CellResult) -> Sanity:
    """Every request that was planned was sent and completely answered."""
    counts = result.requests
    planned = counts.planned if counts.planned is not None and result.stopped != "duration" else counts.sent
    if counts.complete == 0:
        why = "; ".join(counts.first_failures) or result.stopped or "nothing was sent"
        return Sanity("finished", "failed", f"no request was answered: {why}", 0, float(planned), "requests")
    if counts.complete == planned and not counts.failed:
        return Sanity("finished", "ok", f"all {planned} requests were answered", counts.complete, planned, "requests")
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.outcomes.items()) if word != "ok")
    example = f" (first: {counts.first_failures[0]})" if counts.first_failures else ""
    stopped = f"; the cell was ended early: {result.stopped}" if result.stopped else ""
    text = f"{counts.complete} of {planned} requests were answered; {words}{example}{stopped}"
    return Sanity("finished", "failed", text, counts.complete, planned, "requests")


def usage(result: CellResult) -> Sanity:
    """The server counted as many input and output tokens as were asked for, in each request."""
    tokens, complete = result.tokens, result.requests.complete
    if not complete:
        return Sanity("usage", "unknown", "no request was answered")
    if "uncounted" in result.requests.outcomes:
        n = result.requests.outcomes["uncounted"]
        return Sanity("usage", "failed", f"{n} answers came without a token count: nothing can be counted by it", n, 0, "requests")
    wrong = tokens.wrong_input + tokens.wrong_output
    if wrong:
        text = (
            f"of {complete} answers {tokens.wrong_output} have another output length than asked "
            f"({tokens.output} tokens in all where {tokens.asked_output} were asked for), "
            f"{tokens.wrong_input} another input length ({tokens.input - tokens.canary_input} counted, {tokens.asked_input} sent)"
        )
        return Sanity("usage", "failed", text, float(wrong), 0, "requests")
    return Sanity(
        "usage",
        "ok",
        f"{tokens.input} input and {tokens.output} output tokens, as asked in each request",
        float(tokens.output),
        float(tokens.asked_output),
        "tokens",
    )


def littles_law(result: CellResult) -> Sanity:
    """Concurrency = throughput x latency, from independent sources.

    Left: requests in flight, averaged over time by the loop as it ran. Right: (output tokens/s by the server's count /
    output length asked for) x mean E2E from the records. Both over the whole run. In a closed loop the average over
    the steady part must also be the concurrency that was asked for.
    """
    whole, cell = result.whole, result.cell
    latency = result.flight.latency_ms or result.e2e.mean
    if whole is None or latency is None or result.flight.mean <= 0:
        return Sanity("littles_law", "unknown", "no rate and latency to compare")
    asked = result.tokens.asked_output / result.requests.complete if result.requests.complete else cell.output_len
    product = whole.output_tokens_per_s / asked * latency / 1e3
    off = product / result.flight.mean - 1
    text = f"{result.flight.mean:.2f} requests in flight against {product:.2f} by throughput x latency ({100 * off:+.1f} %)"
    if off < -LITTLE_LIMIT and result.requests.complete:
        noticed = 1e3 * result.flight.mean * whole.seconds / result.requests.complete - latency
        text += f": answers had arrived {noticed:.0f} ms before this client noticed, the machine it runs on is too busy"
    if abs(off) > LITTLE_LIMIT:
        return Sanity("littles_law", "failed", text, product, result.flight.mean, "requests")
    steady = result.flight.steady_mean
    if result.arrivals == "closed" and steady is not None:
        held = steady / cell.concurrency - 1
        text += f"; {steady:.2f} of {cell.concurrency} held in the steady part"
        if abs(held) > LITTLE_LIMIT:
            return Sanity("littles_law", "failed", text, steady, float(cell.concurrency), "requests")
    return Sanity("littles_law", "ok", text, product, result.flight.mean, "requests")


def steady_part(result: CellResult) -> Sanity:
    """There was a steady part, and it was long enough: half of the run, unless the recipe has one wave only."""
    if result.arrivals != "closed":
        return Sanity("steady_part", "ok", "open loop: the whole run counts", required=False)
    if result.steady is None or result.whole is None:
        return Sanity("steady_part", "unknown", "no time at which all streams were busy", required=False)
    share = result.steady.seconds / result.whole.seconds
    text = f"{result.steady.seconds:.2f} of {result.whole.seconds:.2f} s with all streams busy"
    if result.recipe == "blog":
        return Sanity("steady_part", "ok", f"{text}; one wave, as the write-up", share, None, "", required=False)
    if share < 0.5:
        return Sanity("steady_part", "unknown", f"{text}: too short, more requests are needed", share, 0.5, "", False)
    return Sanity("steady_part", "ok", text, share, 0.5, "", required=False)


def tpot_floor(result: CellResult, floor_ms: float | None, drafts: float | None = None) -> Sanity:
    """Mean TPOT is not below what the hardware can do: a step's bound over the tokens that a step gives."""
    if floor_ms is None:
        return Sanity("tpot_floor", "unknown", "the hardware's bound is not known here", required=False)
    if result.tpot.mean is None:
        if result.cell.output_len == 1:
            return Sanity("tpot_floor", "ok", "one token has no TPOT", required=False)
        return Sanity("tpot_floor", "unknown", "no TPOT was measured", None, floor_ms, "ms", False)
    each, most = tokens_per_step(result, drafts), drafts or 0.0
    text = f"mean TPOT {result.tpot.mean:.2f} ms, the hardware's bound is {floor_ms:.2f} ms"
    if each is None and not most:
        text += " a step; it drafts, and neither the server nor its options tell how many tokens a step gives"
        return Sanity("tpot_floor", "unknown", text, result.tpot.mean, floor_ms, "ms", False)
    if each is None:
        text += f" a step, which gives {most:g} tokens at most"
        floor_ms /= most
    elif each > 1:
        text += f" a step, which gave {each:.2f} tokens by the server's count of accepted drafts"
        floor_ms /= each * ACCEPTANCE_SLACK
    status = "ok" if result.tpot.mean >= floor_ms else "failed"
    if status == "failed":
        text += ": tokens are counted that were not computed (cached or short answers" + (
            ", speculative decoding that was not told)" if each == 1 else ")"
        )
    return Sanity("tpot_floor", status, text, result.tpot.mean, floor_ms, "ms", required=False)


def server_running(result: CellResult) -> Sanity:
    """The server itself saw the concurrency. Its gauge is a look now and then: an engine that works in bursts can stand idle at each
    (seen on SGLang 0.5.16: 26 of 256 in 6 looks, 256 in its log). Answers that ran side by side then show that it was reached,
    unless requests were put back: such an answer has begun, but is not computed."""
    if result.arrivals != "closed":
        return Sanity("server_running", "ok", "open loop: no fixed concurrency", required=False)
    wanted = float(min(result.cell.concurrency, result.requests.planned or result.cell.concurrency))
    server = result.server
    if server is None or server.running_max is None:
        return Sanity(
            "server_running", "unknown", "the server tells no number of running requests (/metrics)", None, wanted, "requests", False
        )
    seen = server.running_max
    text = f"the server had at most {seen:g} running requests in {server.samples} looks, {wanted:g} were in flight"
    if seen >= RUNNING_SHARE * wanted:
        return Sanity("server_running", "ok", text, seen, wanted, "requests", False)
    answering = result.flight.answering
    if answering is not None and answering >= RUNNING_SHARE * wanted and not server.put_back:
        text += f"; {answering} answers had begun and not ended at one moment: its bursts fell between the looks"
        return Sanity("server_running", "ok", text, float(answering), wanted, "requests", False)
    if server.samples < 3:
        return Sanity("server_running", "unknown", f"{text}: too few looks", seen, wanted, "requests", False)
    if result.dialect == "sglang" and result.cell.output_len < SGLANG_REFRESH_STEPS:
        text += f"; SGLang refreshes that number every {SGLANG_REFRESH_STEPS} steps, an answer here has {result.cell.output_len}"
        return Sanity("server_running", "unknown", text, seen, wanted, "requests", False)
    waiting = f", {server.waiting_max:g} waiting" if server.waiting_max else ""
    return Sanity("server_running", "failed", text + waiting, seen, wanted, "requests", False)


def server_tokens(result: CellResult) -> Sanity:
    """The server's counter of generated tokens rose by what its answers said: nobody else used it, nothing was lost."""
    server, total = result.server, result.tokens.output
    if server is None or server.generation_tokens is None:
        return Sanity(
            "server_tokens", "unknown", "the server has no counter of generated tokens (/metrics)", None, float(total), "tokens", False
        )
    rise = server.generation_tokens
    allowed = COUNTER_LIMIT * total + result.requests.sent
    text = f"the server's counter rose by {rise:g} tokens, its answers have {total}"
    if result.requests.failed:
        return Sanity(
            "server_tokens", "unknown", f"{text}; {result.requests.failed} requests failed on the way", rise, float(total), "tokens", False
        )
    if abs(rise - total) <= allowed:
        return Sanity("server_tokens", "ok", text, rise, float(total), "tokens", False)
    why = ": someone else uses the server" if rise > total else ": it does not count what it sends"
    return Sanity("server_tokens", "failed", text + why, rise, float(total), "tokens", False)


def prefix_cache(result: CellResult) -> Sanity:
    """Prompts were computed, not found in the prefix cache."""
    server, rate = result.server, None
    if server is not None:
        rate = server.cache_hit_rate
    if rate is None and result.tokens.cached is not None and result.tokens.input:
        rate = result.tokens.cached / result.tokens.input
    if rate is None:
        return Sanity("prefix_cache", "unknown", "the server tells nothing about its prefix cache", None, CACHE_LIMIT, "", False)
    before = server.cache_hit_rate_before if server is not None else None
    text = f"{100 * rate:.1f} % of prompt tokens from the prefix cache"
    text += "" if before is None else f" ({100 * before:.1f} % before the cell)"
    if "multi-turn" in result.prompts:
        return Sanity("prefix_cache", "ok", text + "; conversations share their history", rate, None, "", False)
    # First tokens differ within a cell, not between cells: a cache by token (SGLang, page size 1) finds that one again.
    limit = max(CACHE_LIMIT, 1 / result.cell.input_len)
    if result.tokens.input:  # canaries repeat from cell to cell, and some within one
        limit += result.tokens.canary_input / result.tokens.input
    if rate > limit + 1e-6:
        return Sanity("prefix_cache", "failed", text + ": prefill was skipped for them", rate, limit, "", False)
    return Sanity("prefix_cache", "ok", text, rate, limit, "", False)


def clock(result: CellResult) -> Sanity:
    """Stamps never ran backwards and the clocks did not part."""
    client_view = result.client
    if client_view is None:
        return Sanity("clock", "unknown", "not told by this generator", required=False)
    drift = client_view.clock_drift_s
    if client_view.clock_backwards:
        text = f"{client_view.clock_backwards} answers have a stamp before the one it follows"
        return Sanity("clock", "failed", text, float(client_view.clock_backwards), 0, "answers")
    if client_view.clock_steps:
        text = f"the wall clock was set {client_view.clock_steps} times during the run"
        return Sanity("clock", "failed", text, float(client_view.clock_steps), 0, "steps")
    if abs(drift) > CLOCK_STEP_S:
        text = f"wall clock and monotonic clock parted by {drift:+.3f} s during the run: the clock was set or suspended"
        return Sanity("clock", "failed", text, drift, CLOCK_STEP_S, "s")
    return Sanity("clock", "ok", f"monotone; wall clock within {1e3 * drift:+.1f} ms", drift, CLOCK_STEP_S, "s")


def schedule(result: CellResult) -> Sanity:
    """Open loop: requests left when they should."""
    if result.arrivals == "closed":
        return Sanity("schedule", "ok", "closed loop: nothing is due at a time", required=False)
    lag, latency = result.lag.p99, result.e2e.mean
    if lag is None or latency is None:
        return Sanity("schedule", "unknown", "no request with a time to be sent at")
    limit = max(5.0 * result.time_scale, 0.02 * latency)
    text = f"99 % of requests left at most {lag:.1f} ms after their time"
    return Sanity("schedule", "ok" if lag <= limit else "failed", text, lag, limit, "ms")


def client(result: CellResult) -> Sanity:
    """The client was not the bottleneck: its self-check at this concurrency, on this machine, in this run."""
    own = result.selfcheck
    if own is None:
        return Sanity("client", "unknown", "the client was not checked at this concurrency")
    if own.worst is None:
        return Sanity("client", "unknown", f"the client's self-check gave no figures: {own.note or 'no reason told'}")
    parts = (("TTFT", own.ttft_error), ("TPOT", own.tpot_error), ("throughput", own.throughput_error))
    text = ", ".join(f"{name} {100 * error:+.2f} %" for name, error in parts if error is not None)
    if own.concurrency < result.cell.concurrency:
        return Sanity("client", "unknown", f"checked at {own.concurrency} streams only ({text})", own.worst, own.limit)
    if own.saturated and own.server_lag_s > STARVED_S:
        text += f"; the server of that check sent {1e3 * own.server_lag_s:.0f} ms late itself: this machine is too busy"
    if own.saturated:
        return Sanity("client", "failed", f"client saturated: its own error is {text}", own.worst, own.limit)
    return Sanity("client", "ok", f"the client's own error at {own.concurrency} streams: {text}", own.worst, own.limit)
