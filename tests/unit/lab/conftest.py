"""The lab's files are those of its default place, wherever this machine has its lab."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("H20_LAB_DIR", raising=False)
