"""Options that change what a red gate or a limit means: ``--h20-force``, ``--h20-calibrate`` and the file it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.kill_table import Ended, run


def test_force_brings_the_engine_up_behind_a_red_gate(tmp_path: Path) -> None:
    """Without it a red early gate ends the bring-up; with it the engine comes up, and the run is red all the same."""
    (tmp_path / "held").mkdir()
    (tmp_path / "forced").mkdir()
    gates = ("environment", "bringup")
    held = run(tmp_path / "held", faults=["disk-full"], gates=gates)
    assert held.verdict["setup_errors"]
    assert "bringup.ready" in held.red
    forced = run(tmp_path / "forced", faults=["disk-full"], gates=gates, options=["--h20-force"])
    assert {check.partition(".")[0] for check in forced.red} == {"environment"}
    assert "bringup.ready" in forced.recorded() - forced.red
    assert forced.status == 1
    assert forced.verdict["green"] is False


def cells(ended: Ended) -> dict[str, str]:
    """Cell to the worst status of its figures, sanity left out."""
    rank = ("pass", "unknown", "fail")
    found: dict[str, str] = {}
    for check in ended.checks:
        gate, _, name = check["check"].partition(".")
        if gate == "throughput" and name != "sanity" and check["status"] in rank:
            worst = found.get(check["subject"], "pass")
            found[check["subject"]] = max(worst, check["status"], key=rank.index)
    return found


@pytest.mark.alone
def test_limits_that_were_calibrated_judge_the_next_run(tmp_path: Path) -> None:
    """The cluster that made them does not fail them; at half its speed from 128 streams up it does, there and nowhere else."""
    limits = tmp_path / "limits.yaml"
    for name in ("made", "same", "slow"):
        (tmp_path / name).mkdir()
    made = run(tmp_path / "made", gates=("matrix",), options=[f"--h20-calibrate={limits}", "--h20-repeats=3"])
    assert made.verdict["accepted"] is False
    assert "in128-out128-c200" in made.output
    assert limits.read_text(encoding="utf-8").count("concurrency: ") >= 3
    same = run(tmp_path / "same", gates=("matrix",), options=[f"--h20-limits={limits}"])
    assert "fail" not in cells(same).values(), same.said()
    slow = run(tmp_path / "slow", faults=["slow-from-128"], gates=("matrix",), options=[f"--h20-limits={limits}"])
    assert cells(slow)["sglang in128-out128-c200"] == "fail", slow.said()
    assert "fail" not in {status for cell, status in cells(slow).items() if "c200" not in cell}, slow.said()
