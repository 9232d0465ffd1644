"""An engine that ends while a test waits for it: seen by its node's container within seconds, and told once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.cluster.shared import Shared
from pytest_h20.config.inventory import LoadSettings
from pytest_h20.core.errors import TransportError
from pytest_h20.core.verdict import Status
from pytest_h20.load import Cell
from pytest_h20.run import bringup, lookout
from pytest_h20.run.endpoint import Endpoint
from pytest_h20.run.lookout import Lookout
from pytest_h20.run.store import CLUSTER, DRILLED
from pytest_h20.run.throughput import Load, NotRun
from tests.unit.cluster.ended import Box, cluster, logs

LABEL = "vllm"


@pytest.fixture(name="run")
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A run whose engine is up on two nodes; ``box.running`` says of whose containers that is still so."""
    monkeypatch.setattr(lookout.Lookout.__init__, "__defaults__", (0.01,))
    box = Box(c0=True, c1=True)
    events: list[dict[str, Any]] = []
    folder = SimpleNamespace(evidence=box.evidence, event=lambda kind, **data: events.append({"kind": kind, **data}))
    shared = Shared(tmp_path / "shared")
    session = SimpleNamespace(
        shared=shared,
        nodes=box.nodes(),
        folder=folder,
        run_id="r",
        labels=(LABEL,),
        target=lambda _: SimpleNamespace(head=SimpleNamespace(name="node01", engine_ip="127.0.0.1"), profile=SimpleNamespace(http_port=9)),
    )
    monkeypatch.setattr(bringup, "reachable_url", lambda url, *_: url)
    shared.publish(CLUSTER(LABEL), cluster(logs(tmp_path, dead=True)))
    yield SimpleNamespace(session=session, box=box, events=events, shared=shared)
    bringup.look_away(session, LABEL)  # type: ignore[arg-type]


def test_a_worker_that_ends_is_told_at_once_and_stands_in_the_run_once(run: Any) -> None:
    lines: list[str] = []
    said = threading.Event()

    def write(text: str) -> None:
        lines.append(text)
        said.set()

    bringup.look_out(run.session, LABEL, write)
    bringup.look_out(run.session, LABEL, write)
    run.box.running["c1"] = False
    assert said.wait(20), "nobody noticed"
    assert lines[0].startswith("h20: broken: rank1 (rank 1) on node02 ended (exit code 137); worker_died")
    assert [e["state"] for e in run.events] == ["broken"]
    assert bringup.died(run.session, LABEL) is not None
    told = [bringup.post_mortem(run.session, LABEL) for _ in range(2)]
    assert [v.status if v is not None else None for v in told] == [Status.FAIL, None], "by the first test that fails after it"
    assert bringup.stayed_up(run.session, LABEL) == []


def test_whoever_waits_for_an_answer_learns_of_the_end_by_a_file_and_no_cell_is_begun_after_it(run: Any) -> None:
    """Rank 0's API may say for a minute that it is well: it is not asked."""
    endpoint = Endpoint(run.session, LABEL, SimpleNamespace(), SimpleNamespace(), "http://127.0.0.1:9", {})  # type: ignore[arg-type]
    assert not Path(endpoint.ended_file).exists()
    seen = threading.Event()
    run.box.running["c1"] = False
    bringup.look_out(run.session, LABEL, lambda _: seen.set())
    assert seen.wait(20), "nobody noticed"
    assert Path(endpoint.ended_file).exists()
    load = Load(run.session, LABEL, endpoint, lambda _: None, False, LoadSettings(), None, ())
    with pytest.raises(NotRun, match=r"in8-out8-c1 was not run because the engine was gone by then: rank1 \(rank 1\) on node02 ended"):
        load.run(Cell(8, 8, 1))


def test_what_no_test_told_is_told_at_the_end(run: Any) -> None:
    run.box.running["c1"] = False
    assert bringup.noticed(run.session, LABEL) is not None
    assert [v.status for v in bringup.stayed_up(run.session, LABEL)] == [Status.FAIL]
    assert bringup.stayed_up(run.session, LABEL) == []


def test_what_a_drill_ends_and_what_is_being_stopped_is_not_told(run: Any) -> None:
    lines: list[str] = []
    bringup.look_out(run.session, LABEL, lines.append)
    bringup.look_away(run.session, LABEL)
    run.box.running["c1"] = False
    run.shared.publish(DRILLED(LABEL), True)
    bringup.look_out(run.session, LABEL, lines.append)
    bringup.look_away(run.session, LABEL)
    assert lines == []
    assert run.events == []


def test_a_node_that_does_not_answer_is_asked_again() -> None:
    asked: list[int] = []
    over = threading.Event()

    def look() -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise TransportError("no answer")
        over.set()
        return True

    one = Lookout(look, 0.001)
    assert over.wait(20)
    one.end()
    assert len(asked) == 3
