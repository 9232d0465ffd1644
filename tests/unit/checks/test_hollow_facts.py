"""Facts that are there and hold nothing: an empty list of GPUs, listeners, rails. What counts them must not find "none is wrong"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_h20.checks import all_verdicts
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.script import Missing
from tests.unit.probes.cluster import blog_cluster

FACTS = blog_cluster().gather()
COUNTED = {  # fact -> checks that summarise it
    "gpus": (
        *(f"environment.gpu_{name}" for name in ("count", "model", "memory", "ecc", "mode", "remap", "pcie", "power_limit", "clocks")),
        *(f"environment.gpu_{name}" for name in ("throttle", "temperature", "idle", "persistence")),
    ),
    "listeners": ("environment.ports",),
    "network": ("fabric.link_flaps", "fabric.mtu", "fabric.subnet"),
    "rdma": ("fabric.hcas", "fabric.port_active", "fabric.rate", "fabric.gid_index"),
    "nvlinks": ("environment.nvlink",),
    "pci": ("fabric.pcie",),
    "qos": ("fabric.qos", "fabric.qos_equal"),
}


def hollow(value: object) -> object:
    """The same fact with every collection in it empty."""
    if isinstance(value, Missing):
        return value
    if isinstance(value, tuple):
        return ()
    if isinstance(value, Mapping):
        return {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **{name: hollow(v) for name, v in fields.items() if isinstance(v, (tuple, Mapping))})
    return value


def without(name: str) -> Facts:
    """The healthy cluster's facts with one kind of fact hollow on every node."""
    nodes = {}
    for key, node in FACTS.nodes.items():
        changed: dict[str, Any] = {name: hollow(getattr(node, name))}
        nodes[key] = dataclasses.replace(node, **changed)
    assert nodes != FACTS.nodes
    return dataclasses.replace(FACTS, nodes=nodes)


@pytest.mark.parametrize("fact", list(COUNTED))
def test_nothing_to_count_is_no_pass(fact: str) -> None:
    told = [v for v in all_verdicts(without(fact)) if v.check in COUNTED[fact]]
    assert told
    assert not [v.text() for v in told if v.status is Status.PASS]


def test_a_pass_made_of_nothing_cannot_be_written() -> None:
    limit = Limit(kind="max", value=0, unit="GPUs", origin=Origin(kind="builtin"))
    verdict = judge("environment.gpu_ecc", "No ECC errors", 0, limit, looked_at=0)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "nothing was looked at")
    with pytest.raises(ValueError, match="nothing was looked at"):
        Verdict(check="environment.gpu_ecc", status=Status.PASS, title="No ECC errors", looked_at=0)
