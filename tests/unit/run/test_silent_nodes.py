"""A node that does not answer is told once, also where the test that tells it was not selected."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.checks import NODE_CHECKS, all_verdicts
from pytest_h20.checks.bringup import MEND_FIRST, NOT_STARTED, failed
from pytest_h20.checks.frame import REACHABLE, Say
from pytest_h20.checks.weights.facts import WeightFacts
from pytest_h20.checks.weights.judge import IDS, WeightsJudge
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.script import Follows, Missing
from pytest_h20.run import facts as run_facts
from pytest_h20.run.bringup import refusal_text
from tests.unit.probes.cluster import blog_cluster

DOWN = "node02: SSH to 10.63.65.208:22: connection refused"


def seen(monkeypatch: pytest.MonkeyPatch, down: bool, lose: Callable[[Any], None] = lambda _: None) -> Any:
    cluster = blog_cluster()
    lose(cluster)
    if down:
        cluster.other.down = cluster.other.containers.daemon_error = DOWN
    gathered = SimpleNamespace(probes=cluster.gather())
    monkeypatch.setattr(run_facts, "published_facts", lambda *_: gathered)
    monkeypatch.setattr(run_facts, "gathered", lambda *_: gathered)
    return SimpleNamespace(labels=("vllm",), run=object(), inventory=SimpleNamespace(attach=None))


def test_it_is_told_at_the_end_unless_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    session = seen(monkeypatch, down=True)
    (verdict,) = run_facts.untold(session, [])
    assert (verdict.check, verdict.subject, verdict.status) == (REACHABLE, "node02", Status.UNKNOWN)
    assert run_facts.untold(session, [verdict]) == []
    assert len(run_facts.untold(session, [verdict.model_copy(update={"subject": "node01"})])) == 1


@pytest.mark.parametrize(
    ("lose", "cause", "status"),
    [
        (lambda cluster: setattr(cluster.other.containers, "no_image", True), "environment.image", Status.FAIL),
        (lambda cluster: setattr(cluster.other.containers, "daemon_error", "no daemon"), "environment.docker", Status.UNKNOWN),
    ],
)
def test_what_follows_from_a_cause_names_it_and_the_cause_is_told_whatever_was_selected(
    monkeypatch: pytest.MonkeyPatch, lose: Callable[[Any], None], cause: str, status: Status
) -> None:
    session = seen(monkeypatch, down=False, lose=lose)
    facts = run_facts.published_facts(session, "vllm")
    assert facts is not None
    (limited,) = NODE_CHECKS["environment.memlock"](facts.probes.of("node02"))
    assert (limited.status, limited.reason) == (Status.SKIP, f"because of {cause} [node02], told there")
    (told,) = run_facts.untold(session, [limited])
    assert (told.check, told.subject, told.status) == (cause, "node02", status)
    assert run_facts.untold(session, [limited, told]) == []
    red = [v for v in all_verdicts(facts.probes) if v.status.blocks and v.check.startswith("environment.")]
    assert [(v.check, v.subject) for v in red] == [(cause, "node02")]
    lost = facts.probes.of("node02").node.image_versions
    assert isinstance(lost, Follows)
    elsewhere = Say("compute.burn", "", "node02").missing(lost)
    assert (elsewhere.status, elsewhere.reason) == (Status.UNKNOWN, limited.reason), "its gate is not red by that"


def test_a_cause_that_nobody_has_to_measure_hides_nothing() -> None:
    lost = Follows("no daemon", "start it", "environment.docker", "node02")
    told = Say("environment.memlock", "", "node02", optional=("environment.docker",)).missing(lost)
    assert (told.status, told.reason, told.action) == (Status.UNKNOWN, "no daemon", "start it")


def test_where_all_answer_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    session = seen(monkeypatch, down=False)
    assert run_facts.untold(session, []) == []
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
    unread = {c: judge.check(c, "node01") for c in checks}
    assert unread.pop("weights.readable").status is Status.UNKNOWN
    assert {(v.status, v.reason) for v in unread.values()} == {(Status.SKIP, "because of weights.readable [node01], told there")}
    assert [v.status for v in judge.equal()] == [Status.SKIP]
    assert WeightsJudge(WeightFacts({}, {}, {}), inventory).check("weights.readable", "node02").status is Status.UNKNOWN


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
