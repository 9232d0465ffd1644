"""The folder of a forwarded socket outlives a SIGKILL; the next process of this user removes it, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pytest_h20.nodes import scratch


def test_sockets_of_ended_processes_go_and_everything_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_root", lambda: str(tmp_path))
    mine = Path(scratch.folder())
    assert mine.stat().st_mode & 0o777 == 0o700
    ended, reused = tmp_path / "h20-4194300-17-abc", tmp_path / f"h20-{os.getpid()}-1-abc"
    files, linked, foreign = tmp_path / "h20-4194300-17-file", tmp_path / "h20-4194300-17-link", tmp_path / "h20-rehearsal-x"
    for folder in (ended, reused, files, foreign):
        folder.mkdir()
    for folder in (ended, reused, foreign):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"{folder}/docker.sock")
    (files / "precious").write_text("x")
    linked.symlink_to(foreign)
    scratch.sweep()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (mine, files, linked, foreign))
    assert (foreign / "docker.sock").exists()
