"""SIGKILL at three moments of a run against a real dockerd and sshd; sixty: ``python -m tests.integration.killed``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.killed import Series, bystanders
from tests.integration.tiny import Tiny


@pytest.fixture(scope="module")
def series() -> Iterator[Series]:
    tiny = Tiny()
    try:
        with bystanders(tiny):
            yield Series(tiny)
    finally:
        tiny.close()


@pytest.mark.parametrize(("when", "workers", "left"), [("preflight", 2, "file"), ("loading", 0, "container"), ("ready", 0, "container")])
def test_after_sigkill_reap_leaves_nothing_and_bystanders_live(series: Series, when: str, workers: int, left: str) -> None:
    killed = series.kill(when, workers)
    assert killed.phase == when
    assert [what for what in killed.found if what.startswith(left)], killed.found
    assert killed.wrong == ()
