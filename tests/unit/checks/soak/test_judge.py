"""What a soak comes to: the failure, the look-alike, and nothing seen."""

from __future__ import annotations

import math

import pytest

from pytest_h20.checks.soak import judge as checks
from pytest_h20.checks.soak.judge import Graded, Hole, Risen, Series, Wanted
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load.soak import Bin, SoakEnd, Stall
from pytest_h20.rehearsal.simulated_soak import soak

HOUR = Wanted(1.0)


def _speed(seed: int = 1, **how: float) -> Series:
    return Series(checks.THROUGHPUT, *soak(seed, **how))  # type: ignore[arg-type]


def test_two_percent_an_hour_are_red() -> None:
    verdict = checks.drift(_speed(per_hour=-0.02, noise=0.005), HOUR, "sglang")
    assert verdict.status is Status.FAIL
    assert verdict.subject == "sglang output throughput"
    assert "falls: -2.0" in verdict.reason
    assert "the smallest slope that" in verdict.reason
    assert verdict.looked_at == 108


def test_becoming_faster_is_not() -> None:
    assert checks.drift(_speed(per_hour=0.05), HOUR, "sglang").status is Status.PASS


def test_a_fifth_of_a_percent_is_said_to_be_too_small_for_the_time() -> None:
    """Nobody asked for it: a pass that says what it could see. Somebody did (soak.slope): could not measure, and how long it takes."""
    series = _speed(per_hour=-0.002)
    verdict = checks.drift(series, HOUR, "sglang")
    assert verdict.status is Status.PASS
    assert "would have shown is" in str(verdict.details["said"])
    wanted = checks.drift(series, Wanted(1.0, slope=0.2), "sglang")
    assert wanted.status is Status.UNKNOWN
    assert "0.2 %/h is too small to be seen in this time, it takes" in wanted.reason
    assert wanted.action.startswith("soak for ")


def test_a_level_shift_is_red_and_says_when() -> None:
    verdict = checks.drift(_speed(shift=-0.08), HOUR, "vllm")
    assert verdict.status is Status.FAIL
    assert "level shift at 0:4" in verdict.reason
    assert verdict.measured == pytest.approx(8, abs=1)


def test_a_figure_too_noisy_is_told() -> None:
    verdict = checks.drift(_speed(noise=0.2), HOUR, "vllm")
    assert verdict.status is Status.WARN
    assert "too noisy" in verdict.reason


