"""How often the verdicts over time of a soak are wrong: 1,000 simulated soaks of each kind, one figure each.

    python benchmarks/soak_power.py [SOAKS]

A soak is an hour in 120 bins, of which the first tenth is warm-up. Noise is 1 % of the level per bin, AR(1) with first autocorrelation
rho, one bin in fifty six sigmas off. A false alarm is red without a cause; a miss is a cause that is not red; "named" is a cause told as
what it was (falls, or level shift). "sees" is the median of the smallest slopes that the soaks say they could have seen.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_h20.checks.soak.judge import THROUGHPUT, Series, Wanted, drift
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.rehearsal.simulated_soak import soak

CAUSES: Mapping[str, tuple[dict[str, float], str]] = {
    "nothing": ({}, ""),
    "0.2 %/h": ({"per_hour": -0.002}, "falls"),
    "1 %/h": ({"per_hour": -0.01}, "falls"),
    "2 %/h": ({"per_hour": -0.02}, "falls"),
    "4 %/h": ({"per_hour": -0.04}, "falls"),
    "ever faster, 5 % at the end": ({"ever_faster": -0.05}, "falls"),
    "ever faster, 20 % at the end": ({"ever_faster": -0.2}, "falls"),
    "shift of 3 % at 70 %": ({"shift": -0.03}, "level shift"),
    "shift of 5 % at 70 %": ({"shift": -0.05}, "level shift"),
    "shift of 10 % at 70 %": ({"shift": -0.10}, "level shift"),
}


def judged(seed: int, rho: float, how: Mapping[str, float]) -> Verdict:
    """The verdict of one simulated soak."""
    return drift(Series(THROUGHPUT, *soak(seed, rho=rho, **how)), Wanted(1.0), "simulated")  # type: ignore[arg-type]


def main(argv: list[str]) -> int:
    """Print the table."""
    count = int(argv[0]) if argv else 1000
    began = time.monotonic()
    print(f"{count} soaks each, seeds 0 to {count - 1}")
    print(f"{'cause':28} {'rho':>4} {'red':>7} {'named':>7} {'sees, %/h':>10}")
    for cause, (how, words) in CAUSES.items():
        for rho in (0.0, 0.3, 0.6, 0.8):
            verdicts = [judged(seed, rho, how) for seed in range(count)]
            red = [v for v in verdicts if v.status is Status.FAIL]
            named = sum(words in v.reason for v in red) if words else 0
            sees = statistics.median(float(str(v.details["sees_percent_per_hour"])) for v in verdicts)
            told = f"{100 * named / count:6.1f}%" if words else "      -"
            print(f"{cause:28} {rho:4.1f} {100 * len(red) / count:6.1f}% {told} {sees:10.2f}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
