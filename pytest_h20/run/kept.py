"""A run that was kept, found again through what it wrote down on the nodes: who runs where, and where its logs lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.cluster import labels
from pytest_h20.cluster.ledger import containers_of, entries
from pytest_h20.cluster.ready import listeners_command, parse_listeners
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.errors import TransportError
from pytest_h20.nodes import ContainerInfo, Node
from pytest_h20.nodes.recording import unrecorded


@dataclass(frozen=True)
class Kept:
    """Roles and folders of an earlier run of ours. Nothing in it: no container of ours holds the port that was asked for."""

    roles: tuple[RoleRef, ...] = ()
    node_dirs: Mapping[str, str] = field(default_factory=dict)
    proof: str = ""
    unseen: str = ""


def kept(nodes: Mapping[str, Node], head: str, port: int, base: str) -> Kept:
    """The run of ours whose container on ``head`` holds ``port``. ``nodes``: head first. Looks, changes nothing.

    A port is traced to the socket's owner, as after a bring-up: another server beside our leftovers must not be taken for them.
    An attached engine needs no containers at all, so a daemon that cannot be asked is said in ``unseen`` and is no error.
    """
    try:
        running = {
            name: [c for entry in entries(unrecorded(node), base) for c in containers_of(node, entry) if c.running]
            for name, node in nodes.items()
        }
    except TransportError as error:
        return Kept(unseen=f"no container was looked at: {error}")
    for info in running.get(head, []):
        run_id = info.labels.get(labels.RUN)
        seen = nodes[head].containers.exec(info.id, listeners_command(port), timeout=60.0)
        found = parse_listeners(seen.stdout)
        if not run_id or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", run_id) or found is None or not found.all_ours:
            continue
        mine = {name: [c for c in infos if c.labels.get(labels.RUN) == run_id] for name, infos in running.items()}
        folder = f"{base}/{run_id}"
        roles = tuple(
            role for rank, (name, infos) in enumerate(mine.items()) for c in infos for role in _roles(nodes[name], name, rank, c, folder)
        )
        folders = {name: folder for name, infos in mine.items() if infos}
        proof = f"every socket listening on port {port} belongs to container {info.name} of our run {run_id}"
        return Kept(roles, folders, proof)
    return Kept()


def _roles(node: Node, name: str, rank: int, info: ContainerInfo, folder: str) -> list[RoleRef]:
    """A container's own process, and what was started inside it (Ray: the engine in the head's container)."""
    main = info.labels.get(labels.ROLE, "")
    inside = unrecorded(node).run("ls -1 -- %s 2>/dev/null || true", folder, timeout=30.0).stdout.split()
    names = [main, *(file.removesuffix(".log.pid") for file in inside if file.endswith(".log.pid"))]
    return [RoleRef(name, role, rank, info.id, info.name, f"{folder}/{role}.log", "") for role in names if role]
