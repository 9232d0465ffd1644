"""Judging a recorded run again, without hardware: with its own limits or with others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from pytest_h20.checks.frame import Say
from pytest_h20.checks.throughput import CHECK, judge_cell
from pytest_h20.config.figures import metric_figure, percentile_of
from pytest_h20.config.limits import LimitFile, coverage
from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.core.verdict import Limit, Status, Verdict, rejudge, worst
from pytest_h20.report.calibrate import merge_repeats
from pytest_h20.report.model import CellRow, Mode, RunView
from pytest_h20.report.requests import figures, percentiles, read_requests, requests_file
from pytest_h20.report.run import verify_evidence
from pytest_h20.run.inputs import JudgedAgain, judged_again

TOLERANCE = 0.005
"""A figure recomputed from the per-request file may differ by this fraction: rounding in the file, nothing more."""

Judged = tuple[str, Verdict]

HOW = "replay"
"""The key in a verdict's details that says how it came about in a replay: one of the following."""
EVIDENCE = "its recorded evidence (probes, NCCL logs, counters) was judged again"
DERIVED = "its figure was derived again from the recorded requests"
JUDGED = "its recorded figure was held against its limit again"
READ = "only read again: its evidence is not kept in a form that can be judged, and it has no figure that a limit decides"


def rejudge_run(view: RunView, limits: LimitFile | None = None, anew: JudgedAgain | None = None) -> list[Judged]:
    """All verdicts of a recorded run, judged again: pairs of test id and verdict.

    Probes, NCCL logs and rail counters are judged anew from the folder (``run.inputs``): the worse of record and judgement counts.
    Figures of cells are derived again from the per-request files where the folder has them; a recorded figure that its own
    file contradicts is "could not measure". With ``limits``, cells are judged by that file and other checks by its ``checks``
    where it has one; everything else keeps its recorded limit. An incomplete or changed folder adds a verdict that blocks.

    Raises ``UsageError`` when ``limits`` were written for no engine of this run.
    """
    mine = engines_of(view, limits) if limits is not None else set()
    gpus = {facts.node: facts.facts.get("gpu pci id", "") for facts in view.facts}
    cells = {cell_key(cell): cell for cell in merge_repeats(view.cells)}
    if limits is not None and limits.skus and not any(gpus.values()):
        raise UsageError(f"limits {limits.name!r}: skus: this run's record does not tell the PCI ids of its GPUs; take them out")
    anew = judged_again(view) if anew is None else anew
    judged: list[Judged] = []
    tests: dict[tuple[str, str], str] = {}
    for check in view.checks:
        verdict = check.bare()
        cell = cells.get(_verdict_key(verdict))
        if cell is not None:
            tests.setdefault(cell_key(cell), check.test_id)
        engine = cell.engine if cell is not None else str(verdict.details.get("engine", ""))
        if limits is not None and (not engine or engine in mine) and (cell is not None or verdict.check in WITHOUT_LIMIT):
            continue  # judged below, by the new limits
        if cell is None:
            other = limits.check(verdict.check, gpus.get(verdict.subject.split(" ", 1)[0])) if limits else None
            if other is not None and verdict.limit is not None and verdict.limit.unit != other.unit:
                other = None  # another figure of the same check
            new = anew.of(view.header.engines, check.test_id, verdict)
            held = again(verdict if new is None else settled(verdict, new), other)
            judged.append((check.test_id, _marked(held, EVIDENCE if new is not None else "")))
            continue
        derived, problem = recompute(cell, view.path)
        if problem:
            judged.append((check.test_id, verdict.model_copy(update={"status": Status.UNKNOWN, "reason": problem})))
        else:
            how = DERIVED if derived is not cell else ""
            judged.append((check.test_id, _marked(again(_with_figure(verdict, derived)), how)))
    if limits is not None:
        for cell in replay_cells(view, limits):
            if cell.engine not in mine:
                continue
            test = tests.get(cell_key(cell), f"replay[{' '.join(filter(None, cell_key(cell)))}]")
            how = DERIVED if requests_of(cell, view.path) else ""
            judged += [(test, _marked(found, how)) for found in judge_cell(cell, limits, str(view.path))]
        judged += [("replay", verdict) for verdict in _unmet(view, limits)]
    return [(test, _marked(v)) for test, v in judged] + [("replay", verdict) for verdict in folder_verdicts(view)]


