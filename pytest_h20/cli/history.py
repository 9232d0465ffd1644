"""``python -m pytest_h20 history``: earlier runs and their trend, in the terminal and as a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.cli import positive
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.lang import labelled, local, say, told
from pytest_h20.lang.arguments import Parser
from pytest_h20.report.history import DEFAULT_FILE, History, PastRun, Point, add_folder, lines_of
from pytest_h20.report.live.lines import padded


def main(argv: Sequence[str]) -> int:
    """List runs. 0: done; 2: the input cannot be used."""
    args = _parser().parse_args(list(argv))
    runs = Path(args.runs)
    try:
        if not runs.is_dir() and args.store and "://" not in args.store and not Path(args.store).is_file():
            raise UsageError(f"{args.store}: no such store, and no folder {runs} to fill it from; give --runs")
        history = History(args.store or runs / DEFAULT_FILE)
        if runs.is_dir():
            _, problems = add_folder(history, runs)
            for problem in problems:
                say(f"history: left out: {problem}", sys.stderr)
        elif not args.store:
            raise UsageError(f"{runs}: no such folder; give --runs, or --store for a store elsewhere")
        entries = history.runs(name=args.name, engine=args.engine, stand_ins=args.all, limit=args.limit)
        trends = _trends(history, entries, args.cell, args.all)
        for line in _lines(entries, trends):
            print(line)
        if args.html:
            from pytest_h20.report.html.history import history_part
            from pytest_h20.report.html.page import page

            _write(Path(args.html), page("History", history_part(entries, trends)))
            say(f"page: {args.html}")
    except H20Error as error:
        print(told(f"history: {error}"), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m pytest_h20 history", description="Earlier runs, newest first, and how their figures moved.")
    parser.add_argument("--runs", metavar="DIR", default="h20-runs", help="folder of run folders, read in first (h20-runs)")
    parser.add_argument("--store", metavar="FILE_OR_URL", help=f"SQLite file or SQLAlchemy URL (default: {DEFAULT_FILE} in --runs)")
    parser.add_argument("--name", default="", help="only runs on this inventory")
    parser.add_argument("--engine", default="", help="only runs with this engine")
    parser.add_argument("--cell", metavar="CELL", help="show the trend of this cell, for example in128-out128-c64")
    parser.add_argument("--all", action="store_true", help="rehearsals, labs, plans and replays too")
    parser.add_argument("--limit", type=positive, default=50, help="at most this many runs (50)")
    parser.add_argument("--html", metavar="FILE", help="also write a page")
    return parser


def _trends(history: History, entries: Sequence[PastRun], cell: str | None, stand_ins: bool) -> dict[str, list[Point]]:
    engines = dict.fromkeys(engine for entry in entries for engine in entry.engines)
    shown = {entry.run for entry in entries}
    found = {}
    for engine in engines:
        for name in history.cells(engine):
            if cell and name != cell:
                continue
            points = [p for p in history.trend(engine, name, stand_ins=stand_ins) if p.run in shown]
            for line, same in lines_of(points).items():
                found[f"{engine} {name}" + (f" [{line}]" if line else "")] = same
    if cell and not found:
        raise UsageError(f"--cell {cell}: no run listed here has measured it; cells are written like in128-out128-c64")
    return found


def _lines(entries: Sequence[PastRun], trends: dict[str, list[Point]]) -> list[str]:
    if not entries:
        return [local("no run on hardware is recorded yet (rehearsals and lab runs are listed with --all)")]
    lines = []
    for entry in entries:
        state = "accepted" if entry.accepted else "green, no acceptance" if entry.green else "not accepted"
        said = local(state) if entry.green else labelled(state, entry.reason)
        lines.append(
            f"{entry.started[:16].replace('T', ' ')}  {padded(local(f'{entry.mode} run'), 13)} {','.join(entry.engines):<12} {said}"
        )
        lines.append(f"{'':18}{entry.run}")
    moved = [(name, points) for name, points in trends.items() if len(points) > 1]
    if moved:
        lines += ["", f"{local('output throughput'):<32} {local('first'):>9} {local('last'):>9}   {local('change')}"]
    for name, points in moved:
        first, last = points[0].value, points[-1].value
        lines.append(f"{name:<32} {first:>9.1f} {last:>9.1f}  {100 * (last / first - 1):+6.1f} %  " + local(f"over {len(points)} runs"))
    return lines


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error}") from None
