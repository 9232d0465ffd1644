"""Hostile text in every field of a record: GPU names, model ids, log lines, reasons, evidence paths. No page runs any of it."""

from __future__ import annotations

import shutil
import subprocess
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
from pydantic import BaseModel

from pytest_h20.core.verdict import Verdict
from pytest_h20.report.compare import compare, side
from pytest_h20.report.html.page import comparison_page, run_page
from pytest_h20.report.model import RunView
from tests.unit.conftest import Sample
from tests.unit.report import samples
from tests.unit.report.pages import Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAYLOAD = (
    "\"'><script>document.title='planted'</script><img src=x onerror=\"document.title='planted'\">"
    "</style></title></textarea><svg onload=\"document.title='planted'\"> ' onmouseover=document.title='planted' javascript:planted()"
)
M = TypeVar("M")


def hostile(value: M) -> M:
    """The same record with the payload at the end of every text that is not one of a fixed set of words."""
    return _hostile(value)  # type: ignore[no-any-return]


def _hostile(value: Any) -> Any:
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return value + PAYLOAD
    if isinstance(value, BaseModel):
        words = {name for name, field in type(value).model_fields.items() if _fixed(field.annotation)}
        words |= {"check"} if isinstance(value, Verdict) else set()
        return value.model_copy(update={name: _hostile(old) for name, old in value if name not in words})
    if isinstance(value, tuple):
        return tuple(map(_hostile, value))
    if isinstance(value, list):
        return list(map(_hostile, value))
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    return value


def _fixed(annotation: Any) -> bool:
    """Whether a field holds one of a few words (a ``Literal``), which no node or server can choose."""
    return (
        getattr(annotation, "__origin__", None) is not None
        and bool(get_args(annotation))
        and all(isinstance(a, str) for a in get_args(annotation))
    )


def planted(page: str) -> list[object]:
    """Elements and attributes that a browser would have made of the payload."""
    found: list[object] = []
    for name, attributes in Page(page).tags:
        found += [
            (name, key) for key, told in attributes.items() if key.startswith("on") or (told or "").lstrip().startswith("javascript:")
        ]
        found += [name] if name == "img" and attributes.get("src") == "x" else []
    return found


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_no_page_makes_an_element_of_a_record(sample: Sample, name: str) -> None:
    view = sample(name)
    text = run_page(hostile(view))
    assert "planted" in text
    assert planted(text) == []
    assert sorted(n for n, _ in Page(text).tags if n == "script") == sorted(n for n, _ in Page(run_page(view)).tags if n == "script")
    assert not Page(text).problems


def test_a_comparison_neither(sample: Sample) -> None:
    text = comparison_page(compare(side(hostile(sample("clean"))), side(hostile(sample("faulty")))))
    assert planted(text) == []
    assert "script" not in {name for name, _ in Page(text).tags}


@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("name", ["faulty", "two_engines", "aborted"])
def test_a_real_browser_runs_nothing(sample: Sample, name: str, tmp_path: Path) -> None:
    view: RunView = hostile(sample(name))
    (tmp_path / "page.html").write_text(run_page(view), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser", "--dump-dom")
    command = [str(BROWSER), *options, (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(tmp_path / "browser", ignore_errors=True)
    assert "h20-" in done.stdout, done.stderr
    assert "<title>planted" not in done.stdout
