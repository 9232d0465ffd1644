"""The acceptance suite as a whole: which tests it has for a run, whatever was selected, and whose word a test's outcome is.

A run is an acceptance only if every one of these tests reported a verdict of its own. What pytest was told to select, what a plugin
took away and what a conftest skipped is therefore never asked: only what is missing in the end.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.core.verdict import ON_REQUEST, GateName
from pytest_h20.plugin.parametrize import parameters
from pytest_h20.run.finish import NONE_OF_OURS
from pytest_h20.run.settings import Session

PACKAGE = Path(__file__).parents[1]
ACCEPTANCE = PACKAGE / "acceptance"
LEFT_OUT_KEY: pytest.StashKey[bool] = pytest.StashKey()
"""Set on items that this run skips itself, for a reason that stands among the obstacles."""


def place_of(item: pytest.Item) -> str:
    """``test_fabric::test_rail[mtu]`` for a test of the suite, whatever its node, rail or cell; empty for a test of somebody else."""
    if ACCEPTANCE not in item.path.parents:
        return ""
    check = getattr(getattr(item, "callspec", None), "params", {}).get("check")
    return _place(item.path.stem, getattr(item, "originalname", None) or item.name, check)


def _place(module: str, test: str, check: Any) -> str:
    return f"{module}::{test}" + (f"[{check.name}]" if check is not None else "")


def asked_for(gate: str | None, session: Session) -> bool:
    """Whether a run has the tests of a gate at all: some are there only on request."""
    return gate not in {name.value for name in ON_REQUEST} or GateName(gate) in session.required


def whole(session: Session) -> Counter[str]:
    """How many tests the suite has at each place for this run: engines x nodes, rails or cells, for each registered check."""
    found: Counter[str] = Counter()
    for file in sorted(ACCEPTANCE.glob("test_*.py")):
        module = importlib.import_module(f"pytest_h20.acceptance.{file.stem}")
        if not asked_for(module.pytestmark.args[0], session):
            continue
        for name, function in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(function):
                lists = {mark.args[0]: list(mark.args[1]) for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"}
                for check in lists.pop("check", [None]):
                    found[_place(file.stem, name, check)] += _count(session, function, [len(values) for values in lists.values()])
    return +found


def _count(session: Session, function: Any, sizes: list[int]) -> int:
    asked = [len(values) for _, values, _ in parameters(session, list(inspect.signature(function).parameters))]
    return len(session.targets) * math.prod(sizes + asked)


def lacking(session: Session, reported: Iterable[tuple[str, str]]) -> str:
    """Which tests of the suite gave no verdict of their own, in words; empty when all did. ``reported``: (place, test id)."""
    everything = whole(session)
    without = everything - Counter(place for place, _ in set(reported))
    if not without:
        return ""
    if without == everything:
        return NONE_OF_OURS
    first, others = next(iter(without)), len(without) - 1
    return f"{without.total()} of {everything.total()} tests of the suite gave no verdict of their own: {first}" + (
        f" and {others} others" if others else ""
    )


def said_by_us(item: pytest.Item, report: pytest.TestReport, verdicts: int) -> bool:
    """Whether the outcome of a test of the suite is the suite's: it gave verdicts, or skipped itself in our own code."""
    if verdicts or item.stash.get(LEFT_OUT_KEY, False):
        return True
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return False
    if any(mark.name in ("skip", "skipif") for mark in item.iter_markers()):  # the suite marks none
        return False
    return PACKAGE in Path(str(report.longrepr[0])).resolve().parents
