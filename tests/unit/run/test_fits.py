"""What a profile was made for: held against what the inventory says (plan) and what the machines say (run)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.environments import environments
from pytest_h20.config.inventory import Inventory, ProfileFits, load_inventory
from pytest_h20.config.limits import load_limits
from pytest_h20.core.errors import UsageError
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import Fits, LaunchFacts, Version
from pytest_h20.run.plan import claimed, render

TODAY = environments() / "h20-2node-today.yaml"


@cache
def read(path: Path) -> Inventory:
    return load_inventory(path)


PROFILES = [(engine, name) for engine, section in read(TODAY).engines.items() for name in section.profiles]


def target(engine: str, name: str, path: Path = TODAY, **fits: Any) -> LaunchTarget:
    inventory = read(path)
    profile = inventory.engines[engine].profiles[name]
    return LaunchTarget(inventory, engine, name, profile.model_copy(update={"fits": ProfileFits(**fits)}) if fits else profile)


@pytest.mark.parametrize(("engine", "name"), PROFILES)
def test_what_is_shipped_for_today_is_refused_by_nothing(engine: str, name: str) -> None:
    """Every option is one of the version's, and every profile fits the machines of its own file."""
    text, refused = render(target(engine, name), engine)
    assert not refused, text
    assert target(engine, name).profile.fits.models == ("deepseek_v3",)


@pytest.mark.parametrize(("engine", "name"), PROFILES)
def test_what_is_shipped_for_today_is_judged(engine: str, name: str) -> None:
    """A run of it could not be accepted: no profile had a limit."""
    limits = target(engine, name).profile.limits
    assert limits is not None
    held = load_limits(environments() / limits)
    assert held.unfit(engine=engine, profile=name, model=["deepseek-r1"], kind="hardware") == []
    assert {c.concurrency for c in held.cells} >= {1, 64, 1024}
    assert read(TODAY).load.limit == "all"


def refusals(here: LaunchTarget, facts: LaunchFacts, version: str = "0.5.23") -> list[str]:
    found = dialect_for(here.engine, version).refuse(here.engine_profile(), here.node_plans(), facts)
    return [str(r) for r in found if r.id == "profile_does_not_fit"]


@pytest.mark.parametrize(
    ("facts", "version", "why"),
    [
        ({"model_type": "qwen3_moe"}, "0.5.23", "made for models of type deepseek_v3; this one is qwen3_moe"),
        ({"gpu_names": {"node02": "NVIDIA A100-SXM4-80GB"}}, "0.5.23", "the nodes have NVIDIA A100-SXM4-80GB"),
        ({}, "0.4.4", "made for sglang >=0.5.1; this is 0.4.4"),
    ],
)
def test_elsewhere_it_is_refused_with_the_reason(facts: dict[str, Any], version: str, why: str) -> None:
    here = target("sglang", "mtp")
    fitting = LaunchFacts(gpu_names=dict.fromkeys(("node01", "node02"), "NVIDIA H20"), model_type="deepseek_v3")
    assert refusals(here, fitting) == []
    (told,) = refusals(here, replace(fitting, **facts), version)
    assert why in told
    assert "fits." in told


def test_what_is_not_known_is_not_guessed() -> None:
    assert refusals(target("sglang", "mtp"), LaunchFacts()) == []


def test_one_node_is_not_two() -> None:
    here = target("sglang", "mtp")
    one = here.inventory.model_copy(update={"nodes": here.inventory.nodes[:1]})
    (told,) = refusals(replace(here, inventory=one), LaunchFacts())
    assert "made for 2 nodes; these are 1" in told


MADE_FOR = {name: f"NVIDIA {name}" for name in ("H20", "H20-3e", "H200", "H800")} | {"H100": "NVIDIA H100 80GB HBM3"}
"""As nvidia-smi names them."""


@pytest.mark.parametrize("gpu", [*MADE_FOR.values(), *MADE_FOR, "NVIDIA A100-SXM4-80GB", "NVIDIA GH200 480GB", "NVIDIA B999"])
@pytest.mark.parametrize(
    "path", [TODAY, *(environments() / f"{name}.yaml" for name in ("h20-2node", "gpu-lab", "lab"))], ids=lambda p: p.stem
)
def test_every_shipped_profile_on_every_gpu(path: Path, gpu: str) -> None:
    """Those that name no GPU run on any: an unknown one is measured and told. The H100 was refused by its own name."""
    inventory = read(path)
    inventory = inventory.model_copy(update={"expect": inventory.expect.model_copy(update={"gpu_model": gpu})})
    for engine, section in inventory.engines.items():
        for name, profile in section.profiles.items():
            text, refused = render(LaunchTarget(inventory, engine, name, profile), engine)
            fits = gpu in (*MADE_FOR, *MADE_FOR.values()) or not profile.fits.gpus
            assert refused is not fits, text
            assert f"REFUSED before launch: profile {name} is made for H20, " in text or fits
            assert f"; the nodes have {gpu} — take another profile" in text or fits
            assert set(profile.fits.gpus) <= set(MADE_FOR)


def test_the_plan_refuses_by_what_the_inventory_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TODAY.read_text(encoding="utf-8").replace("gpu_model: H20", "gpu_model: A100"), encoding="utf-8")
    here = target("sglang", "tp16", path)
    assert claimed(here).gpu_names == {"node01": "A100", "node02": "A100"}
    text, refused = render(here, "sglang")
    assert refused
    assert "# REFUSED before launch: profile tp16 is made for H20, H20-3e, H100, H800, H200; the nodes have A100" in text


@pytest.mark.parametrize(
    ("image", "refused"),
    [
        ("vllm/vllm-openai:v0.33.0", True),
        ("vllm/vllm-openai:v0.33.0-cu129", False),
        ("mine:0.33.0-cu130", True),
        ("mine:0.33.0-cpu", False),
    ],
)
def test_a_tag_that_tells_the_build_tells_the_driver_it_needs(tmp_path: Path, image: str, refused: bool) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TODAY.read_text(encoding="utf-8").replace('driver_min: "580"', "driver: 535.216.03"), encoding="utf-8")
    here = target("vllm", "native", path)
    here = replace(here, profile=here.profile.model_copy(update={"image": image, "version": None}))
    assert ("cannot run the image's CUDA 13.0" in render(here, "vllm")[0]) is refused


@pytest.mark.parametrize(("version", "taken"), [("0.5.9", False), ("0.5.10", True), ("0.5.10.post1", True), ("0.6.0", False)])
def test_bounds_are_half_open(version: str, taken: bool) -> None:
    assert Fits((">=0.5.10", "<0.6")).takes(Version.parse(version)) is taken


def test_a_bound_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="write >=VERSION or <VERSION"):
        Fits.bound("~=0.5")
    with pytest.raises(ValueError, match="fits"):
        read(TODAY).engines["sglang"].profiles["mtp"].model_validate({"image": "a", "fits": {"versions": ["0.5"]}})