def settled(recorded: Verdict, new: Verdict) -> Verdict:
    """The worse one. A recorded verdict may have been held against more than its check knows (``checks:`` of a limits file), and must
    not become better by being judged again; one that was better than its evidence was wrong."""
    if new.status.rank > recorded.status.rank:
        return new.model_copy(update={"reason": f"{new.reason or new.title}; recorded was {recorded.status.value}".strip("; ")})
    return new if new.status is recorded.status and new.limit == recorded.limit else recorded


def _marked(verdict: Verdict, how: str = "") -> Verdict:
    if HOW in verdict.details:
        return verdict
    limited = verdict.limit is not None and verdict.limit.kind != "info" and verdict.measured is not None
    how = how or (JUDGED if limited and verdict.status is not Status.SKIP else READ)
    return verdict.model_copy(update={"details": {**verdict.details, HOW: how}})


def told(verdicts: Iterable[Verdict]) -> list[str]:
    """How much of a replay is judgement and how much is only what the record says of itself; the last line names the latter.
    What there is none of has no line."""
    found: dict[str, list[Verdict]] = {EVIDENCE: [], DERIVED: [], JUDGED: [], READ: []}
    for verdict in verdicts:
        found.get(str(verdict.details.get(HOW)), []).append(verdict)
    read = ", ".join(sorted({v.check for v in found[READ]}))
    return [f"{len(those)} verdicts: {how}" + (f" ({read})" if how == READ else "") for how, those in found.items() if those]


def engines_of(view: RunView, limits: LimitFile) -> set[str]:
    """The engines of a run that a limits file was written for. Raises ``UsageError`` when there is none: it would judge nothing."""
    profiles = {cell.engine: cell.profile for cell in view.cells}
    model = view.fingerprint.model if view.fingerprint else {}
    kind = {Mode.FULL: "hardware", Mode.ATTACH: "hardware", Mode.REHEARSAL: "rehearsal", Mode.LAB: "lab"}.get(view.header.mode, "")
    found, problems = set(), []
    for label in view.header.engines:
        names = (view.header.model, *model.values())
        wrong = limits.unfit(engine=label.partition(":")[0], profile=profiles.get(label, ""), model=names, kind=kind)
        problems += wrong
        if not wrong:
            found.add(label)
    if not found and problems:
        raise UsageError("\n".join(f"limits {limits.name!r}: {problem}" for problem in dict.fromkeys(problems)))
    return found


WITHOUT_LIMIT = frozenset({CHECK.format(metric="limit"), CHECK.format(metric="recorded")})
"""Verdicts that say that a cell had no limit: with new limits they are replaced by what these say."""


def cell_key(cell: CellRow) -> tuple[str, str]:
    """Engine and cell name: how a verdict's details refer to a cell."""
    return cell.engine, cell.name


def _verdict_key(verdict: Verdict) -> tuple[str, str]:
    """The cell a figure's verdict is about (only the figures themselves are judged again, not a cell's sanity checks)."""
    if metric_figure(verdict.check.removeprefix(CHECK.format(metric=""))) is None:
        return "", ""
    return str(verdict.details.get("engine", "")), str(verdict.details.get("cell", ""))


def _unmet(view: RunView, limits: LimitFile) -> list[Verdict]:
    """Limits whose cell was never measured: they hide a fault as well as a cell without a limit does."""
    mine = engines_of(view, limits)
    missing = coverage((cell.name for cell in view.cells if cell.engine in mine), limits).without_cell
    if not missing:
        return []
    return [
        Say(CHECK.format(metric="coverage"), "Every limit has a measured cell", limits.name).plain(
            Status.UNKNOWN,
            ", ".join(missing),
            action="run these cells, or take their rows out of the limits file",
            measured=len(missing),
            unit="limits without a cell",
        )
    ]


