"""Sample runs are built once: they are read, never changed (tests that change one copy it first)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h20.report.model import RunView
from tests.unit.report import samples

Sample = Callable[[str], RunView]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A finished sample run by name (clean, faulty, aborted, two_engines, calibration, rehearsal, killed)."""
    base: Path = tmp_path_factory.mktemp("samples")
    built: dict[str, RunView] = {}

    def get(name: str) -> RunView:
        if name not in built:
            built[name] = samples.ALL[name](base / name)
        return built[name]

    return get
