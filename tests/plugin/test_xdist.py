"""Several workers: one cluster, brought up once, failing once; the same verdicts as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.foreign import REHEARSAL, Done, pytest_in, write
from tests.plugin.kill_table import TOO_BUSY

SUITE = "import pytest\n@pytest.mark.h20_gate('endpoint')\n@pytest.mark.parametrize('n', range(6))\ndef test_it(endpoint, n): pass\n"


def too_busy(*runs: Done) -> bool:
    """Did one of them say that this machine was too busy to measure a cell? Then so much less is told of the load."""
    return any(TOO_BUSY in c["reason"] for done in runs for c in done.verdict["checks"] if c["status"] == "unknown")


def verdicts(done: Done, load: bool) -> dict[tuple[str, str], str]:
    """What was judged and how; with ``load`` also what was judged of it: its figures depend on the machine's other work, their presence
    does not."""
    told = {key: status for key, status in done.statuses.items() if not key[0].startswith("throughput.")}
    return told | {key: "judged" for key in done.statuses if load and key not in told}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The acceptance suite in one process."""
    folder = tmp_path_factory.mktemp("n0")
    write(folder)
    return pytest_in(folder, *REHEARSAL, "-n", "0", timeout=500)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The acceptance suite in four workers."""
    folder = tmp_path_factory.mktemp("n4")
    write(folder)
    return pytest_in(folder, *REHEARSAL, "-n", "4", timeout=500)


def test_four_workers_give_the_verdicts_of_one(alone: Done, together: Done) -> None:
    load = not too_busy(alone, together)
    told = verdicts(alone, load)
    assert verdicts(together, load) == told, [c for c in together.verdict["checks"] if c["status"] in ("fail", "unknown")]
    assert len(told) > 300
    assert len(together.statuses) == len(together.verdict["checks"]), "no check is told twice"


def test_gates_and_decision_are_the_same(alone: Done, together: Done) -> None:
    gates = [{g["name"]: g["status"] for g in done.verdict["gates"] if g["name"] != "throughput"} for done in (alone, together)]
    assert gates[0] == gates[1]
    assert "fail" not in gates[0].values()
    assert "unknown" not in gates[0].values()
    assert together.verdict["accepted"] is False


def test_all_cells_come_back_from_the_workers(alone: Done, together: Done) -> None:
    cells = [{(c["engine"], c["input_len"], c["output_len"], c["concurrency"]) for c in d.verdict["cells"]} for d in (alone, together)]
    assert cells[0] == cells[1]
    assert len(cells[0]) == 3


def test_the_cluster_came_up_and_went_down_once(together: Done) -> None:
    assert together.output.count("h20: launching") == 1
    assert together.output.count("h20: down: stopping") == 1
    assert [c["status"] for c in together.check("bringup.nothing_left")] == ["pass"]


def test_a_failed_bring_up_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, test_it=SUITE)
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-fault=rail-down", "-n", "2", "-rs", "test_it.py")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert done.counts.get("error", 0) + done.counts.get("errors", 0) == 1, done.output
    assert done.counts["skipped"] == 5
    assert "told once by the first test that needed it" in done.output
    assert [c["status"] for c in done.check("bringup.ready")] == ["fail"]


def test_two_engines_side_by_side_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, "--nodes=rehearsal:quick", "--engine=sglang", "--engine=vllm", "-n", "2")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --engine is given 2 times (sglang, vllm) together with -n" in done.output
    assert "leave -n out" in done.output
    assert not done.runs


def test_checks_of_hooks_are_made_once(tmp_path: Path) -> None:
    conftest = (
        "def pytest_h20_checks():\n"
        "    from pytest_h20.core.verdict import Status, Verdict\n"
        "    return [Verdict(check='endpoint.of_ours', status=Status.PASS, title='Ours')]\n"
    )
    write(tmp_path, conftest=conftest, test_it=SUITE)
    done = pytest_in(tmp_path, *REHEARSAL, "-n", "2", "test_it.py")
    assert done.status == 0, done.output
    assert len(done.check("endpoint.of_ours")) == 1
