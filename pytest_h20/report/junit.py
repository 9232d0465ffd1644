"""What JUnit XML carries besides pass and fail: properties of the suite and of each case. Pure; plugin code hands them to pytest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from pytest_h20.core.verdict import Verdict
from pytest_h20.report.model import RunView
from pytest_h20.report.terminal import verdict_words

Property = tuple[str, str]


def suite_properties(view: RunView) -> Iterator[Property]:
    """The decision and on what it was taken, for a pipeline that reads nothing but the XML."""
    header = view.header
    yield "h20.decision", verdict_words(view)
    yield "h20.accepted", "true" if view.decision.accepted else "false"
    yield "h20.reason", view.decision.reason
    yield "h20.mode", header.mode.value
    for engine in header.engines:
        yield "h20.engine", engine
    yield "h20.run", view.path.name
    yield "h20.inventory", header.name
    for obstacle in header.obstacles:
        yield "h20.obstacle", obstacle
    for condition in header.conditions:
        yield "h20.condition", condition
    for gate in view.decision.gates:
        yield f"h20.gate.{gate.name.value}", gate.status.value


def case_properties(verdicts: Iterable[Verdict]) -> Iterator[Property]:
    """Each verdict of a test: what was measured, in which unit, against which limit, and where that comes from.

    The name says which verdict it is: ``h20.measured[fabric.rate node01 mlx5_1]``.
    """
    for verdict in verdicts:
        where = f"[{verdict.check}{' ' + verdict.subject if verdict.subject else ''}]"
        yield f"h20.status{where}", verdict.status.value
        if verdict.measured is not None:
            yield f"h20.measured{where}", _text(verdict.measured)
        if unit := verdict.unit or (verdict.limit.unit if verdict.limit is not None else ""):
            yield f"h20.unit{where}", unit
        if verdict.limit is not None:
            yield f"h20.limit{where}", str(verdict.limit)
            yield f"h20.origin{where}", str(verdict.limit.origin)
        if verdict.evidence:
            yield f"h20.evidence{where}", " ".join(verdict.evidence)


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
