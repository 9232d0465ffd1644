from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.config.limits import Baseline
from pytest_h20.core.verdict import Status
from pytest_h20.report.stats import (
    Estimate,
    block_length,
    bootstrap_interval,
    bootstrap_means,
    change,
    estimate,
    judge_change,
    repeats,
    t_quantile,
)

BASE = Baseline(mean=500.0, n=5, spread=0.01, drop=0.10)


@pytest.mark.parametrize(
    ("p", "dof", "table"),
    [(0.95, 1, 6.314), (0.975, 2, 4.303), (0.95, 4, 2.132), (0.975, 4, 2.776), (0.975, 10, 2.228), (0.95, 30, 1.697)],
)
def test_students_t_agrees_with_the_table(p: float, dof: int, table: float) -> None:
    assert t_quantile(p, dof) == pytest.approx(table, rel=0.005)


def test_no_degrees_of_freedom_know_nothing() -> None:
    assert t_quantile(0.95, 0) == math.inf


@given(st.integers(1, 500))
def test_blocks_are_never_longer_than_a_quarter(n: int) -> None:
    assert 1 <= block_length(n) <= max(1, n // 4)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=60))
def test_resampled_means_stay_inside_the_data_and_repeat_exactly(values: list[float]) -> None:
    means = bootstrap_means(values, resamples=20)
    assert means == bootstrap_means(values, resamples=20)
    assert min(values) * 0.999 <= means[0] <= means[-1] <= max(values) * 1.001


def test_an_interval_of_independent_values_has_about_the_textbook_width() -> None:
    rng = random.Random(3)
    values = [rng.gauss(100, 10) for _ in range(400)]
    low, high = bootstrap_interval(values, block=1)
    assert (high - low) / 2 == pytest.approx(1.96 * 10 / 20, rel=0.15)


def test_blocks_widen_the_interval_of_values_that_hang_together() -> None:
    rng, noise, values = random.Random(5), 0.0, []
    for _ in range(200):
        noise = 0.8 * noise + rng.gauss(0, 1)
        values.append(100 + noise)
    plain, blocks = bootstrap_interval(values, block=1), bootstrap_interval(values)
    assert blocks[1] - blocks[0] > 1.5 * (plain[1] - plain[0])


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_means([])


def test_few_windows_are_not_trusted_to_know_their_noise() -> None:
    assert estimate(10.0, [9.0, 11.0]).rel_error == 0.0
    assert estimate(10.0, [9.0, 11.0] * 10).rel_error > 0


def test_a_given_interval_becomes_its_error() -> None:
    low, high = Estimate(100.0, 0.01, 30).interval()
    assert estimate(100.0, interval=(low, high)).rel_error == pytest.approx(0.01, rel=0.06)


def test_repeats_give_mean_and_spread() -> None:
    mean, spread = repeats([90.0, 100.0, 110.0])
    assert mean == 100.0
    assert spread == pytest.approx(0.1)


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0.001, 0.05))
def test_more_time_is_the_same_change_as_less_throughput(old: float, new: float, spread: float) -> None:
    rate = change(Estimate(old, 0, 30), Estimate(new, 0, 30), higher_is_better=True, run_spread=spread)
    time = change(Estimate(1 / old, 0, 30), Estimate(1 / new, 0, 30), higher_is_better=False, run_spread=spread)
    assert rate.factor == pytest.approx(time.factor)
    assert rate.low <= rate.factor <= rate.high


def test_only_figures_above_zero_are_compared() -> None:
    with pytest.raises(ValueError, match="above 0"):
        change(Estimate(0.0, 0, 30), Estimate(1.0, 0, 30), higher_is_better=True)


@pytest.mark.parametrize(
    ("figure", "status"),
    [(500.0, Status.PASS), (530.0, Status.PASS), (490.0, Status.PASS), (450.0, Status.FAIL), (300.0, Status.FAIL)],
)
def test_a_quiet_cell_is_judged(figure: float, status: Status) -> None:
    assert judge_change(Estimate(figure, 0.002, 60), BASE, higher_is_better=True).status is status


def test_a_rise_of_a_time_is_a_drop() -> None:
    assert judge_change(Estimate(560.0, 0.0, 30), BASE, higher_is_better=False).status is Status.FAIL
    assert judge_change(Estimate(450.0, 0.0, 30), BASE, higher_is_better=False).status is Status.PASS


def test_noise_that_hides_the_drop_is_could_not_measure() -> None:
    noisy = Baseline(mean=500.0, n=5, spread=0.06, drop=0.10)
    found = judge_change(Estimate(490.0, 0.0, 30), noisy, higher_is_better=True)
    assert found.status is Status.UNKNOWN
    assert "repeat" in found.reason


def test_a_collapse_is_seen_through_any_noise() -> None:
    noisy = Baseline(mean=500.0, n=5, spread=0.06, drop=0.10)
    assert judge_change(Estimate(250.0, 0.0, 30), noisy, higher_is_better=True).status is Status.FAIL


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_figure_is_no_pass(value: float) -> None:
    assert judge_change(Estimate(value, 0.0, 30), BASE, higher_is_better=True).status is Status.UNKNOWN


@pytest.mark.parametrize(("level", "wrong"), [(1.0, Status.FAIL), (0.9, Status.PASS)])
def test_a_tenth_less_is_told_from_noise(level: float, wrong: Status) -> None:
    """benchmarks/noise_gate.py measures this with 1,000 runs; here 150 with a fixed seed."""
    rng = random.Random(11)
    outcomes = []
    for _ in range(150):
        mean, spread = repeats([500 * (1 + rng.gauss(0, 0.01)) for _ in range(5)])
        figure = 500 * level * (1 + rng.gauss(0, 0.01))
        found = judge_change(Estimate(figure, 0.002, 60), Baseline(mean, 5, spread, 0.10), higher_is_better=True)
        outcomes.append(found.status)
    assert statistics.fmean(o is wrong for o in outcomes) < 0.02
    assert statistics.fmean(o is Status.UNKNOWN for o in outcomes) < 0.03


def test_a_time_that_grew_is_told_with_a_plus() -> None:
    """A TPOT of 120 ms against 100 ms is +20 %, and worse."""
    seen = judge_change(Estimate(120.0, 0.0, 30), Baseline(100.0, 5, 0.001, 0.1), higher_is_better=False)
    assert seen.status is Status.FAIL
    assert seen.reason.startswith("+20.0 % against the baseline (90 % interval +19.")
    better = judge_change(Estimate(80.0, 0.0, 30), Baseline(100.0, 5, 0.001, 0.1), higher_is_better=False)
    assert better.reason.startswith("-20.0 % against the baseline")
