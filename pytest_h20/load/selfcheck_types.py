"""The outcome of the client's self-check. Apart from `selfcheck.py` so that the plan can hold one without a cycle."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 0.02
"""Largest relative error of TTFT, TPOT or output throughput at which the client's figures may be judged (design page)."""


@dataclass(frozen=True)
class SelfCheck:
    """Relative errors (0.01 = 1 %) of this client, on this machine, in this run, against a server that knows the truth.

    A missing error (None) could not be measured, and counts as saturated.
    """

    concurrency: int
    ttft_error: float | None
    tpot_error: float | None
    throughput_error: float | None
    tokens_per_s: float
    cpu_s_per_1000_tokens: float
    server_lag_s: float = 0.0
    """How late the reference server itself sent its latest token: above a few ms it was starved of CPU too."""
    limit: float = LIMIT
    note: str = ""

    @property
    def worst(self) -> float | None:
        """The largest absolute error, None when one is missing."""
        errors = (self.ttft_error, self.tpot_error, self.throughput_error)
        known = [abs(error) for error in errors if error is not None]
        return max(known) if len(known) == len(errors) else None

    @property
    def saturated(self) -> bool:
        worst = self.worst
        return worst is None or worst > self.limit
