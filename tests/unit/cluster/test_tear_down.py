"""Taking down on nodes that follow a script: the order, who ignored SIGTERM, and what is left is told, never forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.cluster import labels, teardown
from pytest_h20.cluster.teardown import Down, down
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import ContainerInfo, Node


class Cluster:
    """Two nodes, one container each; what was done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, roles: tuple[str, str] = ("rank0", "rank1")) -> None:
        self.done: list[str] = []
        self.silent: set[str] = set()
        self.stuck: set[str] = set()
        self.stubborn: set[str] = set()
        self.dead: set[str] = set()
        self.collected: list[str] = []
        self.now = 0.0
        self.containers = {
            name: ContainerInfo(f"id-{name}", f"c-{name}", "image", "running", None, False, labels.of_run("r1", role, name, "me", "/b"), "")
            for name, role in zip(("node01", "node02"), roles, strict=True)
        }
        monkeypatch.setattr(teardown, "ledger_of", lambda node: node.ledger)
        monkeypatch.setattr(teardown, "containers_of", lambda node, entry: node.listed())
        monkeypatch.setattr(teardown, "collect", self._collect)
        monkeypatch.setattr(teardown, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _collect(self, node: Any, folder: str, journal: object) -> list[str]:
        return [f"nodes/{node.name}/log"]

    def event(self, kind: str, **data: Any) -> None:
        """Not asked here."""

    def evidence(self, name: str, data: bytes | str) -> str:
        return name

    def node(self, name: str) -> Node:
        def listed() -> list[ContainerInfo]:
            if name in self.silent:
                raise TransportError(f"{name}: connection lost")
            return [self._state(name)]

        def stop(identity: str, timeout: float) -> None:
            self.done.append(f"stop {name}")
            self.now += timeout if name in self.stubborn else 1.0

        def remove(identity: str) -> None:
            if name in self.stuck:
                raise H20Error("device or resource busy")
            self.done.append(f"remove {name}")

        def end_first(identity: str, argv: object, timeout: float) -> None:
            self.done.append(f"end execs {name}")

        daemon = SimpleNamespace(stop=stop, remove=remove, inspect=lambda identity: self._state(name), exec=end_first)
        ledger = SimpleNamespace(entry=lambda: object(), remove_folder=lambda folder: self.done.append(f"folder {name}"))
        return cast("Node", SimpleNamespace(name=name, containers=daemon, ledger=ledger, listed=listed))

    def _state(self, name: str) -> ContainerInfo:
        info = self.containers[name]
        return ContainerInfo(info.id, info.name, "image", "exited" if name in self.dead else "running", 0, False, info.labels, "now")

    def down(self) -> Down:
        return down("r1", {n: self.node(n) for n in ("node02", "node01")}, "/b/r1", cast("Any", self), order=("node01", "node02"))


def test_the_head_goes_first_and_everything_of_the_run_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    result = cluster.down()
    assert cluster.done[:4] == ["stop node01", "remove node01", "stop node02", "remove node02"]
    assert sorted(cluster.done[4:]) == ["folder node01", "folder node02"]
    assert [(s.node, s.role, s.seconds, s.ignored_sigterm, s.gone) for s in result.stopped] == [
        ("node01", "rank0", 1.0, False, False),
        ("node02", "rank1", 1.0, False, False),
    ]
    assert (result.left, sorted(result.collected)) == ((), ["nodes/node01/log", "nodes/node02/log"])


def test_with_ray_what_runs_inside_ends_before_and_the_head_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ("ray-head", "ray-worker"))
    cluster.down()
    assert cluster.done[:6] == ["end execs node01", "end execs node02", "stop node02", "remove node02", "stop node01", "remove node01"]


def test_who_did_not_heed_sigterm_and_who_was_gone_before_are_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.stubborn, cluster.dead = {"node01"}, {"node02"}
    first, second = cluster.down().stopped
    assert (first.ignored_sigterm, first.gone) == (True, False)
    assert (second.ignored_sigterm, second.gone) == (False, True)
    assert "stop node02" not in cluster.done


def test_a_node_that_does_not_answer_keeps_no_other_from_being_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.silent = {"node01"}
    result = cluster.down()
    assert result.left == ("node01: containers of run r1 could not be listed: node01: connection lost",)
    assert [s.node for s in result.stopped] == ["node02"]


def test_what_could_not_be_removed_is_left_with_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What still runs could change a file into a link while it is read."""
    cluster = Cluster(monkeypatch)
    cluster.stuck = {"node02"}
    result = cluster.down()
    assert result.left == ("node02: container c-node02 (id-node02) could not be removed: device or resource busy",)
    assert result.collected == ("nodes/node01/log",)
    assert "folder node02" not in cluster.done


def test_a_container_of_another_run_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    other = labels.of_run("r2", "rank1", "node02", "me", "/b")
    cluster.containers["node02"] = ContainerInfo("id", "c", "image", "running", None, False, other, "now")
    assert [s.node for s in cluster.down().stopped] == ["node01"]
    assert "stop node02" not in cluster.done
