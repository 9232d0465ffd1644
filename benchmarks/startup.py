"""What does the plugin cost a project that does not use it? ``pytest --co -q`` of an empty project, with and without it.

Runs are interleaved and their order alternates, so that a busy machine slows both alike. Without: ``-p no:h20``, which pytest
honours before it imports the plugin; or another environment's interpreter (``--without``), which also leaves out what pytest reads
of every installed distribution. Each run is a fresh interpreter with byte code in place. Wall time is what users feel; CPU time is
told too, because it hardly depends on what else the machine does.

Run: python benchmarks/startup.py [--runs 40] [--limit-ms 30] [--without PYTHON]
Exit status 1 when the median costs more than the limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

ARGUMENTS = ["-m", "pytest", "--co", "-q", "-p", "no:cacheprovider"]
NO_TESTS = 5  # pytest's exit status when nothing was collected


@dataclass(frozen=True)
class Sample:
    """One collection of the empty project, in milliseconds."""

    wall: float
    cpu: float


def one(folder: str, command: Sequence[str]) -> Sample:
    """Collect the empty project once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != NO_TESTS:
        raise SystemExit(f"pytest ended with {done.returncode} in an empty project:\n{done.stdout}{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(1e3 * wall, 1e3 * cpu)


def measure(runs: int, without: str | None) -> tuple[list[Sample], list[Sample]]:
    """Samples with and without the plugin, pair by pair. ``without``: an interpreter that does not have it."""
    with_it = [sys.executable, *ARGUMENTS]
    without_it = [without, *ARGUMENTS] if without else [*with_it, "-p", "no:h20"]
    having: list[Sample] = []
    lacking: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in (with_it, without_it):  # byte code and page cache
            one(folder, command)
        for number in range(runs):
            if number % 2:
                having.append(one(folder, with_it))
                lacking.append(one(folder, without_it))
            else:
                lacking.append(one(folder, without_it))
                having.append(one(folder, with_it))
    return having, lacking


def show(name: str, having: list[float], lacking: list[float]) -> float:
    """Print one row; the median of the differences of the pairs, ms."""
    differences = sorted(a - b for a, b in zip(having, lacking, strict=True))
    cost, quarter = statistics.median(differences), len(differences) // 4
    a, b = statistics.median(having), statistics.median(lacking)
    middle = f"middle half {differences[quarter]:+.1f} to {differences[-1 - quarter]:+.1f}"
    print(f"{name:<5} with {a:7.1f} ms   without {b:7.1f} ms   ratio {a / b:.3f}   cost {cost:+.1f} ms ({middle})")
    return cost


def main(argv: Sequence[str] | None = None) -> int:
    """Print the medians, their ratio and the cost."""
    parser = argparse.ArgumentParser(description="Start-up cost of the plugin in an empty project")
    parser.add_argument("--runs", type=int, default=40, help="pairs of runs (default: 40)")
    parser.add_argument("--limit-ms", type=float, default=30.0, help="most the median of the pairs may cost (default: 30)")
    parser.add_argument("--without", metavar="PYTHON", help="interpreter of an environment like this one but without the plugin")
    options = parser.parse_args(argv)
    having, lacking = measure(options.runs, options.without)
    print(f"medians of {options.runs} interleaved pairs of `pytest --co -q` in an empty project; cost: median of the pairs")
    cost = show("wall", [s.wall for s in having], [s.wall for s in lacking])
    show("CPU", [s.cpu for s in having], [s.cpu for s in lacking])
    return int(cost > options.limit_ms)


if __name__ == "__main__":
    sys.exit(main())
