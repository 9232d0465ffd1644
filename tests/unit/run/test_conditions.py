"""What an inventory looks away from is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from pytest_h20.config.inventory import Inventory, load_inventory
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.run.conditions import conditions, obstacles, weights_reference
from pytest_h20.run.settings import as_real_as_it_was

REAL = load_inventory(Path(__file__).parents[3] / "environments" / "h20-2node.yaml")


def changed(**fields: Any) -> Inventory:
    data = REAL.model_dump(exclude_unset=True)
    for name, value in fields.items():
        data[name] = {**data.get(name, {}), **value} if isinstance(value, dict) and value else value
    return Inventory.model_validate(data)


def told(inventory: Inventory) -> str:
    return "; ".join(conditions(inventory, [inventory.engines["sglang"].profiles["default"]]))


def test_the_write_ups_inventory_has_none() -> None:
    assert told(REAL) == ""
    assert list(obstacles(REAL)) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"expect": {}}, "nothing is expected of driver, gpu_count, gpu_model, gpu_memory_min_mib, gpu_ecc, gpudirect, ib_write_bw"),
        ({"expect": {"gpudirect": False}}, "nothing is expected of gpudirect"),
        ({"expect": {"ib_write_bw_min": 0.1}}, "ib_write_bw_min: 0.1 (usual 0.9)"),
        ({"expect": {"gpu_idle_max_mib": 90000}}, "gpu_idle_max_mib: 90000 (usual 1024)"),
        ({"expect": {"memlock_unlimited": False}}, "memlock_unlimited: false"),
        ({"expect": {"unmeasured_ok": ("fabric.pfc",)}}, "may stay unmeasured: fabric.pfc"),
        ({"load": {"concurrency": (1, 2, 4)}}, "throughput was not measured at 8, 16, 32"),
        ({"load": {"lengths": ((128, 128),)}}, "throughput was not measured with 256/256 tokens in and out"),
        ({"ssh": {"host_key_checking": "off"}}, "the host keys of node01, node02 were not checked"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_a_loosening_is_named(fields: dict[str, Any], said: str) -> None:
    assert said in told(changed(**fields))


def test_a_loosening_of_one_node_names_the_node() -> None:
    nodes = [n.model_dump(exclude_unset=True) for n in REAL.nodes]
    nodes[1]["expect"] = {"link_down_max_per_day": 5}
    assert told(changed(nodes=nodes)) == "node02: expected less than usual: link_down_max_per_day: 5 (usual 0)"


def test_looking_away_from_a_whole_gate_is_no_acceptance() -> None:
    for pattern, gates in (("*", "environment, fabric"), ("rdma.*", "rdma"), ("fabric*", "fabric")):
        (said,) = obstacles(changed(expect={"unmeasured_ok": (pattern,)}))
        assert gates in said
    assert list(obstacles(changed(expect={"unmeasured_ok": ("fabric.pfc", "fabric.qos_*")}))) == []


def test_a_lab_has_no_conditions_and_no_hook_makes_it_hardware() -> None:
    lab = changed(kind="lab", expect={}, stood_in=("gpu",))
    assert told(lab) == ""
    claimed = as_real_as_it_was(lab, lab.model_copy(update={"kind": "hardware", "stood_in": ()}))
    assert (claimed.kind, claimed.stood_in) == ("lab", ("gpu",))
    assert as_real_as_it_was(REAL, REAL.model_copy(update={"kind": "lab"})).kind == "lab"


def weights(check: str, status: Status, **held: int) -> Verdict:
    names = {"nodes": "other nodes", "hub": "the hub's DeepSeek-R1"}
    details: dict[str, JsonValue] = {"held_against": {names[k]: n for k, n in held.items()}} if held else {}
    return Verdict(check=check, title="t", status=status, details=details)


@pytest.mark.parametrize(
    ("verdicts", "obstacle", "condition"),
    [
        ([], "no reference", ""),
        ([weights("weights.model", Status.SKIP), weights("weights.sha256", Status.PASS, nodes=170)], "no reference", ""),
        ([weights("weights.model", Status.SKIP), weights("weights.sha256", Status.PASS, hub=170)], "", ""),
        ([weights("weights.model", Status.PASS), weights("weights.sha256", Status.SKIP)], "", "was not hashed"),
        ([weights("weights.model", Status.PASS), weights("weights.sha256", Status.PASS, nodes=167, hub=3)], "", "167 of 170 files"),
        ([weights("weights.model", Status.PASS), weights("weights.sha256", Status.PASS, hub=170)], "", ""),
    ],
)
def test_copies_that_are_equal_are_no_reference(verdicts: list[Verdict], obstacle: str, condition: str) -> None:
    told = weights_reference(verdicts)
    assert (obstacle in told[0], condition in told[1]) == (True, True)
    assert [bool(text) for text in told] == [bool(obstacle), bool(condition)]
