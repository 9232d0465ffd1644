"""A mergeable histogram of durations: log-linear buckets, so that percentiles of many processes can be combined."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_h20.core.errors import UsageError

SUBBUCKETS = 128
"""Buckets per power of two: the middle of a bucket is at most 1/256 (0.4 %) from any value in it."""
UNIT_S = 1e-6
"""Durations below one microsecond share the lowest bucket."""
_LOWER_BITS = 52 - 7
"""Bits of a double's fraction that do not matter: 52 there are, 2**7 are the subbuckets."""
_UPPER_OF_LOWEST = 1023 * SUBBUCKETS - 1
"""The upper bits of 1.0, whose bucket is 1, less that 1."""


class Histogram:
    """Counts of durations in seconds. Count, sum, minimum and maximum are exact; percentiles to within 0.4 %."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = -math.inf

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a duration `times` times. Raises ValueError for a negative or not finite one."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a duration of {seconds} s cannot be counted")
        bucket = self._bucket(seconds)
        self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.count += times
        self.total += seconds * times
        self.least, self.most = min(self.least, seconds), max(self.most, seconds)

    def add_many(self, durations: Sequence[float]) -> None:
        """Count each of them once; several times faster than one by one."""
        if not durations:
            return
        least, most = min(durations), max(durations)
        if not (least >= 0 and most < math.inf):
            raise ValueError(f"durations from {least} to {most} s cannot be counted")
        # The upper bits of a float are its exponent and 7 bits of its fraction: the numbers of `_bucket`, but for a constant.
        bits = memoryview(array("d", [value / UNIT_S for value in durations])).cast("B").cast("Q").tolist()
        for upper, times in Counter([value >> _LOWER_BITS for value in bits]).items():
            bucket = max(0, upper - _UPPER_OF_LOWEST)
            self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.count += len(durations)
        self.total += math.fsum(durations)
        self.least, self.most = min(self.least, least), max(self.most, most)

    @staticmethod
    def _bucket(seconds: float) -> int:
        if seconds < UNIT_S:
            return 0
        fraction, exponent = math.frexp(seconds / UNIT_S)  # value = fraction x 2**exponent, fraction in [0.5, 1)
        return (exponent - 1) * SUBBUCKETS + int((fraction - 0.5) * 2 * SUBBUCKETS) + 1

    @staticmethod
    def _middle(bucket: int) -> float:
        if bucket == 0:
            return 0.0
        exponent, sub = divmod(bucket - 1, SUBBUCKETS)
        return math.ldexp((sub + 0.5) / (2 * SUBBUCKETS) + 0.5, exponent + 1) * UNIT_S

    def merge(self, other: Histogram) -> None:
        """Add what another one counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The value below or at which `percent` of the counts lie (nearest rank), None when empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(max(self._middle(bucket), self.least), self.most)
        return self.most

    def std(self) -> float | None:
        """Standard deviation from the buckets' middles."""
        mean = self.mean
        if mean is None:
            return None
        square = sum(count * (self._middle(bucket) - mean) ** 2 for bucket, count in self.counts.items())
        return math.sqrt(square / self.count)

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": {str(bucket): count for bucket, count in sorted(self.counts.items())},
            "count": self.count,
            "total": self.total,
            "least": None if self.count == 0 else self.least,
            "most": None if self.count == 0 else self.most,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Histogram:
        """Raises UsageError when the document is not one of `to_json`."""
        out = cls()
        try:
            out.counts = {int(bucket): int(count) for bucket, count in document["counts"].items()}
            out.count, out.total = int(document["count"]), float(document["total"])
            if out.count:
                out.least, out.most = float(document["least"]), float(document["most"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"not a histogram: {type(error).__name__}: {error}") from None
        if sum(out.counts.values()) != out.count:
            raise UsageError("not a histogram: the counts do not add up")
        return out

    @classmethod
    def of(cls, values: Iterable[float]) -> Histogram:
        out = cls()
        out.add_many(list(values))
        return out
