"""A run as OpenMetrics and as CTRF, read back by the readers that others use."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from pytest_h20.__main__ import main
from pytest_h20.core.verdict import Status
from pytest_h20.report.export import CTRF_STATUS, ctrf, openmetrics
from pytest_h20.report.model import CellRow, Mode, RunView
from pytest_h20.report.run import load_run
from tests.unit.report import samples

_TEST = {
    "type": "object",
    "required": ["name", "status", "duration"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "status": {"enum": ["passed", "failed", "skipped", "pending", "other"]},
        "rawStatus": {"type": "string"},
        "duration": {"type": "integer"},
        "suite": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "message": {"type": "string"},
        "extra": {"type": "object"},
    },
    "additionalProperties": False,
}
_COUNTS = ("tests", "passed", "failed", "skipped", "pending", "other", "start", "stop")
SCHEMA = {
    "type": "object",
    "required": ["results", "reportFormat", "specVersion"],
    "properties": {
        "reportFormat": {"const": "CTRF"},
        "specVersion": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "generatedBy": {"type": "string"},
        "results": {
            "type": "object",
            "required": ["tool", "summary", "tests"],
            "properties": {
                "tool": {"type": "object", "required": ["name"]},
                "summary": {
                    "type": "object",
                    "required": list(_COUNTS),
                    "properties": {**{name: {"type": "integer"} for name in _COUNTS}, "extra": {"type": "object"}},
                    "additionalProperties": False,
                },
                "tests": {"type": "array", "items": _TEST},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
"""What CTRF demands of the parts that we write (github.com/ctrf-io/ctrf, schema/ctrf.schema.json, read 2026-11)."""


@pytest.fixture(params=["clean", "faulty", "aborted", "two_engines", "rehearsal", "killed"])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> RunView:
    made: RunView = getattr(samples, request.param)(tmp_path)
    return load_run(made.path)


def _values(text: str) -> dict[tuple[str, str], float]:
    """Name and gate, cell or check -> value."""
    families = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {
        (s.name, " ".join(v for k, v in s.labels.items() if k in ("engine", "gate", "cell", "check", "subject", "status"))): s.value
        for family in families
        for s in family.samples
    }


def test_both_readers_of_metrics_read_every_run(view: RunView) -> None:
    text = openmetrics(view)
    found = _values(text)
    older = {s.name for family in text_string_to_metric_families(text) for s in family.samples}
    assert {name for name, _ in found} == older
    assert found[("h20_accepted", "")] == float(view.decision.accepted and view.complete and not view.header.obstacles)
    assert found[("h20_complete", "")] == float(view.complete)
    for gate in view.decision.gates:
        assert found[("h20_gate_holds", f"{gate.name.value} {gate.status.value}")] == float(not gate.status.blocks)
    assert sum(v for (name, _), v in found.items() if name == "h20_checks") == len(view.checks)


def test_figures_are_in_base_units(tmp_path: Path) -> None:
    view = samples.clean(tmp_path)
    found, cell = _values(openmetrics(view)), view.cells[0]
    assert cell.mean_ttft_ms is not None
    where = f"{cell.engine} {cell.name}"
    assert found[("h20_cell_mean_ttft_seconds", where)] == pytest.approx(cell.mean_ttft_ms / 1000)
    assert found[("h20_cell_output_tokens_per_second", where)] == cell.output_throughput
    assert found[("h20_cell_holds", where)] == 1.0


def test_odd_text_and_twins_do_not_break_the_metrics(tmp_path: Path) -> None:
    """A name with quotes, backslashes and line ends; the same cell twice, which in one exposition is an error."""
    view = samples.clean(tmp_path)
    cell = CellRow(engine='s"g\\l\nang', input_len=1, output_len=1, concurrency=1, output_throughput=1.5, status=Status.PASS)
    odd = view.model_copy(update={"cells": (cell, cell), "header": view.header.model_copy(update={"name": 'a"b\\c\nd'})})
    found = _values(openmetrics(odd))
    assert found[("h20_cell_output_tokens_per_second", f"{cell.engine} {cell.name}")] == 1.5


def test_ctrf_is_valid_and_counts_what_blocks_as_failed(view: RunView) -> None:
    document = ctrf(view)
    jsonschema.validate(document, SCHEMA)
    summary, tests = document["results"]["summary"], document["results"]["tests"]
    assert summary["tests"] == len(tests) == len(view.checks) + len(view.setup_errors)
    assert summary["failed"] == sum(c.status.blocks for c in view.checks) + len(view.setup_errors)
    assert summary["failed"] == sum(bool(t.get("message")) for t in tests if t["status"] == "failed")
    assert summary["extra"]["accepted"] is (view.decision.accepted and not view.header.obstacles)
    assert set(CTRF_STATUS) == set(Status)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = samples.clean(tmp_path, mode=Mode.FULL).path
    assert main(["export", str(run), "--format", "openmetrics"]) == 0
    assert capsys.readouterr().out.endswith("# EOF\n")
    out = tmp_path / "run.ctrf.json"
    assert main(["export", str(run), "--format", "ctrf", "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["reportFormat"] == "CTRF"
    assert main(["export", str(run), "--format", "ctrf", "--out", str(tmp_path / "no" / "x")]) == 2
    assert "a folder that exists" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), "--format", "ctrf"]) == 2
