"""Taking down what we started, and finding what a killed run left: by what was written down before it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pytest_h20.cluster import labels, regular
from pytest_h20.cluster.journal import Journal
from pytest_h20.cluster.launch import STOP_EXECS
from pytest_h20.cluster.ledger import DEAD_AFTER_S, Entry, containers_of, end_processes, entries, files, forget, ledger_of, take_back_drills
from pytest_h20.core.errors import H20Error, StorageError
from pytest_h20.nodes import ContainerInfo, Node
from pytest_h20.nodes.recording import unrecorded

STOP_TIMEOUT = 25.0
"""Seconds an engine gets after SIGTERM. An idle SGLang 0.5.16 is gone in about 3 s, vLLM in 5 s (recorded)."""


@dataclass(frozen=True)
class Stopped:
    """How one container ended. ``gone``: it did not run any more when the tear-down began; what then happened says nothing of SIGTERM."""

    node: str
    name: str
    role: str
    seconds: float
    ignored_sigterm: bool
    exit_code: int | None
    gone: bool = False


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
    """Stop and remove every container of this run on every node, then keep what they wrote, then remove the run's folder.

    The head is stopped first: SGLang's rank 0 hangs when rank 1 leaves before it (recorded with 0.5.16). With Ray the head goes
    last: a worker whose head is gone drains for 30 s (seen with 2.60). A node that does not answer does not keep the others from
    being cleaned; what could not be removed is in ``left``. Nothing of it waits for the disk of this machine: what cannot be
    written here is one line in ``left``.
    """
    left: list[str] = []
    collected: list[str] = []
    quiet = _Quiet(journal)
    nodes = {name: unrecorded(node) for name, node in nodes.items()}
    found: list[tuple[str, ContainerInfo]] = []
    for name in sorted(nodes, key=lambda n: order.index(n) if n in order else len(order)):
        try:
            entry = ledger_of(nodes[name]).entry()
            mine = containers_of(nodes[name], entry) if entry is not None else []
            found += [(name, c) for c in mine if c.labels.get(labels.RUN) == run_id]
        except (H20Error, OSError) as error:
            left.append(f"{name}: containers of run {run_id} could not be listed: {error}")
    ray = any(info.labels.get(labels.ROLE, "").startswith("ray-") for _, info in found)
    for name, info in found if ray else ():
        try:
            nodes[name].containers.exec(info.id, ("/bin/sh", "-c", STOP_EXECS), timeout=20.0)
        except (H20Error, OSError) as error:
            quiet.event("note", text=f"{name}: what was started inside {info.name} was not ended first: {error}")
    stopped: list[Stopped] = []
    head = [f for f in found if order and f[0] == order[0]]
    others = [f for f in found if f not in head]
    still: set[str] = set()
    for group in (others, head) if ray else (head, others):
        with ThreadPoolExecutor(max_workers=max(1, len(group))) as pool:
            for (name, _), result in zip(group, pool.map(lambda f: _stop(nodes[f[0]], f[0], f[1], scale), group), strict=True):
                if isinstance(result, Stopped):
                    stopped.append(result)
                    quiet.event("stopped", **result.__dict__)
                else:
                    still.add(name)
                    left.append(result)
    for name, node in nodes.items():
        if name in still:
            continue  # what still runs could change a file into a link while it is read
        try:
            collected += collect(node, node_dir, quiet)
        except (H20Error, OSError) as error:
            left.append(f"{name}: logs in {node_dir} could not be read: {error}")
        try:
            ledger_of(node).remove_folder(node_dir.rpartition("/")[2])
        except (H20Error, OSError) as error:
            left.append(f"{name}: folder {node_dir}: {error}")
    if quiet.problem:
        left.append(f"this machine: {quiet.problem}; the cluster was taken down, but not all of its logs could be kept")
    return Down(tuple(stopped), tuple(left), tuple(collected))


def tried_again(earlier: Down, now: Down) -> Down:
    """Two attempts as one: how a container ended is told by the first that met it, what is left and kept by the last."""
    known = {(s.node, s.name): s for s in (*now.stopped, *earlier.stopped)}
    return Down(tuple(known.values()), now.left, tuple(dict.fromkeys((*earlier.collected, *now.collected))))


def _unwritten(error: OSError) -> str:
    if isinstance(error, StorageError):  # it says so itself, and what to do: that is told where the run ends
        return str(error).split(";", 1)[0]
    return f"{error.filename or 'the run folder'} cannot be written: {error.strerror or error}"


class _Quiet:
    """A journal that never keeps a tear-down from going on: the first thing it could not write is remembered."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.problem = ""

    def event(self, kind: str, **data: Any) -> None:
        """Something happened, now."""
        try:
            self._journal.event(kind, **data)
        except OSError as error:
            self.problem = self.problem or _unwritten(error)

    def evidence(self, name: str, data: bytes | str) -> str:
        """Keep a file; empty when it could not be kept."""
        try:
            return self._journal.evidence(name, data)
        except OSError as error:
            self.problem = self.problem or _unwritten(error)
            return ""


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
        return Stopped(name, info.name, role, seconds * scale, ignored, after.exit_code if after else None, gone=not info.running)
    except (H20Error, OSError) as error:
        return f"{name}: container {info.name} ({info.id[:12]}) could not be removed: {error}"


