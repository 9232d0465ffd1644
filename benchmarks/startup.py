"""What does the plugin cost a project that does not use it? ``pytest --co -q`` of an empty project, with and without it.

Runs are interleaved and their order alternates, so that a busy machine slows both alike. Without: ``-p no:h20``, which pytest
honours before it imports the plugin; or another environment's interpreter (``--without``), which also leaves out what pytest reads
of every installed distribution. Each run is a fresh interpreter with byte code in place.

Run: python benchmarks/startup.py [--runs 40] [--limit-ms 30] [--without PYTHON]
Exit status 1 when the median costs more than the limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ARGUMENTS = ["-m", "pytest", "--co", "-q", "-p", "no:cacheprovider"]
NO_TESTS = 5  # pytest's exit status when nothing was collected


def one(folder: str, command: Sequence[str]) -> float:
    """Seconds of one collection of the empty project."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != NO_TESTS:
        raise SystemExit(f"pytest ended with {done.returncode} in an empty project:\n{done.stdout}{done.stderr}")
    return seconds


def measure(runs: int, without: str | None) -> tuple[list[float], list[float]]:
    """Seconds with and without the plugin, pair by pair. ``without``: an interpreter that does not have it."""
    with_it = [sys.executable, *ARGUMENTS]
    without_it = [without, *ARGUMENTS] if without else [*with_it, "-p", "no:h20"]
    having: list[float] = []
    lacking: list[float] = []
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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the medians, their ratio and the cost."""
    parser = argparse.ArgumentParser(description="Start-up cost of the plugin in an empty project")
    parser.add_argument("--runs", type=int, default=40, help="pairs of runs (default: 40)")
    parser.add_argument("--limit-ms", type=float, default=30.0, help="most the median of the pairs may cost (default: 30)")
    parser.add_argument("--without", metavar="PYTHON", help="interpreter of an environment like this one but without the plugin")
    options = parser.parse_args(argv)
    having, lacking = measure(options.runs, options.without)
    differences = sorted(1e3 * (a - b) for a, b in zip(having, lacking, strict=True))
    cost = statistics.median(differences)
    quarter = len(differences) // 4
    with_ms, without_ms = 1e3 * statistics.median(having), 1e3 * statistics.median(lacking)
    print(f"with the plugin     {with_ms:7.1f} ms   median of {options.runs}")
    print(f"without             {without_ms:7.1f} ms")
    print(f"ratio               {with_ms / without_ms:7.3f}")
    middle = f"{differences[quarter]:.1f} to {differences[-1 - quarter]:.1f} ms"
    print(f"cost                {cost:7.1f} ms   median of the pairs; middle half {middle}")
    print(f"fastest of each     {1e3 * (min(having) - min(lacking)):7.1f} ms")
    return int(cost > options.limit_ms)


if __name__ == "__main__":
    sys.exit(main())
