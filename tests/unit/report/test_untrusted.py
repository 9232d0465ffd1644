"""What is read as a record is a regular file of a record's size; a folder for runs is one in which nobody exchanges ours."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.report import untrusted
from pytest_h20.report.model import CellRow, Mode
from pytest_h20.report.run import RunFolder, load_run, verify_evidence


def test_links_pipes_and_files_without_end_are_no_records(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"a\r\nb")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(untrusted.MOST_OF_A_RECORD + 1)
    assert untrusted.text(file) == "a\nb"
    assert untrusted.sha256(file) == hashlib.sha256(b"a\r\nb").hexdigest()
    for name, why in (("link", "is a link"), ("pipe", "is a pipe"), ("sparse", "more than any record"), ("no", "No such file")):
        with pytest.raises(OSError, match=why):
            untrusted.text(tmp_path / name)
        assert why in untrusted.sha256(tmp_path / name)


def test_evidence_that_became_a_link_is_told(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "vllm", "x", Mode.FULL)
    run.evidence("a.txt", "x")
    run.finish()
    assert verify_evidence(run.path) == []
    (tmp_path / "a.txt").write_text("x")
    (run.path / "evidence/a.txt").unlink()
    (run.path / "evidence/a.txt").symlink_to(tmp_path / "a.txt")
    assert verify_evidence(run.path) == ["evidence/a.txt: changed since the run"]
    (run.path / "events.jsonl").symlink_to(tmp_path / "a.txt")
    assert "events.jsonl: is a link, and not followed" in load_run(run.path).damage


@pytest.mark.parametrize("path", ["/etc/shadow", "../../x", "load/../../x"])
def test_a_cell_names_a_file_of_its_run(path: str) -> None:
    with pytest.raises(ValueError, match="inside the run's folder"):
        CellRow(engine="vllm", input_len=1, output_len=1, concurrency=1, file=path)


@pytest.mark.parametrize(("mode", "refused"), [(0o700, False), (0o755, False), (0o1777, False), (0o777, True), (0o775, False)])
def test_a_folder_that_others_can_write(tmp_path: Path, mode: int, refused: bool) -> None:
    base = tmp_path / "runs"
    base.mkdir()
    base.chmod(mode)
    if refused:
        with pytest.raises(UsageError, match=r"mode 0777.*could be exchanged.*chmod"):
            RunFolder.create(base, "vllm", "x", Mode.FULL)
        assert list(base.iterdir()) == []
    else:
        assert RunFolder.create(base, "vllm", "x", Mode.FULL).path.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_or_of_a_foreign_group(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    base.mkdir(mode=0o755)
    os.chown(base, 65534, 0)
    with pytest.raises(UsageError, match="belongs to uid 65534"):
        RunFolder.create(base, "vllm", "x", Mode.FULL)
    os.chown(base, 0, 65534)
    base.chmod(0o775)
    with pytest.raises(UsageError, match="mode 0775, group 65534"):
        RunFolder.create(base, "vllm", "x", Mode.FULL)
