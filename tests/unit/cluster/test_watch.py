"""Nodes followed in threads: what they say arrives, a connection that breaks is tried again, and nothing goes on after the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_h20.cluster import watch
from pytest_h20.cluster.watch import Watch
from pytest_h20.core.errors import TransportError
from pytest_h20.nodes import CommandResult
from pytest_h20.probes.telemetry import MARK

GPU = "0, 400, 1980, 2619, 60, 0x0, 90000, 0, 0"


class Speaker:
    """A node whose streams are what ``said`` yields, one stream after the other."""

    def __init__(self, *streams: Callable[[], Iterator[str]]) -> None:
        self.streams = list(streams)
        self.commands: list[str] = []
        self.ended = threading.Event()

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        self.commands.append(command)
        try:
            for line in self.streams.pop(0)():
                on_line(line)
        finally:
            if not self.streams:
                self.ended.set()
        return CommandResult("node01", command, 1, "", "killed", 0.0)


def forever() -> Iterator[str]:
    while True:
        yield GPU
        yield "t 100 0 0 1"
        time.sleep(0.01)


def broken() -> Iterator[str]:
    yield GPU
    raise TransportError("node01: the connection was lost")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AGAIN_S", 0.01)


def test_what_a_node_says_arrives_and_ends_with_the_watch() -> None:
    node = Speaker(forever)
    watched = Watch({"node01": node}, {"node01": ["abc"]})  # type: ignore[dict-item]
    began = time.monotonic()
    watched.start()
    windows, missing = watched.since(began, time.monotonic())
    assert missing == {}
    assert windows["node01"].gpus[0].median("sm_mhz") == 1980.0
    assert GPU in watched.text(began, time.monotonic())["node01"]
    watched.stop()
    assert node.ended.is_set()
    assert node.commands[0].startswith(f"{MARK} 1\n")
    assert "for i in abc;" in node.commands[0]


def test_a_connection_that_breaks_is_tried_again() -> None:
    node = Speaker(broken, forever)
    watched = Watch({"node01": node}, {})  # type: ignore[dict-item]
    watched.start()
    deadline = time.monotonic() + 5.0
    while len(node.commands) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    watched.stop()
    assert len(node.commands) == 2


def test_a_node_that_cannot_be_followed_says_why() -> None:
    def refused() -> Iterator[str]:
        raise TransportError("node01: connection refused")
        yield ""  # pragma: no cover - makes it a generator

    node = Speaker(*[refused] * watch.MOST_TRIES)
    watched = Watch({"node01": node}, {})  # type: ignore[dict-item]
    watched.start()
    windows, missing = watched.since(0.0, time.monotonic())
    watched.stop()
    assert windows == {}
    assert missing == {"node01": "node01: connection refused"}


def test_what_was_summed_up_is_forgotten() -> None:
    node = Speaker(forever)
    watched = Watch({"node01": node}, {})  # type: ignore[dict-item]
    watched.start()
    watched.stop()
    now = time.monotonic()
    watched.forget(now)
    assert watched.text(0.0, now) == {"node01": ""}
