from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.core.verdict import Status
from pytest_h20.report.github import MAX_ANNOTATIONS, error_commands, step_summary, write_step_summary
from pytest_h20.report.model import SetupError
from tests.unit.conftest import Sample


def test_a_set_up_error_comes_first_with_its_cause_and_fix(sample: Sample) -> None:
    first = error_commands(sample("aborted"))[0]
    assert first.startswith("::error title=The engine did not start on node02::model-00013")
    assert "%0Anext: copy it again" in first


def test_workflow_commands_are_escaped(sample: Sample) -> None:
    view = sample("clean").model_copy(update={"setup_errors": (SetupError(test_id="t", title="a:b,c%\nd", cause="100%\r\n::error::x"),)})
    assert error_commands(view) == ["::error title=a%3Ab%2Cc%25%0Ad::100%25%0A::error::x%0At"]


def test_a_clean_run_has_no_error(sample: Sample) -> None:
    assert error_commands(sample("clean")) == []


def test_no_run_that_is_not_green_is_silent(sample: Sample) -> None:
    assert error_commands(sample("killed"))[0].startswith("::error")


def test_what_github_would_drop_is_counted(sample: Sample) -> None:
    errors = [line for line in error_commands(sample("faulty")) if line.startswith("::error")]
    assert len(errors) == MAX_ANNOTATIONS
    assert "more failures" in errors[-1]
    assert all("\n" not in line for line in errors)


@pytest.mark.parametrize("name", ["clean", "faulty", "aborted", "rehearsal", "killed"])
def test_the_summary_answers_first(sample: Sample, name: str) -> None:
    answers = {"clean": "ACCEPTED", "rehearsal": "NOT AN ACCEPTANCE", "killed": "NOT FINISHED"}
    first = step_summary(sample(name)).splitlines()[0]
    assert answers.get(name, "NOT ACCEPTED") in first
    assert ("✅" in first) is (name == "clean")


def test_tables_keep_their_columns_and_carry_no_html(sample: Sample) -> None:
    view = sample("faulty")
    odd = view.checks[0].model_copy(update={"status": Status.FAIL, "subject": "a|b\nc<img src=x>", "reason": "`x`"})
    text = step_summary(view.model_copy(update={"checks": (odd,)}))
    row = next(line for line in text.splitlines() if "img" in line)
    assert row.replace("\\|", "").count("|") == 6
    assert "<img" not in text


def test_it_is_written_only_inside_github(sample: Sample, tmp_path: Path) -> None:
    target = tmp_path / "summary.md"
    assert not write_step_summary(sample("clean"), {})
    assert write_step_summary(sample("clean"), {"GITHUB_STEP_SUMMARY": str(target)})
    assert write_step_summary(sample("faulty"), {"GITHUB_STEP_SUMMARY": str(target)})
    assert target.read_text(encoding="utf-8").count("## ") == 2
