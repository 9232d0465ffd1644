"""How often is the throughput gate wrong? False alarms and misses over 1,000 simulated runs for a real drop of 10 %.

Each simulated cell: a baseline of five repeats, then one new run. A run's level differs from the true one by the run-to-run
spread; inside a run the 60 windows of its steady part wander (AR(1), 0.6) by 5 %. The same runs are judged three ways:

    noise-aware   judge_change: bootstrap of the windows + spread of the repeats; may say "could not measure"
    fixed 5 %     the plain threshold half-way to the drop
    fixed 10 %    "not below 90 % of the baseline", as most gates are written

Run: python benchmarks/noise_gate.py [--runs 1000] [--drop 0.10]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import Counter
from collections.abc import Sequence

from pytest_h20.config.limits import Baseline
from pytest_h20.core.verdict import Status
from pytest_h20.report.stats import estimate, judge_change, repeats

TRUE_LEVEL = 500.0  # tokens/s; the result does not depend on it
WINDOWS, WANDER, MEMORY = 60, 0.05, 0.6


def one_run(rng: random.Random, level: float, spread: float) -> list[float]:
    """The windows of one run's steady part, in tokens/s."""
    centre = level * (1 + rng.gauss(0, spread))
    noise, windows = 0.0, []
    for _ in range(WINDOWS):
        noise = MEMORY * noise + rng.gauss(0, WANDER * (1 - MEMORY**2) ** 0.5)
        windows.append(centre * (1 + noise))
    return windows


def simulate(runs: int, spread: float, drop: float, real: bool, repeats_n: int, seed: int) -> dict[str, Counter[Status]]:
    """Judge ``runs`` new runs, each against a baseline of its own."""
    rng = random.Random(seed)
    seen: dict[str, Counter[Status]] = {"noise-aware": Counter(), "fixed 5 %": Counter(), "fixed 10 %": Counter()}
    for _ in range(runs):
        mean, measured_spread = repeats([statistics.fmean(one_run(rng, TRUE_LEVEL, spread)) for _ in range(repeats_n)])
        windows = one_run(rng, TRUE_LEVEL * (1 - drop if real else 1), spread)
        figure = statistics.fmean(windows)
        baseline = Baseline(mean=mean, n=repeats_n, spread=measured_spread, drop=drop)
        verdict = judge_change(estimate(figure, windows), baseline, higher_is_better=True)
        seen["noise-aware"][verdict.status] += 1
        seen["fixed 5 %"][Status.PASS if figure >= mean * (1 - drop / 2) else Status.FAIL] += 1
        seen["fixed 10 %"][Status.PASS if figure >= mean * (1 - drop) else Status.FAIL] += 1
    return seen


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="False alarm and miss rates of the throughput gate")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--drop", type=float, default=0.10)
    parser.add_argument("--repeats", type=int, default=5, help="runs behind the baseline")
    args = parser.parse_args(argv)
    print(f"{args.runs} runs per row, real drop {100 * args.drop:g} %, baseline of {args.repeats} repeats")
    print("| run-to-run spread | judge | false alarm | unsure, no drop | miss | unsure, real drop |")
    print("|---|---|---|---|---|---|")
    for spread in (0.005, 0.01, 0.02, 0.03):
        clean = simulate(args.runs, spread, args.drop, False, args.repeats, seed=1)
        dropped = simulate(args.runs, spread, args.drop, True, args.repeats, seed=2)
        for judge in clean:
            cells = (
                clean[judge][Status.FAIL],
                clean[judge][Status.UNKNOWN],
                dropped[judge][Status.PASS],
                dropped[judge][Status.UNKNOWN],
            )
            print(f"| {100 * spread:g} % | {judge} | " + " | ".join(f"{100 * c / args.runs:.1f} %" for c in cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
