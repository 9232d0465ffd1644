"""Which tests there are."""

from __future__ import annotations

import pytest

from pytest_h20.config.cells import RailRef
from pytest_h20.plugin.parametrize import belongs
from pytest_h20.run.settings import Settings, build


@pytest.mark.parametrize(
    ("label", "node", "there"),
    [
        ("sglang:single", "node01", True),
        ("sglang:single", "node02", False),
        ("sglang:default", "node02", True),
        (None, "node02", True),
    ],
)
def test_an_engine_on_one_node_is_asked_about_that_one(label: str | None, node: str, there: bool) -> None:
    """All checks of the second node failed for the engine that does not run on it."""
    session = build(Settings(nodes="rehearsal", engine=("sglang:single", "sglang:default")))
    spec = next(n for n in session.inventory.nodes if n.name == node)
    named = {} if label is None else {"h20_engine": label}
    assert belongs(session, {**named, "node_name": node}) is there
    assert belongs(session, {**named, "rail": RailRef(spec, spec.rails[0], 0)}) is there
    assert belongs(session, named)
