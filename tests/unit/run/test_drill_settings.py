"""Which drills may be asked for, where, and what the plan says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_h20.config.environments import environments
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import ALWAYS, GateName
from pytest_h20.run.forecast import judged
from pytest_h20.run.settings import Session, Settings, build


def session(**values: Any) -> Session:
    return build(Settings(**{"nodes": "rehearsal", "engine": ("sglang",), **values}))


def test_a_drill_needs_a_cluster_that_may_be_broken(tmp_path: Path) -> None:
    text = (environments() / "h20-2node.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"write at its top level\n  drills: allowed"):
        session(nodes=str(path), drill=("kill-api",))
    path.write_text(f"{text}drills: allowed\n", encoding="utf-8")
    assert session(nodes=str(path), drill=("kill-api",)).required == (*ALWAYS, GateName.DRILL)
    assert session(nodes=str(path)).required == ALWAYS
    with pytest.raises(UsageError, match="started by somebody else"):
        session(nodes=str(path), drill=("kill-api",), attach="http://a:8000")


@pytest.mark.parametrize(("names", "why"), [(("kill-apy",), "did you mean kill-api"), (("kill-api", "kill-api"), "is given twice")])
def test_drills_that_are_not_asked_for_like_this(names: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        session(drill=names)


def test_a_gate_on_request_is_no_gate_of_an_inventory(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((environments() / "h20-2node.yaml").read_text(encoding="utf-8") + "gates: [bringup, drill]\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"'drill' is judged by every run that asks for it \(--h20-drill\)"):
        session(nodes=str(path))


def test_the_plan_lists_the_drills_with_their_minutes() -> None:
    (line,) = [line for line in judged(session(drill=("rail-loss-1",))) if "drill rail-loss-1" in line]
    assert "1 % of the packets are lost on the first rail" in line
    assert "10 min at most, and a start of 30 min at most" in line
