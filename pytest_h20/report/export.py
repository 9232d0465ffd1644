"""A run in the words of other tools: OpenMetrics for a monitoring system, CTRF for whatever gathers test results. Pure.

The metrics are gauges only and carry no ``UNIT`` lines, so that the text is OpenMetrics and, with the same meaning, the older Prometheus
text that node_exporter's textfile collector reads (it refuses the types that OpenMetrics added).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pytest_h20 import __version__
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.report.model import CellRow, CheckRow, RunView, SetupError
from pytest_h20.report.terminal import verdict_words

CTRF_VERSION = "0.0.0"
"""``specVersion`` of github.com/ctrf-io/ctrf, schema/ctrf.schema.json."""

CTRF_STATUS = {Status.PASS: "passed", Status.WARN: "passed", Status.FAIL: "failed", Status.UNKNOWN: "failed", Status.SKIP: "skipped"}
"""Could not measure is no "other": who counts failures must not miss it. The word of ours stands in ``rawStatus``."""


@dataclass(frozen=True)
class Metric:
    """A metric family: its name without prefix, what it is, and its samples (labels -> value)."""

    name: str
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def openmetrics(view: RunView) -> str:
    """The text of a run, ended by ``# EOF``. Every sample has the label ``inventory``, so that clusters can be told apart."""
    lines = []
    for metric in _metrics(view):
        if metric.samples:
            lines += [f"# TYPE h20_{metric.name} gauge", f"# HELP h20_{metric.name} {_escaped(metric.help)}"]
        for labels, value in metric.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in {"inventory": view.header.name, **labels}.items())
            lines.append(f"h20_{metric.name}{{{told}}} {value!r}")
    return "\n".join((*lines, "# EOF")) + "\n"


def _metrics(view: RunView) -> Iterator[Metric]:
    header, decision = view.header, view.decision
    about = {"run": view.path.name, "mode": header.mode.value, "engines": "+".join(header.engines), "plugin_version": header.plugin_version}
    yield Metric("run_info", "The newest run that was exported", ((about, 1.0),))
    accepted = decision.accepted and view.complete and not header.obstacles
    yield Metric("accepted", "1: accepted, perhaps under conditions", (({"conditions": str(len(header.conditions))}, float(accepted)),))
    yield Metric("green", "1: every required gate holds, which of a rehearsal is no acceptance", (({}, float(decision.green)),))
    yield Metric("complete", "1: the run came to its end", (({}, float(view.complete)),))
    if header.ended is not None:
        yield Metric("ended_timestamp_seconds", "When the run ended, Unix time", (({}, header.ended.timestamp()),))
    gates = tuple(({"gate": g.name.value, "status": g.status.value}, float(not g.status.blocks)) for g in decision.gates)
    yield Metric("gate_holds", "1: no check of the gate failed or could not be measured", gates)
    counted = sorted(Counter((c.gate.value, c.status.value) for c in view.checks).items())
    yield Metric("checks", "Checks by gate and status", tuple(({"gate": g, "status": s}, float(n)) for (g, s), n in counted))
    yield Metric("check_measured", "What a check measured, in the unit of its label", _last(_measured(view.checks)))
    cells = [cell for cell in view.cells if cell.output_throughput is not None]
    for name, what, scale, metric in CELL_METRICS:
        found = [(_of_cell(cell), value * scale) for cell in cells if (value := cell.figure(metric)) is not None]
        yield Metric(f"cell_{name}", what, _last(found))
    yield Metric(
        "cell_holds",
        "1: the cell was measured and is within its limits",
        _last((_of_cell(c), float(c.status.value == "pass")) for c in view.cells),
    )


CELL_METRICS = (
    ("output_tokens_per_second", "Output tokens per second of all streams together", 1.0, "output_throughput"),
    ("mean_ttft_seconds", "Mean time to first token", 1e-3, "mean_ttft_ms"),
    ("p99_ttft_seconds", "99th percentile of the time to first token", 1e-3, "p99_ttft_ms"),
    ("mean_tpot_seconds", "Mean time per output token after the first", 1e-3, "mean_tpot_ms"),
    ("p99_itl_seconds", "99th percentile of the time between tokens", 1e-3, "p99_itl_ms"),
)
"""Name, meaning, what the figure is multiplied with to be in base units, and its name in a cell."""


def _of_cell(cell: CellRow) -> dict[str, str]:
    return {"engine": cell.engine, "profile": cell.profile, "cell": cell.name, "concurrency": str(cell.concurrency)}


def _measured(checks: Iterable[CheckRow]) -> Iterator[tuple[Mapping[str, str], float]]:
    for check in checks:
        if isinstance(check.measured, int | float):
            unit = check.unit or (check.limit.unit if check.limit is not None else "")
            labels = {"gate": check.gate.value, "check": check.check, "subject": check.subject, "unit": unit}
            yield labels, float(check.measured)


def _last(samples: Iterable[tuple[Mapping[str, str], float]]) -> tuple[tuple[Mapping[str, str], float], ...]:
    """One sample per set of labels, the last: two of the same would make the whole text invalid."""
    return tuple({tuple(labels.items()): (labels, value) for labels, value in samples}.values())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def ctrf(view: RunView) -> dict[str, Any]:
    """A CTRF document: one test per verdict, and one per set-up that broke."""
    tests = [_ctrf_test(check) for check in view.checks]
    tests += [_ctrf_broken(error) for error in view.setup_errors]
    counts = Counter(test["status"] for test in tests)
    header = view.header
    return {
        "reportFormat": "CTRF",
        "specVersion": CTRF_VERSION,
        "generatedBy": f"pytest-h20 {__version__}",
        "results": {
            "tool": {"name": "pytest-h20", "version": header.plugin_version or __version__},
            "summary": {
                "tests": len(tests),
                **{status: counts[status] for status in ("passed", "failed", "skipped", "pending", "other")},
                "start": _milliseconds(header.started),
                "stop": _milliseconds(header.ended),
                "extra": {
                    "decision": verdict_words(view),
                    "accepted": view.decision.accepted and not header.obstacles,
                    "reason": view.decision.reason,
                    "run": view.path.name,
                    "inventory": header.name,
                    "mode": header.mode.value,
                    "obstacles": list(header.obstacles),
                    "conditions": list(header.conditions),
                },
            },
            "tests": tests,
        },
    }


def _ctrf_test(check: CheckRow) -> dict[str, Any]:
    limit = check.limit
    extra = {
        "measured": check.measured,
        "unit": check.unit or (limit.unit if limit is not None else ""),
        "limit": "" if limit is None else str(limit),
        "origin": "" if limit is None else str(limit.origin),
        "evidence": list(check.evidence),
    }
    verdict: Verdict = check
    return {
        "name": f"{check.check} {check.subject}".strip(),
        "status": CTRF_STATUS[check.status],
        "rawStatus": check.status.value,
        "duration": round(1000 * (check.duration_s or 0.0)),
        "suite": ["h20", check.gate.value],
        **({"message": verdict.text()} if check.status.blocks or check.status is Status.WARN else {}),
        "extra": {key: value for key, value in extra.items() if value not in (None, "", [])},
    }


def _ctrf_broken(error: SetupError) -> dict[str, Any]:
    told = "\n".join(filter(None, (error.title, error.cause, error.fix)))
    return {"name": error.test_id or error.title, "status": "failed", "rawStatus": error.words, "duration": 0, "message": told}


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else round(1000 * moment.timestamp())
