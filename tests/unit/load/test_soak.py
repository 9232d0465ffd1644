"""A soak against the reference server: bins, both clocks, what is kept, and every way to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.load import Target
from pytest_h20.load.canary import FORMS, Canary
from pytest_h20.load.soak import Bin, Soak, SoakInterrupted, SoakPlan
from tests.unit.load.conftest import Serve

LENGTHS = ((16, 8), (8, 16))


def _target(port: int) -> Target:
    return Target(f"http://127.0.0.1:{port}", "vllm", "m", vocab_size=1000)


def _plan(**how: object) -> SoakPlan:
    return SoakPlan(**{"duration_s": 0.6, "streams": 4, "lengths": LENGTHS, "bins": 6, "rest_s": 0.01, **how})  # type: ignore[arg-type]


def test_every_bin_has_its_figures(serve: Serve) -> None:
    bins: list[Bin] = []
    end = Soak(_target(serve(tpot=0.001).port), _plan(), iter(()), bins.append).run()
    assert [b.number for b in bins] == list(range(6))
    assert end.stopped == "duration"
    assert end.complete == end.sent > 40
    assert sum(b.sent for b in bins) == pytest.approx(end.sent, abs=8), "what was sent as the time ended"
    for found in bins[1:]:
        assert 0 < found.in_flight <= 4
        assert found.output_throughput > 100
        assert found.ttft_p50_ms is not None
        assert found.itl_p50_ms is not None
    assert bins[2].hours == pytest.approx(2.5 * 0.1 / 3600)


def test_answers_are_dropped_as_they_are_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat in memory: the loop holds no more exchanges than streams and a tick's worth, whatever was sent."""
    held: list[int] = []
    tick = Soak._tick

    def watched(self: Soak, outcome: object, done: int, failed: int, stamp: float) -> None:
        tick(self, outcome, done, failed, stamp)  # type: ignore[arg-type]
        held.append(len(outcome.exchanges))  # type: ignore[attr-defined]
        assert not outcome.metrics  # type: ignore[attr-defined]

    monkeypatch.setattr(Soak, "_tick", watched)
    Soak(_target(serve().port), _plan(duration_s=1.2), iter(()), lambda _: None).run()
    assert len(held) >= 2
    assert max(held) <= 4


def test_a_soak_leaps(serve: Serve) -> None:
    """Its hours are not the traffic's: ten hours in half a second, at the rates of that half second."""
    bins: list[Bin] = []
    plan = _plan(duration_s=36_000.0, time_scale=10.0, leap=6_000.0)
    end = Soak(_target(serve().port), plan, iter(()), bins.append).run()
    assert end.hours == 10
    assert bins[-1].hours == pytest.approx(10 * 5.5 / 6)
    assert bins[-1].seconds == pytest.approx(1.0)
    assert 100 < bins[3].output_throughput < 400, "four streams, ten model milliseconds a token"


def test_canaries_come_with_their_answers(serve: Serve) -> None:
    bins: list[Bin] = []
    asked: Iterator[Canary] = iter([Canary(f"q{i}", "question", FORMS[0].prompt("2 + 2?"), FORMS[0].end) for i in range(1000)])
    Soak(_target(serve().port), _plan(canary_every=5), asked, bins.append).run()
    answers = [a for b in bins for a in b.answers]
    assert len(answers) >= sum(b.complete for b in bins) // 10
    assert {a.outcome for a in answers} == {"ok"}
    assert "answers" not in bins[0].to_json(), "what is kept on disk does not grow with the answers"


def test_a_server_that_goes_ends_the_soak(serve: Serve) -> None:
    server = serve()
    bins: list[Bin] = []

    def dies(found: Bin) -> None:
        bins.append(found)
        if found.number == 1:
            server.stop()

    end = Soak(_target(server.port), _plan(duration_s=20.0, bins=20, request_timeout_s=1.0), iter(()), dies).run()
    assert end.stopped == "server_gone"
    assert end.failed >= 4
    assert end.failures
    assert 0 < end.hours < 20 / 3600
    assert end.last_complete_hours is not None


def test_interrupted_it_hands_out_what_it_has(serve: Serve) -> None:
    bins: list[Bin] = []
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SoakInterrupted) as stop:
        Soak(_target(serve().port), _plan(duration_s=60.0, bins=600), iter(()), bins.append).run()
    end = stop.value.end
    assert end.stopped == "interrupted"
    assert 3 <= len(bins) <= 8
    assert end.complete > 0
    assert end.hours == pytest.approx(0.7 / 3600, rel=0.5)


def test_silence_of_all_streams_is_told_once_and_ends_the_soak(serve: Serve) -> None:
    """Before any request is given up, so that whoever looks finds everything as it hangs."""
    told: list[float] = []
    server = serve(tpot=30.0)
    plan = _plan(duration_s=60.0, bins=60, silence_s=0.4, request_timeout_s=30.0)
    end = Soak(_target(server.port), plan, iter(()), lambda _: None, told.append).run()
    assert len(told) == 1
    assert 0.4 <= told[0] < 1.6
    assert end.stopped == "silent"
    assert end.silent_hours is not None


def test_a_pause_in_an_answer_is_a_stall(serve: Serve) -> None:
    """Gaps of several streams that overlap are one."""
    server = serve(tpot=0.15)
    end = Soak(_target(server.port), _plan(stall_s=0.1, lengths=((8, 3),)), iter(()), lambda _: None).run()
    assert end.longest_gap_s >= 0.14
    assert end.stalled >= 1
    assert max(s.streams for s in end.stalls) > 1


def test_streams_rest(serve: Serve) -> None:
    """With long rests fewer requests are in flight than there are streams."""
    bins: list[Bin] = []
    Soak(_target(serve().port), _plan(rest_share=1.0, rest_s=0.1), iter(()), bins.append).run()
    assert 0 < max(b.in_flight for b in bins[1:]) < 3


def test_a_plan_without_time_is_refused() -> None:
    with pytest.raises(UsageError, match="a duration above 0"):
        _plan(duration_s=0.0)
    with pytest.raises(UsageError, match="leap"):
        _plan(leap=0.0)
