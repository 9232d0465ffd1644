"""A global limit of pytest-timeout neither cuts the bring-up nor ends the process before the tear-down."""

from __future__ import annotations

import pytest

from pytest_h20.plugin.live import timeout_for


def test_of_a_test_on_a_cluster_the_body_is_limited_and_the_process_lives() -> None:
    assert timeout_for(None, ("request", "h20_cluster")) == {"method": "signal", "func_only": True}
    assert timeout_for(None, ("tmp_path",)) == {"method": "signal"}, "its set-up is its own; a hard end would leave the cluster up"
    assert timeout_for(pytest.mark.skip.mark, ("h20_cluster",)) == {}
