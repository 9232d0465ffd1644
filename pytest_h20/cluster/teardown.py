"""Taking down what we started, and finding what a killed run left. By label and id only, never by a pattern."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_h20.cluster import labels
from pytest_h20.cluster.journal import Journal
from pytest_h20.cluster.launch import STOP_EXECS
from pytest_h20.errors import H20Error, TransportError
from pytest_h20.transport import ContainerInfo, Node
from pytest_h20.transport.recording import unrecorded

STOP_TIMEOUT = 25.0
"""Seconds an engine gets after SIGTERM. An idle SGLang 0.5.16 is gone in about 3 s, vLLM in 5 s (recorded)."""


@dataclass(frozen=True)
class Stopped:
    """How one container ended."""

    node: str
    name: str
    role: str
    seconds: float
    ignored_sigterm: bool
    exit_code: int | None


@dataclass(frozen=True)
class Down:
    """What a tear-down did and what it could not do."""

    stopped: tuple[Stopped, ...]
    left: tuple[str, ...]
    collected: tuple[str, ...]


def down(
    run_id: str,
    nodes: Mapping[str, Node],
    node_dir: str,
    journal: Journal,
    scale: float = 1.0,
    order: tuple[str, ...] = (),
) -> Down:
    """Collect every log, stop and remove every container of this run on every node, remove the run's folder.

    The head is stopped first: SGLang's rank 0 hangs when rank 1 leaves before it (recorded with 0.5.16). With Ray the head goes
    last: a worker whose head is gone drains for 30 s (seen with 2.60). A node that does not answer does not keep the others from
    being cleaned; what could not be removed is in ``left``.
    """
    left: list[str] = []
    collected: list[str] = []
    found: list[tuple[str, ContainerInfo]] = []
    for name in sorted(nodes, key=lambda n: order.index(n) if n in order else len(order)):
        try:
            found += [(name, c) for c in nodes[name].containers.find({labels.RUN: run_id})]
        except H20Error as error:
            left.append(f"{name}: containers of run {run_id} could not be listed: {error}")
    for name, node in nodes.items():
        try:
            collected += collect(node, node_dir, journal)
        except H20Error as error:
            left.append(f"{name}: logs in {node_dir} could not be read: {error}")
    if any(path.endswith(".pid") for path in collected):
        for name, info in found:
            try:
                nodes[name].containers.exec(info.id, ("/bin/sh", "-c", STOP_EXECS), timeout=20.0)
            except H20Error as error:
                journal.event("note", text=f"{name}: what was started inside {info.name} was not ended first: {error}")
    stopped: list[Stopped] = []
    head = [f for f in found if order and f[0] == order[0]]
    others = [f for f in found if f not in head]
    ray = any(info.labels.get(labels.ROLE, "").startswith("ray-") for _, info in found)
    for group in (others, head) if ray else (head, others):
        with ThreadPoolExecutor(max_workers=max(1, len(group))) as pool:
            for result in pool.map(lambda f: _stop(nodes[f[0]], f[0], f[1], scale), group):
                if isinstance(result, Stopped):
                    stopped.append(result)
                    journal.event("stopped", **result.__dict__)
                else:
                    left.append(result)
    for name, node in nodes.items():
        try:
            node.run("rm -rf -- %s", node_dir, timeout=60.0)
            if node.run("test -e %s", node_dir, timeout=30.0).ok:
                left.append(
                    f"{name}: folder {node_dir} could not be removed (owned by the container's root); remove it as root"
                )
        except H20Error as error:
            left.append(f"{name}: folder {node_dir}: {error}")
    return Down(tuple(stopped), tuple(left), tuple(collected))


def _stop(node: Node, name: str, info: ContainerInfo, scale: float) -> Stopped | str:
    try:
        began = time.monotonic()
        limit = max(2.0, STOP_TIMEOUT / scale)
        if info.running:
            node.containers.stop(info.id, timeout=limit)
        seconds = time.monotonic() - began
        after = node.containers.inspect(info.id)
        node.containers.remove(info.id)
        ignored = info.running and seconds >= limit
        role = info.labels.get(labels.ROLE, "")
        return Stopped(name, info.name, role, seconds * scale, ignored, after.exit_code if after else None)
    except H20Error as error:
        return f"{name}: container {info.name} ({info.id[:12]}) could not be removed: {error}"


def collect(node: Node, node_dir: str, journal: Journal) -> list[str]:
    """Copy every file of the run's folder on a node into the evidence. Returns the evidence paths."""
    listing = node.run("ls -1 -- %s 2>/dev/null || true", node_dir, timeout=30.0).stdout.split()
    paths = []
    for file in listing:
        try:
            paths.append(journal.evidence(f"nodes/{node.name}/{file}", unrecorded(node).get(f"{node_dir}/{file}")))
        except (FileNotFoundError, TransportError):
            continue
    return paths


# ---------------------------------------------------------------------- leftovers of other runs
@dataclass(frozen=True)
class Leftover:
    """A container of an earlier run that is still there."""

    node: str
    container: ContainerInfo

    @property
    def run_id(self) -> str:
        """The run it belongs to."""
        return self.container.labels.get(labels.RUN, "?")

    def __str__(self) -> str:
        who = self.container.labels.get(labels.STARTED_BY, "unknown")
        return (
            f"{self.node}: container {self.container.name} ({self.container.id[:12]}, {self.container.status}) of run "
            f"{self.run_id}, started by {who} at {self.container.created}"
        )


def leftovers(nodes: Mapping[str, Node], not_run: str = "") -> list[Leftover]:
    """Every container that carries our label and does not belong to this run."""
    found: list[Leftover] = []
    for name, node in nodes.items():
        mine = node.containers.find({labels.OWNER: ""})
        found += [Leftover(name, info) for info in mine if info.labels.get(labels.RUN) != not_run]
    return found


def reap(nodes: Mapping[str, Node], say: Callable[[str], None], dry: bool = False) -> int:
    """Remove the leftovers of all runs on these nodes, and their folders. Returns how many could not be removed."""
    failed = 0
    for item in leftovers(nodes):
        say(("would remove " if dry else "removing ") + str(item))
        if dry:
            continue
        node = nodes[item.node]
        try:
            node.containers.stop(item.container.id, timeout=10.0)
            node.containers.remove(item.container.id)
            folder = item.container.labels.get(labels.RUN_DIR, "")
            if folder and folder.rstrip("/").endswith("/" + item.run_id):
                node.run("rm -rf -- %s", folder, timeout=60.0)
        except H20Error as error:
            failed += 1
            say(f"  could not: {error}")
    return failed
