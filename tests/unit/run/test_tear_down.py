"""What the tear-down says: an engine that ended by itself has not shown that it ends on SIGTERM."""

from __future__ import annotations

from pytest_h20.checks.bringup import NOTHING_LEFT, down_verdicts
from pytest_h20.cluster.teardown import Down, Stopped, tried_again
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.run.bringup import with_left

HEAD = Stopped("node01", "h20-a-rank0", "rank0", 3.1, False, 137)
WORKER = Stopped("node02", "h20-a-rank1", "rank1", 2.0, False, 0)
GONE = Stopped("node02", "h20-a-rank1", "rank1", 0.0, False, 1, gone=True)


def stops(*stopped: Stopped, ended: str | None = "") -> Verdict:
    return down_verdicts(Down(stopped, (), ()), "sglang", ended=ended)[0]


def test_an_engine_that_ran_until_it_was_stopped_passes() -> None:
    verdict = stops(HEAD, WORKER)
    assert (verdict.check, verdict.status, verdict.measured) == ("bringup.stops", Status.PASS, 3.1)


def test_a_process_that_was_gone_before_fails_and_is_named() -> None:
    verdict = stops(HEAD, GONE)
    assert verdict.status is Status.FAIL
    assert "gone before it was asked to end: node02: rank1 had ended before it was stopped (exit code 1)" in verdict.reason
    assert stops(GONE).measured is None, "nothing was measured"


def test_an_end_that_was_found_while_it_was_tested_fails_although_the_container_runs() -> None:
    """With Ray the engine is exec'd into a container that goes on without it."""
    verdict = stops(HEAD, WORKER, ended="rank0 (rank 0) on node01 ended (exit code 1)")
    assert verdict.status is Status.FAIL
    assert "rank0 (rank 0) on node01 ended" in verdict.reason


def test_a_bring_up_that_failed_is_told_there_and_not_again() -> None:
    verdict = stops(HEAD, GONE, ended=None)
    assert verdict.status is Status.SKIP
    assert "never came up" in verdict.reason
    assert stops(HEAD, WORKER, ended=None).status is Status.PASS, "what ran showed that it ends"


def test_ignoring_sigterm_is_told_whatever_else_happened() -> None:
    deaf = Stopped("node01", "h20-a-rank0", "rank0", 25.0, True, 137)
    for ended in ("", None, "rank1 ended"):
        verdict = stops(deaf, GONE, ended=ended)
        assert verdict.status is Status.FAIL
        assert "rank0 ignored SIGTERM for 25 s" in verdict.reason


def test_nothing_found_is_no_pass() -> None:
    assert stops().status is Status.UNKNOWN


def test_a_second_attempt_does_not_forget_that_the_first_one_stopped_it() -> None:
    first = Down((HEAD, WORKER), ("node02: container could not be removed",), ("evidence/a",))
    second = Down((GONE,), (), ("evidence/b",))
    whole = tried_again(first, second)
    assert {s.name: s.gone for s in whole.stopped} == {"h20-a-rank0": False, "h20-a-rank1": False}
    assert (whole.left, whole.collected) == ((), ("evidence/a", "evidence/b"))


def test_what_is_left_is_told_once() -> None:
    """What an engine's tear-down could not remove is met again when the node's record is closed."""
    stays = "node02: container h20-r1-rank1 (abc) could not be removed: device or resource busy"
    red = down_verdicts(Down((), (stays,), ()), "sglang")
    for left, reason in (([stays], stays), ([stays, "node01: r1.tmp"], f"{stays}; node01: r1.tmp"), ([], stays)):
        told = [v for v in with_left(red, left, "x.yaml") if v.check == NOTHING_LEFT]
        assert [(v.status, v.reason) for v in told] == [(Status.FAIL, reason)]
    green = down_verdicts(Down((), (), ()), "sglang")
    (fine, late) = (v for v in with_left(green, ["node01: r1.tmp"], "x.yaml") if v.check == NOTHING_LEFT)
    assert fine.status is Status.PASS
    assert (late.status, late.reason) == (Status.UNKNOWN, "node01: r1.tmp")
    assert with_left(green, [], "x.yaml") == green
