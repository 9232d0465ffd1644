"""Two generators on one server: does the engine's own benchmark measure what ours does?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import JsonValue

from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.load import CellResult, bench_serving

AGREEMENT = 0.03
"""How far two honest generators may lie apart on one cell at low concurrency (done-criterion of the load issue)."""


def agreement(say: Say, ours: Sequence[CellResult], theirs: Sequence[CellResult]) -> Verdict:
    """The other generator's output rates, each against the mean of our two runs around it. Pure.

    ``ours`` has one run more than ``theirs``. The difference is the mean over the rounds. What it is uncertain by is, of one
    round, what our own two runs differ by, of more, twice the standard error of the mean. Where that is more than the limit and
    the difference itself is not beyond both, it cannot be told.
    """
    rates = [r.output_throughput for pair in zip(ours, theirs, strict=False) for r in pair] + [ours[-1].output_throughput]
    measured = uncertain = None
    known = [rate for rate in rates if rate]
    if len(known) == len(rates):
        around = [(before + after) / 2 for before, after in zip(known[::2], known[2::2], strict=False)]
        differences = [100 * (its / mean - 1) for its, mean in zip(known[1::2], around, strict=True)]
        measured = round(abs(statistics.fmean(differences)), 2)
        if len(differences) == 1:
            uncertain = round(100 * abs(known[2] - known[0]) / around[0], 2)
        else:
            uncertain = round(2 * statistics.stdev(differences) / math.sqrt(len(differences)), 2)
    most = 100 * AGREEMENT
    limit = Limit(
        kind="max",
        value=most,
        unit="%",
        origin=Origin(kind="builtin", detail="two honest clients, one server, the same requests"),
    )
    details: dict[str, JsonValue] = {"uncertain_by_percent": uncertain}
    for its, mine in zip(theirs, ours, strict=False):
        for name, own, other, _ in bench_serving.compare(mine, its):
            column = details.setdefault(name, [])
            assert isinstance(column, list)
            column += [own, other]
    for name, own, _, _ in bench_serving.compare(ours[-1], theirs[-1]):
        column = details[name]
        assert isinstance(column, list)
        column.append(own)
    told = ", ".join("?" if r is None else f"{r:.4g}" for r in rates)
    verdict = say.judge(
        measured,
        limit,
        reason=f"ours and its in turn: {told} tok/s; {bench_serving.why_different(ours[0], theirs[0])}",
        details=details,
    )
    if measured is None or uncertain is None or uncertain <= most or measured > most + uncertain:
        return verdict
    return verdict.model_copy(
        update={
            "status": Status.UNKNOWN,
            "reason": f"uncertain by {uncertain:g} %, more than the limit, after {len(theirs)} round(s) "
            f"(ours and its in turn: {told} tok/s): the engine's own speed varies",
            "action": "measure on a quiet machine, with longer cells (load.min_requests)",
        }
    )
