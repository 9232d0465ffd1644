"""A router in front of prefill and decode servers: what it tells, and what the checks make of it."""

from __future__ import annotations

import pytest

from pytest_h20.core.verdict import Status
from pytest_h20.endpoint.split import told_version, versions_behind
from pytest_h20.run.bringup import running_version
from tests.unit.checks.endpoint.running import ALL, run
from tests.unit.endpoint.engine import Engine

ROUTER = {"internal_states": [{"last_gen_throughput": 0.0}], "prefill": [{"version": "0.5.23"}], "decode": [{"version": "0.5.23"}]}
"""As sglang_router 0.3.2 answered (its mini_lb)."""


@pytest.mark.parametrize(
    ("info", "version"),
    [
        (ROUTER, "0.5.23"),
        ({"version": "0.5.16", "model_path": "/m"}, "0.5.16"),
        ({**ROUTER, "decode": [{"version": "0.5.24"}]}, "0.5.24"),
        ({"prefill": [{"version": "0.5.23"}], "decode": []}, "0.5.23"),
        ({"prefill": [], "decode": []}, ""),
        ({"prefill": [None, {"version": 5}], "decode": "x"}, ""),
        ({}, ""),
        (None, ""),
        ([ROUTER], ""),
    ],
)
def test_the_version_is_its_own_or_that_of_the_servers_behind(info: object, version: str) -> None:
    assert told_version(info) == version


def test_servers_of_several_versions_are_named() -> None:
    behind = versions_behind({**ROUTER, "decode": [{"version": "0.5.23"}, {"version": "0.5.22"}]})
    assert behind is not None
    assert behind.differ == "prefill 0.5.23, decode 0.5.23, decode 0.5.22"
    same = versions_behind(ROUTER)
    assert same is not None
    assert not same.differ
    assert versions_behind({"version": "0.5.23"}) is None


def test_an_attached_router_has_a_version() -> None:
    with Engine("sglang", "0.5.16", faults=frozenset({"router"})) as server:
        assert running_version(server.url, {}) == "0.5.16"


@pytest.mark.parametrize(
    ("check", "status", "why"),
    [
        ("endpoint.version", Status.PASS, ""),
        ("endpoint.disconnect", Status.SKIP, "the router in front of prefill and decode has no /metrics"),
        ("reasoning.parser_table", Status.SKIP, "the router in front of prefill and decode has no /separate_reasoning"),
        ("reasoning.split", Status.PASS, ""),
    ],
)
def test_what_a_router_cannot_show_is_skipped_with_the_reason(check: str, status: Status, why: str) -> None:
    verdicts = run(ALL[check], frozenset({"router"}), "sglang")
    assert [v.status for v in verdicts] == [status] * len(verdicts)
    assert all(why in v.reason for v in verdicts)
