"""What canaries cost: the same cell with and without them, in turn, against a server that knows its own timing or a real one.

    python benchmarks/canary_cost.py                                   # the built-in reference server, 60 pairs, about 13 minutes
    python benchmarks/canary_cost.py --url http://host:8000 --dialect vllm --model M --vocab-size 129280 --streams 64 --tokens 128

Prints output tokens/s of each pair, the mean difference with its 95 % interval (Student's t), and what part of the requests and of the
tokens the canaries are: that is all they can take from the rest. Short cells in turn AB, BA, AB: what a machine does beside them falls on
both, and many pairs make the interval narrow. The built-in server takes 80 ms for a step of all streams, so that a busy machine is early
enough for it.
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
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--pairs", type=int, default=60)
    given = parser.parse_args()
    if given.url:
        measure(given, Target(given.url, given.dialect, given.model, vocabulary=Vocabulary.of_size(given.vocab_size)))
        return
    with ReferenceProcess(ReferenceConfig(ttft=0.2, tpot=0.08, prefill_rate=200_000.0)) as server:
        measure(given, Target(server.url, given.dialect, given.model, vocabulary=Vocabulary.of_size(given.vocab_size)))


def measure(given: argparse.Namespace, target: Target) -> None:
    """Pairs of cells, one of each with canaries."""
    cell = Cell(given.tokens, given.tokens, given.streams)
    requests = 3 * given.streams
    made = canaries_of(Alone(FORMS[0], tuple(candidates()), 20, True), count_of(given.share, given.streams, requests), "cost")
    print(
        f"{len(made)} of {requests} requests are canaries: {100 * len(made) / requests:.1f} % of them and of the output tokens", flush=True
    )
    differences = []
    for number in range(given.pairs):
        rates: dict[bool, float] = {}
        for carries in (False, True) if number % 2 else (True, False):
            plan = LoadPlan(requests=requests, warmup=0, seed=1000 + 2 * number + carries, canaries=made if carries else ())
            rates[carries] = run_cell(target, cell, plan).output_throughput or math.nan
        differences.append(100 * (rates[True] / rates[False] - 1))
        mean, half = interval(differences)
        print(
            f"{number + 1:3}  {rates[False]:9.2f} {rates[True]:9.2f} tok/s {differences[-1]:+.2f} %   {mean:+.2f} +- {half:.2f} %",
            flush=True,
        )
    mean, half = interval(differences)
    print(
        f"output tokens/s with canaries against without: {mean:+.2f} % +- {half:.2f} (95 %), median {statistics.median(differences):+.2f} %"
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval. Student's t is 1.96 + 2.4 / (n - 1), to a fiftieth from ten values on."""
    if len(values) < 2:
        return values[0], math.nan
    t = 1.96 + 2.4 / (len(values) - 1)
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    main()
