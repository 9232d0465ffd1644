"""The run folder holds what nodes show to root: it is for the user who ran it, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_h20.report.model import Mode
from pytest_h20.report.run import RunFolder


def test_folders_are_0700_and_files_0600(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = RunFolder.create(tmp_path, "vllm", "x", Mode.FULL)
        run.evidence("a/b/c.txt", "x")
        run.event("note", text="x")
        run.finish()
    finally:
        os.umask(before)
    assert run.path.stat().st_mode & 0o777 == 0o700
    modes = {p.relative_to(run.path).as_posix(): p.stat().st_mode & 0o777 for p in run.path.rglob("*")}
    assert {m for p, m in modes.items() if (run.path / p).is_file()} == {0o600}, modes
    assert modes["evidence"] == 0o700
