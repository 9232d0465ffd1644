"""What the stand-in prints while it starts is recognised stage by stage, and leads to the ready rule of its dialect."""

from __future__ import annotations

import re

import pytest

from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.diagnosis import diagnose
from pytest_h20.engines import dialect_for
from pytest_h20.rehearsal.engine_log import Scene, moments_of
from pytest_h20.rehearsal.scenario import SCENARIOS, Scenario


def printed(scenario: Scenario, engine: str, rank: int) -> tuple[list[str], LaunchTarget]:
    world = scenario.world()
    target = LaunchTarget(world.inventory, *world.inventory.engine_profile(engine))
    version = world.images[target.profile.image].packages[engine]
    dialect = dialect_for(engine, version, target.profile.mode)
    plan = dialect.plan(target.engine_profile(), target.node_plans())
    step = plan.steps[-1] if rank == 0 and engine == "vllm" and target.profile.mode == "ray" else plan.steps[rank]
    setting = Scene(version, "2.21.5", "/mnt/models/DeepSeek-R1", step.argv, 8000, rank, scenario.nodes, 8, "10.63.65.207")
    return [m.text for m in moments_of(engine, setting)], target


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_rank_0_becomes_ready(scenario: Scenario, engine: str) -> None:
    texts, target = printed(scenario, engine, 0)
    version = scenario.world().images[target.profile.image].packages[engine]
    dialect = dialect_for(engine, version, target.profile.mode)
    rule = dialect.ready(target.node_plans())
    whole = "".join(texts)
    at = 0
    for pattern in rule.patterns:
        match = re.compile(pattern).search(whole, at)
        assert match, pattern
        at = match.end()
    assert not any(re.search(pattern, whole) for pattern in rule.voided_by)
    assert diagnose(whole).outcome != "failed"
    stages = [s for text in texts for line in re.split(r"[\r\n]+", text) if (s := dialect.stage(line)) is not None]
    names = [s.name for s in stages]
    assert {"arguments", "nccl", "loading", "loaded", "kv-cache", "ready"} <= set(names)
    assert names[-1] == "ready"
    shards = [s.done for s in stages if s.unit == "shards"]
    assert shards == sorted(s for s in shards if s is not None)
    assert shards[-1] == 163


@pytest.mark.parametrize("engine", ["sglang"])
def test_the_other_rank_never_says_ready(engine: str) -> None:
    for scenario in (s for s in SCENARIOS if s.nodes > 1):
        assert "ready to roll" not in "".join(printed(scenario, engine, 1)[0])
