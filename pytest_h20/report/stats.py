"""Telling a real change from noise: bootstrap of the steady part, comparison of two figures, judgement of a drop.

Pure Python, deterministic (fixed seed). A figure is uncertain for two reasons and both count here: within a run (the windows of
its steady part, correlated with each other) and from run to run (restart, temperature, placement), which only repeats can show.
All comparison is done on logarithms, so that "10 % less throughput" and "11 % more time per token" are the same change.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_h20.core.verdict import Status

if TYPE_CHECKING:
    from pytest_h20.config.limits import Baseline

CONFIDENCE = 0.95
RESAMPLES = 1000
MANY = 200
"""So many independent values have a mean that is normal to within what an interval of 95 % shows."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error as a fraction of it (``rel_error``). ``n``: how many values it rests on."""

    value: float
    rel_error: float
    n: int

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided interval, from Student's t with n - 1 degrees of freedom."""
        reach = t_quantile(0.5 + confidence / 2, self.n - 1) * self.rel_error
        return self.value * math.exp(-reach), self.value * math.exp(reach)


def t_quantile(p: float, dof: int) -> float:
    """Quantile of Student's t, by the Cornish-Fisher expansion around the normal (exact for 1 and 2 degrees of freedom).

    Error below 0.5 % for p <= 0.99 from 3 degrees of freedom up (Abramowitz and Stegun 26.7.5).
    """
    if dof < 1:
        return math.inf
    if dof == 1:
        return math.tan(math.pi * (p - 0.5))
    if dof == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = statistics.NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / math.pow(dof, power) for power, term in enumerate(terms))


