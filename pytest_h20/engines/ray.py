"""Has every node joined Ray, with all of its GPUs? One question to the head's container, one pure parser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_h20.engines.base import NodePlan

_SCRIPT = r"""
import json, logging, ray
ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
nodes = [{"ip": n["NodeManagerAddress"], "alive": bool(n["Alive"]), "gpus": n.get("Resources", {}).get("GPU", 0.0)}
         for n in ray.nodes()]
print("H20RAY " + json.dumps(nodes))
"""

RAY_COMMAND: tuple[str, ...] = ("/bin/sh", "-c", 'p=$(command -v python3 || command -v python) && exec "$p" -c "$0"', _SCRIPT)
"""argv for inside the head's container. ``ray.nodes()`` rather than the text of ``ray status``, which changed in Ray 2.60."""


@dataclass(frozen=True)
class RayNode:
    """A node as Ray sees it. ``gpus``: how many it offers."""

    ip: str
    alive: bool
    gpus: float


def parse_ray(text: str) -> tuple[RayNode, ...] | None:
    """Read the output of ``RAY_COMMAND``; None when Ray does not answer yet."""
    for line in text.splitlines():
        if line.startswith("H20RAY "):
            try:
                found = json.loads(line.removeprefix("H20RAY "))
                return tuple(RayNode(str(n["ip"]), bool(n["alive"]), float(n["gpus"])) for n in found)
            except (ValueError, KeyError, TypeError):
                return None
    return None


def joined(found: tuple[RayNode, ...] | None, plans: Sequence[NodePlan], gpus: int | None) -> tuple[bool, str]:
    """Whether the alive nodes are exactly the planned ones with ``gpus`` GPUs together (None: a CPU build has none).

    The second item says what Ray counts now. A node under another address than the planned one never gets a rank (F06).
    """
    if found is None:
        return False, "Ray does not answer yet"
    alive = [n for n in found if n.alive]
    told = ", ".join(f"{n.ip} with {n.gpus:g} GPUs" for n in alive) or "no node"
    missing = [p for p in plans if p.host_ip not in [n.ip for n in alive]]
    if missing:
        names = ", ".join(f"{p.name} ({p.host_ip})" for p in missing)
        return False, f"Ray counts {told}; not there: {names}"
    total = sum(n.gpus for n in alive)
    if gpus is not None and total < gpus:
        return False, f"Ray counts {total:g} GPUs where {gpus} are needed: {told} (F08)"
    return True, f"Ray counts {told}"
