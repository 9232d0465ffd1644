"""A figure over time: its slope with an interval, its level shift, and how small a slope could have been seen. Pure.

Slope: Theil and Sen's median of all pairwise slopes, its interval by Sen's ranks of Kendall's S. Half-minutes that follow each other
are alike, so the variance of S is widened by (1 + r) / (1 - r), r being the first autocorrelation of what a parabola leaves over,
corrected for its bias (Kendall 1954; the effective sample size of Hamed and Rao 1998 for an AR(1) series). Of what the slope leaves
over it would not do: an engine that becomes slower ever faster leaves a bend, and a bend is like its neighbours without being noise.

Shift: the split in two medians that leaves over least, against the noise around them, widened likewise. As all splits are tried, it must
stand out farther than a single comparison would. A series is taken for shifted only where two levels explain it better than a slope.

``python benchmarks/soak_power.py`` prints how often all that is wrong.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

FEWEST = 12
"""Points below which nothing is said."""

SIGMAS = 3.3
"""A slope stands out from none when its interval of so many standard errors leaves out zero: some 40 figures are looked at in a soak."""

POWER = 1.28
"""Standard errors beyond that at which nine of ten slopes are seen."""

SHIFT_SIGMAS = 5.0
"""The same for a shift, whose place is looked for (a sup-Wald test has 3.9 at 0.1 %; medians of few points want more)."""

ENDS_FEWEST = 32
"""Points below which the ends say nothing: three or six points of a quarter lie near some line, whatever they scatter."""

ENDS_SIGMAS = 15.0
"""So far apart are first and last quarter when what is between them needs no shape: ranks say nothing where four bins of hundred count
(``widening``), however far a figure falls. Scatter inside a quarter is a third of it all where r is 0.95."""

EDGE = 0.1
"""A shift is looked for no nearer to either end than this part of the points."""


@dataclass(frozen=True)
class Trend:
    """A slope per hour, in the figure's own unit, with its interval. ``level``: the median. ``sees``: the smallest slope that would have
    been seen in nine of ten soaks like this one. ``correlation``: first autocorrelation of what is left over."""

    points: int
    hours: float
    level: float
    slope: float
    low: float
    high: float
    sees: float
    correlation: float

    @property
    def stands_out(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def hours_for(self, wanted: float) -> float:
        """How long a soak would have to be to see a slope of ``wanted`` per hour: the error of a slope falls with time to the power 1.5."""
        return self.hours * (self.sees / wanted) ** (2 / 3) if wanted > 0 and self.sees > 0 else 0.0


@dataclass(frozen=True)
class Shift:
    """A level that changed and stayed. ``at``: hours from the start."""

    at: float
    before: float
    after: float
    sigmas: float


@dataclass(frozen=True)
class Ends:
    """The medians of the first and of the last quarter, and how far their values scatter around a slope of each (standard deviations)."""

    first: float
    last: float
    scatter: float

    @property
    def apart(self) -> bool:
        """Whether no likeness of neighbours, however long it lasts, explains the difference."""
        return abs(self.last - self.first) > ENDS_SIGMAS * self.scatter


@dataclass(frozen=True)
class Course:
    """How a figure went: with a shift taken out, where there is one, and the slope that is left; and from where to where."""

    trend: Trend
    shift: Shift | None
    ends: Ends | None


def course(hours: Sequence[float], values: Sequence[float], grain: float = 0.0) -> Course | None:
    """None of fewer than :data:`FEWEST` points. ``grain``: the smallest difference that the figure's source can tell."""
    if len(values) < FEWEST:
        return None
    straight, ends = trend(hours, values, grain), _ends(hours, values, grain)
    found = shift(hours, values, grain)
    if found is None:
        return Course(straight, None, ends)
    step = found.after - found.before
    level = [v - step if at >= found.at else v for at, v in zip(hours, values, strict=True)]
    slope_left = _spread(_residuals(hours, values, straight.slope))
    if _spread([v - statistics.median(level) for v in level]) >= 0.95 * slope_left:
        return Course(straight, None, ends)
    return Course(trend(hours, level, grain), found, ends)


def _ends(hours: Sequence[float], values: Sequence[float], grain: float) -> Ends | None:
    """None of fewer than :data:`ENDS_FEWEST` points."""
    if len(values) < ENDS_FEWEST:
        return None
    quarter = len(values) // 4
    scattered: list[float] = []
    for part in (slice(0, quarter), slice(len(values) - quarter, None)):
        scattered += _residuals(hours[part], values[part], statistics.median(_slopes(hours[part], values[part])))
    scatter = max(robust_sigma(scattered, 0.0), grain / 2)
    return Ends(statistics.median(values[:quarter]), statistics.median(values[-quarter:]), scatter)


