"""One damaged line costs that line and the green, never the rest; a disk that is full is one clear error."""

from __future__ import annotations

import builtins
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.__main__ import main
from pytest_h20.core.errors import StorageError
from pytest_h20.core.verdict import Status
from pytest_h20.plugin.outcome import outcome_of
from pytest_h20.plugin.record import Reporting
from pytest_h20.report.model import Warning_
from pytest_h20.report.run import RunFolder, load_run
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
