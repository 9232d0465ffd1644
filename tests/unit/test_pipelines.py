"""examples/: pipelines keep to their tools' schemas and take away what they started; Allure and Grafana show what was written."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner

from pytest_h20.__main__ import COMMANDS
from pytest_h20.core.setting import OPTIONS
from pytest_h20.report.export import openmetrics
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


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", EXAMPLES / "pipelines" / "github" / "action.yml"),
        ("vendor.gitlab-ci", EXAMPLES / "pipelines" / "gitlab-ci.yml"),
        ("vendor.github-workflows", EXAMPLES.parent / ".github" / "workflows" / "test.yml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pipeline_keeps_to_its_tools_own_schema(tmp_path: Path, schema: str, file: Path) -> None:
    done = CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", schema, str(file)])
    assert done.exit_code == 0, done.output
    wrong = tmp_path / file.name
    wrong.write_text(re.sub(r"^(  +)(shell|script|runs-on):", r"\1not-\2:", file.read_text(encoding="utf-8"), flags=re.M), encoding="utf-8")
    refused = CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", schema, str(wrong)])
    assert refused.exit_code == 1, "the schema judges something"
    assert "Schema validation errors were encountered" in refused.output


def _expressions(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_what_is_exported(tmp_path: Path) -> None:
    """Each was answered by a real Prometheus once (docs/measured.md); here names and labels are held against what is written today."""
    board = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    written: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(h20_\w+)\{(.*)\} ", openmetrics(samples.clean(tmp_path)), re.M):
        written.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    asked = _expressions(board["panels"])
    assert len(asked) == len(board["panels"]) >= 12
    for title, expression in asked:
        names = re.findall(r"h20_\w+", expression)
        assert names, title
        assert set(names) <= set(written), title
        grouped = re.findall(r" by \(([^)]*)\)", expression)
        labels = {*re.findall(r"\{(\w+)=", expression), *(word for group in grouped for word in group.split(", "))}
        assert all(labels <= written[name] for name in names), title
    legends = {word for panel in board["panels"] for t in panel["targets"] for word in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"])}
    assert legends <= set().union(*written.values())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["description"] for panel in board["panels"])
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}, "no name of somebody's own data source"


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
