"""One damaged line costs that line and the green, never the rest; a disk that is full is one clear error."""

from __future__ import annotations

import builtins
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.__main__ import main
from pytest_h20.core.errors import StorageError, UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.plugin.outcome import outcome_of
from pytest_h20.plugin.record import Reporting
from pytest_h20.report import run as run_of_this_version
from pytest_h20.report.model import Mode, Warning_
from pytest_h20.report.run import ROOM_MIB, RunFolder, load_run
from pytest_h20.run.rejudge import rejudge_run, replay_cells
from tests.unit.report import samples

DAMAGE: dict[str, Callable[[str], str]] = {
    "cut": lambda line: line[: len(line) // 2],
    "binary": lambda line: "\x00\x01" + line,
    "a list": lambda line: "[1, 2]",
    "deep": lambda line: "[" * 100_000,
    "test id of another kind": lambda line: json.dumps({**json.loads(line), "test_id": {"a": 1}}),
    "duration of another kind": lambda line: json.dumps({**json.loads(line), "duration_s": "long"}),
    "time without a zone": lambda line: json.dumps({**json.loads(line), "time": "2026-01-01T00:00:00"}),
    "kind of another kind": lambda line: json.dumps({**json.loads(line), "kind": ["cell"], "verdict": []}),
    "half a character": lambda line: json.dumps({**json.loads(line), "test_id": "\ud800", "kind": "\ud800"}),
}


@pytest.mark.parametrize("name", ["verdicts.jsonl", "events.jsonl"])
@pytest.mark.parametrize("kind", [*DAMAGE])
def test_the_rest_is_read(tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = samples.clean(tmp_path)
    file = whole.path / name
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[1] = DAMAGE[kind](lines[1])
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    view = load_run(whole.path)
    assert len(view.checks) >= len(whole.checks) - 1
    assert len(view.cells) >= len(whole.cells) - 1
    assert view.damage
    blocking = [v for _, v in rejudge_run(view) if v.check == "environment.recorded_evidence"]
    assert [v.status for v in blocking] == [Status.UNKNOWN]
    assert replay_cells(view)
    assert main(["compare", str(whole.path), str(whole.path)]) in (0, 1)
    assert main(["history", "--runs", str(tmp_path), "--all"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())


WRECKS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda data: data[: len(data) // 2],
    "a bad line": lambda data: data.replace(b"\n", b"\n@@@\n", 1),
    "empty": lambda data: b"",
    "binary": lambda data: b"\xff\xfe\x00" + data,
    "deep": lambda data: b"[" * 100_000,
    "a list": lambda data: b"[1, 2]",
    "a field of another kind": lambda data: json.dumps({**json.loads(data), "header": []}).encode(),
    "gone": lambda data: None,
}


def wrecked(path: Path, kind: str) -> Path:
    file = path / "verdict.json"
    data = WRECKS[kind](file.read_bytes())
    file.unlink() if data is None else file.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [*WRECKS])
def test_a_damaged_verdict_costs_the_decision_and_not_the_run(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = samples.clean(tmp_path)
    view = load_run(wrecked(whole.path, kind))
    assert (view.checks, view.cells, view.facts, view.header) == (whole.checks, whole.cells, whole.facts, whole.header)
    assert not view.decision.green
    assert not view.decision.accepted
    assert view.decision.reason == "verdict.json cannot be read: what was decided is not known"
    assert "what stands in the files beside it is shown" in view.damage[0]
    (blocking,) = [v for _, v in rejudge_run(view) if v.check == "environment.recorded_evidence"]
    assert blocking.status is Status.UNKNOWN
    assert "verdict.json cannot be read" in blocking.reason
    assert main(["compare", str(whole.path), str(whole.path)]) in (0, 1)
    assert "what stands in the files beside it is shown" in capsys.readouterr().out
    assert main(["history", "--runs", str(tmp_path), "--all"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_folder_without_a_header_is_read_by_its_name(tmp_path: Path) -> None:
    whole = samples.clean(tmp_path)
    (whole.path / "inputs/header.json").unlink()
    view = load_run(wrecked(whole.path, "cut"))
    assert view.checks == whole.checks
    assert view.header.started == whole.header.started.replace(microsecond=0)  # type: ignore[union-attr]
    assert "what kind of run it was is not known" in view.header.obstacles


def test_a_verdict_of_a_later_version_is_refused_and_not_guessed_at(tmp_path: Path) -> None:
    path = samples.clean(tmp_path).path
    document = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps({**document, "schema_version": 2}))
    with pytest.raises(UsageError, match="schema_version is 2"):
        load_run(path)


EDITS: dict[str, dict[str, Any]] = {
    "accepted": {"accepted": True, "green": True, "reason": "accepted"},
    "a rehearsal that was hardware": {"header": {"mode": "full", "time_scale": 1.0, "stood_in": []}, "mode": "full", "accepted": True},
    "gates that were not required": {"header": {"required": []}, "green": True},
    "another cluster": {"header": {"nodes": []}},
    "gates": {"gates": []},
}


@pytest.mark.parametrize("kind", [*EDITS])
@pytest.mark.parametrize("sealed", [True, False])
def test_header_and_decision_cannot_be_talked_into_green(tmp_path: Path, kind: str, sealed: bool) -> None:
    path = samples.rehearsal(tmp_path).path
    file = path / "verdict.json"
    document = json.loads(file.read_text())
    header = {**document["header"], **EDITS[kind].get("header", {})}
    file.write_text(json.dumps({**document, **EDITS[kind], "header": header} | ({} if sealed else {"seal": ""})))
    view = load_run(path)
    assert ("its seal is not that of what it says" if sealed else "has no seal") in view.damage[0]
    assert not view.decision.green
    assert not view.decision.accepted
    assert [v for _, v in rejudge_run(view) if v.check == "environment.recorded_evidence"]


def test_what_was_edited_is_not_sealed_again(tmp_path: Path) -> None:
    """A history store that cannot be reached is said after the decision, and the document is sealed anew for it."""
    run = samples.start(tmp_path, mode=Mode.FULL)
    run.finish()
    file = run.path / "verdict.json"
    file.write_text(file.read_text().replace('"green": false', '"green": true'))
    run.add(Warning_(text="said later"))
    assert "verdict.json: changed since the run" in run.view().damage[0]


def test_layout_is_no_change(tmp_path: Path) -> None:
    path = samples.clean(tmp_path).path
    document = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps(dict(reversed(document.items()))))
    assert load_run(path).damage == ()


def test_another_order_of_the_checks_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version reads them in an order of its own: the runs that were accepted before it stay so."""
    view = samples.clean(tmp_path)
    assert view.decision.accepted
    read = run_of_this_version._checks
    monkeypatch.setattr(run_of_this_version, "_checks", lambda path, damage: read(path, damage)[::-1])
    again = load_run(view.path)
    assert again.checks == view.checks[::-1]
    assert again.damage == ()
    assert again.decision.accepted


def test_a_disk_without_room_for_a_record_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=(ROOM_MIB << 20) - 1))
    with pytest.raises(UsageError, match=r"63 MiB are free there, and a run's record needs 64; make room, or give another --h20-run-dir"):
        RunFolder.create(tmp_path, "sglang", "x", Mode.FULL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=ROOM_MIB << 20))
    assert RunFolder.create(tmp_path, "sglang", "x", Mode.FULL).path.is_dir()


@pytest.mark.parametrize("what", ["add", "evidence", "describe"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    run = RunFolder.open(samples.clean(tmp_path).path)

    def full(*arguments: Any, **words: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
        with pytest.raises(StorageError, match=r"cannot be written: No space left on device; \d+ MiB are free there; make room"):
            _write(run, what)
    _write(run, what)


def test_a_full_disk_ends_the_run_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    view = samples.clean(tmp_path)
    reporting = Reporting(request.config, RunFolder.open(view.path), True, "t")
    report = pytest.TestReport("t.py::t", ("t.py", 0, "t"), {}, "passed", None, "call")
    report.__dict__["h20"] = outcome_of("t.py::t", "call", "passed", "", "fabric", [view.checks[0].bare()], 1.0).to_dict()

    def full(*arguments: Any, **words: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(pytest.exit.Exception, match="No space left on device"):
        reporting.pytest_runtest_logreport(report)


def _write(run: RunFolder, what: str) -> None:
    if what == "add":
        run.add(Warning_(text="x"))
    elif what == "evidence":
        run.evidence("node01/a.txt", "x")
    else:
        run.describe(driver="1")
