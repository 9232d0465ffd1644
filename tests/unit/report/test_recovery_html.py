"""The recovery table of the page."""

from __future__ import annotations

from pytest_h20.report.html.recovery import HEAD, recovery
from pytest_h20.report.model import DrillRow


def test_a_row_says_what_clients_saw_and_how_it_came_back() -> None:
    row = DrillRow(
        engine="sglang",
        drill="kill-api",
        proof="process 7 is gone",
        clients={"error": 3},
        told_s=4.2,
        health=(200, 503, 0),
        settled="down",
        settled_s=12.3,
        restart="started again",
        restart_s=300.0,
        left=("node01: /dev/shm/<b>",),
    )
    page = str(recovery([row]))
    for text in ("sglang kill-api", "process 7 is gone", "3 error", "4.2 s", "200 → 503 → no answer", "down, 12 s", "started again, 5 min"):
        assert text in page
    assert "/dev/shm/&lt;b&gt;" in page
    assert page.count("<th ") == len(HEAD) + 1


def test_a_drill_that_did_nothing_came_to_no_rest() -> None:
    page = str(recovery([DrillRow(engine="vllm", drill="rail-loss-1", proof="did nothing: no packet went through it")]))
    assert "did nothing" in page
    assert "neither well nor down" not in page