HEAD_BYTES, TAIL_BYTES = 8 << 20, 24 << 20
"""Of a longer file its beginning and its end are kept: a sparse log of a terabyte costs no more than this."""


def collect(node: Node, node_dir: str, journal: Journal) -> list[str]:
    """Copy the files of the run's folder on a node into the evidence. Returns the evidence paths.

    Regular files only, no links, pipes or devices, each within bounds, whatever bytes its name is made of.
    """
    base, _, folder = node_dir.rpartition("/")
    paths = []
    for name, size in files(node, base, folder):
        try:
            data = regular.read(node, f"{node_dir}/{name}", 0, HEAD_BYTES if size > HEAD_BYTES + TAIL_BYTES else HEAD_BYTES + TAIL_BYTES)
            if size > HEAD_BYTES + TAIL_BYTES:
                cut = f"\n--- {size - HEAD_BYTES - TAIL_BYTES} of {size} bytes were left out here ---\n".encode()
                data += cut + regular.read(node, f"{node_dir}/{name}", size - TAIL_BYTES, TAIL_BYTES)
        except (FileNotFoundError, H20Error):
            continue
        paths.append(journal.evidence(f"nodes/{node.name}/{name}", data))
    return [path for path in paths if path]


# ---------------------------------------------------------------------- leftovers of other runs
@dataclass(frozen=True)
class Leftover:
    """What is written down on a node about a run that is not this one."""

    node: str
    entry: Entry
    containers: tuple[ContainerInfo, ...]

    def __str__(self) -> str:
        drills = [f"{planted}, which was not taken back" for planted in self.entry.drills]
        containers = [f"container {c.name} ({c.id[:12]}, {c.status})" for c in self.containers]
        what = ", ".join([*drills, *containers]) or "folders and processes"
        lives = f"it lives (last heartbeat {self.entry.age:.0f} s ago; without one for {DEAD_AFTER_S:.0f} s it has ended)"
        state = lives if self.entry.lives else "kept with --h20-keep" if self.entry.kept else "it has ended"
        return f"{self.node}: {what} of run {self.entry.run}, started by {self.entry.who}; {state}"


def leftovers(nodes: Mapping[str, Node], base: str, not_run: str = "") -> list[Leftover]:
    """Every other run of this user that is written down on the nodes."""
    found: list[Leftover] = []
    for name, node in nodes.items():
        others = [entry for entry in entries(node, base) if entry.run != not_run]
        found += [Leftover(name, entry, tuple(containers_of(node, entry))) for entry in others]
    return found


def reap(nodes: Mapping[str, Node], base: str, say: Callable[[str], None], run: str = "", kept: bool = False, dry: bool = False) -> int:
    """Remove what dead runs left on these nodes. Returns how many things could not be removed.

    A run that lives is never touched. One that was kept goes when it is named (``run``), or with ``kept``.
    """
    failed = 0
    deadline = time.monotonic() + 30.0
    while any(item.entry.ending for item in leftovers(nodes, base)) and time.monotonic() < deadline:
        time.sleep(0.5)  # xdist's workers end by themselves, a moment after their controller was killed
    for item in leftovers(nodes, base):
        if run and item.entry.run != run:
            continue
        if item.entry.lives or (item.entry.kept and not (kept or run)):
            say(f"left alone: {item}" + ("" if item.entry.lives else f"; to remove it: --run {item.entry.run}"))
            failed += bool(run)
            continue
        say(("would remove " if dry else "removing ") + str(item))
        if not dry:
            failed += _remove(nodes[item.node], base, item, say)
    return failed


def _remove(node: Node, base: str, item: Leftover, say: Callable[[str], None]) -> int:
    failed = 0
    for why in take_back_drills(node, item.entry):  # first: what is stopped does not end, what is cut off does not answer
        failed += 1
        say(f"  could not: {why}")
    for container in item.containers:
        try:
            node.containers.stop(container.id, timeout=10.0)
            node.containers.remove(container.id)
        except H20Error as error:
            failed += 1
            say(f"  could not: {error}")
    if failed:
        return failed  # the record stays, so that the next reap knows them
    try:
        end_processes(node, base, item.entry)
        forget(node, base, item.entry)
    except H20Error as error:
        say(f"  could not: {error}")
        return 1
    return 0
