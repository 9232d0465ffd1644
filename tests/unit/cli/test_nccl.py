"""The command line: text for people, JSON in the corpus' words, exit status."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from pytest_h20.cli.nccl import main
from tests.corpus_score import GOAL, KEYS, folders, score
from tests.unit.nccl.synthetic import Synthetic


@pytest.fixture
def halves(tmp_path: Path) -> list[str]:
    names = []
    for i in (0, 1):
        path = tmp_path / f"node{i}.log"
        path.write_bytes(Synthetic("2.28.9").node(i))
        names.append(str(path))
    return names


def test_one_half_explains_what_is_missing(halves: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(halves[:1]) == 0
    out = capsys.readouterr().out
    assert out.startswith("UNDETERMINED")
    assert f"{halves[0]}:" in out
    assert "--job" in out


def test_both_halves_together_prove(halves: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--job", "--ranks", "4", "--nodes", "2", *halves]) == 0
    out = capsys.readouterr().out
    assert out.startswith("RDMA PROVEN")
    assert "mlx5_0, mlx5_1" in out


def test_job_status_is_1_without_proof(halves: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--job", halves[0]]) == 1
    assert main(["--job", "--json", *halves]) == 0
    job = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert job["verdict"] == "rdma_proven"
    assert job["files"] == halves


def test_json_has_one_object_per_file_with_the_corpus_keys(halves: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*halves, "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [o["file"] for o in objects] == halves
    for o in objects:
        assert set(KEYS) <= set(o)
        assert o["transport"] == "ib"


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Synthetic().all())))
    assert main(["-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "rdma_proven"


def test_the_folder_of_a_run_stands_for_the_logs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "evidence" / "nodes" / "node01"
    logs.mkdir(parents=True)
    (logs / "nccl.node01.7").write_bytes(Synthetic().all())
    assert main(["--job", str(tmp_path)]) == 0
    assert "RDMA PROVEN" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["/does/not/exist.log"], ["-", "-"], ["/"]])
def test_wrong_use_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--ranks", "x", "a"]])
def test_wrong_arguments_end_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("folder", folders("nccl"), ids=lambda p: p.parent.parent.name)
def test_corpus_goals(folder: Path) -> None:
    rows = score(folder)
    assert len(rows) >= 50
    assert [row.file for row in rows if row.false_proof] == []
    for key in ("transport", "gdr"):
        assert sum(row.wanted[key] == row.got[key] for row in rows) >= GOAL * len(rows)
