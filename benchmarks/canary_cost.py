"""What canaries cost: the same cell with and without them, in turn, against a server that knows its own timing or a real one.

    python benchmarks/canary_cost.py                                   # the built-in reference server, 64 streams
    python benchmarks/canary_cost.py --url http://host:8000 --dialect vllm --model M --vocab-size 129280 --rounds 10

Prints output tokens/s of each pair and the mean difference with its standard error. Pairs are in turn AB, BA, AB, so that what a machine
does beside them falls on both.
"""

from __future__ import annotations

import argparse
import math
import statistics

from pytest_h20.checks.under_load import Alone, canaries_of, candidates, count_of
from pytest_h20.load import Cell, LoadPlan, Target, Vocabulary, run_cell
from pytest_h20.load.canary import FORMS
from pytest_h20.load.reference import ReferenceConfig, ReferenceProcess


def main() -> None:
    """Run the rounds and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--dialect", default="sglang", choices=("sglang", "vllm"))
    parser.add_argument("--model", default="reference")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    if given.url:
        measure(given, Target(given.url, given.dialect, given.model, vocabulary=Vocabulary.of_size(given.vocab_size)))
        return
    with ReferenceProcess(ReferenceConfig(ttft=0.1, tpot=0.01, prefill_rate=200_000.0)) as server:
        measure(given, Target(server.url, given.dialect, given.model, vocabulary=Vocabulary.of_size(given.vocab_size)))


def measure(given: argparse.Namespace, target: Target) -> None:
    """Pairs of cells, one of each with canaries."""
    cell = Cell(given.tokens, given.tokens, given.streams)
    requests = 3 * given.streams
    made = canaries_of(Alone(FORMS[0], tuple(candidates()), 20, True), count_of(given.share, given.streams, requests), "cost")
    differences = []
    for number in range(given.rounds):
        rates: dict[bool, float] = {}
        for carries in (False, True) if number % 2 else (True, False):
            plan = LoadPlan(requests=requests, warmup=0, seed=1000 + 2 * number + carries, canaries=made if carries else ())
            rates[carries] = run_cell(target, cell, plan).output_throughput or math.nan
        differences.append(100 * (rates[True] / rates[False] - 1))
        words = f"with {len(made)} canaries of {requests}: {rates[True]:9.1f} ({differences[-1]:+.2f} %)"
        print(f"without {rates[False]:9.1f} tok/s, {words}", flush=True)
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    print(f"mean {statistics.fmean(differences):+.2f} %, standard error {spread:.2f}, median {statistics.median(differences):+.2f} %")


if __name__ == "__main__":
    main()
