from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.core.redact import Redactor
from pytest_h20.core.verdict import GateName, Limit, Origin, Status, Verdict, decide, judge
from pytest_h20.report.handoff import BLOG_COLUMNS
from pytest_h20.report.model import CellRow, Fingerprint, LogTail, Mode, NodeColumn, SetupError, StateChange, Warning_
from pytest_h20.report.run import RunFolder, document, load_run, verify_evidence
from tests.unit.conftest import Sample

ENVIRONMENT = (GateName.ENVIRONMENT,)
SECRET = "hf_PlantedPlantedPlantedPlanted00"


def driver(value: str = "535.216.03", subject: str = "node01") -> Verdict:
    limit = Limit(kind="equal", value="535.216.03", origin=Origin(kind="inventory"))
    return judge("environment.driver", "NVIDIA driver", value, limit, subject=subject)


def make(base: Path, mode: Mode = Mode.FULL, **fields: Any) -> RunFolder:
    return RunFolder.create(base, "sglang", "h20 2node", mode, **{"required": ENVIRONMENT, **fields})


def test_the_folder_is_named_by_time_engine_and_name(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    assert first.path.name.endswith("Z-sglang-h20-2node")
    assert second.path != first.path


def test_a_started_run_says_that_it_is_incomplete(tmp_path: Path) -> None:
    run = make(tmp_path)
    data = json.loads((run.path / "verdict.json").read_text())
    assert data["complete"] is False
    assert data["accepted"] is False
    assert data["header"]["engines"] == ["sglang"]


def test_a_killed_run_is_readable_and_not_accepted(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record(driver(), "t::a", 1.5)
    with (run.path / "verdicts.jsonl").open("a") as file:
        file.write('{"time": "2026-0')
    view = load_run(run.path)
    assert not view.complete
    assert not view.decision.accepted
    assert view.decision.reason == "the run did not finish"
    assert [c.test_id for c in view.checks] == ["t::a"]
    assert view.damage == ("verdicts.jsonl:2: a line that is not JSON was left out",)


def test_a_finished_green_run_is_accepted(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record(driver())
    view = run.finish()
    assert view.complete
    assert view.decision.accepted
    assert view.header.ended is not None


@pytest.mark.parametrize("mode", [m for m in Mode if not m.can_accept])
def test_other_modes_are_never_accepted(tmp_path: Path, mode: Mode) -> None:
    run = make(tmp_path, mode)
    run.record(driver())
    view = run.finish()
    assert view.decision.green
    assert not view.decision.accepted
    assert document(view).accepted is False


@pytest.mark.parametrize("fields", [{"stood_in": ("GPU",)}, {"time_scale": 50.0}, {"cannot_accept": ("limits were not judged",)}], ids=str)
def test_obstacles_keep_a_full_run_from_acceptance(tmp_path: Path, fields: dict[str, Any]) -> None:
    run = make(tmp_path, **fields)
    run.record(driver())
    view = run.finish()
    assert view.decision.green
    assert not view.decision.accepted


def test_nothing_recorded_is_not_green(tmp_path: Path) -> None:
    view = make(tmp_path).finish()
    assert not view.decision.green
    assert [n.what for n in view.not_measured] == ["environment"]


def test_a_broken_set_up_is_never_green(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record(driver())
    run.add(SetupError(test_id="t::b", title="no SSH to node02"))
    view = run.finish()
    assert not view.decision.green
    assert "no SSH to node02" in view.decision.reason


def test_a_record_that_cannot_be_read_back_is_never_green(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record(driver())
    with (run.path / "verdicts.jsonl").open("a") as file:
        file.write('{"verdict": {"check": "environment.driver", "sta\n')
    view = run.finish()
    assert not view.decision.green
    assert "damaged" in view.decision.reason


def test_workers_and_controller_give_the_same_document(tmp_path: Path) -> None:
    verdicts = [driver(subject=f"node{i:02d}") for i in range(12)]
    alone = make(tmp_path / "a")
    for verdict in verdicts:
        alone.record(verdict, f"t[{verdict.subject}]")
    spread = make(tmp_path / "b")
    workers = [RunFolder.open(spread.path, f"gw{i}") for i in range(4)]
    for i, verdict in enumerate(reversed(verdicts)):
        workers[i % 4].record(verdict, f"t[{verdict.subject}]")
        spread.record(verdict, f"t[{verdict.subject}]")  # the controller hears of it as well
    one, many = document(alone.finish()), document(spread.finish())
    assert one.checks == many.checks
    assert one.gates == many.gates


def test_what_was_made_first_is_the_reason_of_its_gate(tmp_path: Path) -> None:
    run = make(tmp_path)
    for name in ("names", "equal"):  # a shard is missing, and so the nodes differ
        said = Verdict(check=f"weights.{name}", status=Status.FAIL, title=name, subject="node01", reason=f"{name} is wrong")
        run.record(said, f"t::{name}")
        run.record(said.model_copy(update={"subject": "node02"}), f"t::{name}2")
    view = run.view()
    assert [c.check for c in view.checks] == ["weights.names"] * 2 + ["weights.equal"] * 2
    assert next(g for g in decide(view.verdicts, ()).gates if g.name.value == "weights").reason == "node01: names is wrong"


def test_subjects_are_in_natural_order(tmp_path: Path) -> None:
    run = make(tmp_path)
    for name in ("mlx5_10", "mlx5_2", "mlx5_1"):
        run.record(driver(subject=name))
    assert [c.subject for c in run.view().checks] == ["mlx5_1", "mlx5_2", "mlx5_10"]


def test_evidence_names_are_unique_and_stay_inside(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.evidence("node01/smi.txt", "a") == "evidence/node01/smi.txt"
    assert run.evidence("node01/smi.txt", "b") == "evidence/node01/smi-2.txt"
    assert run.evidence("../../etc/passwd", b"c") == "evidence/etc/passwd"
    assert (run.path / "evidence/node01/smi-2.txt").read_text() == "b"


def test_binary_evidence_is_kept_as_it_is(tmp_path: Path) -> None:
    run = make(tmp_path)
    data = bytes(range(256))
    assert (run.path / run.evidence("raw.bin", data)).read_bytes() == data


def test_the_index_sees_every_change(tmp_path: Path) -> None:
    run = make(tmp_path)
    kept, changed, gone = (run.evidence(f"{name}.txt", name) for name in ("kept", "changed", "gone"))
    run.record(driver())
    run.finish()
    assert verify_evidence(run.path) == []
    (run.path / changed).write_text("other")
    (run.path / gone).unlink()
    (run.path / "evidence/new.txt").write_text("new")
    assert verify_evidence(run.path) == [
        f"{changed}: changed since the run",
        f"{gone}: missing",
        "evidence/new.txt: not there when the run ended",
    ]
    assert (run.path / kept).exists()


def test_a_planted_secret_is_nowhere_in_the_folder(tmp_path: Path) -> None:
    run = RunFolder.create(
        tmp_path, "sglang", "x", Mode.FULL, redactor=Redactor(secrets=[SECRET]), command_line=f"pytest --api-key {SECRET}"
    )
    run.evidence("a.txt", f"Authorization: Bearer {SECRET}")
    run.evidence("b.txt", f"token={SECRET}".encode())
    run.record(driver(SECRET).model_copy(update={"reason": f"said {SECRET}", "details": {"api_key": SECRET, "x": [SECRET]}}))
    run.event("something", text=f"password: {SECRET}")
    run.add(LogTail(node="node01", source="rank 0", text=f"HF_TOKEN={SECRET}"))
    run.add(NodeColumn(node="node01", facts={"proxy": f"http://me:{SECRET}@proxy"}))
    run.describe(settings={"h20-api-key": SECRET})
    run.fingerprint(Fingerprint(flags={"sglang": {"api-key": SECRET}}))
    run.finish(warnings=[f"found {SECRET}"])
    files = [f for f in run.path.rglob("*") if f.is_file()]
    assert len(files) >= 7
    assert [f.name for f in files if SECRET in f.read_text(errors="replace")] == []


def test_numbers_json_does_not_have_become_null(tmp_path: Path) -> None:
    run = make(tmp_path)
    limit = Limit(kind="min", value=1.0, origin=Origin(kind="builtin"))
    run.record(judge("environment.clock", "clock", float("nan"), limit))
    view = run.finish()
    assert view.checks[0].measured is None
    assert view.checks[0].status is Status.UNKNOWN
    assert "NaN" not in (run.path / "verdict.json").read_text()


def test_line_separators_in_text_do_not_split_records(tmp_path: Path) -> None:
    run = make(tmp_path)
    text = "a\u2028b\x85c\r\nd\x1ce"
    run.add(Warning_(text=text))
    assert run.view().warnings == (text,)
    assert run.view().damage == ()


def test_events_come_back_typed_and_in_order(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.event("state", engine="sglang", state="loading")
    run.add(StateChange(engine="sglang", state="ready"))
    run.event("custom", answer=42)
    view = run.view()
    assert [t.change.state for t in view.timeline] == ["loading", "ready"]
    assert view.timeline[0].time <= view.timeline[1].time
    assert view.others[0].model_dump()["answer"] == 42


def test_a_known_event_with_a_wrong_field_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stat"):
        make(tmp_path).event("state", engine="sglang", stat="loading")


def test_a_cell_measured_again_counts_with_its_last_figures(tmp_path: Path) -> None:
    run = make(tmp_path)
    for value in (10.0, 20.0):
        run.add(CellRow(engine="e", input_len=1, output_len=1, concurrency=1, output_throughput=value))
    assert [c.output_throughput for c in run.view().cells] == [20.0]


def test_the_csv_begins_with_the_write_ups_columns_and_names_the_mode(sample: Sample) -> None:
    view = sample("rehearsal")
    rows = list(csv.DictReader(io.StringIO((view.path / "summary.csv").read_text())))
    assert tuple(rows[0])[: len(BLOG_COLUMNS)] == BLOG_COLUMNS
    assert len(rows) == 26
    assert {row["mode"] for row in rows} == {"rehearsal"}
    assert {row["accepted"] for row in rows} == {"no"}


def test_a_figure_that_was_not_measured_is_empty_in_the_csv(sample: Sample) -> None:
    rows = list(csv.DictReader(io.StringIO((sample("faulty").path / "summary.csv").read_text())))
    assert [r["concurrency"] for r in rows if r["output_throughput(tokens/s)"] == ""] == ["32"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no run here"),
        ("{", "cannot be read as JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ('{"schema_version": 1}', "mode: Field required"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        load_run(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--h20-run-dir"):
        make(tmp_path / "file")
