"""Nodes followed while something runs on them: one command per node, its lines taken as they come, in a thread each."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from pytest_h20.core.errors import H20Error
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded
from pytest_h20.probes.telemetry import Lately, Telemetry, Window, command

LONGEST_S = 24 * 3600.0
"""One command at most; then it is started again, and the moment in between is a gap."""

AGAIN_S = 2.0
"""Between a connection that broke and the next try."""

MOST_TRIES = 30


class _Enough(Exception):
    """Raised into the stream: what it raises ends the command."""


class Watch:
    """The telemetry of some nodes, from ``start`` to ``stop``. ``containers``: node to the ids whose memory is told."""

    def __init__(self, nodes: Mapping[str, Node], containers: Mapping[str, Sequence[str]], every_s: float = 1.0) -> None:
        self._nodes = {name: unrecorded(node) for name, node in nodes.items()}
        self._commands = {name: command(containers.get(name, ()), every_s) for name in nodes}
        self._told = {name: Telemetry(name) for name in nodes}
        self._why: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._spoke = {name: threading.Event() for name in nodes}
        self._threads = [threading.Thread(target=self._follow, args=(name,), name=f"h20-watch-{name}", daemon=True) for name in nodes]

    def start(self, patience_s: float = 5.0) -> None:
        """Begin, and wait until every node has spoken or ``patience_s`` is over."""
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + patience_s
        for spoke in self._spoke.values():
            spoke.wait(max(0.0, deadline - time.monotonic()))

    def stop(self, patience_s: float = 10.0) -> None:
        """End the commands. One that says nothing any more ends with its connection."""
        self._ending.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def since(self, start: float, end: float) -> tuple[dict[str, Window], dict[str, str]]:
        """Every node from ``start`` to ``end`` (``time.monotonic``), and why a node told nothing at all until now."""
        windows, missing = {}, {}
        with self._lock:
            for name, told in self._told.items():
                if told.samples or told.gpus:
                    windows[name] = told.since(start, end)
                else:
                    missing[name] = self._why.get(name) or "; ".join(told.notes[-2:]) or "it has told nothing yet"
        return windows, missing

    def text(self, start: float, end: float) -> dict[str, str]:
        """What every node said between two moments, each line after its second: the evidence."""
        with self._lock:
            return {name: told.text(start, end) for name, told in self._told.items()}

    def lately(self, most: int) -> dict[str, Lately]:
        """The last samples of every node."""
        with self._lock:
            return {name: told.lately(most) for name, told in self._told.items()}

    def forget(self, before: float) -> None:
        """Drop what was summed up."""
        with self._lock:
            for told in self._told.values():
                told.forget(before)

    # ------------------------------------------------------------------ one thread
    def _follow(self, name: str) -> None:
        for _ in range(MOST_TRIES):
            try:
                done = self._nodes[name].stream(self._commands[name], on_line=lambda line: self._take(name, line), timeout=LONGEST_S)
                self._why[name] = f"the command ended with {done.rc}: {(done.stderr or done.stdout).strip()[-200:] or 'no output'}"
            except _Enough:
                return
            except (H20Error, OSError) as error:
                self._why[name] = str(error)
            self._spoke[name].set()  # nobody waits for a node that does not speak
            if self._ending.wait(AGAIN_S):
                return

    def _take(self, name: str, line: str) -> None:
        if self._ending.is_set():
            raise _Enough
        with self._lock:
            self._told[name].feed(line, time.monotonic())
            if self._told[name].samples:
                self._spoke[name].set()
