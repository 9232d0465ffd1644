"""A drill on a node: looked at, broken, looked at again, taken back. What each step says and means is in ``drills``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_h20.cluster import drills
from pytest_h20.cluster.drills import DidNothing, Drill, Planted, Shown
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import CommandResult, Node

if TYPE_CHECKING:
    from pytest_h20.cluster.ledger import Ledger

PROOF_S = 20.0
"""A fault shows within so many seconds: a link goes down and comes up, a daemon starts, a socket is opened again."""
REFUSED_S = 2.0
"""What the node refused to do shows as soon, or never."""
STEP_S = 0.2


@dataclass(frozen=True)
class Broken:
    """A fault that was made. ``at``: the moment (``time.monotonic``) just before; ``proof``: what shows it."""

    planted: Planted
    before: str
    at: float
    proof: str


def prepared(drill: Drill, container: str, interface: str, node: Node) -> Planted:
    """What is to be broken, chosen on the node as it is now. Raises ``DidNothing`` when it is not there."""
    planted = Planted(secrets.token_hex(4), drill.name)
    if drill.kind in ("kill", "freeze"):
        told = node.containers.exec(container, ("/bin/sh", "-c", drills.PROCESSES), timeout=30.0)
        victim = drills.choose(drills.processes_of(told.stdout), drill.victim)
        return replace(planted, container=container, pid=victim.pid, start=victim.start)
    if drill.kind in ("container", "shm"):  # the engine's own /dev/shm is the node's only with ipc: host
        return replace(planted, container=container)
    return replace(planted, interface=interface) if drill.kind in ("link", "netem") else planted


def break_it(node: Node, ledger: Ledger, planted: Planted, wait: Callable[[float], None] = time.sleep) -> Broken:
    """Write it down, make the fault, prove it. Raises ``DidNothing`` when nothing shows that it happened; it is taken back then."""
    before = _look(node, planted)
    if why := drills.refuse(planted, before):
        raise DidNothing(why)
    if planted.row.kind == "link":
        planted = replace(planted, routes=drills.routes_of(before))
    ledger.note(drill=planted.plain())
    at = time.monotonic()
    try:
        said = _make(node, planted)
        shown = _until(lambda: _seen(node, planted, before), wait, REFUSED_S if said else PROOF_S)
        if not shown.yes:
            raise DidNothing(f"nothing shows that it happened: {shown.words}" + (f"; the node said: {said}" if said else ""))
    except BaseException as error:
        why = take_back(node, planted, before, wait)
        if not why:
            ledger.note(taken_back=planted.id)
        if why and isinstance(error, DidNothing):
            raise DidNothing(f"{error}; and it could not be taken back: {why}") from None
        raise
    return Broken(planted, before, at, shown.words)


def last_look(node: Node, broken: Broken) -> Shown:
    """While the fault still stands: did anything meet it?"""
    return drills.had_effect(broken.planted, _look(node, broken.planted))


def end(node: Node, ledger: Ledger, broken: Broken, wait: Callable[[float], None] = time.sleep) -> str:
    """Take it back and strike it from the record. Returns why it is still there, or nothing."""
    why = take_back(node, broken.planted, broken.before, wait)
    if not why:
        ledger.note(taken_back=broken.planted.id)
    return why


def take_back(node: Node, planted: Planted, before: str = "", wait: Callable[[float], None] = time.sleep) -> str:
    """Undo and look whether that helped. Returns why not, with what to type on the node; empty when all is as it was. May be called
    again, and for what never happened."""
    if planted.row.kind in ("kill", "container", "ssh"):
        return ""
    hand = f"on {node.name}: {drills.by_hand(planted)}"
    try:
        if planted.container:
            info = node.containers.inspect(planted.container)
            if info is None or not info.running:
                if planted.row.kind != "shm":
                    return ""  # what was stopped in it went with it
                planted = replace(planted, container="")  # with ipc: host its /dev/shm is the node's, and stays
        done = _run(node, planted, drills.undo(planted))
        shown = _until(lambda: drills.taken_back(planted, before, _look(node, planted)), wait)
    except H20Error as error:
        return f"{planted} could not be taken back: {error}; {hand}"
    said = done.stderr.strip()
    return "" if shown.yes else f"{planted} could not be taken back: {shown.words}{f' ({said})' if said else ''}; {hand}"


# ------------------------------------------------------------------------------------------------------------------- small steps
def _run(node: Node, planted: Planted, script: str, timeout: float = 90.0) -> CommandResult:
    if planted.container:
        return node.containers.exec(planted.container, ("/bin/sh", "-c", script), timeout=timeout)
    return node.run(script, timeout=timeout)


def _look(node: Node, planted: Planted) -> str:
    return "" if planted.row.kind == "container" else _run(node, planted, drills.look(planted)).stdout


def _seen(node: Node, planted: Planted, before: str) -> Shown:
    if planted.row.kind == "container" or planted.container:
        info = node.containers.inspect(planted.container)
        if info is None or not info.running:
            return Shown(planted.row.kind != "freeze", f"container {planted.container[:12]} does not run any more")
        if planted.row.kind == "container":
            return Shown(False, f"container {planted.container[:12]} is {info.status}")
    return drills.happened(planted, before, _look(node, planted))


def _make(node: Node, planted: Planted) -> str:
    """What the node said against it; empty when it said nothing."""
    if planted.row.kind == "container":
        node.containers.stop(planted.container, timeout=0.0)
        return ""
    try:
        done = _run(node, planted, drills.break_it(planted))
    except TransportError as error:
        if planted.row.kind == "ssh":
            return ""  # that is the drill
        raise DidNothing(f"it could not be made: {error}") from None
    return "" if done.ok else (done.stderr or done.stdout).strip()[-300:] or f"exit status {done.rc}"


def _until(look: Callable[[], Shown], wait: Callable[[float], None], patience_s: float = PROOF_S) -> Shown:
    """The first look that shows it, or the last one. A node that does not answer for a moment is asked again."""
    deadline = time.monotonic() + patience_s
    shown, tries = Shown(False, "nothing could be seen"), 0
    while tries < patience_s / STEP_S and time.monotonic() < deadline:
        tries += 1
        try:
            shown = look()
        except H20Error as error:  # the connection broke, or the container ended between two questions
            shown = Shown(False, f"it could not be looked at: {error}")
        if shown.yes:
            break
        wait(STEP_S)
    return shown
