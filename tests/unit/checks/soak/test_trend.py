"""Slopes, shifts and what could have been seen, on simulated soaks. Rates over a thousand: benchmarks/soak_power.py."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Sequence

import pytest

from pytest_h20.checks.soak.trend import autocorrelation, course, shift, trend
from pytest_h20.rehearsal.simulated_soak import soak


def test_a_slope_is_found_with_its_interval() -> None:
    """2 % per hour in 1 % of noise."""
    found = trend(*soak(1, per_hour=-0.02, rho=0.0))
    assert found.low < -2.0 < found.high < 0
    assert found.stands_out
    assert 0 < found.sees < 2.5


def test_a_slope_too_small_is_not_found_and_the_time_for_it_is_told() -> None:
    """0.2 % per hour in the same noise: the smallest visible one is larger, and so many hours would show it."""
    found = trend(*soak(2, per_hour=-0.002))
    assert not found.stands_out
    assert found.sees > 0.2
    needed = found.hours_for(0.2)
    assert 2 < needed < 20
    longer = trend(*soak(2, per_hour=-0.002, hours=2 * needed, points=int(108 * 2 * needed)) if needed < 3 else soak(2, hours=20.0))
    assert longer.sees < found.sees


def test_neighbours_that_are_alike_widen_the_interval() -> None:
    """The same spread of values says less when each is like the one before."""
    alone, alike = trend(*soak(3, rho=0.0)), trend(*soak(3, rho=0.8))
    assert alike.correlation > 0.6 > 0.3 > alone.correlation
    assert alike.sees > 1.8 * alone.sees


def test_a_shift_is_no_slope() -> None:
    """A level that fell by 6 % at 70 %: found there, and what is left has no slope."""
    found = course(*soak(4, shift=-0.06))
    assert found is not None
    assert found.shift is not None
    assert found.shift.at == pytest.approx(0.73, abs=0.05)
    assert found.shift.after / found.shift.before == pytest.approx(0.94, abs=0.01)
    assert not found.trend.stands_out


def test_a_slope_is_no_shift() -> None:
    found = course(*soak(5, per_hour=-0.05))
    assert found is not None
    assert found.shift is None
    assert found.trend.stands_out


def test_one_bad_minute_is_neither() -> None:
    """Two bins at a third of the rate."""
    hours, values = soak(6)
    broken = (*values[:50], 33.0, 33.0, *values[52:])
    found = course(hours, broken)
    assert found is not None
    assert found.shift is None
    assert not found.trend.stands_out


def test_what_never_moves_has_the_grain_of_its_source() -> None:
    """A memory that stays to the MiB: what could have been seen is about one MiB, not nothing."""
    hours, _ = soak(7)
    found = course(hours, [90_412.0] * len(hours), grain=1.0)
    assert found is not None
    assert found.trend.slope == 0
    assert 0.5 < found.trend.sees < 3
    assert shift(hours, [90_412.0] * len(hours)) is None


def test_too_few_points_say_nothing() -> None:
    assert course([0.1 * i for i in range(11)], [1.0] * 11) is None
    with pytest.raises(ValueError, match="11 points have no trend"):
        trend([0.1 * i for i in range(11)], [1.0] * 11)


def test_twelve_points_that_are_alike_have_a_wide_interval() -> None:
    """So few that the ranks do not reach: no slope is claimed of a wave."""
    values = [100 + (i % 6) for i in range(12)]
    found = trend([0.1 * i for i in range(12)], values)
    assert not found.stands_out


def test_one_value_far_out_does_not_hide_autocorrelation() -> None:
    _, values = soak(8, rho=0.8)
    left = [v - 100 for v in values]
    left[40] = 1e6
    assert autocorrelation(left, fitted=1) > 0.5


def test_ever_faster_is_no_noise() -> None:
    """A fifth is lost, most of it in the last hour: the bend that a straight slope leaves over does not hide it."""
    found = trend(*soak(9, ever_faster=-0.2, rho=0.6))
    assert found.stands_out
    assert found.correlation < 0.9


@pytest.mark.parametrize(("rho", "fitted"), [(0.0, 1), (0.3, 1), (0.6, 1), (0.6, 2), (0.3, 3), (0.6, 3)])
def test_the_autocorrelation_has_no_bias(rho: float, fitted: int) -> None:
    """Over 200 soaks of 36 bins it is what it was made with, though the shorter a series, the less like each other its neighbours seem."""
    found = []
    for seed in range(200):
        hours, values = soak(seed, rho=rho, points=36)
        found.append(autocorrelation(list(_without(hours, values, fitted)), fitted))
    assert statistics.mean(found) == pytest.approx(rho, abs=0.12)


def _without(hours: Sequence[float], values: Sequence[float], fitted: int) -> Sequence[float]:
    """What a constant, a line or a parabola leaves over, by least squares."""
    left = list(values)
    made: list[list[float]] = []
    for power in range(fitted):
        column = [h**power for h in hours]
        for other in made:
            share = math.fsum(map(operator.mul, other, column))
            column = [c - share * o for c, o in zip(column, other, strict=True)]
        length = math.sqrt(math.fsum(c * c for c in column))
        made.append([c / length for c in column])
        share = math.fsum(map(operator.mul, made[-1], left))
        left = [v - share * o for v, o in zip(left, made[-1], strict=True)]
    return left
