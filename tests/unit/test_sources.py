"""Every code that a user is shown leads to docs/sources.md, and every row there is used."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sources.md"
CODE = re.compile(r"\b(?:F\d\d|E-[a-z0-9]+)\b")


def used() -> set[str]:
    """Codes in the package and in the other pages; ``F63-F66`` names its ends."""
    texts = [*(ROOT / "pytest_h20").rglob("*.py"), *(p for p in (ROOT / "docs").glob("*.md") if p != PAGE)]
    return {code for path in texts for code in CODE.findall(path.read_text(encoding="utf-8"))}


def told() -> list[str]:
    """First cells of the page's tables."""
    return re.findall(r"^\| (F\d\d|E-[a-z0-9]+) \|", PAGE.read_text(encoding="utf-8"), re.M)


def test_every_code_leads_to_the_page() -> None:
    assert used() <= set(told())


def test_every_row_is_used_once() -> None:
    assert sorted(told()) == sorted(set(told()) & used())


def test_no_code_points_to_papers_nobody_has() -> None:
    for path in (ROOT / "pytest_h20").rglob("*.py"):
        assert not re.search(r"§ ?\d|research/", path.read_text(encoding="utf-8")), path
