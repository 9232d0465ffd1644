"""A test that is tried until it is green says nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("path", ["scripts/test.sh", "noxfile.py", ".ci/run", "pyproject.toml", ".github/workflows/test.yml"])
def test_nothing_is_tried_twice(path: str) -> None:
    found = re.search(r"--last-failed|--lf\b|--failed-first|rerun|flaky|once more", (REPOSITORY / path).read_text(encoding="utf-8"))
    assert found is None, found and found[0]


def test_what_runs_alone_is_left_out_once_and_run_once() -> None:
    lines = [line for line in (REPOSITORY / "scripts" / "test.sh").read_text(encoding="utf-8").splitlines() if "pytest -q" in line]
    plugin = [line for line in lines if "tests/plugin" in line and "test_inert" not in line]
    assert [re.findall(r'-m ("not alone"|alone)', line) for line in plugin] == [*[['"not alone"']] * 3, ["alone"]]
    assert not [line for line in lines if line not in plugin and "-m " in line.replace("-m pytest", "")]
    assert " -n " not in plugin[-1]
