"""The versions that are promised are those that ``scripts/test.sh`` tries."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
lowest = runpy.run_path(str(ROOT / "scripts" / "lowest_versions.py"))["lowest"]


def test_every_dependency_has_its_pin() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = lowest(text)
    assert "openai==1.55.3" in pins
    assert len(pins) == len(re.findall(r'^    "[^"]+>=', text.split("[project.optional")[0], re.M)) > 5


@pytest.mark.parametrize("entry", ["openai", "openai~=1.55", "openai>=1.55,<2", "openai==1.55.3"])
def test_a_promise_that_cannot_be_tried_is_refused(entry: str) -> None:
    with pytest.raises(SystemExit, match="write name>=version"):
        lowest(f'dependencies = [\n    "{entry}",\n]\n')
