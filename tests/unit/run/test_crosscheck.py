"""The cross-check's judgement: what differs, and whether this machine is quiet enough to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_h20.checks.throughput import doubts, sanity_verdict
from pytest_h20.core.verdict import Status
from pytest_h20.load import Cell, CellResult
from pytest_h20.load.metrics import Rates
from pytest_h20.run import crosscheck
from pytest_h20.run.throughput import Load
from tests.unit.load.results import GOOD


def at(rate: float, generator: str = "pytest-h20") -> CellResult:
    """A cell at an output rate."""
    return replace(GOOD, generator=generator, whole=Rates(10.0, rate, rate, 2 * rate, 1.0))


@dataclass
class FakeLoad:
    """Gives our rates one after the other; what the engine's own benchmark says comes from ``theirs``."""

    ours: Iterator[float]
    cells: tuple[Cell, ...] = (GOOD.cell,)
    label: str = "vllm"
    subfolder: str = ""
    done: int = 0
    endpoint: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(target=SimpleNamespace(engine="vllm")))

    def run(self, cell: Cell, repeat: int) -> CellResult:
        self.done += 1
        return at(next(self.ours))


@pytest.mark.parametrize(
    ("ours", "theirs", "rounds", "status"),
    [
        ((100.0,), (99.0,), 1, Status.PASS),
        ((100.0,), (80.0,), crosscheck.CROSSCHECK_SURE, Status.FAIL),  # not red by one round, however clear
        ((100.0, 80.0), (90.0, 70.0, 110.0), crosscheck.CROSSCHECK_ROUNDS, Status.UNKNOWN),
        ((100.0,), (None,), 1, Status.UNKNOWN),  # more rounds would not tell its rate either
    ],
)
def test_rounds_go_on_until_the_answer_is_sure(
    monkeypatch: pytest.MonkeyPatch, ours: tuple[float, ...], theirs: tuple[float | None, ...], rounds: int, status: Status
) -> None:
    said = cycle(theirs)
    asked = 0

    def benchmark(*args: object) -> CellResult:
        nonlocal asked
        asked += 1
        rate = next(said)
        return replace(at(1.0, "vllm-bench"), whole=None) if rate is None else at(rate, "vllm-bench")

    monkeypatch.setattr(crosscheck, "run_in_container", benchmark)
    (verdict,) = crosscheck.crosscheck(cast(Load, FakeLoad(cycle(ours))))
    assert (asked, verdict.status) == (rounds, status)


def test_a_benchmark_without_a_self_check_is_believed_by_who_chose_it() -> None:
    """Its own error is not known, which a run says elsewhere (no acceptance); every other rule counts."""
    from pytest_h20.load.sanity import judged

    theirs = judged(replace(GOOD, generator="vllm-bench", selfcheck=None), 9.6)
    ours = judged(replace(GOOD, selfcheck=None), 9.6)
    assert [f.rule for f in theirs.blockers] == [f.rule for f in ours.blockers] == ["client"]
    assert doubts(theirs) == []
    assert sanity_verdict(theirs, "vllm", "f").status is Status.PASS
    assert sanity_verdict(ours, "vllm", "f").status is Status.UNKNOWN
    lost = judged(replace(theirs, tokens=replace(GOOD.tokens, wrong_output=3)), 9.6)
    assert [f.rule for f in doubts(lost)] == ["usage"]
