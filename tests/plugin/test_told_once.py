"""A container that stays after the tear-down is one verdict, whoever met it."""

from __future__ import annotations

from pathlib import Path

from tests.plugin.kill_table import run


def test_a_container_that_stays_is_told_once(tmp_path: Path) -> None:
    ended = run(tmp_path, faults=["container-stays"], gates=["bringup"])
    left = [check for check in ended.checks if check["check"] == "bringup.nothing_left"]
    assert [check["status"] for check in left] == ["fail"], left
    assert left[0]["reason"].count("could not be removed") == 1, left
