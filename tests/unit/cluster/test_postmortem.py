"""What is said of an engine that ended after it was ready, on logs of a real one (vLLM 0.24.0 on two H200, its worker killed)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pytest_h20.checks.bringup import ended_early
from pytest_h20.cluster.postmortem import Losses, examine
from pytest_h20.core.verdict import Status
from tests.unit.cluster.ended import DATA, NOBODY, Box, cluster, logs


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_killed_worker_is_named_with_its_rank_node_log_and_first_cause(tmp_path: Path) -> None:
    box = Box(c0=True, c1=False)
    with answering(503) as url:
        death = examine(cluster(logs(tmp_path, dead=True)), box.nodes(), box, url, {})
    assert death is not None
    assert death.reason.startswith("rank1 (rank 1) on node02 ended (exit code 137)")
    assert "worker_died" in death.reason
    assert "log of rank1" in death.reason
    assert set(death.evidence) == {f"evidence/logs/rank{n}.at-its-end.log" for n in (0, 1)}
    assert ended_early(death, "vllm").status is Status.FAIL


def test_a_rank_that_somebody_killed_has_a_cause_although_no_log_names_one(tmp_path: Path) -> None:
    box = Box(c0=True, c1=False)
    death = examine(cluster(logs(tmp_path, dead=False)), box.nodes(), box, NOBODY, {})
    assert death is not None
    assert death.reason.startswith("rank1 (rank 1) on node02 ended (exit code 137); killed: the process was killed with SIGKILL")
    assert death.action == "dmesg -T | grep -i kill"


def test_processes_that_stay_behind_a_dead_core_do_not_hide_it(tmp_path: Path) -> None:
    """Both containers run, /health is 503 and the logs say why."""
    box = Box(c0=True, c1=True)
    with answering(503) as url:
        death = examine(cluster(logs(tmp_path, dead=True)), box.nodes(), box, url, {})
    assert death is not None
    assert death.reason.startswith("rank1 (rank 1) on node02 failed; worker_died")


@contextmanager
def closing() -> Iterator[str]:
    """A server that takes connections and closes them, as a process does whose shutdown takes seconds on a busy machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    listening.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("dead", [True, False])
def test_an_engine_that_is_just_ending_is_told_by_its_logs(tmp_path: Path, dead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h20.cluster.postmortem.time.sleep", lambda seconds: None)
    box = Box(c0=True, c1=True)
    with closing() as url:
        death = examine(cluster(logs(tmp_path, dead=dead)), box.nodes(), box, url, {})
    assert (death is not None) is dead
    assert death is None or death.reason.startswith("rank1 (rank 1) on node02 failed; worker_died")


def test_a_rank_that_lost_its_peer_does_not_hide_the_one_that_was_killed(tmp_path: Path) -> None:
    """vLLM 0.32 on two nodes of the lab, the worker of rank 1 killed: rank 0 says "Connection reset by peer", and both servers ended."""
    logs(tmp_path, dead=True)
    (tmp_path / "rank0.log").write_text(
        "(Worker_TP0 pid=33) ERROR 11-27 23:53:00 [multiproc_executor.py:1063] RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/"
        "transport/tcp/pair.cc:537] Read error [192.0.2.2]:35461: Connection reset by peer. This is typically caused by a remote worker "
        "hanging or bugs in the application. Check the logs of other workers for the root cause.\n"
        "(EngineCore pid=20) ERROR 11-27 23:53:00 [core.py:1231] EngineCore encountered a fatal error.\n"
    )
    box = Box(c0=False, c1=False)
    death = examine(cluster(tmp_path), box.nodes(), box, NOBODY, {})
    assert death is not None
    assert death.reason.startswith("rank1 (rank 1) on node02 ended (exit code 137)")
    assert "worker_died" in death.reason


def test_a_healthy_engine_and_one_that_is_only_unwell_live(tmp_path: Path) -> None:
    box = Box(c0=True, c1=True)
    for status in (200, 404, 503):
        with answering(status) as url:
            assert examine(cluster(logs(tmp_path, dead=False)), box.nodes(), box, url, {}) is None
    assert box.kept == {}


def test_a_log_with_an_old_failure_of_an_engine_that_is_well(tmp_path: Path) -> None:
    box = Box(c0=True, c1=True)
    with answering(200) as url:
        assert examine(cluster(logs(tmp_path, dead=True)), box.nodes(), box, url, {}) is None


def test_of_an_engine_that_somebody_else_started_only_its_silence_is_known(tmp_path: Path) -> None:
    death = examine(cluster(tmp_path, roles=False), {}, Box(), NOBODY, {})
    assert death is not None
    assert "does not answer any more" in death.reason
    assert "somebody else started it" in death.reason


def test_a_worker_that_died_is_told_while_the_others_are_waited_for(tmp_path: Path) -> None:
    """vLLM 0.24 with two workers on a node: its container ends ten seconds after the line, /health says 200 for a minute."""
    box, of, losses = Box(c0=True, c1=True), cluster(logs(tmp_path, dead=False)), Losses()
    assert losses.look(of, box.nodes()) == {}
    with (tmp_path / "rank1.log").open("ab") as log:
        log.write((DATA / "rank1.log").read_bytes())
    lost = losses.look(of, box.nodes())
    assert lost == {"rank1": "lost a worker process"}
    death = examine(of, box.nodes(), box, NOBODY, {}, lost)
    assert death is not None
    assert death.reason.startswith("rank1 (rank 1) on node02 lost a worker process; worker_died: a vLLM worker process died; log of rank1")
    box.running["c1"] = False
    ended = examine(of, box.nodes(), box, NOBODY, {}, lost)
    assert ended is not None
    assert ended.reason.startswith("rank1 (rank 1) on node02 ended (exit code 137)"), "what is known for certain goes first"


def test_a_worker_that_died_before_the_first_look_or_of_another_engine_is_not(tmp_path: Path) -> None:
    box, of, losses = Box(c0=True, c1=True), cluster(logs(tmp_path, dead=True)), Losses()
    assert [losses.look(of, box.nodes()) for _ in range(2)] == [{}, {}]
    (tmp_path / "rank1.log").write_bytes(b"INFO: the client died unexpectedly\n")
    assert losses.look(of, box.nodes()) == {}
    (tmp_path / "rank1.log").unlink()
    assert losses.look(of, box.nodes()) == {}
    sglang = Losses()
    assert sglang.look(replace(of, engine="sglang"), {}) == {}
