"""``python -m pytest_h20 soak RUN``: judge the bins that a soak left, also one that was killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.checks.soak.judge import Wanted, drift, read_bins, series_of
from pytest_h20.checks.soak.trend import FEWEST
from pytest_h20.cli import command_parser
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.lang import say


def main(argv: Sequence[str]) -> int:
    """Print a line per figure. 0: nothing is red, 1: something is, or too little is there to say anything."""
    parser = command_parser("soak", __doc__)
    parser.add_argument("run", type=Path, help="a run folder, or a soak.jsonl of one")
    parser.add_argument("--slope", type=float, metavar="PERCENT", help="%%/h that must have been visible (default: what the time allows)")
    args = parser.parse_args(argv)
    files = [args.run] if args.run.is_file() else sorted(args.run.glob("load/*/soak.jsonl"))
    if not files:
        raise UsageError(f"{args.run}: no load/ENGINE/soak.jsonl in it; give the folder of a run with --h20-soak")
    red = False
    for file in files:
        red |= _judge(file, args.slope)
    return 1 if red else 0


def _judge(file: Path, slope: float | None) -> bool:
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        asked, bins = read_bins(lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: cannot be read as the bins of a soak: {type(error).__name__}: {error}") from None
    seen = bins[-1].hours if bins else 0.0
    requests, failed = sum(b.complete for b in bins), sum(b.failed for b in bins)
    say(f"{file}: {len(bins)} bins, {60 * seen:.1f} of {60 * asked:g} min; {requests} requests answered, {failed} failed")
    if len(bins) < FEWEST:
        say(f"  could not measure: a slope takes {FEWEST} bins")
        return True
    verdicts = [drift(series, Wanted(asked, slope), file.parent.name) for series in series_of(bins, asked)]
    for v in verdicts:
        say(f"  {v.status.value:7} {v.subject}: {v.reason or v.details.get('said')}")
    return any(v.status in (Status.FAIL, Status.UNKNOWN) for v in verdicts)
