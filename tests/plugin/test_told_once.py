"""One cause is one verdict, whoever met it."""

from __future__ import annotations

from pathlib import Path

from tests.plugin.kill_table import run


def test_a_container_that_stays_is_told_once(tmp_path: Path) -> None:
    ended = run(tmp_path, faults=["container-stays"], gates=["bringup"])
    left = [check for check in ended.checks if check["check"] == "bringup.nothing_left"]
    assert [check["status"] for check in left] == ["fail"], left
    assert left[0]["reason"].count("could not be removed") == 1, left


def test_what_kept_many_checks_from_being_made_is_told_by_one(tmp_path: Path) -> None:
    ended = run(tmp_path, faults=["image-missing"], gates=["environment", "bringup"])
    assert ended.status == 1
    assert ended.red == {"environment.image", "bringup.ready"}
    assert "environment.image [node02]: The engine's image is on the node" in ended.output
    # Where CI is set in the environment, pytest's own summary repeats every failure in full.
    ours = ended.output.partition("short test summary info")[0]
    assert ours.count("next: docker pull") == 2, "where it is told, and as the last word"
    assert "not brought up: because of environment.image [node02], told there" in ended.output
    named = [check for check in ended.checks if check["reason"] == "because of environment.image [node02], told there"]
    assert len(named) > 10
    assert {check["status"] for check in named} == {"skip"}
