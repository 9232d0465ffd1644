"""``python -m pytest_h20 soak``: what a killed soak left is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.cli.soak import main
from pytest_h20.core.errors import UsageError
from pytest_h20.load.soak import Bin
from pytest_h20.rehearsal.simulated_soak import soak


def _left(folder: Path, bins: int, per_hour: float = 0.0) -> Path:
    _, values = soak(1, per_hour=per_hour, points=120, noise=0.003)
    rows = [{"asked_hours": 1.0}]
    for i, value in enumerate(values[:bins]):
        found = Bin(i, (i + 0.5) / 120, 30.0, 9, 9, 0, 64.0, value, 3e3 / value, 6e3 / value, 5e4 / value, 9e4 / value, None)
        rows.append({**found.to_json(), "node01 host_gib": 120.0})
    path = folder / "load" / "sglang" / "soak.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"number": 5, "cut off')
    return folder


def test_a_killed_soak_is_judged_up_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(_left(tmp_path, 90, per_hour=-0.05))]) == 1
    said = capsys.readouterr().out
    assert "90 bins, 44.8 of 60 min; 810 requests answered, 0 failed" in said
    assert "fail    sglang output throughput: falls" in said


def test_a_quiet_one_is_not_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(_left(tmp_path, 120))]) == 0
    assert "no slope" in capsys.readouterr().out


def test_a_slope_that_must_be_visible_and_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(_left(tmp_path, 120)), "--slope=0.01"]) == 1
    assert "too small to be seen in this time" in capsys.readouterr().out


def test_too_little_is_could_not_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(_left(tmp_path, 5))]) == 1
    assert "could not measure" in capsys.readouterr().out


def test_a_folder_without_a_soak_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--h20-soak"):
        main([str(tmp_path)])
    planted = tmp_path / "soak.jsonl"
    planted.write_text("[1]\n{}\n")
    with pytest.raises(UsageError, match="cannot be read as the bins of a soak"):
        main([str(planted)])
