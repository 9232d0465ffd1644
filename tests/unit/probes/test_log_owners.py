"""Logs and the processes that run: real processes, real files, the real script."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h20.checks.rdma.ownership import why_not
from pytest_h20.nodes.local import LocalNode
from pytest_h20.probes.log_owners import LOG_OWNERS, Claim, LogOwners, log_owners, parse_log_owners
from pytest_h20.probes.script import Missing, ProbeError, build, split


@pytest.mark.parametrize("text", ["", "namespaces=1\n", "owner\tx\t1\t1\t\t\nend=1", "owner\t1 2\t\t1\t\t\nend=1", "file\t8:1\nend=1"])
def test_what_is_not_understood_is_missing(text: str) -> None:
    with pytest.raises(ProbeError):
        parse_log_owners(text)


# ---------------------------------------------------------------------------------- the script, on this machine
_RANK = """
import ctypes, os, sys, time
log = open(sys.argv[1], "a") if sys.argv[2] == "open" else None
memory = ctypes.create_string_buffer(1 << 16)
print(os.getpid(), hex(ctypes.addressof(memory)), flush=True)
sys.stdin.read()
"""


class Rank:
    """A process that keeps its log open or not, and tells its id as it sees it and an address of its memory."""

    def __init__(self, log: Path, how: str, *wrapper: str) -> None:
        log.touch()
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", _RANK, str(log), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        pid, self.address = self.process.stdout.readline().split()
        self.pid = int(pid)

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "nccl.node 01.log"


@pytest.fixture
def rank(log: Path, request: pytest.FixtureRequest) -> Iterator[Rank]:
    found = Rank(log, *getattr(request, "param", ("open",)))
    yield found
    found.end()


def ask(*claims: Claim) -> LogOwners | Missing:
    text = LocalNode("here").run(build([log_owners(claims)])).stdout
    return LOG_OWNERS.read(split(text))


def test_a_real_process_that_holds_its_log(rank: Rank, log: Path) -> None:
    claim = Claim(str(log), {rank.pid: ("0x1",)})
    found = ask(claim)
    assert not isinstance(found, Missing), found
    assert why_not(claim, found) == ""
    (owner,) = [o for o in found.owners if o.pids[-1] == rank.pid]
    assert abs(owner.started - time.time()) < 120
    assert found.files[str(log)].written == int(log.stat().st_mtime)


@pytest.mark.parametrize("rank", [("closed",)], indirect=True)
def test_a_real_process_is_known_by_its_memory(rank: Rank, log: Path) -> None:
    claim = Claim(str(log), {rank.pid: ("0x1", rank.address)})
    os.utime(log)
    assert why_not(claim, ask(claim)) == ""
    assert "neither has the file open" in why_not(Claim(str(log), {rank.pid: ("0x1",)}), ask(Claim(str(log), {rank.pid: ("0x1",)})))
    os.utime(log, (0, 0))
    assert "after the log was written last (1970-01-01" in why_not(claim, ask(claim))


def test_a_real_process_that_ended(log: Path) -> None:
    rank = Rank(log, "open")
    rank.end()
    claim = Claim(str(log), {rank.pid: (rank.address,)})
    assert why_not(claim, ask(claim)) == f"its process {rank.pid} does not run any more"


def _may_unshare() -> bool:
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="this user may not make a pid namespace")
def test_a_real_process_in_a_namespace_of_its_own(log: Path) -> None:
    rank = Rank(log, "open", "unshare", "--pid", "--fork")
    try:
        assert rank.pid < 10, "its own number is one of the namespace"
        claim = Claim(str(log), {rank.pid: (rank.address,)})
        found = ask(claim)
        assert why_not(claim, found) == ""
        assert not isinstance(found, Missing)
        assert any(len(o.pids) == 2 for o in found.owners)
    finally:
        rank.end()
