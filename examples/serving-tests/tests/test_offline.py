"""Runs anywhere: a repository may mix tests with and without a cluster."""

from __future__ import annotations

from pathlib import Path

from pytest_h20.config.limits import load_limits


def test_promises_can_be_read() -> None:
    limits = load_limits(Path(__file__).parents[1] / "limits" / "promised.yaml")
    assert limits.cell_ids == ("in128-out128-c1", "in128-out128-c8")