@pytest.mark.parametrize("step", [0.0, 0.002])
def test_memory_that_stands_still_or_moves_in_small_steps_is_not_too_noisy(step: float) -> None:
    """Steps are like their neighbours; all values lie within 2 %, whatever slope of noise such a likeness would hide."""
    hours, _ = soak(1)
    values = tuple(1.32 + step * (i // 15) for i in range(len(hours)))
    verdict = checks.drift(Series(checks.HOST_MEMORY, hours, values, "node02 containers"), HOUR, "sglang")
    assert verdict.status is Status.PASS


def test_a_fall_to_nothing_is_red_though_its_bend_is_like_noise() -> None:
    """Down within 40 minutes, and down it stays: of what a slope leaves over, four bins count, and four bins have no rank."""
    hours, values = soak(2)
    falls = tuple(max(0.5, v - 140 * h) for h, v in zip(hours, values, strict=True))
    verdict = checks.drift(Series(checks.THROUGHPUT, hours, falls), HOUR, "sglang")
    assert verdict.status is Status.FAIL
    assert "in the first quarter" in verdict.reason


@pytest.mark.parametrize("seed", range(5))
def test_noise_that_hangs_together_for_long_is_no_fall(seed: int) -> None:
    """A tenth of the level, each bin nearly like the one before."""
    hours, values = soak(seed, noise=0.1, rho=0.9)
    assert checks.drift(Series(checks.THROUGHPUT, hours, values), HOUR, "sglang").status is not Status.FAIL


@pytest.mark.parametrize("points", [12, 16, 20, 24, 28])
def test_few_points_that_scatter_are_no_fall(points: int) -> None:
    """Three points lie near some line whatever they scatter: of few, the ends say nothing. 300 soaks of each length."""
    for seed in range(300):
        verdict = checks.drift(Series(checks.THROUGHPUT, *soak(seed, noise=0.2, rho=0.0, points=points)), HOUR, "sglang")
        assert "in the first quarter" not in verdict.reason, seed


def test_a_figure_that_begins_and_ends_at_nothing_has_not_changed() -> None:
    """Both ends are 0, without any scatter."""
    hours, _ = soak(1)
    values = tuple(0.3 if 0.3 < h < 0.9 else 0.0 for h in hours)
    assert "in the first quarter" not in checks.drift(Series(checks.KV_USE, hours, values), HOUR, "sglang").reason


def test_no_more_is_lost_than_there_was() -> None:
    """A slope over a median that is already low."""
    hours, values = soak(2)
    falls = tuple(max(0.5, v - 97 * h) for h, v in zip(hours, values, strict=True))
    verdict = checks.drift(Series(checks.THROUGHPUT, hours, falls), HOUR, "sglang")
    assert (verdict.status, verdict.measured) == (Status.FAIL, 100.0)


def test_memory_that_settles_is_no_leak() -> None:
    """Pools fill until three quarters, and stay."""
    hours, _ = soak(1)
    grows = tuple(90_000 + 1000 * h for h in hours)
    fills = tuple(90_000 + min(700.0, 900 * h) for h in hours)
    assert checks.drift(Series(checks.GPU_MEMORY, hours, grows, "node02 GPU 3"), HOUR, "sglang").status is Status.FAIL
    settled = checks.drift(Series(checks.GPU_MEMORY, hours, fills, "node02 GPU 3"), HOUR, "sglang")
    assert settled.status is Status.PASS
    assert "settled" in str(settled.details["said"])


def test_kv_use_that_grows_at_equal_load_is_red_and_told_as_such() -> None:
    """What is never given back, and the look-alike that is: use that stays."""
    hours, values = soak(3)
    grows = tuple(value * (1 + hour) for hour, value in zip(hours, values, strict=True))
    verdict = checks.drift(Series(checks.KV_USE, hours, grows), HOUR, "sglang")
    assert (verdict.check, verdict.status) == ("soak.kv_use", Status.FAIL)
    assert checks.drift(Series(checks.KV_USE, hours, values), HOUR, "sglang").status is Status.PASS


def test_no_points_is_could_not_measure() -> None:
    verdict = checks.drift(Series(checks.THROUGHPUT, (), ()), HOUR, "sglang")
    assert verdict.status is Status.UNKNOWN
    assert checks.drift(Series(checks.KV_USE, (), ()), HOUR, "sglang").status is Status.SKIP, "a server without /metrics"


def test_nothing_sent_is_no_soak() -> None:
    verdict = checks.lasted(SoakEnd(), HOUR, "sglang")
    assert verdict.status is Status.UNKNOWN
    assert "nothing was soaked" in verdict.reason


def test_sent_and_never_answered_is_red() -> None:
    assert checks.lasted(SoakEnd("duration", 1.0, sent=64), HOUR, "sglang").status is Status.FAIL


def test_death_says_its_minute() -> None:
    end = SoakEnd(
        "server_gone", 0.79, sent=700, complete=640, failed=60, last_complete_hours=47.2 / 60, failures=["minute 47.3: reset: gone"]
    )
    verdict = checks.lasted(end, HOUR, "sglang")
    assert verdict.status is Status.FAIL
    assert "no request was answered from minute 47.2 on" in verdict.reason
    assert checks.failures(end, "sglang").status is Status.SKIP, "told once"


def test_interrupted_says_so() -> None:
    verdict = checks.lasted(SoakEnd("interrupted", 0.5, 100, 99, 0, 0.49), HOUR, "sglang")
    assert verdict.status is Status.UNKNOWN
    assert "interrupted at minute 30.0 of 60; what there was is judged" in verdict.reason


def test_a_hang_says_what_its_ranks_did() -> None:
    end = SoakEnd("silent", 0.6, 700, 640, 0, 0.49, silent_hours=0.5)
    verdict = checks.lasted(end, HOUR, "sglang", hang="ranks 0-2 wait in all-reduce 1204")
    assert verdict.status is Status.FAIL
    assert "no token came from minute 30.0 on, and the engine did not end" in verdict.reason
    assert verdict.reason.endswith("ranks 0-2 wait in all-reduce 1204")
    late = SoakEnd("duration", 1.0, 700, 640, 8, 0.9)
    assert checks.lasted(late, HOUR, "sglang", hang="all silent").status is Status.FAIL, "what hangs at its end is no whole soak"
    assert checks.failures(late, "sglang", hang="all silent").status is Status.SKIP, "told once"


def test_one_lost_request_of_ten_thousand_is_told_and_one_of_a_hundred_is_red() -> None:
    assert checks.failures(SoakEnd("duration", 1.0, 10_000, 9_999, 1, 1.0), "sglang").status is Status.PASS
    assert checks.failures(SoakEnd("duration", 1.0, 100, 99, 1, 1.0), "sglang").status is Status.FAIL


def test_a_stall_is_red_where_it_was() -> None:
    end = SoakEnd("duration", 1.0, 100, 100, 0, 1.0, longest_gap_s=20.4, stalls=[Stall(0.5, 20.4, 63)], stalled=1)
    verdict = checks.stalls(end, 10.0, "sglang", hang="the process of rank 1 is stopped")
    assert verdict.status is Status.FAIL
    assert verdict.reason == "1 stalls: 20 s at 0:30 h (63 streams); the process of rank 1 is stopped"
    assert checks.stalls(SoakEnd("duration", 1.0, 100, 100, 0, 1.0, longest_gap_s=3.0), 10.0, "sglang").status is Status.PASS


def test_a_slope_of_speed_is_not_the_engines_where_the_client_had_no_time() -> None:
    """Seen on the lab: other work doubled the load of two cores in the middle of a soak of SGLang."""
    falls = _plain_verdict(Status.FAIL, checks.SPEED)
    told = checks.too_busy(falls, [9.0, 14.0, 12.0], 4.0)
    assert (told.status, "12 processes per core" in told.reason, "falls" in told.reason) == (Status.UNKNOWN, True, True)
    assert checks.too_busy(falls, [2.0, 3.0, 30.0], 4.0) == falls, "a moment is no excuse"
    assert checks.too_busy(falls, [9.0, 14.0, 12.0], 16.0) == falls, "the operator knows that they are niced"
    assert checks.too_busy(falls, [], 4.0) == falls
    for other in (_plain_verdict(Status.PASS, checks.SPEED), _plain_verdict(Status.FAIL, checks.MEMORY)):
        assert checks.too_busy(other, [30.0], 4.0) == other


def _plain_verdict(status: Status, check: str) -> Verdict:
    return Verdict(check=check, title="It stays as fast as it was", status=status, subject="sglang", reason="falls: -20 %/h")


def _graded(late_right: int) -> list[Graded]:
    return [Graded(0.1 * i, 20, 20 if i < 5 else late_right) for i in range(10)]


def test_answers_that_sink_are_red_and_slips_are_not() -> None:
    assert checks.accuracy(_graded(17), "sglang").status is Status.FAIL
    assert checks.accuracy(_graded(20), "sglang").status is Status.PASS
    one = [*_graded(20)[:9], Graded(0.9, 20, 19)]
    assert checks.accuracy(one, "sglang").status is Status.PASS
    assert checks.accuracy([], "sglang").status is Status.UNKNOWN
    assert checks.accuracy([*_graded(20)[:5], Graded(0.9, 0, 0)], "sglang").status is Status.UNKNOWN, "nothing graded in the later half"


def test_fishers_test() -> None:
    """Eleven of twelve wrong answers or more in the later half, by hand: the hypergeometric tail."""
    tail = (math.comb(10, 1) * math.comb(14, 11) + math.comb(10, 0) * math.comb(14, 12)) / math.comb(24, 12)
    assert checks.fisher(1, 9, 11, 3) == pytest.approx(tail)
    assert checks.fisher(0, 10, 0, 10) == 1.0


def test_a_counter_that_creeps_is_red_and_one_bad_minute_is_not() -> None:
    creeping = Risen("node02 mlx5_3/1 packet_seq_err", 40, 120, 40, tuple(range(10)))
    once = Risen("node02 mlx5_3/1 symbol_error", 2, 120, 900, (3, 3))
    assert checks.creep([creeping, once], 198, "sglang").measured == 1
    assert checks.creep([once], 198, "sglang").status is Status.PASS
    assert checks.creep([], 0, "sglang").status is Status.UNKNOWN


def test_the_warm_up_makes_no_slope() -> None:
    """The first tenth is slow, as caches are cold."""
    bins = [Bin(i, (i + 0.5) / 120, 30.0, 9, 9, 0, 64.0, 50.0 if i < 11 else 100.0, 30.0, 60.0, 500.0, 900.0, None) for i in range(120)]
    series = checks.series_of(bins, 1.0)
    assert set(series[0].values) == {100.0}
    assert len(series[0].values) == 108
    assert all(checks.drift(s, HOUR, "sglang").status in (Status.PASS, Status.SKIP) for s in series)


GPUS = "nothing about its GPUs"


def test_five_seconds_that_a_node_did_not_tell_are_told_and_no_more() -> None:
    """Seen on the lab: one pause of nvidia-smi in 20 minutes, in one bin of 10 s, was "could not measure" for the whole soak."""
    verdict = checks.telemetry([Hole("node02", GPUS, 483.0, 488.2)], 1200.0, 2, "vllm")
    assert verdict.status is Status.WARN
    assert verdict.reason == "node02: nothing about its GPUs for 5 s at 0:08 h"
    assert checks.telemetry([], 1200.0, 2, "vllm").looked_at == 2


@pytest.mark.parametrize(
    ("holes", "said"),
    [
        (
            [Hole("node02", GPUS, 600.0 + 10 * n, 610.0 + 10 * n) for n in range(60)],
            "nothing about its GPUs for 600 s at 0:10 h",
        ),  # it stopped
        ([Hole("node01", "the connection is lost", 0.0, 61.0)], "the connection is lost for 61 s at second 0"),  # a minute of a day
        ([Hole("node02", GPUS, 60.0 * n, 60.0 * n + 6) for n in range(5)], "for 6 s"),  # again and again
    ],
)
def test_a_node_that_was_silent_for_long_or_often_could_not_be_measured(holes: list[Hole], said: str) -> None:
    verdict = checks.telemetry(holes, 86_400.0 if len(holes) == 1 else 1200.0, 2, "vllm")
    assert verdict.status is Status.UNKNOWN
    assert said in verdict.reason


def test_nobody_watched() -> None:
    assert checks.telemetry([], 0.0, 0, "vllm").status is Status.UNKNOWN
