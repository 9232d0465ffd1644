"""``watch`` over a real sshd: the run of another machine is seen, and nothing is written there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_h20.__main__ import main
from pytest_h20.cluster.ledger import Owner
from pytest_h20.cluster.shared import Shared, Topic
from pytest_h20.report.model import StateChange
from tests.integration.sshd import Sshd
from tests.unit.report import samples


def test_a_run_on_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sshd = Sshd(tmp_path / "sshd")
    try:
        run = samples.start(tmp_path / "h20 runs")
        run.add(StateChange(engine="sglang", state="loading"))
        mine = Owner.me("me")
        Shared(run.path / ".shared").publish(Topic("owner", Owner), Owner(mine.who, mine.machine, mine.pid, mine.started + 1))
        before = {p: (p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in [tmp_path / "h20 runs", *run.path.rglob("*")]}
        reach = ["--port", str(sshd.port), "--key", str(sshd.key), "--known-hosts", str(sshd.known_hosts)]
        where = f"{os.environ.get('USER') or 'root'}@127.0.0.1:{tmp_path}/h20 runs"
        assert main(["watch", where, *reach, "--every", "0.1"]) == 1
        said = capsys.readouterr().out
        assert "bring-up of sglang: loading" in said
        assert "killed in the middle, last sign of life" in said
        assert {p: (p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in [tmp_path / "h20 runs", *run.path.rglob("*")]} == before
        assert main(["watch", f"root@127.0.0.1:{tmp_path}/none", *reach]) == 2
        assert "there is no such folder; give one below h20-runs/" in capsys.readouterr().err
    finally:
        sshd.stop()
