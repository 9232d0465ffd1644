"""What is read of a run's folder while its containers write there: regular files, no links, no pipes, bounded."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_h20.cluster.logs import Follower
from pytest_h20.cluster.state import RoleRef
from pytest_h20.nodes.local import LocalNode
from pytest_h20.run.endpoint import MOST_OF_A_LOG, own_nccl_files


def test_a_log_that_became_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    log = tmp_path / "rank0.log"
    (tmp_path / "shadow").write_text("root:secret\n")
    follower = Follower(LocalNode("n1"), RoleRef("n1", "rank0", 0, "id", "c", str(log), "cmd"))
    assert follower.poll() == []
    log.write_text("started\n")
    assert follower.poll() == ["started"]
    log.unlink()
    log.symlink_to(tmp_path / "shadow")
    assert follower.poll() == []
    log.unlink()
    os.mkfifo(log)
    assert follower.poll() == []
    assert "secret" not in follower.text


def test_nccl_logs_are_regular_files_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "nccl.node01.7").write_text("NCCL INFO\n")
    (tmp_path / "shadow").write_text("root:secret\n")
    (tmp_path / "nccl.link").symlink_to(tmp_path / "shadow")
    os.mkfifo(tmp_path / "nccl.pipe")
    with (tmp_path / "nccl.node01.8").open("wb") as file:
        file.truncate(1 << 40)
    found = dict(own_nccl_files(LocalNode("n1"), str(tmp_path)))
    assert found["nccl.node01.7"] == b"NCCL INFO\n"
    assert len(found["nccl.node01.8"]) == MOST_OF_A_LOG
    assert set(found) == {"nccl.node01.7", "nccl.node01.8"}
