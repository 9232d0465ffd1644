"""The same core inside a node's container, next to the engine, so that the link to the controller is not measured.

`bundle()` is a zip archive that any Python >= 3.8 runs as it is (`python3 bundle.pyz`): the standard-library core of
this package and nothing else. The caller carries it there, runs `argv(path)` with the bytes of `job()` on standard
input, and reads standard output with `parse_output`.

    data = bundle();  transport.put(data, "/tmp/h20-load.pyz")
    out = transport.run(argv("/tmp/h20-load.pyz"), stdin=job(target, cell, plan))
    result = parse_output(out.stdout)
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable
from typing import Any

from pytest_h20.core.errors import H20Error, MeasurementError, UsageError
from pytest_h20.load.cells import Cell
from pytest_h20.load.plan import LoadPlan
from pytest_h20.load.result import CellResult
from pytest_h20.load.share import ShareJob
from pytest_h20.load.target import Target

MODULES = (
    "__init__",
    "arrivals",
    "canary",
    "cells",
    "clock",
    "dialects",
    "histogram",
    "http1",
    "loop",
    "metrics",
    "plan",
    "poller",
    "prompts",
    "reference",
    "remote",
    "result",
    "run",
    "sanity",
    "selfcheck",
    "selfcheck_types",
    "server_metrics",
    "share",
    "target",
    "wire",
)
_MARK = "H20-LOAD "
"""Begins every line of ours on standard output; containers print other things too."""
_MAIN = "import sys\nfrom pytest_h20.load.remote import main\nsys.exit(main())\n"


def bundle() -> bytes:
    """The self-contained archive. The same sources give the same bytes."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        names = ["__init__.py", "core/__init__.py", "core/errors.py", *(f"load/{module}.py" for module in MODULES)]
        for name in names:
            with open(os.path.join(package, *name.split("/")), encoding="utf-8") as file:
                _add(archive, f"pytest_h20/{name}", file.read())
        _add(archive, "__main__.py", _MAIN)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    info = zipfile.ZipInfo(name, (2025, 4, 5, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, text)


def argv(path: str, python: str = "python3") -> list[str]:
    """The command that runs the bundle lying at `path` on the node; the job goes to its standard input."""
    return [python, "-u", path]


def job(target: Target, cell: Cell, plan: LoadPlan, selfcheck: bool = False) -> bytes:
    """Standard input of the command. `selfcheck`: check the client there, at the cell's concurrency, before the cell.

    Holds the target's headers: keep it out of command lines and logs.
    """
    return (json.dumps({"job": ShareJob(target, cell, plan).to_json(), "selfcheck": selfcheck}) + "\n").encode()


def parse_output(text: str) -> CellResult:
    """The result from the command's standard output. Raises MeasurementError when there is none, or what it says."""
    failure = ""
    for line in text.splitlines():
        if not line.startswith(_MARK):
            continue
        try:
            document = json.loads(line[len(_MARK) :])
        except (ValueError, RecursionError):
            continue
        if "result" in document:
            return CellResult.from_json(document["result"])
        failure = str(document.get("error") or failure)
    tail = " / ".join(line for line in text.splitlines()[-3:] if line.strip())
    raise MeasurementError(f"load generator on the node: {failure or 'no result'}" + (f" (it said: {tail})" if tail else ""))


def main() -> int:
    """Runs in the container. Exit status 0 with a result, 2 with an error line, 130 when interrupted."""
    from dataclasses import replace

    from pytest_h20.load.run import CellInterrupted, run_cell
    from pytest_h20.load.selfcheck import self_check

    def put(document: dict[str, Any]) -> None:
        sys.stdout.write(_MARK + json.dumps(document) + "\n")
        sys.stdout.flush()

    _on_terminate(lambda: signal.raise_signal(signal.SIGINT))
    try:
        try:
            document = json.loads(sys.stdin.readline())
            given = ShareJob.from_json(document["job"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"job on standard input: {type(error).__name__}: {error}") from None
        plan = given.plan
        if document.get("selfcheck"):
            plan = replace(plan, selfcheck=self_check(given.cell.concurrency, given.target.dialect, plan))
        put({"result": run_cell(given.target, given.cell, plan).to_json()})
    except CellInterrupted as stop:
        put({"result": stop.result.to_json()})
        return 130
    except KeyboardInterrupt:
        put({"error": "interrupted before the cell"})
        return 130
    except H20Error as error:
        put({"error": str(error)})
        return 2
    return 0


def _on_terminate(action: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: action())


if __name__ == "__main__":
    sys.exit(main())
