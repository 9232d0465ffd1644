"""Runs of pytest inside pytest: without this repository's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def inventory_text() -> str:
    """The write-up's inventory."""
    return (REPOSITORY / "environments" / "h20-2node.yaml").read_text(encoding="utf-8")


@pytest.fixture
def inventory_file(pytester: pytest.Pytester, inventory_text: str) -> Path:
    """The write-up's inventory as a file of the inner run."""
    folder = pytester.path / "thresholds"
    folder.mkdir()
    for limits in (REPOSITORY / "environments" / "thresholds").glob("*.yaml"):
        (folder / limits.name).write_text(limits.read_text(encoding="utf-8"), encoding="utf-8")
    path = pytester.path / "cluster.yaml"
    path.write_text(inventory_text, encoding="utf-8")
    return path
