"""Judging a recorded run again, without hardware: with its own limits or with others."""

from __future__ import annotations

import math
from pathlib import Path

from pytest_h20.errors import MeasurementError
from pytest_h20.limits import LimitFile
from pytest_h20.report.judge import CHECK, judge_cell
from pytest_h20.report.model import METRICS, Cell, RunView
from pytest_h20.report.requests import figures, read_requests, requests_file
from pytest_h20.report.run import verify_evidence
from pytest_h20.verdicts import Status, Verdict, rejudge, worst

TOLERANCE = 0.005
"""A figure recomputed from the per-request file may differ by this fraction: rounding in the file, nothing more."""

Judged = tuple[str, Verdict]


def rejudge_run(view: RunView, limits: LimitFile | None = None) -> list[Judged]:
    """All verdicts of a recorded run, judged again: pairs of test id and verdict.

    Figures of cells are derived again from the per-request files where the folder has them; a recorded figure that its own
    file contradicts is "could not measure". With ``limits``, cells are judged by that file and other checks by its ``checks``
    where it has one; everything else keeps its recorded limit. An incomplete or changed folder adds a verdict that blocks.
    """
    cells = {cell_key(cell): cell for cell in view.cells}
    judged: list[Judged] = []
    done: set[tuple[str, str]] = set()
    for check in view.checks:
        verdict = check.bare()
        cell = cells.get(_verdict_key(verdict))
        if cell is None:
            judged.append((check.test_id, rejudge(verdict, limits.check(verdict.check) if limits else None)))
            continue
        cell, problem = recompute(cell, view.path)
        if problem:
            judged.append((check.test_id, verdict.model_copy(update={"status": Status.UNKNOWN, "reason": problem})))
        elif limits is None:
            judged.append((check.test_id, _again(verdict, cell)))
        elif cell_key(cell) not in done:
            done.add(cell_key(cell))
            judged += [(check.test_id, again) for again in judge_cell(cell, limits, evidence=verdict.evidence)]
    judged += [("replay", verdict) for verdict in folder_verdicts(view)]
    return judged


def cell_key(cell: Cell) -> tuple[str, str]:
    """Engine and cell name: how a verdict's details refer to a cell."""
    return cell.engine, cell.name


def _verdict_key(verdict: Verdict) -> tuple[str, str]:
    """The cell a figure's verdict is about (only the figures themselves are judged again, not a cell's sanity checks)."""
    metric = verdict.check.removeprefix(CHECK.format(metric=""))
    details = verdict.details
    if metric not in METRICS and metric != "limit":
        return "", ""
    return str(details.get("engine", "")), str(details.get("cell", ""))


def _again(verdict: Verdict, cell: Cell) -> Verdict:
    """The recorded limit on the derived figure. A verdict that took noise into account keeps its recorded outcome."""
    if "noise" in verdict.details or verdict.limit is None or (cell.status is Status.UNKNOWN and cell.reason):
        return verdict
    measured = cell.figure(verdict.check.removeprefix(CHECK.format(metric="")))
    return rejudge(verdict.model_copy(update={"measured": measured}))


def folder_verdicts(view: RunView) -> list[Verdict]:
    """What the folder itself says: complete, whole, unchanged. Empty when all of that holds."""
    problems = []
    if not view.complete:
        problems.append("the run did not finish")
    problems += view.damage
    problems += verify_evidence(view.path) if view.complete else []
    if not problems:
        return []
    return [
        Verdict(
            check="environment.recorded_evidence",
            status=Status.UNKNOWN,
            title="The recorded evidence is whole and unchanged",
            subject=view.header.run,
            measured=len(problems),
            unit="problems",
            reason="; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""),
            action="replay the original folder, or run again",
        )
    ]


# ---------------------------------------------------------------- figures from per-request files


def replay_cells(view: RunView, limits: LimitFile | None = None) -> list[Cell]:
    """The cells for the report of a replay: figures derived again, held against ``limits`` when given."""
    found = []
    for cell in view.cells:
        derived, problem = recompute(cell, view.path)
        if problem:
            derived = derived.model_copy(update={"status": Status.UNKNOWN, "reason": problem})
        elif limits is not None:
            status = worst(v.status for v in judge_cell(derived, limits))
            derived = derived.model_copy(update={"limits": limits.cell(cell.name), "status": status})
        found.append(derived)
    return found


def recompute(cell: Cell, folder: Path) -> tuple[Cell, str]:
    """The cell with its figures derived from its recorded requests, and what is wrong with them ("" when nothing is).

    A cell without a file, or a file without requests, comes back as recorded.
    """
    if not cell.file:
        return cell, ""
    try:
        requests = read_requests(requests_file(folder / cell.file))
    except MeasurementError as error:
        return cell, str(error)
    derived = figures(requests)
    for metric, value in derived.items():
        recorded = cell.figure(metric)
        if recorded is not None and not math.isclose(recorded, value, rel_tol=TOLERANCE):
            return cell, f"{cell.file}: {metric} is {value:.4g} by its requests but {recorded:.4g} was recorded"
    return cell.model_copy(update=derived), ""
