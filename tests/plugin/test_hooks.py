"""Every hook of hookspecs.py is called, with what it promises, and what it returns has its effect."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from pytest_h20.plugin import hookspecs
from tests.plugin.foreign import REHEARSAL, Done, pytest_in, write

NEEDS_THE_CLUSTER = "def test_it(cluster): pass\n"

ALL_HOOKS = """
import json

def note(hook, **said):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps({"hook": hook, **said}) + "\\n")

def pytest_h20_inventory(inventory):
    note("pytest_h20_inventory", name=inventory.name)
    return inventory.model_copy(update={"description": "changed by a hook"})

def pytest_h20_limits(inventory, engine, profile):
    note("pytest_h20_limits", description=inventory.description, engine=engine, profile=profile)
    return "ours.yaml" if (engine, profile) == ("sglang", "default") else None

def pytest_h20_checks(inventory, state):
    from pytest_h20.core.verdict import Status, Verdict
    note("pytest_h20_checks", description=inventory.description, url=state.url)
    return [Verdict(check="endpoint.of_ours", status=Status.PASS, title="Ours", reason="seen by agent-4711")]

def pytest_h20_redact():
    note("pytest_h20_redact")
    return [r"agent-[0-9]{4}"]

def pytest_h20_report(run_dir, decision, accepted):
    note("pytest_h20_report", run_dir=run_dir, decision=decision, accepted=accepted)
