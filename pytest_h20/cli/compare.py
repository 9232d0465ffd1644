"""``python -m pytest_h20 compare OLD NEW``: run against run, in the terminal and as a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.lang import say, told
from pytest_h20.lang.arguments import Parser
from pytest_h20.report.compare import Comparison, Side, compare, side, text
from pytest_h20.report.model import RunView
from pytest_h20.report.run import load_run

LAST = "last-accepted"


def main(argv: Sequence[str]) -> int:
    """Compare two runs. 0: compared; 1: with ``--fail-on-drop``, something is worse or missing; 2: the input cannot be used."""
    args = _parser().parse_args(list(argv))
    try:
        result = _compare(args)
        for line in text(result):
            say(line)
        if args.html:
            from pytest_h20.report.html.page import comparison_page

            _write(Path(args.html), comparison_page(result))
            say(f"page: {args.html}")
    except H20Error as error:
        print(told(f"compare: {error}"), file=sys.stderr)
        return 2
    return 1 if args.fail_on_drop and result.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m pytest_h20 compare",
        description="Hold one run against another: engine and engine, image and image, today and the last accepted one.",
        epilog="A run is its folder below h20-runs/. RUN@ENGINE takes one engine of a run that has several. One run with two "
        f"engines compares these. '{LAST}' as OLD is the newest accepted run beside NEW.",
    )
    parser.add_argument("old", metavar="OLD", help=f"run folder, RUN@ENGINE, or {LAST}")
    parser.add_argument("new", metavar="NEW", nargs="?", help="run folder or RUN@ENGINE")
    parser.add_argument("--html", metavar="FILE", help="also write a page")
    parser.add_argument("--spread", metavar="PERCENT", type=float, help="run-to-run spread of your cluster in percent (from a calibration)")
    parser.add_argument(
        "--fail-on-drop",
        action="store_true",
        help="exit status 1 when NEW is worse beyond noise, lacks a cell or a gate, failed one, or cannot be trusted",
    )
    return parser


def _compare(args: argparse.Namespace) -> Comparison:
    if args.spread is not None and not 0 <= args.spread < 100:
        raise UsageError(f"--spread {args.spread:g}: a percentage from 0 to below 100 is needed, for example 1.5")
    spread = None if args.spread is None else args.spread / 100
    if args.new is None:
        old, new = _engines(args.old)
    else:
        old = _last_accepted(args.new) if args.old == LAST else _side(args.old)
        new = _side(args.new)
    return compare(old, new, run_spread=spread)


def _engines(run: str) -> tuple[Side, Side]:
    """The two engines of one run."""
    view, _ = _open(run)
    if len(view.header.engines) != 2:
        names = ", ".join(view.header.engines) or "none"
        raise UsageError(f"{run}: one run alone can be compared when it has two engines; it has {names}; give a second run")
    first, second = view.header.engines
    return side(view, first), side(view, second)


def _side(name: str) -> Side:
    view, engine = _open(name)
    return side(view, engine)


def _open(name: str) -> tuple[RunView, str | None]:
    """``RUN`` or ``RUN@ENGINE``. An existing path wins, so that an ``@`` in a folder's name does no harm."""
    if Path(name).exists():
        return load_run(Path(name)), None
    run, _, engine = name.rpartition("@")
    if run:
        return load_run(Path(run)), engine
    return load_run(Path(name)), None


def _last_accepted(name: str) -> Side:
    """The newest accepted run that began before NEW, in the same folder, with the same engine."""
    view, engine = _open(name)
    wanted = engine or (view.header.engines[0] if len(view.header.engines) == 1 else None)
    folder = view.path.resolve().parent
    for path in sorted((p.parent for p in folder.glob("*/verdict.json")), reverse=True):
        if path.name == view.path.resolve().name:
            continue
        try:
            other = load_run(path)
        except UsageError:
            continue  # a folder that is no run of ours cannot be the last accepted one
        earlier = other.header.started and view.header.started and other.header.started < view.header.started
        if other.decision.accepted and earlier and (wanted is None or wanted in other.header.engines):
            return side(other, wanted)
    raise UsageError(f"{folder}: no accepted run before {view.header.run} was found; name the run to compare with")


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error}") from None
