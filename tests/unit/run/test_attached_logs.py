"""NCCL logs of an attached engine prove something only when they are those of the ranks that run: files on a real node, real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Status
from pytest_h20.engines.layout import Layout
from pytest_h20.nccl import parse_log
from pytest_h20.nodes.local import LocalNode
from pytest_h20.probes.log_owners import LogFile, LogOwner, LogOwners
from pytest_h20.run.endpoint import Endpoint, nccl_job
from pytest_h20.run.settings import Session
from tests.unit.nccl.synthetic import NODES, Synthetic

LOGS = [log.encode() if isinstance(log, str) else log for log in Synthetic("2.28.9").logs()]


def target() -> LaunchTarget:
    nodes = tuple(SimpleNamespace(name=n, rails=()) for n in NODES)
    return cast("LaunchTarget", SimpleNamespace(nodes=nodes, layout=Layout(4, nodes=len(NODES))))


def read(age: int = 0) -> tuple[list[NodeLog], dict[str, Any]]:
    """The logs of all ranks, and what nodes tell on which every one of these runs since a minute before its log was written."""
    logs = [NodeLog(NODES[i // 2], f"/logs/{i}", f"evidence/{i}", parse_log(data, f"evidence/{i}")) for i, data in enumerate(LOGS)]
    owners = {}
    for node in NODES:
        mine = [log for log in logs if log.node == node]
        files = {log.path: LogFile(log.path, f"8:{log.path[-1]}", 10_000_000 - age) for log in mine}
        ranks = [(pid, frozenset({files[log.path].identity})) for log in mine for pid in log.claim.pids]
        owners[node] = LogOwners(files, tuple(LogOwner((90000 + pid, pid), 9_999_940, True, held) for pid, held in ranks), True)
    return logs, owners


def running(verdicts: NcclVerdicts) -> dict[str, Status]:
    return {v.subject: v.status for v in verdicts.running()}


def test_logs_of_running_ranks_prove_as_before() -> None:
    logs, owners = read()
    judged = NcclVerdicts(job_of(target(), logs, owners), target())
    assert running(judged) == dict.fromkeys(NODES, Status.PASS)
    assert judged.job_verdict().status is Status.PASS


def test_an_own_run_need_not_ask() -> None:
    judged = NcclVerdicts(job_of(target(), read()[0]), target())
    assert [v.status for v in judged.running()] == [Status.SKIP]
    assert judged.job_verdict().status is Status.PASS


def test_logs_of_ranks_that_ended_prove_nothing() -> None:
    logs, owners = read()
    owners[NODES[1]] = LogOwners(owners[NODES[1]].files, (), True)
    judged = NcclVerdicts(job_of(target(), logs, owners), target())
    assert running(judged) == {NODES[0]: Status.PASS, NODES[1]: Status.UNKNOWN}
    (red,) = [v for v in judged.running() if v.status is Status.UNKNOWN]
    assert "2 logs were looked at, none is of a process that runs: 2: its process" in red.reason
    assert judged.job_verdict().status is Status.UNKNOWN
    assert "2 logs that are not those of the running ranks were left out" in judged.job_verdict().reason
    assert {v.status for v in judged.complete()} == {Status.UNKNOWN}


def test_logs_of_three_weeks_ago_prove_nothing_although_the_numbers_are_the_same() -> None:
    logs, owners = read(age=21 * 86400)
    for node, told in owners.items():
        owners[node] = LogOwners(told.files, tuple(LogOwner(o.pids, o.started, True) for o in told.owners), True)
    judged = NcclVerdicts(job_of(target(), logs, owners), target())
    assert running(judged) == dict.fromkeys(NODES, Status.UNKNOWN)
    for verdicts in (judged.gdrdma(), judged.no_sockets(), judged.no_errors(), judged.complete(), [judged.job_verdict()]):
        assert {v.status for v in verdicts} == {Status.UNKNOWN}
    assert "after the log was written last" in judged.job_verdict().reason


def test_old_logs_beside_those_of_the_ranks_do_no_harm() -> None:
    """NCCL_DEBUG_FILE=nccl.%h.%p keeps one file for each start: a glob finds them all."""
    logs, owners = read()
    old = Synthetic("2.28.9", network=lambda rank: "Socket").logs()[0]
    data = re.sub(rb":(\d+):(\d+) ", rb":7\1:7\2 ", old.encode() if isinstance(old, str) else old)
    logs.append(NodeLog(NODES[0], "/logs/old", "evidence/old", parse_log(data, "evidence/old")))
    judged = NcclVerdicts(job_of(target(), logs, owners), target())
    assert judged.job_verdict().status is Status.PASS
    assert "old: its process" in str(judged.running()[0].details)


def test_no_log_at_all() -> None:
    judged = NcclVerdicts(job_of(target(), [], {}), target())
    assert {v.reason for v in judged.running()} == {"no NCCL log was found on this node"}


# ---------------------------------------------------------------------------------- read from a node
class Run:
    """A session that is attached, with one real node: files are found, processes asked."""

    def __init__(self, folder: Path) -> None:
        self.pattern = f"{folder}/nccl.*"
        self.kept = folder / "run"

    def evidence(self, name: str, data: bytes | str) -> str:
        file = self.kept / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        return f"evidence/{name}"

    def keep(self, name: str, data: object) -> None:
        self.evidence(f"inputs/{name}.json", json.dumps(data))

    def job(self) -> NcclVerdicts:
        one = cast("LaunchTarget", SimpleNamespace(nodes=(SimpleNamespace(name="n1", rails=()),), layout=Layout(1)))
        session = SimpleNamespace(
            inventory=SimpleNamespace(attach=SimpleNamespace(nccl_logs={"n1": self.pattern})),
            nodes={"n1": LocalNode("n1")},
            folder=self,
            shared=SimpleNamespace(once=lambda name, make: make()),
        )
        endpoint = SimpleNamespace(
            target=one,
            cluster=SimpleNamespace(attached=True, node_dirs={}),
            one_request=lambda *a: 24,
            ctx=SimpleNamespace(seconds=lambda n: 1.0),
        )
        return NcclVerdicts(nccl_job(cast("Session", session), "sglang", cast("Endpoint", endpoint)), one)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; f = open(sys.argv[1], 'a'); print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / "nccl.n1")]
    held = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout is not None
    held.stdout.readline()
    yield held
    held.communicate(timeout=20)


def test_the_log_of_a_process_that_runs_is_taken(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    line = f"n1:{process.pid}:{process.pid} [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>\n"
    (tmp_path / "nccl.n1").write_text(line)
    run = Run(tmp_path)
    assert running(run.job()) == {"n1": Status.PASS}
    assert (run.kept / "nccl-owners/sglang/n1/log_owners.txt").is_file()


def test_and_that_of_a_process_that_ended_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=20)
    (tmp_path / "nccl.n1").write_text(f"n1:{ended.pid}:{ended.pid} [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>\n")
    (red,) = Run(tmp_path).job().running()
    assert (red.status, red.evidence) == (Status.UNKNOWN, ("evidence/nccl/sglang/n1/nccl.n1",))
    assert f"its process {ended.pid} does not run any more" in red.reason