"""
LIMITS = """
name: ours
origin: {kind: file, detail: ours}
metrics: {output_throughput: {kind: min, unit: tok/s}}
cells:
  - {input: 128, output: 128, concurrency: 1, output_throughput: 5}
  - {input: 128, output: 128, concurrency: 8, output_throughput: 5}
  - {input: 128, output: 128, concurrency: 200, output_throughput: 5}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run in a repository that implements all hooks; its only test keeps evidence with a secret in it."""
    folder = tmp_path_factory.mktemp("foreign")
    test = (
        "def test_limits(load): assert load.limits.name == 'ours'\n"
        "def test_evidence(cluster, run): run.evidence('told.txt', 'agent-0815 was here')\n"
    )
    write(folder, conftest=ALL_HOOKS, test_it=test)
    (folder / "ours.yaml").write_text(LIMITS)
    return pytest_in(folder, *REHEARSAL, "test_it.py")


def calls(done: Done, hook: str) -> list[dict[str, object]]:
    """What a hook was called with."""
    lines = (done.run.parents[1] / "calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["hook"] == hook]


def test_the_run_is_green(done: Done) -> None:
    assert done.status == 0, done.output
    assert done.counts["passed"] == 2


@pytest.mark.parametrize("hook", [name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction)])
def test_every_hook_is_called(done: Done, hook: str) -> None:
    assert calls(done, hook)


def test_the_inventory_is_changed_for_everybody(done: Done) -> None:
    assert [call["name"] for call in calls(done, "pytest_h20_inventory")] == ["rehearsal-quick"]
    assert calls(done, "pytest_h20_checks")[0]["description"] == "changed by a hook"
    assert calls(done, "pytest_h20_limits")[0]["description"] == "changed by a hook"


def test_limits_are_asked_for_each_profile_and_stand_in_the_verdict(done: Done) -> None:
    asked = {(call["engine"], call["profile"]) for call in calls(done, "pytest_h20_limits")}
    assert {("sglang", "default"), ("sglang", "tuned"), ("vllm", "blog")} <= asked
    assert done.verdict["header"]["limits"].endswith("/ours.yaml")


def test_checks_are_made_once_and_count(done: Done) -> None:
    assert len(calls(done, "pytest_h20_checks")) == 1
    assert [c["status"] for c in done.check("endpoint.of_ours")] == ["pass"]


def test_redaction_reaches_verdicts_and_evidence(done: Done) -> None:
    assert done.check("endpoint.of_ours")[0]["reason"] == "seen by [redacted]"
    assert (done.run / "evidence" / "told.txt").read_text() == "[redacted] was here"
    leaks = [p for p in done.run.rglob("*") if p.is_file() and (b"agent-0815" in (data := p.read_bytes()) or b"agent-4711" in data)]
    # .shared is the processes' own scratch: it is not part of what is handed on
    assert [p for p in leaks if ".shared" not in p.parts] == []


def test_the_report_hook_gets_the_finished_folder(done: Done) -> None:
    (call,) = calls(done, "pytest_h20_report")
    assert call["run_dir"] == str(done.run)
    assert call["accepted"] is False, "a rehearsal"
    assert done.verdict["complete"] is True


def test_a_red_check_of_a_hook_fails_the_run(tmp_path: Path) -> None:
    """Although every test passed, and none of them belongs to a gate."""
    conftest = (
        "def pytest_h20_checks():\n"
        "    from pytest_h20.core.verdict import Status, Verdict\n"
        "    return [Verdict(check='endpoint.of_ours', status=Status.FAIL, title='Ours', reason='wrong')]\n"
    )
    write(tmp_path, conftest=conftest, test_it=NEEDS_THE_CLUSTER)
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py")
    assert done.counts["passed"] == 1
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert done.verdict["green"] is False


def test_a_broken_check_of_a_hook_could_not_be_measured(tmp_path: Path) -> None:
    write(tmp_path, conftest="def pytest_h20_checks(state): return state.no_such_thing\n", test_it=NEEDS_THE_CLUSTER)
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    (check,) = done.check("bringup.pytest_h20_checks")
    assert check["status"] == "unknown"
    assert "no_such_thing" in check["reason"]
    assert "conftest.py:1" in check["reason"]


def test_a_broken_report_hook_changes_nothing(tmp_path: Path) -> None:
    """The report is uploaded or it is not; the cluster is as good as it was."""
    write(tmp_path, conftest="def pytest_h20_report(): raise OSError('no route to the archive')\n", test_it=NEEDS_THE_CLUSTER)
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py")
    assert done.status == 0, done.output
    assert "h20: WARNING: pytest_h20_report broke: OSError: no route to the archive" in done.output
    assert done.verdict["complete"] is True


@pytest.mark.parametrize(
    ("conftest", "message"),
    [
        ("def pytest_h20_redact(): return ['(']", "'('"),
        ("def pytest_h20_limits(): return 'nowhere.yaml'", "nowhere.yaml: no such limits file"),
    ],
    ids=["pattern", "limits"],
)
def test_wrong_answers_of_hooks_end_the_run_before_it_starts(tmp_path: Path, conftest: str, message: str) -> None:
    write(tmp_path, conftest=conftest, test_it=NEEDS_THE_CLUSTER)
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py")
    assert done.status == pytest.ExitCode.USAGE_ERROR, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert not done.runs


def test_the_plan_is_of_the_inventory_that_hooks_changed(tmp_path: Path) -> None:
    conftest = (
        "def pytest_h20_inventory(inventory):\n"
        "    nodes = tuple(n.model_copy(update={'env': {'OURS': 'yes'}}) for n in inventory.nodes)\n"
        "    return inventory.model_copy(update={'nodes': nodes})\n"
    )
    write(tmp_path, conftest=conftest)
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-plan")
    assert done.status == 0, done.output
    assert "OURS=yes" in done.output
    assert not done.runs


def test_redaction_of_hooks_holds_in_a_replay(tmp_path: Path, done: Done) -> None:
    """What a hook learned to be secret since the run was recorded does not reach the replay's folder."""
    write(tmp_path, conftest="def pytest_h20_redact(): return ['Ours']\n")
    replay = pytest_in(tmp_path, f"--h20-replay={done.run}")
    assert [c["title"] for c in replay.check("endpoint.of_ours")] == ["[redacted]"]
