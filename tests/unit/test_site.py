"""docs/ as a site: every page is in the navigation, and links out of docs/ lead to the repository."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hook file, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "tools" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outside(hooks: ModuleType) -> Callable[..., str]:
    rule: Callable[..., str] = hooks.outside
    return rule


def test_a_screen_reader_hears_the_language_and_what_the_search_is(hooks: ModuleType) -> None:
    page = '<html lang="en"><div class="md-search" role="dialog">'
    assert hooks.spoken(page, "index.md") == '<html lang="en"><div class="md-search" role="dialog" aria-label="Search">'
    assert hooks.spoken(page, "zh/tour.md") == '<html lang="zh-CN"><div class="md-search" role="dialog" aria-label="搜索">'


def test_every_page_is_in_the_navigation_once() -> None:
    """As text: the file names a Python function, which a plain YAML reader refuses."""
    _, _, nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")
    listed = re.findall(r": ([\w/-]+\.md)$", nav, re.M)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize(
    ("page", "text", "alone", "linked"),
    [
        (
            "index.md",
            "[Contributing](../CONTRIBUTING.md)",
            "Contributing (`CONTRIBUTING.md`)",
            "[Contributing](R/blob/main/CONTRIBUTING.md)",
        ),
        ("zh/gate-ci.md", "[读](../../README.md#a)", "读 (`README.md`)", "[读](R/blob/main/README.md#a)"),
        ("extend.md", "[`LICENSE`](../LICENSE)", "`LICENSE`", "[`LICENSE`](R/blob/main/LICENSE)"),
        ("zh/gate-ci.md", "[标定](../calibrate.md)", "[标定](../calibrate.md)", "[标定](../calibrate.md)"),
        ("index.md", "[Faults](faults.md) and [x](https://x.example/../y)", *["[Faults](faults.md) and [x](https://x.example/../y)"] * 2),
    ],
)
def test_links_out_of_docs(outside: Callable[..., str], page: str, text: str, alone: str, linked: str) -> None:
    assert outside(text, page, ROOT) == alone
    assert outside(text, page, ROOT, "R") == linked


def test_a_file_that_is_not_there_is_a_warning(outside: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """``--strict`` fails for it."""
    with caplog.at_level(logging.WARNING, "mkdocs.hooks.site"):
        outside("[x](../NOWHERE.md)", "index.md", ROOT)
    assert "docs/index.md: ../NOWHERE.md: no such file" in caplog.text


def test_the_pages_as_they_are_lead_to_files_that_are_there(outside: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    changed = 0
    with caplog.at_level(logging.WARNING, "mkdocs.hooks.site"):
        for page in (ROOT / "docs").rglob("*.md"):
            text = page.read_text(encoding="utf-8")
            changed += outside(text, str(page.relative_to(ROOT / "docs")), ROOT) != text
    assert changed >= 3
    assert not caplog.text
