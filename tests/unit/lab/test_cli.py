"""The lab's command line, as far as it goes without root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.__main__ import main
from tests.lab.plan import ClusterPlan
from tests.lab.trees import relocate


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H20_LAB_DIR", str(tmp_path))


@pytest.mark.parametrize("verb", [["status"], ["inventory"], ["ssh", "node01", "true"]])
def test_a_cluster_that_is_not_up_is_told_in_one_line(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb) == 2
    assert capsys.readouterr().err == "lab: cluster 'lab' is not up; run `python -m tests.lab up`\n"


def test_down_when_nothing_is_up_is_fine() -> None:
    assert main(["down"]) == 0


def test_up_beside_a_cluster_with_the_same_net(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    other = ClusterPlan("other")
    other.folder.mkdir(parents=True)
    other.state_file.write_text(other.to_json())
    monkeypatch.setattr("tests.lab.cluster.os.geteuid", lambda: 0)
    monkeypatch.setattr("tests.lab.cluster.shutil.which", lambda program, path: program)
    assert main(["up"]) == 2
    assert "taken by cluster 'other'" in capsys.readouterr().err


def test_an_unknown_engine_is_told_before_anything_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "--with", "tgi"]) == 2
    assert "no such engine" in capsys.readouterr().err


def test_programs_start_from_where_containers_see_them(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(f"#!{tmp_path}/bin/python3.11\nimport vllm\n")
    (folder / "other").write_text("#!/bin/sh\n")
    (folder / "python3").symlink_to("/usr/bin/python3.11")
    relocate(tmp_path)
    assert (folder / "vllm").read_text() == "#!/opt/engine/bin/python3\nimport vllm\n"
    assert (folder / "other").read_text() == "#!/bin/sh\n"
