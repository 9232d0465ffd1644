"""What a test that gave no verdict of its own means for its gate."""

from __future__ import annotations

import pytest

from pytest_h20.core.errors import TransportError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.plugin.outcome import Outcome, check_name, not_measured, outcome_of, unreported

ID = "tests/test_x.py::TestA::test_some_Thing[node01-mlx5_1]"
GOOD = Verdict(check="rdma.x", status=Status.PASS, title="It holds")
BAD = Verdict(check="rdma.y", status=Status.FAIL, title="It holds", reason="it does not", action="mend it")
TRACEBACK = "def test(): ...\n    boom()\nE   ValueError: no such thing\nE   more\n\ntest_x.py:3: ValueError"


def ended(
    outcome: str, *verdicts: Verdict, reason: str = "", gate: str | None = "rdma", when: str = "call", asserted: bool = False
) -> Outcome:
    return outcome_of(ID, when, outcome, reason, gate, verdicts, 0.5, asserted)


@pytest.mark.parametrize(
    ("outcome", "status", "title", "told"),
    [
        (ended("passed"), Status.PASS, "some_thing", ""),
        (ended("skipped", reason="not on this model"), Status.SKIP, "Skipped", "not on this model"),
        (ended("failed", reason=TRACEBACK), Status.UNKNOWN, "The check itself broke", "ValueError: no such thing"),
        (ended("failed", reason=TRACEBACK, when="setup"), Status.UNKNOWN, "The check could not start", "ValueError: no such thing"),
        (ended("failed", reason="E   assert 1 == 2", asserted=True), Status.FAIL, "some thing", f"{ID}: assert 1 == 2"),
        (ended("failed", reason="E assert 0", when="setup", asserted=True), Status.UNKNOWN, "The check could not start", "assert 0"),
    ],
    ids=["passed", "skipped", "broke", "set-up", "assert", "assert-in-set-up"],
)
def test_a_test_without_a_verdict(outcome: Outcome, status: Status, title: str, told: str) -> None:
    (verdict,) = outcome.verdicts
    assert (verdict.check, verdict.subject) == ("rdma.some_thing", "node01-mlx5_1")
    assert (verdict.status, verdict.title.lower().replace(" ", "_"), verdict.reason) == (status, title.lower().replace(" ", "_"), told)


def test_verdicts_of_its_own_are_all_that_is_told() -> None:
    assert ended("passed", GOOD).verdicts == (GOOD,)
    failed = ended("failed", GOOD, BAD, reason="rdma.y: It holds")
    assert (failed.verdicts, failed.broke, failed.setup_error) == ((GOOD, BAD), False, None)


def test_a_test_that_broke_beside_its_good_verdicts_is_not_green() -> None:
    broke = ended("failed", GOOD, reason=TRACEBACK)
    assert [v.status for v in broke.verdicts] == [Status.PASS, Status.UNKNOWN]
    error = broke.setup_error
    assert error is not None
    assert (error.title, error.words, error.cause, error.text) == (
        "ValueError: no such thing",
        "set-up error",
        "ValueError: no such thing",
        TRACEBACK,
    )


def test_a_set_up_that_failed_by_its_verdict_says_cause_and_fix() -> None:
    error = ended("failed", BAD, reason="long text", when="setup").setup_error
    assert error is not None
    assert (error.title, error.cause, error.fix) == ("It holds", "it does not", "mend it")


def test_a_test_of_no_gate_has_no_verdict_and_breaks_visibly() -> None:
    assert ended("passed", gate=None).verdicts == ()
    broke = ended("failed", gate=None, reason=TRACEBACK, asserted=True)
    assert broke.verdicts == ()
    assert broke.setup_error is not None
    assert broke.setup_error.words == "test failed"


def test_it_comes_back_from_a_worker_as_it_was() -> None:
    outcome = ended("failed", GOOD, BAD, reason="x")
    assert Outcome.from_dict(outcome.to_dict()) == outcome


def test_an_error_of_ours_is_could_not_measure() -> None:
    verdict = not_measured(ID, "rdma", TransportError("\n  node02: connection lost\nmore"))
    assert (verdict.check, verdict.status, verdict.reason) == ("rdma.some_thing", Status.UNKNOWN, "node02: connection lost")
    assert not_measured(ID, "rdma", TransportError("")).reason == "TransportError"


def test_a_gate_of_which_tests_did_not_report_is_could_not_measure() -> None:
    verdict = unreported("bringup", ["a.py::test_ready[sglang]", "a.py::test_first_completion"], 6)
    assert (verdict.check, verdict.status) == ("bringup.ready", Status.UNKNOWN)
    assert verdict.reason == "2 of the gate's 6 tests did not report: the run ended before them"


@pytest.mark.parametrize(
    ("test_id", "name"),
    [("a.py::test_x", "x"), ("a.py::test_x[a::b]", "x"), ("a.py::test_", "test"), ("a.py::test_Ünï-x", "n_x"), ("a.py", "a_py")],
)
def test_the_name_of_a_check(test_id: str, name: str) -> None:
    assert check_name(test_id) == name
