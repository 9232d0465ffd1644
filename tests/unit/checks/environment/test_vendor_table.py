"""What the vendor's table adds where the inventory expects nothing: the number of NVLinks, and a word about a GPU that is not in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.checks.environment.gpus import gpu_model, nvlink
from pytest_h20.core.verdict import Status, Verdict
from tests.unit.probes.cluster import blog_cluster

LINK = "26.562 GB/s"


def judged(pci_id: str, links: tuple[str, ...]) -> tuple[Verdict, Verdict]:
    cluster = blog_cluster()
    expect = cluster.inventory.expect.model_copy(update={"nvlinks": None, "gpu_model": None})
    cluster.inventory = cluster.inventory.model_copy(update={"expect": expect})
    cluster.head.machine.gpus = [replace(gpu, pci_id=pci_id, nvlinks=links) for gpu in cluster.head.machine.gpus]
    view = cluster.gather().of("node01")
    return nvlink(view)[0], gpu_model(view)[0]


@pytest.mark.parametrize(
    ("pci_id", "links", "status", "words"),
    [
        ("2329", (LINK,) * 18, Status.PASS, ""),
        ("2329", (LINK,) * 17, Status.FAIL, "fewest links: 17"),
        ("2324", (LINK,) * 8, Status.PASS, ""),
        ("ffff", (LINK,) * 17, Status.PASS, ""),
        ("ffff", (LINK,) * 17 + ("<inactive>",), Status.FAIL, "down: "),
    ],
)
def test_links_that_are_not_even_listed_are_missed(pci_id: str, links: tuple[str, ...], status: Status, words: str) -> None:
    """A link that training never found is in no list, so that none of those listed is down."""
    told, _ = judged(pci_id, links)
    assert (told.status, told.check) == (status, "environment.nvlink")
    assert words in told.reason


def test_a_gpu_that_is_in_no_table_is_told_and_not_refused() -> None:
    _, told = judged("ffff", (LINK,) * 18)
    assert told.status is Status.SKIP
    assert told.details["vendor"] == ["no row for PCI id ffff"]
    _, told = judged("2329", (LINK,) * 18)
    assert told.details["vendor"] == ["H20 96 GB"]
