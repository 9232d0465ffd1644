"""A node that does not answer is told once, also where the test that tells it was not selected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.checks.bringup import MEND_FIRST, NOT_STARTED, failed
from pytest_h20.checks.frame import REACHABLE
from pytest_h20.checks.weights.facts import WeightFacts
from pytest_h20.checks.weights.judge import IDS, WeightsJudge
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.script import Missing
from pytest_h20.run import facts as run_facts
from pytest_h20.run.bringup import refusal_text
from tests.unit.probes.cluster import blog_cluster

DOWN = "node02: SSH to 10.63.65.208:22: connection refused"


def seen(monkeypatch: pytest.MonkeyPatch, down: bool) -> Any:
    cluster = blog_cluster()
    if down:
        cluster.other.down = cluster.other.containers.daemon_error = DOWN
    gathered = SimpleNamespace(probes=cluster.gather())
    monkeypatch.setattr(run_facts, "published_facts", lambda *_: gathered)
    monkeypatch.setattr(run_facts, "gathered", lambda *_: gathered)
    return SimpleNamespace(labels=("vllm",), run=object(), inventory=SimpleNamespace(attach=None))


def test_it_is_told_at_the_end_unless_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    session = seen(monkeypatch, down=True)
    (verdict,) = run_facts.unreached(session, set())
    assert (verdict.check, verdict.subject, verdict.status) == (REACHABLE, "node02", Status.UNKNOWN)
    assert run_facts.unreached(session, {(REACHABLE, "node02")}) == []
    assert len(run_facts.unreached(session, {(REACHABLE, "node01")})) == 1


def test_where_all_answer_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    session = seen(monkeypatch, down=False)
    assert run_facts.unreached(session, set()) == []
    assert run_facts.unreached_nodes(session, "vllm") == ""


def test_no_engine_is_started_there_and_an_attached_one_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    session = seen(monkeypatch, down=True)
    assert "node02 does not answer" in run_facts.unreached_nodes(session, "vllm")
    session.inventory.attach = object()
    assert run_facts.unreached_nodes(session, "vllm") == ""


def test_its_weights_are_skipped_with_the_reason_and_a_folder_that_cannot_be_read_is_no_silence() -> None:
    inventory = blog_cluster().inventory
    why = f"node02 does not answer (told once by {REACHABLE})"
    judge = WeightsJudge(WeightFacts({"node01": Missing("no container")}, {}, {}), inventory, why)
    checks = [check for check in IDS if check not in ("weights.equal", "weights.sha256")]
    assert {(v.status, v.reason) for v in (judge.check(c, "node02") for c in checks)} == {(Status.SKIP, why)}
    assert {v.status for v in (judge.check(c, "node01") for c in checks)} == {Status.UNKNOWN}
    assert [v.status for v in judge.equal()] == [Status.SKIP]
    assert WeightsJudge(WeightFacts({}, {}, {}), inventory).check("weights.names", "node02").status is Status.UNKNOWN


def test_an_engine_that_was_never_started_did_not_become_ready_too_late() -> None:
    error = TransportError("node01: connection refused")
    assert failed("vllm", error, started=False).title == NOT_STARTED
    assert failed("vllm", error).title == "The engine became ready in time"
    assert failed("vllm", error, started=False).status.blocks


def test_a_refusal_says_to_mend_before_it_says_how_to_go_on_all_the_same() -> None:
    red = Verdict(check="fabric.port_active", status=Status.FAIL, title="Port active", subject="node02 mlx5_3", reason="state DOWN")
    verdict = failed("sglang", H20Error(refusal_text([red])), started=False)
    assert verdict.action == MEND_FIRST
    assert verdict.action.startswith("mend")
    assert "--h20-force" not in verdict.reason
    assert verdict.reason == "not brought up: node02 mlx5_3: state DOWN", "one line: the check itself has told the rest"
