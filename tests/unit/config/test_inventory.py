"""What an inventory answers when it is read: engines, profiles, and what of a node wins over the common part."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.config.inventory import Inventory, load_inventory, parse_inventory, with_limits
from pytest_h20.core.errors import UsageError

SHIPPED = Path(__file__).parents[3] / "environments"


@pytest.fixture
def data() -> dict[str, Any]:
    text: dict[str, Any] = yaml.safe_load((SHIPPED / "h20-2node.yaml").read_text(encoding="utf-8"))
    for engine in text["engines"].values():
        for profile in engine["profiles"].values():
            profile.pop("limits", None)
    return deepcopy(text)


def parsed(data: dict[str, Any]) -> Inventory:
    return parse_inventory(data, "x.yaml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_reads_and_names_limits_that_are_there(path: Path) -> None:
    inventory = load_inventory(path)
    assert inventory.nodes
    for engine in inventory.engines.values():
        assert engine.profiles
        assert not [p.limits for p in engine.profiles.values() if p.limits and not Path(p.limits).is_file()]


def test_an_engine_has_a_default_and_profiles_by_name(data: dict[str, Any]) -> None:
    inventory = parsed(data)
    engine = next(iter(inventory.engines))
    name, profile, content = inventory.engine_profile(engine)
    assert (name, profile) == (engine, inventory.engines[engine].default)
    assert inventory.engine_profile(f"{engine}:{profile}") == (name, profile, content)


@pytest.mark.parametrize("asked", ["nosuch", "sglang:nosuch", "", ":"])
def test_what_is_not_there_is_told_with_what_is(data: dict[str, Any], asked: str) -> None:
    with pytest.raises(UsageError, match=r"the inventory has no engine|has no profile 'nosuch'; it has"):
        parsed(data).engine_profile(asked)


def test_a_nodes_own_ssh_wins_field_by_field(data: dict[str, Any]) -> None:
    data["ssh"] = {"user": "ops", "port": 2222}
    data["nodes"][0]["ssh"] = {"user": "root"}
    inventory = parsed(data)
    first, second = (inventory.ssh_of(node) for node in inventory.nodes[:2])
    assert (first.user, first.port) == ("root", 2222)
    assert (second.user, second.port) == ("ops", 2222)


def test_limits_of_a_hook_reach_every_profile_that_it_names(data: dict[str, Any]) -> None:
    changed = with_limits(parsed(data), lambda _, engine, profile: "/l.yaml" if engine == "sglang" else None)
    found = {name: {p.limits for p in engine.profiles.values()} for name, engine in changed.engines.items()}
    assert found.pop("sglang") == {"/l.yaml"}
    assert all(limits == {None} for limits in found.values())


@pytest.mark.parametrize("address", ["", "a b", "ops@node", "node:22", "no\nde", "no\x00de"])
def test_an_address_is_a_host_and_nothing_else(data: dict[str, Any], address: str) -> None:
    data["nodes"][0]["address"] = address
    with pytest.raises(UsageError, match=r"x\.yaml: nodes"):
        parsed(data)
