"""The two pieces of statistics that grading needs. Standard formulas, no dependency."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, 1927): sound for small n and for shares near 0 and 1.

    Raises ValueError unless 0 ≤ right ≤ n and n > 0.
    """
    if n <= 0 or not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is no proportion")
    share = right / n
    spread = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the ends, where the formula is so up to rounding.
    return (centre - half if right else 0.0), (centre + half if right < n else 1.0)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (Q. McNemar, 1947) by the binomial distribution.

    ``only_first``: questions that only the first got right; ``only_second``: only the second. 1.0 when they never differ.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError("counts cannot be negative")
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))
