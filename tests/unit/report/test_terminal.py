from __future__ import annotations

import pytest

from pytest_h20.core.verdict import GateName, Status, Verdict, decide
from pytest_h20.report.model import NOT_ASKED, CheckRow, SetupError
from pytest_h20.report.terminal import terminal_lines, verdict_words, worst_first
from tests.unit.conftest import Sample

GATES = tuple(name.value for name in GateName)


def test_gates_are_worst_first(sample: Sample) -> None:
    ranks = [g.status.rank for g in worst_first(sample("faulty"))]
    assert ranks == sorted(ranks, reverse=True)


def test_the_report_is_the_last_line(sample: Sample) -> None:
    lines = terminal_lines(sample("clean"), "report.html")
    assert lines[-1].text == "report: report.html"
    assert lines[-2].text.startswith("run folder: ")
    assert len([line for line in lines if line.text.split()[0] in {"environment", "rdma", "throughput"}]) == 3


@pytest.mark.parametrize(
    ("name", "said", "colour"),
    [
        ("clean", "ACCEPTED", "green"),
        ("faulty", "NOT ACCEPTED", "red"),
        ("rehearsal", "THIS IS A REHEARSAL RUN: NOT AN ACCEPTANCE", "yellow"),
        ("calibration", "THIS RUN CANNOT BE AN ACCEPTANCE", "yellow"),
        ("killed", "NOT FINISHED", "red"),
    ],
)
def test_the_answer_and_its_colour(sample: Sample, name: str, said: str, colour: str) -> None:
    line = next(line for line in terminal_lines(sample(name)) if line.markup.get("bold") and not line.text.startswith(("next: ", *GATES)))
    assert said in line.text
    assert line.markup[colour]


def test_what_keeps_a_green_run_from_an_acceptance_stands_in_lines_of_its_own(sample: Sample) -> None:
    view = sample("rehearsal")
    assert len(view.header.obstacles) > 1
    lines = [line.text for line in terminal_lines(view)]
    at = next(i for i, line in enumerate(lines) if line.endswith("NOT AN ACCEPTANCE"))
    assert lines[at + 1 : -1] == [f"  {text}" for text in view.header.obstacles]


def test_what_was_only_recorded_is_counted_apart(sample: Sample) -> None:
    view = sample("clean")
    recorded = CheckRow(check="environment.uptime", status=Status.SKIP, title="Time since boot", measured=42)
    skipped = recorded.model_copy(update={"measured": None})
    checks = (*view.checks, recorded, recorded, skipped)
    decision = decide([c.bare() for c in checks], view.header.required)
    lines = terminal_lines(view.model_copy(update={"checks": checks, "decision": decision}))
    assert next(x.text for x in lines if x.text.startswith("environment")).endswith("[6 pass, 1 skip, 2 recorded]")


def test_a_gate_that_holds_with_warnings_names_the_first(sample: Sample) -> None:
    view = sample("clean")
    warned = CheckRow(check="fabric.x", subject="node01", status=Status.WARN, title="x", reason="NCCL is old")
    checks = (*view.checks, warned)
    decision = decide([c.bare() for c in checks], view.header.required)
    lines = terminal_lines(view.model_copy(update={"checks": checks, "decision": decision}))
    told = next(x.text for x in lines if x.text.startswith("fabric"))
    assert "passed, with warnings: node01: NCCL is old  [" in told


def test_set_up_errors_and_damage_are_lines_of_their_own(sample: Sample) -> None:
    assert any("set-up error: The engine did not start on node02" in line.text for line in terminal_lines(sample("aborted")))
    assert any("left out" in line.text for line in terminal_lines(sample("killed")))


def test_where_no_gate_was_asked_for_only_what_broke_is_red(sample: Sample) -> None:
    view = sample("clean")
    decision = decide([], ())
    assert not decision.green
    mine = view.model_copy(update={"header": view.header.model_copy(update={"cannot_accept": (NOT_ASKED,)}), "decision": decision})
    assert verdict_words(mine) == "NO ACCEPTANCE WAS ASKED FOR"
    broke = SetupError(test_id="t", title="mine", words="test failed", cause="1 == 2")
    assert verdict_words(mine.model_copy(update={"setup_errors": (broke,)})) == "NO ACCEPTANCE WAS ASKED FOR, AND NOT EVERYTHING HOLDS"


def test_the_next_step_stands_below_the_answer_and_nothing_is_said_twice(sample: Sample) -> None:
    view = sample("clean")
    cause = "not brought up: node02: image x is not on node node02"
    red = [
        Verdict(
            check="environment.image", status=Status.FAIL, title="Image", subject="node02", reason="no image x", action="docker pull x"
        ),
        Verdict(check="bringup.ready", status=Status.FAIL, title="Ready", subject="sglang", reason=cause, action="mend that"),
    ]
    told = SetupError(test_id="t", title="The engine could be started", words="set-up error", cause=cause)
    checks = (*view.checks, *(CheckRow(**dict(v)) for v in red))
    decision = decide([c.bare() for c in checks], view.header.required)
    lines = [x.text for x in terminal_lines(view.model_copy(update={"checks": checks, "decision": decision, "setup_errors": (told,)}))]
    assert lines[-2] == "next: docker pull x"
    assert lines[-3].startswith("NOT ACCEPTED: environment: node02: no image x; bringup: sglang: not brought up: node02: image x")
    assert not any(line.startswith("set-up error") for line in lines)
    assert not any(line.startswith("next: ") for line in map(str, (x.text for x in terminal_lines(view))))
