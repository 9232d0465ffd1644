"""docs/checks: every check that can turn red has one place that says what it judges and what to do; threads are links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS
from pytest_h20.checks.endpoint.catalog import all_ids
from pytest_h20.cli.faults import check_link, linked
from pytest_h20.core.verdict import GateName
from pytest_h20.rehearsal.faults import CATALOGUE

PAGES = Path(__file__).parents[2] / "docs" / "checks"
TEXTS = {gate.value: (PAGES / f"{gate.value}.md").read_text(encoding="utf-8") for gate in GateName}


def sections() -> dict[str, str]:
    """Id -> what stands below its heading."""
    found = re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", "\n".join(TEXTS.values()), re.M | re.S)
    assert len(found) == len(dict(found)), "a heading stands twice: its anchor leads to the first only"
    return dict(found)


def test_every_check_that_can_turn_red_has_its_place() -> None:
    red = {check for fault in CATALOGUE.values() for check in fault.red}
    assert {*red, *NODE_CHECKS, *RAIL_CHECKS, *CLUSTER_CHECKS, *all_ids()} <= set(sections())


@pytest.mark.parametrize("gate", TEXTS)
def test_every_place_says_what_is_judged_and_what_to_do(gate: str) -> None:
    mine = {name: text for name, text in sections().items() if name.startswith(f"{gate}.")}
    assert mine
    for name, text in mine.items():
        first, *rest = text.strip().splitlines()
        assert re.match(r"- \*\*(?!What to do|Fault|More)[^*]+\*\*: \S", first), name
        assert sum(line.startswith("- **What to do**: ") for line in rest) == 1, name


def test_links_lead_to_pages_that_are_there() -> None:
    links = {target.partition("#")[0] for text in TEXTS.values() for target in re.findall(r"\]\(([^)\s]+)\)", text)}
    assert [t for t in links if "://" not in t and not (PAGES / t).is_file()] == []


def test_faults_lead_to_the_place_and_the_place_to_the_threads() -> None:
    assert check_link("fabric.rate") == "[`fabric.rate`](checks/fabric.md#fabricrate)"
    told = sections()["rdma.gid_index"]
    assert "`nccl-wrong-gid`" in told
    assert "https://github.com/NVIDIA/nccl/issues/426" in told, "F28 of docs/sources.md"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nccl#1996", "[nccl#1996](https://github.com/NVIDIA/nccl/issues/1996)"),
        ("see linux-rdma/perftest#241.", "see [linux-rdma/perftest#241](https://github.com/linux-rdma/perftest/issues/241)."),
        ("[vllm#1](https://x.example)", "[vllm#1](https://x.example)"),
        ("eugr#389 and #34", "eugr#389 and #34"),
        ("../sources.md#failures", "../sources.md#failures"),
    ],
)
def test_threads_become_links_once(text: str, shown: str) -> None:
    assert linked(text) == shown
