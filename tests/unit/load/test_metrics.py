from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.load.loop import OUTCOMES
from pytest_h20.load.metrics import RequestRecord, Summary, Tally, goodput, merge, percentile, tally, tokens_per_arrival, whole_rates
from pytest_h20.load.plan import Slo
from tests.unit.load.records import recorded
from tests.unit.load.streams import chunked, event


def test_latencies_follow_their_definitions() -> None:
    out = tally([recorded()], "completions", 99.0, 1.0, None)
    record = out.records[0]
    assert record.outcome == "ok"
    assert record.ttft_s == pytest.approx(0.2)
    assert record.tpot_s == pytest.approx(0.02)
    assert record.e2e_s == pytest.approx(0.28)
    assert record.sent_s == pytest.approx(1.0)
    assert out.itl.count == 4
    assert out.itl.mean == pytest.approx(0.02)
    assert not out.itl_counted


def test_model_time_scales_every_latency_alike() -> None:
    one, fifty = (tally([recorded()], "completions", 99.0, scale, None) for scale in (1.0, 50.0))
    for name in ("ttft_s", "tpot_s", "e2e_s", "sent_s", "end_s"):
        assert getattr(fifty.records[0], name) == pytest.approx(50 * getattr(one.records[0], name))
    assert fifty.itl.mean == pytest.approx(50 * (one.itl.mean or 0))


def test_tokens_inside_the_steady_window_are_counted_when_they_arrive() -> None:
    window = (100.21, 100.25)  # the second and third of five tokens
    out = tally([recorded()], "completions", 100.0, 1.0, window)
    assert out.steady_output == pytest.approx(2)
    assert out.steady_input == 0
    everything = tally([recorded()], "completions", 100.0, 1.0, (100.0, 101.0))
    assert (everything.steady_output, everything.steady_input) == (5, 7)


def test_several_tokens_per_event_are_counted_by_usage() -> None:
    exchange = recorded(tokens=5)
    last = exchange.parts[-1]
    assert isinstance(last, bytes)
    exchange.parts[-1] = last.replace(b'"completion_tokens": 5', b'"completion_tokens": 9')
    exchange.asked = 9
    out = tally([exchange], "completions", 100.0, 1.0, (100.0, 101.0))
    assert out.records[0].output_tokens == 9
    assert out.records[0].tpot_s == pytest.approx(0.08 / 8)
    assert out.steady_output == pytest.approx(9)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda e: None, "ok"),
        (lambda e: setattr(e, "asked", 6), "short"),
        (lambda e: setattr(e, "asked", 4), "long"),
        (lambda e: e.parts.__setitem__(-1, e.parts[-1].replace(b'"completion_tokens"', b'"no"')), "uncounted"),
        (lambda e: e.parts.__setitem__(-1, b"0\r\n\r\n"), "cut"),
        (lambda e: e.parts.__setitem__(0, e.parts[0].replace(b"200", b"503")), "http_error"),
        (lambda e: e.parts.__setitem__(1, chunked(b"data: [1]\n\n")[:-5]), "protocol"),
        (lambda e: e.parts.__setitem__(1, chunked(event({"error": "no"}))[:-5]), "stream_error"),
        (lambda e: setattr(e, "outcome", "timeout"), "timeout"),
    ],
)
def test_every_exchange_gets_one_outcome_word(change: Any, outcome: str) -> None:
    exchange = recorded()
    change(exchange)
    record = tally([exchange], "completions", 100.0, 1.0, None).records[0]
    assert record.outcome == outcome
    assert outcome in OUTCOMES
    assert (record.e2e_s is not None) == (outcome in ("ok", "short", "long"))


def test_stamps_that_run_backwards_are_noticed() -> None:
    exchange = recorded()
    exchange.stamps[3] -= 0.5
    assert tally([exchange], "completions", 100.0, 1.0, None).clock_backwards == 1


