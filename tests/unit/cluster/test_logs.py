"""What is read of a run's folder on a node, beside the engine's own log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pytest_h20.cluster.logs import nccl_warnings
from pytest_h20.diagnosis import diagnose
from pytest_h20.nodes.local import LocalNode

DATA = Path(__file__).parent / "data"


def test_nccls_own_file_names_the_cause_that_the_engines_log_hides(tmp_path: Path) -> None:
    """Recorded 2026-11-27 on two H200: NCCL_SOCKET_IFNAME=bond7, vLLM 0.24.0, NCCL 2.28.9."""
    engine = (DATA / "rank0.tail.log").read_text(encoding="utf-8")
    assert diagnose(engine).cause == "nccl_invalid_usage"
    shutil.copy(DATA / "nccl.node01.346", tmp_path)
    warned = nccl_warnings(LocalNode("node01"), str(tmp_path))
    assert warned.count("\n") == 1
    assert diagnose(warned + engine).cause == "nccl_no_socket_interface"


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    """A link to a foreign file, a FIFO that nobody writes to, and a file without end."""
    secret = tmp_path / "secret"
    secret.write_text("NCCL WARN hunter2\n")
    folder = tmp_path / "run's folder"
    folder.mkdir()
    (folder / "nccl.link").symlink_to(secret)
    os.mkfifo(folder / "nccl.fifo")
    (folder / "nccl.a b").write_text("node01:1:1 [0] x.cc:1 NCCL WARN one\n" * 20000)
    found = nccl_warnings(LocalNode("node01"), str(folder))
    assert "hunter2" not in found
    assert "NCCL WARN one" in found
    assert len(found) <= 1 << 18


def test_nothing_there_is_no_failure(tmp_path: Path) -> None:
    assert nccl_warnings(LocalNode("node01"), str(tmp_path / "absent")) == ""
