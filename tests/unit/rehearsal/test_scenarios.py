"""The named worlds: they exist, they are the same in every process, and a healthy one has nothing that would be refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.cells import cells_of
from pytest_h20.config.environments import environments
from pytest_h20.config.limits import load_limits, require_coverage
from pytest_h20.core.errors import UsageError
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import LaunchFacts
from pytest_h20.rehearsal import Rehearsal
from pytest_h20.rehearsal.faults import inject
from pytest_h20.rehearsal.scenario import SCENARIOS, Scenario, scenario_named

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)


@EVERY
def test_a_world_is_built_alike_in_every_process(scenario: Scenario) -> None:
    one, two = scenario.world(), scenario.world()
    assert one == two
    assert one.inventory.kind == "rehearsal"
    assert [n.name for n in one.inventory.nodes] == list(one.machines)


@EVERY
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_every_engine_of_a_scenario_can_be_launched(scenario: Scenario, engine: str) -> None:
    world = scenario.world()
    target = LaunchTarget(world.inventory, *world.inventory.engine_profile(engine))
    packages = world.images[target.profile.image].packages
    dialect = dialect_for(engine, packages[engine], target.profile.mode)
    drivers = {name: m.driver for name, m in world.machines.items()}
    assert dialect.refuse(target.engine_profile(), target.node_plans(), LaunchFacts(drivers=drivers)) == []
    assert dialect.plan(target.engine_profile(), target.node_plans()).steps


@pytest.mark.parametrize(
    ("name", "sglang", "vllm"),
    [
        ("one-node", "TP8 on 1 node", "TP8 on 1 node"),
        ("three-nodes", "TP8 x PP3 on 3 nodes", "TP8 x PP3 on 3 nodes"),
        ("four-nodes", "TP16 x PP2 on 4 nodes", "TP8 x PP4 on 4 nodes"),
        ("sixteen-nodes", "TP16 x PP8 on 16 nodes", "TP8 x PP16 on 16 nodes"),
    ],
)
def test_the_model_is_cut_over_all_nodes(name: str, sglang: str, vllm: str) -> None:
    inventory = scenario_named(name).world().inventory
    layouts = [LaunchTarget(inventory, *inventory.engine_profile(engine)).layout for engine in ("sglang", "vllm")]
    assert [str(layout) for layout in layouts] == [sglang, vllm]
    assert all(layout.ranks == 8 * len(inventory.nodes) for layout in layouts)
    addresses = [r.address for n in inventory.nodes for r in n.rails] + [n.engine_ip for n in inventory.nodes]
    assert len(set(addresses)) == 9 * len(inventory.nodes)


@EVERY
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_every_cell_has_a_limit_and_every_limit_a_cell(scenario: Scenario, engine: str) -> None:
    inventory = scenario.world().inventory
    profile = inventory.engine_profile(engine)[2]
    limits = load_limits(environments() / str(profile.limits))
    require_coverage([c.id for c in cells_of(inventory.load_of(profile))], limits, str(profile.limits))


@pytest.mark.parametrize(("engine", "table"), [("sglang", "sglang-default"), ("vllm", "vllm-blog")])
def test_the_quick_limits_are_rows_of_the_table(engine: str, table: str) -> None:
    folder = environments() / "thresholds"
    quick, whole = load_limits(folder / f"rehearsal-quick-{engine}.yaml"), load_limits(folder / f"{table}.yaml")
    for cell in ("in128-out128-c1", "in128-out128-c8", "in128-out128-c200"):
        assert quick.cell(cell) == whole.cell(cell)


def test_a_wrong_scenario_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"no such scenario.*rehearsal:quick.*sglang-0\.5\.16"):
        scenario_named("quik")


def test_a_scenario_runs_at_another_speed_when_asked() -> None:
    assert scenario_named("quick@100") == replace(scenario_named("quick"), time_scale=100.0)
    assert scenario_named("@7").time_scale == 7.0
    for wrong in ("0", "-3", "1.5", "fast", "100000"):
        with pytest.raises(UsageError, match="a whole number from 1"):
            scenario_named(f"quick@{wrong}")


def test_a_wrong_fault_names_the_near_ones() -> None:
    with pytest.raises(UsageError, match="no fault is called 'driver-to-old'"):
        Rehearsal.load("quick", ["driver-to-old"])


def test_no_fault_leaves_the_world_as_it_is() -> None:
    world = scenario_named("quick").world()
    inject(world, [])
    assert world == scenario_named("quick").world()


def test_experts_over_copies_are_rehearsed() -> None:
    inventory = scenario_named("vllm-dp-ep").world().inventory
    target = LaunchTarget(inventory, *inventory.engine_profile("vllm"))
    assert str(target.layout) == "TP1 x DP16 x EP16 on 2 nodes"
    assert (target.layout.spanning, target.layout.spanning_nodes) == (16, 2)


def test_copies_that_span_nodes_are_rehearsed() -> None:
    inventory = scenario_named("vllm-copies").world().inventory
    target = LaunchTarget(inventory, *inventory.engine_profile("vllm"))
    assert str(target.layout) == "TP16 x DP2 x EP32 on 4 nodes"
    assert (target.layout.spanning, target.layout.spanning_groups, target.layout.spanning_nodes) == (16, 2, 2)
    other = LaunchTarget(inventory, *inventory.engine_profile("sglang"))
    assert str(other.layout) == "TP16 x PP2 on 4 nodes", "SGLang has no copies over nodes"
