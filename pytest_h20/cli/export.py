"""``python -m pytest_h20 export RUN --format FORMAT``: a run in the words of other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_h20.core.errors import UsageError
from pytest_h20.lang.arguments import Parser
from pytest_h20.report.export import ctrf, openmetrics
from pytest_h20.report.model import RunView
from pytest_h20.report.run import load_run

FORMATS: dict[str, Callable[[RunView], str]] = {
    "openmetrics": openmetrics,
    "ctrf": lambda view: json.dumps(ctrf(view), ensure_ascii=False, indent=2, sort_keys=True) + "\n",
}


def main(argv: Sequence[str]) -> int:
    """Write one run. 0: written, whatever was decided; 2: the run cannot be read or the file cannot be written."""
    parser = Parser(
        prog="python -m pytest_h20 export",
        description="Write a run as OpenMetrics text (for Prometheus' textfile collector or a push gateway) or as CTRF JSON. A killed run "
        "can be exported, too: it says that it is not complete.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder below h20-runs/")
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write, in one step (default: standard output)")
    args = parser.parse_args(list(argv))
    text = FORMATS[args.format](load_run(args.run))
    if args.out is None:
        print(text, end="")
        return 0
    new = args.out.with_name(f".{args.out.name}.{os.getpid()}")  # no collector may read half a file
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(args.out)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(f"{args.out}: cannot be written: {error.strerror or error}; give --out a file in a folder that exists") from None
    return 0
