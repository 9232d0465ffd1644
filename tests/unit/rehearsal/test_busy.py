"""A machine that let a rehearsal wait is told as the cause of what that explains, and of nothing else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.rehearsal.busy import excused, waited_s

SILENT = Verdict(
    check="endpoint.disconnect", status=Status.UNKNOWN, title="x", reason="no complete answer within 4 s", details={"unanswered": True}
)
AT_MOST = Limit(kind="max", value=2.0, unit="s", origin=Origin(kind="builtin"))
SLOW = Verdict(check="endpoint.disconnect", status=Status.FAIL, title="x", measured=5.0, unit="s", limit=AT_MOST)


def outcome(verdict: Verdict, waited: float, scale: float = 1.0) -> tuple[Status, bool]:
    (found,) = excused([verdict], waited, scale)
    return found.status, "too busy: stand-in and client waited" in found.reason


def test_an_answer_that_did_not_come_while_everybody_waited_is_told_so() -> None:
    (found,) = excused([SILENT], 3.2)
    assert found.status is Status.UNKNOWN
    assert found.reason.endswith("waited 3.2 s for a processor meanwhile; no complete answer within 4 s"), "and what was seen"
    assert "this machine has less to do" in found.action
    assert outcome(SILENT, 0.2) == (Status.UNKNOWN, False), "an engine that hangs on a machine at rest"


def test_a_time_is_excused_by_no_more_than_was_waited() -> None:
    assert outcome(SLOW, 3.5) == (Status.UNKNOWN, True)
    assert outcome(SLOW, 2.5) == (Status.FAIL, False)
    assert outcome(SLOW, 0.6, scale=30.0) == (Status.UNKNOWN, True), "in model time"
    in_ms = SLOW.model_copy(update={"measured": 5000.0, "unit": "ms", "limit": AT_MOST.model_copy(update={"value": 2000.0, "unit": "ms"})})
    assert outcome(in_ms, 3.5) == (Status.UNKNOWN, True)


@pytest.mark.parametrize(
    "verdict",
    [
        SLOW.model_copy(update={"unit": "tok/s"}),
        SLOW.model_copy(update={"limit": AT_MOST.model_copy(update={"kind": "min"})}),
        SLOW.model_copy(update={"limit": None}),
        SLOW.model_copy(update={"measured": "a lot"}),
        SLOW.model_copy(update={"measured": None, "status": Status.UNKNOWN, "reason": "no tool"}),
        SLOW.model_copy(update={"measured": 1.0, "status": Status.PASS}),
    ],
)
def test_nothing_else_is_excused(verdict: Verdict) -> None:
    assert excused([verdict], 60.0) == (verdict,)


def test_threads_that_wait_are_counted_and_who_is_gone_is_not() -> None:
    assert waited_s([2**22 + 1]) == 0.0
    stop = threading.Event()
    threads = [threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    before = waited_s([os.getpid()])
    told = sum(int(f.read_text().split()[1]) for f in Path(f"/proc/{os.getpid()}/task").glob("*/schedstat")) / 1e9
    stop.set()
    for thread in threads:
        thread.join()
    assert 0 <= before <= told