@given(st.lists(st.floats(1e-4, 100), min_size=2, max_size=50))
def test_summary_agrees_with_the_standard_library(values: list[float]) -> None:
    summary = Summary.of_seconds(values)
    assert summary.mean == pytest.approx(1e3 * statistics.fmean(values))
    assert summary.median == pytest.approx(1e3 * statistics.median(values))
    assert summary.std == pytest.approx(1e3 * statistics.pstdev(values), abs=1e-6)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert summary.p99 == pytest.approx(1e3 * cuts[98])


def test_nothing_has_no_percentile() -> None:
    assert Summary.of_seconds([]) == Summary(0)
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def records(*outcomes: str) -> list[RequestRecord]:
    out = []
    for number, outcome in enumerate(outcomes):
        record = tally([recorded()], "completions", 100.0, 1.0, None).records[0]
        record.number, record.outcome = number, outcome
        out.append(record)
    return out


def test_rates_and_goodput_leave_failures_out() -> None:
    rows = records("ok", "ok", "reset", "short")
    rates = whole_rates(rows, 2.0)
    assert rates is not None
    assert (rates.output_tokens_per_s, rates.input_tokens_per_s, rates.requests_per_s) == (7.5, 10.5, 1.5)
    assert rates.total_tokens_per_s == 18.0
    assert whole_rates(records("reset"), 2.0) is None
    assert goodput(rows, Slo(), 2.0) is None
    assert goodput(rows, Slo(ttft_ms=201, tpot_ms=21), 2.0) == (1.5, 0.75)
    assert goodput(rows, Slo(ttft_ms=199), 2.0) == (0.0, 0.0)
    assert goodput(rows, Slo(tpot_ms=19), 2.0) == (0.0, 0.0)
    assert goodput(rows, Slo(e2e_ms=281), 2.0) == (1.5, 0.75)


def test_tallies_of_processes_merge() -> None:
    parts = [tally([recorded(sent=at)], "completions", 100.0, 1.0, (100.0, 110.0)) for at in (103.0, 101.0)]
    whole = merge(parts)
    assert [round(record.sent_s) for record in whole.records] == [1, 3]
    assert whole.itl.count == 8
    assert whole.steady_output == 10
    assert merge([]).records == Tally().records


def arrived(gaps: list[float], per_event: int = 1) -> RequestRecord:
    """An answer whose events come after these gaps; the server counts so many tokens in each."""
    asked = per_event * (len(gaps) + 1)
    exchange = recorded(tokens=len(gaps) + 1, asked=asked, counted=asked)
    for number, gap in enumerate(gaps):
        exchange.stamps[number + 2] = exchange.stamps[number + 1] + gap
    exchange.end = exchange.stamps[-1]
    return tally([exchange], "completions", 99.0, 2.0, None).records[0]


def test_silence_is_judged_by_event_and_not_by_token() -> None:
    record = arrived([0.02, 5.0, 0.02], per_event=8)
    assert record.silence_s == pytest.approx(10.0), "model time"
    assert arrived([]).silence_s is None


@pytest.mark.parametrize(
    ("gaps", "per_event", "tokens"),
    [
        ([0.02] * 127, 1, 1.0),
        ([0.08] * 31, 4, 4.0),  # several tokens an event: speculative decoding
        (([0.0] * 63 + [1.28]) * 2, 1, 129 / 3),  # 64 events at once: a buffering proxy
        ([0.02] * 20 + [3.0] + [0.02] * 20, 1, 42 / 42 * 1.0),  # one pause is no lump
    ],
)
def test_what_comes_at_once_is_one_arrival(gaps: list[float], per_event: int, tokens: float) -> None:
    assert tokens_per_arrival([arrived(gaps, per_event)]) == pytest.approx(tokens, rel=0.01)


def test_nothing_that_arrived_in_pieces_tells_nothing() -> None:
    assert tokens_per_arrival([]) is None
    assert tokens_per_arrival([arrived([])]) is None


def test_further_percentiles_are_those_that_were_asked_for() -> None:
    assert Summary.of_seconds([1.0, 2.0, 3.0], (75, 99.9)).others == pytest.approx({"p75": 2500.0, "p99.9": 2998.0})
    assert Summary.of_seconds([1.0]).others == {}
