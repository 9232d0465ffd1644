"""The page lists every check, every field of ``expect`` and every probe there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS
from pytest_h20.checks.weights.judge import IDS
from pytest_h20.checks.weights.runner import full_script
from pytest_h20.config.expect import Expect
from pytest_h20.probes.gather import host_probes, image_probes
from pytest_h20.probes.script import build
from tests.unit.probes.cluster import blog_cluster

PAGE = Path(__file__).parents[3] / "docs" / "checks-environment.md"
NAMES = [*NODE_CHECKS, *RAIL_CHECKS, *CLUSTER_CHECKS, *IDS, *Expect.model_fields]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name: str) -> None:
    assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")


def test_every_probe_is_documented() -> None:
    inventory = blog_cluster().inventory
    page = PAGE.read_text(encoding="utf-8")
    for probe in (*host_probes(inventory), *image_probes(inventory)):
        assert f"`{probe.name}`" in page


def test_scripts_are_short_enough_for_one_argument() -> None:
    """Linux takes at most 128 KiB in one argument."""
    inventory = blog_cluster().inventory
    for script in (build(host_probes(inventory)), build(image_probes(inventory)), full_script("/a", "/b", 8)):
        assert len(script.encode()) < 100_000


def test_every_expectation_says_what_it_means() -> None:
    for name, field in Expect.model_fields.items():
        assert field.description, name


def test_the_write_ups_expectations_are_in_its_inventory() -> None:
    expect = blog_cluster().inventory.expect
    assert (expect.driver, expect.cuda, expect.gpu_count, expect.gpu_model) == ("535.216.03", "12.2", 8, "H20")
