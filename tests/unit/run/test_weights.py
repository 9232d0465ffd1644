"""Weights that are red keep the engine from being started, where somebody has looked at them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.checks.weights.facts import FastFacts, WeightFacts, parse_fast
from pytest_h20.checks.weights.runner import agent
from pytest_h20.cluster.shared import Shared
from pytest_h20.core.verdict import Status
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal import sparse
from pytest_h20.run import weights
from pytest_h20.run.settings import Session
from pytest_h20.run.store import WEIGHTS
from tests.unit.probes.cluster import blog_cluster

SHARDS = 6


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    facts = SimpleNamespace(probes=SimpleNamespace(views=[]))
    monkeypatch.setattr(weights, "gathered", lambda *_: facts)
    inventory = blog_cluster().inventory
    model = inventory.model.model_copy(update={"shards": SHARDS, "total_bytes": None, "kind": "other"})
    shared = Shared(tmp_path / "shared")
    kept = inventory.model_copy(update={"model": model})
    return cast(Session, SimpleNamespace(shared=shared, inventory=kept, limits_of=lambda _: None))


def _look(folder: Path) -> FastFacts:
    return parse_fast(json.dumps(agent.fast(agent.Folder(str(folder)), SHARDS)))


def _told(session: Session, **fast: Any) -> list[tuple[str, str, Status]]:
    session.shared.once(WEIGHTS("sglang"), lambda: WeightFacts(fast))
    return [(v.check, v.subject, v.status) for v in weights.weights_verdicts(session, "sglang") if v.status.blocks]


def test_nobody_looked(session: Session) -> None:
    assert weights.weights_verdicts(session, "sglang") == []


def test_a_shard_that_is_missing_on_one_node(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "R1"
    sparse.write_model(folder, sparse.small_config(), SHARDS, payload=True)
    whole = _look(folder)
    next(folder.glob("model-00004-of-*")).unlink()
    told = _told(session, node01=_look(folder), node02=whole)
    assert ("weights.names", "node01", Status.FAIL) in told
    assert not [check for check, subject, _ in told if subject == "node02"]


def test_a_node_that_was_not_asked_stays_what_it_is(session: Session) -> None:
    assert ("weights.readable", "node01", Status.UNKNOWN) in _told(session, node01=Missing("no python"))
