"""Files that NCCL left in /dev/shm: told with their size and the command; those of a server that runs are not."""

from __future__ import annotations

import mmap
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.checks.environment.containers import nccl_left
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.host import NCCL_SHM, SharedFile, parse_nccl_shm
from pytest_h20.probes.script import Missing
from tests.unit.probes.cluster import blog_cluster

TOLD = "root={root}\nfile\tnccl-abc123\t35653120\t41\nfile\tnccl-def456\t9637888\t42\nfile\tnccl-$(reboot)\t1\t43\nused\t42\tnccl-def456\n"


def test_a_file_that_is_mapped_is_used() -> None:
    assert parse_nccl_shm(TOLD.format(root=1)) == (
        SharedFile("nccl-abc123", 35653120, False),
        SharedFile("nccl-def456", 9637888, True),
    )
    assert [f.used for f in parse_nccl_shm(TOLD.format(root=0))] == [None, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees who uses a file")
def test_the_shell_tells_a_used_file_from_a_left_one() -> None:
    left, used = Path(f"/dev/shm/nccl-left{os.getpid()}"), Path(f"/dev/shm/nccl-used{os.getpid()}")
    try:
        for path in (left, used):
            path.write_bytes(b"x" * 4096)
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            out = subprocess.run(["sh", "-c", NCCL_SHM.snippet], capture_output=True, text=True, check=True).stdout
    finally:
        left.unlink()
        used.unlink()
    found = {f.name: (f.size, f.used) for f in parse_nccl_shm(out)}
    assert (found[left.name], found[used.name]) == ((4096, False), (4096, True))


def judged(files: tuple[SharedFile, ...] | Missing) -> Verdict:
    view = blog_cluster("vllm").gather().of("node01")
    return nccl_left(replace(view, node=replace(view.node, nccl_shm=files)))[0]


def test_what_is_left_is_a_warning_with_size_and_command() -> None:
    told = judged(tuple(SharedFile(f"nccl-{i}", 34 << 20, False) for i in range(4)))
    assert (told.status, told.measured) == (Status.WARN, 4)
    assert "136 MiB" in told.reason
    assert "no process uses them" in told.reason
    assert told.action.endswith("rm /dev/shm/nccl-0 /dev/shm/nccl-1 /dev/shm/nccl-2 /dev/shm/nccl-3")
    assert "node01" in told.action


@pytest.mark.parametrize("files", [(), (SharedFile("nccl-a", 34 << 20, True),)])
def test_the_files_of_a_server_that_runs_are_left_alone(files: tuple[SharedFile, ...]) -> None:
    assert judged(files).status is Status.PASS


def test_what_may_not_be_looked_at_is_said() -> None:
    assert "only root may see" in judged((SharedFile("nccl-a", 1, None),)).reason
    assert judged(Missing("/dev/shm cannot be read")).status is Status.UNKNOWN
