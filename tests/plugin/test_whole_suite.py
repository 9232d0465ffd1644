"""An acceptance takes a verdict from every test of the suite, and a run that ended early is never green."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.foreign import REHEARSAL, Done, pytest_in, write

SHORTENS_AND_SKIPS = """
import pytest

def pytest_collection_modifyitems(items):
    items[:] = [i for i in items if i.name != "test_throughput[in128-out128-c8]"]  # and tells nobody
    for item in items:
        if item.name == "test_rail[node01-mlx5_1-mtu]":
            item.add_marker(pytest.mark.skip(reason="known"))
        if item.name == "test_property[chat]":
            item.user_skips = True

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if getattr(item, "user_skips", False):
        pytest.skip("not today")
"""
LOSES_ITS_WORKER = """
import os, signal

def pytest_runtest_call(item):
    if item.name == "test_property[models]" and os.environ.get("PYTEST_XDIST_WORKER"):
        os.kill(os.getpid(), signal.SIGKILL)
"""
STOPS = """
def pytest_runtest_logreport(report):
    if report.when == "call":
        SESSION[0].shouldstop = "enough for today"

SESSION = []

def pytest_sessionstart(session):
    SESSION.append(session)
"""
KEEPS_STATUS_0 = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    session.items[0].config.hook.pytest_runtest_protocol(item=session.items[0], nextitem=None)
    return True
"""
HARDWARE = """
def pytest_h20_inventory(inventory):
    return inventory.model_copy(update={"kind": "hardware", "stood_in": ()})
"""
MEDDLER = ("-p", "meddler")
"""A plugin: hooks of a conftest are asked only for tests below its folder."""
ENDPOINT = ("--pyargs", "pytest_h20.acceptance.test_endpoint")


def lacking(done: Done) -> list[str]:
    return [text for text in done.verdict["header"]["cannot_accept"] if "gave no verdict of their own" in text]


def test_what_others_took_away_or_skipped_is_missing_and_said(tmp_path: Path) -> None:
    write(tmp_path, meddler=SHORTENS_AND_SKIPS)
    done = pytest_in(tmp_path, *MEDDLER, *REHEARSAL)
    (said,) = lacking(done)
    assert said.startswith("3 of "), said
    assert "test_endpoint::test_property" in said
    assert said.endswith("and 2 others")
    assert "these gates were not selected" not in done.output


def test_a_part_is_no_acceptance_whoever_selected_it(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, "--pyargs", "pytest_h20.acceptance.test_environment", "-k", "driver")
    (said,) = lacking(done)
    assert int(said.split()[0]) > 400
    assert done.verdict["green"] is True, "that part holds"


@pytest.mark.parametrize(
    ("meddler", "options", "said"),
    [
        (LOSES_ITS_WORKER, ("-n", "2"), "a worker was lost while it ran"),
        (STOPS, (), "interrupted"),
        (KEEPS_STATUS_0, (), "tests did not report"),
    ],
    ids=["worker", "stopped", "status-0"],
)
def test_what_ended_early_is_not_finished_in_every_output(tmp_path: Path, meddler: str, options: tuple[str, ...], said: str) -> None:
    write(tmp_path, meddler=meddler)
    html = tmp_path / "report.html"
    done = pytest_in(tmp_path, *MEDDLER, *REHEARSAL, *options, f"--html={html}", "--self-contained-html", *ENDPOINT)
    assert done.status != 0
    assert done.verdict["green"] is False
    assert done.verdict["accepted"] is False
    assert said in done.verdict["reason"]
    (gate,) = (gate for gate in done.verdict["gates"] if gate["name"] == "endpoint")
    # The stand-in ends with the worker that brought it up: a request that was under way then is cut, which is red by itself.
    assert gate["status"] in ("unknown", "fail"), "what holds of it until then is not the gate"
    assert f"NOT FINISHED: {said}" in done.output if said.startswith("interrupted") else "NOT FINISHED: " in done.output
    assert "Not finished" in html.read_text(encoding="utf-8")


def test_a_hook_cannot_make_a_rehearsal_hardware(tmp_path: Path) -> None:
    write(tmp_path, meddler=HARDWARE)
    done = pytest_in(tmp_path, *MEDDLER, *REHEARSAL, "--pyargs", "pytest_h20.acceptance.test_environment", "-k", "driver")
    assert done.verdict["mode"] == "rehearsal"
    assert done.verdict["accepted"] is False


REGISTERS = """
from pytest_h20.checks.frame import builtin, node_check
from pytest_h20.core.verdict import Limit

@node_check("environment.label", "The machine has its label", "system", always=True)
def label(say, view):
    return say.judge(view.name, Limit(kind="one_of", value=["node01"], origin=builtin("what we bought")))
"""


def test_a_registered_check_becomes_a_test(tmp_path: Path) -> None:
    """Nothing is written by hand per check: the suite walks the registries, and counts what it finds there."""
    write(tmp_path, meddler=REGISTERS)
    done = pytest_in(tmp_path, *MEDDLER, *REHEARSAL, "--pyargs", "pytest_h20.acceptance.test_environment", "-k", "label")
    assert [(c["subject"], c["status"]) for c in done.check("environment.label")] == [("node01", "pass"), ("node02", "fail")]
    assert done.verdict["green"] is False


def test_a_repositorys_own_tests_are_told_no_gates(tmp_path: Path) -> None:
    """Nobody asked for gates: a failing test is a failure with its name, no set-up error, and never green or accepted."""
    own = "def test_good(h20_endpoint): assert h20_endpoint.url\ndef test_bad(h20_endpoint): assert 1 == 2, 'mine'\n"
    write(tmp_path, test_own=own)
    good = pytest_in(tmp_path, *REHEARSAL, "test_own.py", "-k", "good")
    assert good.status == 0, good.output
    assert "NO ACCEPTANCE WAS ASKED FOR" in good.output
    assert good.verdict["accepted"] is False
    bad = pytest_in(tmp_path, *REHEARSAL, "test_own.py")
    assert bad.status == 1
    assert "test failed: AssertionError: mine: test_own.py::test_bad" in bad.output
    assert bad.verdict["green"] is False
    for done in (good, bad):
        assert "nothing in this gate was measured" not in done.output
        assert "set-up error" not in done.output
        assert [gate["name"] for gate in done.verdict["gates"]] == ["bringup"]