def block_length(n: int) -> int:
    """Length of bootstrap blocks for ``n`` correlated windows: 2 n^(1/3), at least 1 and at most a quarter of them."""
    return max(1, min(round(2 * math.pow(n, 1 / 3)), n // 4))


def bootstrap_means(values: Sequence[float], *, resamples: int = RESAMPLES, block: int | None = None, seed: int = 20250405) -> list[float]:
    """Means of resampled series (circular moving blocks, so that neighbours stay together), sorted.

    ``block=1`` is the plain bootstrap for independent values. Raises ``ValueError`` for no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to resample")
    length = block_length(n) if block is None else max(1, min(block, n))
    doubled = [*values, *values]
    sums = [math.fsum(doubled[start : start + length]) for start in range(n)]
    count = max(1, round(n / length))
    draw = random.Random(seed).choices
    return sorted(sum(draw(sums, k=count)) / (count * length) for _ in range(resamples))


def bootstrap_interval(values: Sequence[float], confidence: float = CONFIDENCE, *, block: int | None = None) -> tuple[float, float]:
    """Interval of the mean of a steady part's windows (or, with ``block=1``, of independent requests)."""
    means = bootstrap_means(values, block=block)
    tail = (1 - confidence) / 2
    low = means[min(len(means) - 1, math.floor(tail * len(means)))]
    high = means[min(len(means) - 1, math.ceil((1 - tail) * len(means)) - 1)]
    return low, high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the mean of independent values: bootstrap, and from 200 values on the normal one, which it then has become."""
    if len(values) < MANY:
        return bootstrap_interval(values, confidence, block=1)
    mean = statistics.fmean(values)
    reach = statistics.NormalDist().inv_cdf(0.5 + confidence / 2) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def estimate(value: float, windows: Sequence[float] = (), interval: tuple[float, float] | None = None) -> Estimate:
    """The uncertainty of one run's figure: from its windows, else from a given 95 % interval, else unknown (taken as 0).

    Fewer than 8 windows say nothing about their own correlation and are not used.
    """
    if len(windows) >= 8 and statistics.fmean(windows) > 0:
        means = bootstrap_means(windows)
        return Estimate(value, statistics.pstdev(means) / statistics.fmean(windows), len(windows))
    if interval is not None and value > 0:
        z = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
        return Estimate(value, max(0.0, interval[1] - interval[0]) / (2 * z * value), 30)
    return Estimate(value, 0.0, 30)


def repeats(values: Sequence[float]) -> tuple[float, float]:
    """Mean of repeated runs and their spread (sample standard deviation as a fraction of the mean)."""
    mean = statistics.fmean(values)
    return mean, (statistics.stdev(values) / mean if len(values) > 1 and mean else 0.0)


@dataclass(frozen=True)
class Change:
    """New against old, as a factor on the scale where more is better: 0.9 is "10 % worse" for throughput and for times.

    ``low``, ``high``: its interval. ``significant``: the interval excludes "no change".
    """

    factor: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """True when noise alone does not explain the change."""
        return self.low > 1.0 or self.high < 1.0

    @property
    def percent(self) -> float:
        """+5.0 is 5 % better, -5.0 is 5 % worse."""
        return 100 * (self.factor - 1)

    def of_figure(self, higher_is_better: bool) -> tuple[float, float, float]:
        """The change of the figure itself in percent, with its interval: a time that is 9 % shorter is -9, and that is better."""
        three = (self.factor, self.low, self.high) if higher_is_better else (1 / self.factor, 1 / self.high, 1 / self.low)
        moved, low, high = (100 * (value - 1) for value in three)
        return moved, low, high


def change(
    old: Estimate,
    new: Estimate,
    *,
    higher_is_better: bool,
    run_spread: float = 0.0,
    dof: int = 30,
    confidence: float = CONFIDENCE,
    doubt: float = 0.0,
) -> Change:
    """Compare two runs. ``run_spread``: standard deviation from run to run as a fraction, known from repeats (``dof`` + 1 of
    them) or assumed; it counts once for each side. ``doubt``: by how much (log) a figure may be off by a cause that is no noise and
    does not average out. Raises ``ValueError`` for figures that are not above 0."""
    if old.value <= 0 or new.value <= 0:
        raise ValueError("only figures above 0 can be compared")
    log = math.log(new.value / old.value) * (1 if higher_is_better else -1)
    error = math.sqrt(old.rel_error**2 + new.rel_error**2 + 2 * run_spread**2)
    reach = t_quantile(0.5 + confidence / 2, dof) * error + doubt
    return Change(math.exp(log), math.exp(log - reach), math.exp(log + reach))


@dataclass(frozen=True)
class Judgement:
    """What a calibrated limit says: PASS, FAIL, or UNKNOWN when the noise hides a drop of the size that matters."""

    status: Status
    change: Change
    reason: str


def judge_change(measured: Estimate, baseline: Baseline, *, higher_is_better: bool, runs: int = 1) -> Judgement:
    """Hold a figure against a calibrated baseline, knowing its noise.

    * FAIL: at least half of the drop that matters is there, and noise alone does not explain it.
    * PASS: less than half of it is there, and the interval excludes the whole drop.
    * UNKNOWN: neither can be said. More repeats (``runs``: how many ``measured`` is the mean of) narrow it.

    The interval is one-sided 95 % on each side, from Student's t with the baseline's n - 1 degrees of freedom.
    """
    if measured.value <= 0 or baseline.mean <= 0:
        return Judgement(Status.UNKNOWN, Change(math.nan, math.nan, math.nan), "a figure that is not above 0 cannot be compared")
    log = math.log(measured.value / baseline.mean) * (1 if higher_is_better else -1)
    error = math.sqrt(measured.rel_error**2 + baseline.spread**2 / runs + baseline.spread**2 / baseline.n)
    reach = t_quantile(0.95, baseline.n - 1) * error
    seen = Change(math.exp(log), math.exp(log - reach), math.exp(log + reach))
    half, whole = 1 - baseline.drop / 2, 1 - baseline.drop
    moved, low, high = seen.of_figure(higher_is_better)
    words = f"{moved:+.1f} % against the baseline (90 % interval {low:+.1f} … {high:+.1f} %)"
    if seen.factor < half and seen.high < 1:
        return Judgement(Status.FAIL, seen, f"{words}: a drop, not noise")
    if seen.factor >= half and seen.low > whole:
        return Judgement(Status.PASS, seen, words)
    return Judgement(
        Status.UNKNOWN,
        seen,
        f"{words}: too noisy to tell a drop of {100 * baseline.drop:g} % from none; repeat the cell or make it longer",
    )
