"""The end of a run: which gates are asked for, what keeps it from being an acceptance, and that it is always written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.core.verdict import Decision, GateName, Status, Verdict
from pytest_h20.report.model import NOT_ASKED
from pytest_h20.run.finish import finish, states
from pytest_h20.run.settings import Session, Settings, build, create_run, with_run
from pytest_h20.run.store import SELECTED


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = build(Settings(nodes="rehearsal", engine=("sglang",), history="none"))
    return with_run(made, create_run(made, tmp_path, "pytest"), "r1")


def select(session: Session, *gates: str) -> None:
    session.shared.publish(SELECTED, [(f"test_{gate}.py::test_x", gate) for gate in gates])


def record(session: Session, *checks: str, status: Status = Status.PASS) -> None:
    for check in checks:
        session.folder.record(Verdict(check=check, status=status, title="It holds", reason="why"), "test_x.py::test_x")


def written(session: Session) -> dict[str, object]:
    data: dict[str, object] = json.loads((session.folder.path / "verdict.json").read_text(encoding="utf-8"))
    return data


def ended(session: Session, *gates: str, unfinished: str = "", lacking: str = "") -> Decision:
    decision = finish(session, gates, unfinished, lacking)
    assert (written(session)["green"], written(session)["accepted"]) == (decision.green, decision.accepted)
    return decision


def obstacles(session: Session) -> str:
    return "; ".join(session.folder.header.cannot_accept)


ALL = tuple(g.value for g in GateName)


def test_every_gate_holds_and_a_rehearsal_is_no_acceptance(session: Session) -> None:
    select(session, *ALL)
    record(session, *(f"{gate}.x" for gate in ALL))
    decision = ended(session, *ALL)
    assert (decision.green, decision.accepted) == (True, False)
    assert (session.folder.path / "fingerprint.json").exists()


def test_a_gate_that_was_selected_and_said_nothing_is_red(session: Session) -> None:
    select(session, *ALL)
    record(session, *(f"{gate}.x" for gate in ALL if gate != "rdma"))
    decision = ended(session, *ALL)
    assert (decision.green, decision.reason) == (False, "rdma: nothing in this gate was measured")


def test_a_part_that_was_asked_for_may_be_green_and_says_what_it_left_out(session: Session) -> None:
    select(session, "fabric")
    record(session, "fabric.x")
    decision = ended(session, "fabric", lacking="3 tests gave no verdict")
    assert (decision.green, decision.accepted) == (True, False)
    assert "these gates were not selected: environment, weights" in obstacles(session)
    assert "3 tests gave no verdict" in obstacles(session)


def test_a_run_that_ended_early_is_red_whatever_passed(session: Session) -> None:
    select(session, *ALL)
    record(session, *(f"{gate}.x" for gate in ALL if gate != "throughput"))
    record(session, "weights.y", status=Status.FAIL)
    decision = ended(session, "fabric", unfinished="interrupted")
    assert (decision.green, decision.accepted) == (False, False)
    assert decision.reason == "interrupted; it ended before throughput; weights: why"
    assert "the run is not finished" in obstacles(session)


def test_an_interrupted_part_does_not_name_what_was_not_asked_for(session: Session) -> None:
    select(session, "throughput", "rdma")
    record(session, "rdma.x")
    decision = ended(session, "rdma", unfinished="interrupted")
    assert decision.reason == "interrupted; it ended before throughput"
    assert "these gates were not selected: environment, fabric" in obstacles(session)


def test_a_repositorys_own_tests_are_told_no_gates(session: Session) -> None:
    decision = ended(session, lacking="all of them")
    assert (decision.green, decision.accepted) == (False, False)
    assert NOT_ASKED in obstacles(session)
    assert "all of them" not in obstacles(session)
    assert session.folder.header.required == ()


def test_a_suite_of_which_nothing_ran_says_so(session: Session) -> None:
    select(session, *ALL)
    assert ended(session).green is False
    assert "no test of the acceptance suite ran" in obstacles(session)


def test_an_engine_that_never_came_up_has_no_state(session: Session) -> None:
    assert states(session) == {}
