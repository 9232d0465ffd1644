"""Each judgement about a drill: what it must catch, the look-alike it must leave alone, and what was not seen at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.checks.drill import TITLES, AskedAfter, Attempt, Health, Restart, Seen, judged, untrue_s
from pytest_h20.core.verdict import Status, Verdict

LIMIT = 60.0


def polled(*runs: tuple[float, float, int]) -> tuple[Health, ...]:
    """``/health`` asked every second: from, to, status."""
    return tuple(Health(float(t), status) for begin, end, status in runs for t in range(int(begin), int(end) + 1))


DIES = Seen(
    told_s=LIMIT,
    why="test",
    proof="process 7 is gone",
    attempts=(Attempt(-5, -1, "answered"), Attempt(-1, 4, "error"), Attempt(4, 5, "error")),
    health=polled((-3, 4, 200), (5, 12, 503), (13, 15, 0)),
    settled="down",
    settled_s=12.0,
    restart=Restart(True, 300.0),
    after=AskedAfter(4, 4),
    left=(),
)
"""An engine as it should be: clients see an error, health says so, it goes down, it is started again."""
LIVES = replace(
    DIES,
    attempts=(Attempt(-5, -1, "answered"), Attempt(-1, 2, "answered"), Attempt(2, 3, "answered")),
    health=polled((-3, 15, 200)),
    settled="well",
    settled_s=3.0,
    restart=None,
    left=None,
    survives=True,
)


def red(seen: Seen) -> dict[str, Verdict]:
    return {v.check.removeprefix("drill."): v for v in judged(seen, "sglang kill-api") if v.status.blocks}


@pytest.mark.parametrize("seen", [DIES, LIVES])
def test_an_engine_that_fails_well_and_one_that_lives_are_green(seen: Seen) -> None:
    verdicts = judged(seen, "sglang kill-api", ["evidence/x"])
    assert [v.check for v in verdicts] == list(TITLES)
    assert red(seen) == {}
    assert all(v.looked_at for v in verdicts if v.status is Status.PASS), "a pass says how much was looked at"


def test_an_engine_that_is_slow_to_go_down_but_says_so_is_green() -> None:
    slow = replace(
        DIES,
        attempts=(Attempt(-5, -1, "answered"), *(Attempt(float(t), t + 1.0, "error") for t in range(55))),
        health=polled((0, 4, 200), (5, 58, 503)),
        settled_s=58.0,
    )
    assert red(slow) == {}


CATCHES = (
    (
        "hides behind 200",
        replace(DIES, health=polled((-3, 50, 200)), attempts=(Attempt(-9, -1, "answered"), Attempt(-1, 50, "error"))),
        {"health_true"},
    ),
    ("hangs", replace(DIES, attempts=(*DIES.attempts, Attempt(-1, 12, "hang"))), {"clients_told"}),
    ("tells too late", replace(DIES, attempts=(*DIES.attempts, Attempt(-1, 61, "error"))), {"clients_told"}),
    ("wrong", replace(LIVES, attempts=(*LIVES.attempts, Attempt(3, 4, "wrong", "56 is said, 42 is right"))), {"no_false_answer"}),
    ("cut", replace(DIES, attempts=(*DIES.attempts, Attempt(0, 1, "cut", "12 of 64 tokens, then [DONE]"))), {"no_false_answer"}),
    ("neither well nor down", replace(DIES, settled="", settled_s=60.0), {"settles"}),
    ("goes down in a fault it must live through", replace(DIES, survives=True), {"settles"}),
    (
        "does not start again",
        replace(DIES, restart=Restart(False, 9.0, "port 8000 is taken"), after=AskedAfter(0, 0)),
        {"comes_back", "right_after"},
    ),
    ("nonsense afterwards", replace(DIES, after=AskedAfter(3, 4, "6 x 7: 'maple'")), {"right_after"}),
    ("leaves memory", replace(DIES, left=("node02: GPU 3 holds 91,000 MiB",)), {"leaves_nothing"}),
    ("stays broken", replace(LIVES, stuck="netem is still there"), {"taken_back"}),
)


@pytest.mark.parametrize(("seen", "checks"), [pytest.param(s, c, id=n) for n, s, c in CATCHES])
def test_it_catches(seen: Seen, checks: set[str]) -> None:
    assert set(red(seen)) == checks
    assert all(v.reason or v.measured is not None for v in red(seen).values())


def test_a_drill_that_did_nothing_is_no_pass_and_nothing_else_is_judged() -> None:
    found = judged(replace(DIES, proof="", nothing="eth0: no packet went through it"), "sglang rail-loss-1")
    assert found[0].status is Status.UNKNOWN
    assert "the drill did nothing: eth0: no packet" in found[0].reason
    assert {v.status for v in found[1:-1]} == {Status.SKIP}
    assert found[-1].check == "drill.taken_back"


def test_what_nobody_asked_is_unknown() -> None:
    found = red(replace(DIES, attempts=(), health=(), after=AskedAfter(0, 0)))
    assert {name: v.status for name, v in found.items()} == dict.fromkeys(
        ("clients_told", "no_false_answer", "health_true", "right_after"), Status.UNKNOWN
    )


@pytest.mark.parametrize(
    ("attempts", "health", "seconds"),
    [
        ((), polled((0, 50, 200)), 0.0),  # nobody asked: nothing was untrue
        ((Attempt(0, 40, "hang"),), polled((0, 40, 200)), 40.0),
        ((Attempt(0, 40, "hang"),), polled((0, 10, 200), (11, 11, 503), (12, 40, 200)), 28.0),
        ((Attempt(0, 40, "error"), Attempt(0, 20, "answered")), polled((0, 40, 200)), 20.0),  # one was served in between
        ((Attempt(0, 5, "error"), Attempt(5, 40, "answered")), polled((0, 40, 200)), 5.0),  # a slow answer after an error
    ],
)
def test_the_longest_untrue_stretch(attempts: tuple[Attempt, ...], health: tuple[Health, ...], seconds: float) -> None:
    assert untrue_s(attempts, health) == seconds
