"""When requests are sent.

Closed loop: `concurrency` streams, each sends its next request when the last one is answered. That is how the
write-up measured, and what a cell means. Open loop: requests are sent at their time whether or not earlier ones are
answered, so a slow server cannot slow its own load down; latency counts from the real send, and how late that was
against the plan is reported apart (`schedule_lag`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_h20.core.errors import UsageError

KINDS = ("closed", "poisson", "constant", "burst")


@dataclass(frozen=True)
class Arrivals:
    """A plan of send times. Seconds and requests per second, both in model time.

    kind      closed | poisson | constant | burst
    rate      mean requests/s (poisson, constant, burst)
    rate_end  the rate changes evenly from `rate` to `rate_end` within `ramp_s`, then stays
    ramp_s    closed: the streams start one by one within this time; open: see rate_end
    burst     requests that arrive together (burst); the gaps between bursts keep the mean rate
    """

    kind: str = "closed"
    rate: float = 0.0
    rate_end: float | None = None
    ramp_s: float = 0.0
    burst: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"arrivals {self.kind!r}: one of {', '.join(KINDS)} is needed")
        if self.kind in ("poisson", "constant", "burst") and not self.rate > 0:
            raise UsageError(f"arrivals {self.kind}: a rate above 0 requests/s is needed, got {self.rate!r}")
        if self.rate_end is not None and not self.rate_end > 0:
            raise UsageError(f"arrivals: rate_end must be above 0 requests/s, got {self.rate_end!r}")
        if self.ramp_s < 0 or self.burst < 1:
            raise UsageError("arrivals: ramp_s must be at least 0 and burst at least 1")

    @property
    def closed(self) -> bool:
        return self.kind == "closed"

    def offsets(self, seed: int) -> Iterator[float]:
        """Send times in seconds from the start, endless. Not for the closed loop."""
        if self.closed:
            raise ValueError("a closed loop has no plan of send times")
        rng, at = random.Random(seed), 0.0
        while True:
            for _ in range(self.burst if self.kind == "burst" else 1):
                yield at
            rate = self.rate_at(at) / (self.burst if self.kind == "burst" else 1)
            at += rng.expovariate(rate) if self.kind == "poisson" else 1.0 / rate

    def rate_at(self, at: float) -> float:
        """Requests/s wanted `at` seconds after the start."""
        if self.rate_end is None:
            return self.rate
        if self.ramp_s <= 0 or at >= self.ramp_s:
            return self.rate_end
        return self.rate + (self.rate_end - self.rate) * at / self.ramp_s

    def share(self, index: int, of: int, seed: int) -> Arrivals:
        """The part of process `index` out of `of`: every of-th arrival, or for Poisson an own stream of rate/of."""
        if of == 1 or self.closed:
            return self
        end = None if self.rate_end is None else self.rate_end / of
        return Arrivals(self.kind, self.rate / of, end, self.ramp_s, self.burst)
