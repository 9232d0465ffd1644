"""The foreign repository in examples/ works as its README says, with nothing but the installed plugin."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.plugin.foreign import Done, pytest_in

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving-tests"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, away from this repository."""
    folder = tmp_path_factory.mktemp("example") / "serving-tests"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "h20-runs", ".pytest_cache"))
    (folder / "archive").mkdir()
    return folder


def _commands() -> list[list[str]]:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line.strip()) for line in re.findall(r"^    (pytest .*)$", text, re.M)]


@pytest.fixture(scope="module")
def done(repository: Path) -> Done:
    """The first command of the README."""
    command = next(c for c in _commands() if "--nodes=rehearsal:quick" in c)
    return pytest_in(repository, *command[1:], VERDICT_ARCHIVE=str(repository / "archive"))


def test_every_test_of_the_example_passes(done: Done) -> None:
    assert done.status == 0, done.output
    assert set(done.counts) == {"passed"}


def test_marked_tests_count_for_their_gates(done: Done) -> None:
    passed = {gate["name"] for gate in done.verdict["gates"] if gate["status"] == "pass"}
    assert {"endpoint", "throughput"} <= passed
    assert done.check("endpoint.one_model")[0]["limit"]["origin"]["detail"] == "gateway requirements, section 3"
    assert done.check("endpoint.router_name")[0]["status"] == "pass"


def test_the_promised_limits_judge_the_promised_cells(done: Done) -> None:
    judged = {c["subject"]: c["limit"]["value"] for c in done.check("throughput.output_throughput")}
    assert judged == {"sglang in128-out128-c1": 15, "sglang in128-out128-c8": 70}


def test_tenants_stay_out_of_the_evidence(done: Done) -> None:
    text = (done.run / "evidence" / "gateway" / "models.json").read_text()
    assert "[redacted]" in text
    assert "0badcafe" not in text


def test_the_verdict_is_archived(done: Done, repository: Path) -> None:
    assert [p.name for p in (repository / "archive").iterdir()] == [f"{done.run.name}-not-accepted.json"]


def test_a_part_of_the_gates_is_never_an_acceptance(done: Done) -> None:
    assert done.verdict["green"] is True
    assert done.verdict["accepted"] is False


def test_without_a_cluster_the_rest_still_runs(repository: Path) -> None:
    done = pytest_in(repository, "tests")
    assert done.counts["passed"] == 1
    assert "needs a cluster: give --nodes=INVENTORY.yaml" in done.output
    assert pytest_in(repository, "tests/test_offline.py").status == 0
    assert not done.runs


def test_every_command_of_the_readme_is_one_of_these() -> None:
    assert [c[-1] for c in _commands()] == ["tests", "tests", "tests/test_offline.py", "pytest_h20.acceptance"]
