"""Runs one fault of the rehearsal as a user would: a pytest of its own, and reads what it wrote down."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest_h20.acceptance
from pytest_h20.core.verdict import Verdict
from tests.plugin.warm import warm

ACCEPTANCE = Path(pytest_h20.acceptance.__file__).parent
MODULES = {
    "rdma": ("test_nccl_rdma.py",),
    "throughput": tuple(f"test_throughput.py::test_{name}" for name in ("throughput[in128-out128-c200]", "answers", "after_load")),
    "matrix": tuple(f"test_throughput.py::test_{name}" for name in ("throughput", "answers", "after_load")),
    "overload": ("test_throughput.py::test_overload",),
    "shapes": ("test_throughput.py::test_shapes",),
    "long": ("test_throughput.py::test_long_work",),
    "drafts": ("test_throughput.py::test_drafts",),
    "chat": ("test_throughput.py::test_chat_route",),
    "replicas": ("test_throughput.py::test_replicas",),
}
"""Modules and tests of a gate, where they are not ``test_<gate>.py``. Most faults under load show in the heaviest cell; the whole
matrix, and the cells after it, are run for the faults that need them."""
MEASURED = {"throughput", "matrix", "drill", "overload", "shapes", "chat", "long", "replicas"}
RED = ("fail", "unknown")
TOO_BUSY = "this machine is too busy to measure"
"""What a rehearsal says of a figure for which its own stand-in was late: nothing about the suite, and nothing about a fault."""
ALL_GATES = ("environment", "fabric", "weights", "compute", "bringup", "rdma", "endpoint", "reasoning", "answers", "throughput")

# What a run of the suite does not need; each of these costs start-up time in every one of some hundred runs.
_QUICK = (
    "no:cacheprovider",
    "no:html",
    "no:metadata",
    "no:hypothesispytest",
    "no:anyio",
    "no:randomly",
    "no:xdist",
    "no:flask",
    "no:django",
)


@dataclass(frozen=True)
class Ended:
    """A run that ended. ``left``: processes of its rehearsal that are still there."""

    status: int
    output: str
    run: Path
    left: tuple[str, ...]

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """``verdict.json``."""
        data: dict[str, Any] = json.loads((self.run / "verdict.json").read_text(encoding="utf-8"))
        return data

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Every check of the run."""
        return list(self.verdict["checks"])

    @property
    def red(self) -> set[str]:
        """Ids of the checks that are FAIL or UNKNOWN."""
        return {c["check"] for c in self.checks if c["status"] in RED}

    def said(self) -> str:
        """What a person reads of everything red: what, measured against what, why, and what to do next."""
        red = [Verdict.model_validate({k: v for k, v in c.items() if k in Verdict.model_fields}) for c in self.checks]
        return "\n".join(v.text() for v in red if v.status.blocks)

    def difference(self, red: Collection[str]) -> str:
        """In which checks this run differs from what was announced. Empty: it does not."""
        judged = {c["check"] for c in self.checks if c["status"] in RED and not (c["status"] == "unknown" and TOO_BUSY in c["reason"])}
        quiet, loud = sorted(set(red) - self.red), sorted(judged - set(red))
        parts = (f"not red: {', '.join(quiet)}" if quiet else "", f"red all the same: {', '.join(loud)}" if loud else "")
        return "; ".join(filter(None, parts))

    def recorded(self) -> set[str]:
        """Ids of every check that passed, warned or failed: not those that were skipped."""
        return {c["check"] for c in self.checks if c["status"] != "skip"}


def paths_of(gates: Sequence[str]) -> list[str]:
    """The acceptance modules of these gates."""
    return [str(ACCEPTANCE / place) for gate in gates for place in MODULES.get(gate, (f"test_{gate}.py",))]


def run(
    folder: Path,
    *,
    engine: str = "sglang",
    scenario: str = "quick",
    faults: Sequence[str] = (),
    gates: Sequence[str] = (),
    options: Sequence[str] = (),
    timeout: float = 300.0,
) -> Ended:
    """One run of the suite (of these gates, by default all) against the rehearsal, in a process of its own."""
    argv = ["-q", "--assert=plain", "--rootdir", str(folder)]
    argv += [word for name in _QUICK for word in ("-p", name)]
    argv += [f"--engine={engine}", f"--nodes=rehearsal:{scenario}{_speed(scenario, gates)}"]
    argv += [f"--h20-run-dir={folder / 'runs'}", "--h20-history=none"]
    argv += [f"--h20-fault={name}" for name in faults]
    argv += [*options, *paths_of(gates)]
    status, output = warm().pytest(argv, folder, timeout)
    runs = sorted((folder / "runs").glob("2*")) if (folder / "runs").exists() else []
    assert len(runs) == 1, f"no run folder; exit status {status}\n{output}"
    return Ended(status, output, runs[0], left_over(folder))


def _speed(scenario: str, gates: Sequence[str]) -> str:
    """Faults of the throughput and of drills are measured at the scenario's own speed, everything else as fast as the machine can."""
    if "@" in scenario or MEASURED & set(gates):
        return ""
    return "@200" if gates else "@60"


def left_over(folder: Path) -> tuple[str, ...]:
    """Command lines of processes that name this folder: actors that outlived their run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in text and "rehearsal" in text and int(entry.name) != os.getpid():
            found.append(f"{entry.name} {text}")
    return tuple(found)