def again(verdict: Verdict, limit: Limit | None = None) -> Verdict:
    """Judge a recorded verdict by its own limit or another one, without undoing what the limit alone did not decide.

    Sanity, noise and warnings are facts beyond the limit: where the recorded limit gives another outcome than was recorded, a
    blocking outcome stays, and any other one can only become worse.
    """
    own = rejudge(verdict)
    if own.status is verdict.status or verdict.limit is None:
        return rejudge(verdict, limit)
    if verdict.status.blocks or limit is None:
        return verdict
    other = rejudge(verdict, limit)
    return other if other.status.rank > verdict.status.rank else verdict.model_copy(update={"limit": limit})


def _with_figure(verdict: Verdict, cell: CellRow) -> Verdict:
    """The verdict about the derived figure instead of the recorded one; they differ by rounding at most."""
    value = cell.figure(verdict.check.removeprefix(CHECK.format(metric="")))
    return verdict.model_copy(update={"measured": value}) if value is not None else verdict


def folder_verdicts(view: RunView) -> list[Verdict]:
    """What the folder itself says: complete, whole, unchanged. Empty when all of that holds."""
    problems = []
    if not view.complete:
        problems.append(view.decision.reason)
    problems += view.damage
    problems += verify_evidence(view.path) if view.complete else []
    if not problems:
        return []
    return [
        Say("environment.recorded_evidence", "The recorded evidence is whole and unchanged", view.header.run).plain(
            Status.UNKNOWN,
            "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""),
            action="replay the original folder, or run again",
            measured=len(problems),
            unit="problems",
        )
    ]


# ---------------------------------------------------------------- figures from per-request files


def replay_cells(view: RunView, limits: LimitFile | None = None) -> list[CellRow]:
    """The cells for the report of a replay: figures derived again, held against ``limits`` when given."""
    found = []
    for cell in merge_repeats(view.cells):
        derived, problem = recompute(cell, view.path, limits.percentiles if limits is not None else ())
        if problem:
            derived = derived.model_copy(update={"status": Status.UNKNOWN, "reason": problem})
        elif limits is not None and cell.engine in engines_of(view, limits):
            status = worst(v.status for v in judge_cell(derived, limits, str(view.path)))
            derived = derived.model_copy(update={"limits": limits.cell(cell.name), "status": status})
        found.append(derived)
    return found


def recompute(cell: CellRow, folder: Path, percents: Iterable[float] = ()) -> tuple[CellRow, str]:
    """The cell with its figures derived from its recorded requests, and what is wrong with them ("" when nothing is). ``percents``:
    percentiles that are wanted although the run had no limit for them.


    A cell without a file, or a file without requests, comes back as recorded.
    """
    if not cell.file:
        return cell, ""
    try:
        requests = read_requests(requests_file(folder / cell.file))
    except MeasurementError as error:
        return cell, str(error)
    derived = figures(requests)
    wanted = {*percents}
    known = {percent for metric in cell.more if (percent := percentile_of(metric)) is not None}
    found = percentiles(requests, {*known, *wanted})
    more = {metric: value for metric, value in found.items() if metric in cell.more or percentile_of(metric) in wanted}
    for metric, value in (*derived.items(), *more.items()):
        recorded = cell.figure(metric)
        if recorded is not None and not math.isclose(recorded, value, rel_tol=TOLERANCE):
            return cell, f"{cell.file}: {metric} is {value:.4g} by its requests but {recorded:.4g} was recorded"
    return (cell.model_copy(update={**derived, "more": {**cell.more, **more}}) if derived else cell), ""


def requests_of(cell: CellRow, folder: Path) -> bool:
    """Whether the folder has the requests of a cell."""
    try:
        return bool(cell.file and read_requests(requests_file(folder / cell.file)))
    except MeasurementError:
        return False
