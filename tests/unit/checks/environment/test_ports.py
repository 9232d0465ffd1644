"""Which ports must be free: those that the image's version of the engine binds with this profile on this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_h20.checks.environment.containers import ports
from pytest_h20.core.verdict import Status, Verdict
from tests.unit.probes.cluster import blog_cluster


def told(engine: str, version: str, node: str, change: Mapping[str, Any], taken: Sequence[int] = ()) -> list[Verdict]:
    cluster = blog_cluster(engine)
    machine = cluster.nodes[node].machine
    machine.packages = {engine: version}
    machine.listeners.update(dict.fromkeys(taken, 'users:(("other",pid=777,fd=9))'))
    facts = cluster.gather()
    assert facts.profile is not None
    facts = replace(facts, profile=facts.profile.model_copy(update=dict(change)))
    return list(ports(facts.of(node)))


def numbers(verdicts: Sequence[Verdict]) -> list[int]:
    return [int(v.subject.rpartition(":")[2]) for v in verdicts if v.status is not Status.SKIP]


DP: Mapping[str, Any] = {"flags": {"enable-dp-attention": True, "dp": 16}}
RAY, NATIVE = {"mode": "ray", "dist_port": None}, {"mode": "native", "dist_port": None}


@pytest.mark.parametrize(
    ("engine", "version", "node", "change", "wanted"),
    [
        ("sglang", "0.5.16", "node01", {"dist_port": None}, [8000, 30000]),
        ("sglang", "0.5.16", "node02", {}, [8000]),
        ("sglang", "0.5.16", "node01", DP, [8000, *range(30000, 30007)]),
        ("vllm", "0.8.2", "node01", RAY, [8000, 8379]),
        ("vllm", "0.8.2", "node02", RAY, []),
        ("vllm", "0.33.0", "node01", NATIVE, [8000, 29501]),
        ("vllm", "0.33.0", "node01", {"mode": None, "dist_port": None}, [8000, 29501]),
        ("vllm", "0.33.0", "node02", NATIVE, []),
    ],
)
def test_what_is_bound_where(engine: str, version: str, node: str, change: dict[str, object], wanted: list[int]) -> None:
    assert numbers(told(engine, version, node, change)) == wanted


def test_a_port_of_dp_attention_that_is_taken_is_red_before_the_load() -> None:
    (red,) = [v for v in told("sglang", "0.5.16", "node01", DP, [30004]) if v.status is Status.FAIL]
    assert (red.subject, "port 30004 is taken by other (pid 777)" in red.reason) == ("node01 :30004", True)
    assert not [v for v in told("sglang", "0.5.16", "node01", DP, [30007]) if v.status is Status.FAIL], "not one of its six"


def test_a_worker_of_vllm_does_not_need_the_head_s_http_port() -> None:
    (verdict,) = told("vllm", "0.33.0", "node02", NATIVE, [8000])
    assert (verdict.status, "binds no port of its own on this node" in verdict.reason) == (Status.SKIP, True)


def test_an_image_that_tells_no_version_is_asked_for_what_any_version_binds() -> None:
    assert 8000 in numbers(told("vllm", "", "node01", NATIVE))
