"""examples/pipelines and examples/allure: their options exist, what was started is taken away, and what is red is red in Allure."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.__main__ import COMMANDS
from pytest_h20.core.setting import OPTIONS
from pytest_h20.report.html.page import run_parts
from pytest_h20.report.model import RunView
from tests.unit.report import samples

EXAMPLES = Path(__file__).parents[2] / "examples"
PIPELINES = ("github/action.yml", "gitlab-ci.yml", "Jenkinsfile")
FOREIGN = {"--junit-xml", "--html", "--self-contained-html"}


def _text(name: str) -> str:
    return (EXAMPLES / "pipelines" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_says_what_pytest_and_we_know(name: str) -> None:
    text = _text(name)
    runs = re.findall(r"bin/pytest\W((?:[^\n]|\n {6,}--)*)", text)
    assert runs
    asked = {option for run in runs for option in re.findall(r"(?<!\S)(--[a-z0-9-]+)", run)}
    assert asked - FOREIGN <= {name for option in OPTIONS for name in (f"--{option.name}", option.alias)}
    assert {"--engine", "--nodes", "--h20-run-dir"} <= asked
    assert set(re.findall(r"-m pytest_h20 (\w+)", text)) == {"reap"} <= set(COMMANDS)


def test_github_takes_away_and_keeps_whatever_happened() -> None:
    action = yaml.safe_load(_text("github/action.yml"))
    steps = action["runs"]["steps"]
    (gate,) = [i for i, step in enumerate(steps) if "bin/pytest" in step.get("run", "")]
    assert all(step["if"].startswith("always()") for step in steps[gate + 1 :])
    assert [("reap" in step.get("run", ""), "upload-artifact" in step.get("uses", "")) for step in steps[gate + 1 :]] == [
        (True, False),
        (False, True),
    ]
    assert not any("${{" in step.get("run", "") for step in steps), "an input in a script is code of whoever writes it"
    used = set(re.findall(r"inputs\.(\w+)", str(steps)))
    assert used == set(action["inputs"])


def test_gitlab_takes_away_and_keeps_whatever_happened() -> None:
    job = yaml.safe_load(_text("gitlab-ci.yml"))["cluster"]
    assert "reap" in job["after_script"][0]
    assert job["artifacts"]["when"] == "always"
    assert {"runs", "report.html"} == set(job["artifacts"]["paths"])


@pytest.mark.parametrize(("sample", "run"), [(samples.clean, "passed"), (samples.faulty, "failed"), (samples.aborted, "failed")])
def test_allure_shows_every_verdict_and_no_red_run_as_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Callable[[Path], RunView], run: str
) -> None:
    view = sample(tmp_path)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "allure" / "conftest.py"))["pytest_h20_report"](view.path, "what was decided")
    results: list[dict[str, Any]] = [json.loads(p.read_text(encoding="utf-8")) for p in (tmp_path / "allure-results").glob("*-result.json")]
    words = {"pass": "passed", "warn": "passed", "fail": "failed", "unknown": "broken", "skip": "skipped"}
    (decision,) = [r for r in results if r["fullName"] == "run"]
    assert (decision["name"], decision["status"]) == ("what was decided", run)
    assert Counter((r["fullName"], r["status"]) for r in results if r is not decision) == Counter(
        (f"{c.check} {c.subject}".strip(), words[c.status.value]) for c in view.checks
    )
    reasons = {c.reason for c in view.checks if c.status.value in ("fail", "unknown")}
    assert {r["statusDetails"]["message"] for r in results if r["status"] in ("failed", "broken") and r is not decision} == reasons
    assert len({r["historyId"] for r in results}) == len(results)


def test_what_a_page_without_script_and_style_says(tmp_path: Path) -> None:
    """As under Jenkins' policy: nothing of the decision is made by a script, or waits for one to show it."""
    view = samples.faulty(tmp_path)
    page = str(run_parts(view))
    assert "<script" not in page
    assert not re.search(r"<[^>]+\s(hidden|onclick|onload)\b", page)
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    red = [c for c in view.checks if c.status.value == "fail"]
    assert red
    for check in red:
        assert " ".join(check.title.split()) in text
        assert " ".join(check.reason.split()) in text
    assert all(node.name in text for node in view.header.nodes)
