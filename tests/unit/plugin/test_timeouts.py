"""A global limit of pytest-timeout neither cuts the bring-up nor ends the process before the tear-down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.plugin.live import keep_bring_up


def limited(own: Any = None, *fixtures: str) -> dict[str, Any]:
    """What pytest-timeout is told of a test that has this limit of its own and uses these fixtures."""
    told: list[pytest.MarkDecorator] = []
    item = SimpleNamespace(fixturenames=fixtures, get_closest_marker=lambda name: own, add_marker=told.append)
    keep_bring_up(item)  # type: ignore[arg-type]
    return {key: value for mark in told for key, value in mark.mark.kwargs.items()}


def test_of_a_test_on_a_cluster_the_body_is_limited_and_the_process_lives() -> None:
    assert limited(None, "request", "h20_cluster") == {"method": "signal", "func_only": True}
    assert limited(None, "tmp_path") == {"method": "signal"}, "its set-up is its own; a hard end would leave the cluster up"
    assert limited(pytest.mark.timeout(3).mark, "h20_cluster") == {}