def trend(hours: Sequence[float], values: Sequence[float], grain: float = 0.0) -> Trend:
    """Theil and Sen's slope with Sen's interval, widened for autocorrelation. Raises ``ValueError`` below :data:`FEWEST` points."""
    n = len(values)
    if n < FEWEST:
        raise ValueError(f"{n} points have no trend; {FEWEST} are needed")
    slopes = sorted(_slopes(hours, values))
    slope = statistics.median(slopes)
    left = _residuals(hours, values, slope)
    r = autocorrelation(_unbent(left), fitted=3)
    sigma = math.sqrt(n * (n - 1) * (2 * n + 5) / 18 * widening(r, n))
    low, high = _ranked(slopes, SIGMAS * sigma)
    span = hours[-1] - hours[0]
    error = max((high - low) / (2 * SIGMAS), grain / span / SIGMAS if span > 0 else 0.0)
    return Trend(n, span, statistics.median(values), slope, low, high, (SIGMAS + POWER) * error, r)


def _slopes(hours: Sequence[float], values: Sequence[float]) -> list[float]:
    n = len(values)
    return [(values[j] - values[i]) / (hours[j] - hours[i]) for i in range(n) for j in range(i + 1, n) if hours[j] > hours[i]]


def _ranked(slopes: Sequence[float], reach: float) -> tuple[float, float]:
    """The slopes ``reach`` ranks apart around the median; all of them and as much again where there are not so many."""
    last = len(slopes) - 1
    at, to = (last - reach) / 2, (last + reach) / 2
    if at >= 0:
        return _at(slopes, at), _at(slopes, to)
    half = reach / max(1, last) * max(slopes[-1] - statistics.median(slopes), statistics.median(slopes) - slopes[0])
    return statistics.median(slopes) - half, statistics.median(slopes) + half


def _at(ordered: Sequence[float], position: float) -> float:
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def shift(hours: Sequence[float], values: Sequence[float], grain: float = 0.0) -> Shift | None:
    """The level shift that stands out, None when none does."""
    n = len(values)
    edge = max(3, math.ceil(EDGE * n))
    if n < FEWEST or n < 2 * edge + 2:
        return None
    best, k = min((_left_over(values[:k]) + _left_over(values[k:]), k) for k in range(edge, n - edge + 1))
    before, after = statistics.median(values[:k]), statistics.median(values[k:])
    left = [v - (before if i < k else after) for i, v in enumerate(values)]
    noise = max(1.2533 * best / n, grain / 2)  # mean absolute deviation to standard deviation of a normal distribution
    if noise == 0:
        return Shift(hours[k], before, after, math.inf) if before != after else None
    # A median of n values has pi/2 times the variance of their mean.
    error = noise * math.sqrt(math.pi / 2 * widening(autocorrelation(left, fitted=2), n) * (1 / k + 1 / (n - k)))
    sigmas = abs(after - before) / error
    return Shift(hours[k], before, after, sigmas) if sigmas >= SHIFT_SIGMAS else None


def _left_over(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return math.fsum(abs(v - middle) for v in values)


def autocorrelation(left: Sequence[float], fitted: int) -> float:
    """The first autocorrelation, from 0 to 0.95, of what a curve of so many ``fitted`` numbers left over, without the bias of that:
    about -(k + (2 k + 1) r) / n for k of them. Single values far out are drawn in first."""
    drawn = _drawn_in(left)
    n, mean = len(drawn), math.fsum(drawn) / len(drawn)
    around = [v - mean for v in drawn]
    whole = math.fsum(v * v for v in around)
    if whole == 0:
        return 0.0
    r = math.fsum(a * b for a, b in pairwise(around)) / whole
    return max(0.0, min(0.95, (n * r + fitted) / max(1, n - 2 * fitted - 1)))


def _unbent(left: Sequence[float]) -> list[float]:
    """What a parabola leaves over of what a slope has left over, values far out drawn in."""
    n, drawn = len(left), _drawn_in(left)
    square = n * n / 12  # the mean of the squared distances from the middle, all but a twelfth
    bend = [(i - (n - 1) / 2) ** 2 - square for i in range(n)]
    share = math.fsum(b * v for b, v in zip(bend, drawn, strict=True)) / math.fsum(b * b for b in bend)
    return [v - share * b for b, v in zip(bend, drawn, strict=True)]


def _drawn_in(left: Sequence[float]) -> list[float]:
    """In robust standard deviations from the median, at most three of them; all 0 where more than half of the values are alike."""
    middle = statistics.median(left)
    sigma = robust_sigma(left, middle)
    return [max(-3.0, min(3.0, (v - middle) / sigma)) if sigma else 0.0 for v in left]


def robust_sigma(values: Iterable[float], middle: float) -> float:
    """The standard deviation around ``middle`` of what is normal, which a few values far out do not move (1.4826 x MAD)."""
    return 1.4826 * statistics.median(abs(v - middle) for v in values)


def widening(r: float, n: int) -> float:
    """By how much autocorrelation widens a variance: as if of so many points only one counted."""
    return min((1 + r) / (1 - r), n / 4)


def _residuals(hours: Sequence[float], values: Sequence[float], slope: float) -> list[float]:
    left = [v - slope * at for at, v in zip(hours, values, strict=True)]
    middle = statistics.median(left)
    return [v - middle for v in left]


def _spread(left: Sequence[float]) -> float:
    return math.fsum(abs(v) for v in left) / len(left)
