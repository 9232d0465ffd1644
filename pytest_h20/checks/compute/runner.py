"""Runs the burn on every node at once, in a container of the engine's image made like the engine's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from pytest_h20.checks.compute.agent import expected
from pytest_h20.checks.compute.facts import Burned, NodeBurn, parse_burn
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import Node
from pytest_h20.probes.facts import Facts, View
from pytest_h20.probes.image import container_spec
from pytest_h20.probes.perf import TORCH_BOOT
from pytest_h20.probes.script import Missing

Record = Callable[[str, str], str]

SECONDS = {"fast": 240.0, "full": 1200.0}
"""The whole container, image start and ``import torch`` included. The burn of eight GPUs itself takes below 60 s when it is fast."""


def expected_seconds(how: str, gpus: int) -> float:
    """How long the burn takes on a node with so many GPUs."""
    return float(expected(how, gpus))  # type: ignore[no-untyped-call]  # the script runs on any Python: it has no annotations


def burn_source() -> str:
    """The script as it is sent."""
    return resources.files("pytest_h20.checks.compute").joinpath("agent.py").read_text(encoding="utf-8")


def burn(nodes: Mapping[str, Node], facts: Facts, how: str, *, record: Record | None = None) -> Burned:
    """``how``: fast or full. A node that does not answer is not asked."""
    views = [view for view in facts.views if view.name in nodes and not view.silence]
    evidence: dict[str, str] = {}

    def one(view: View) -> NodeBurn | Missing:
        found, text = _burn_on(nodes[view.name], view, facts, how)
        if record and text:
            evidence[view.name] = record(f"compute/{view.name}.txt", text)
        return found

    with ThreadPoolExecutor(max_workers=max(1, len(views))) as pool:
        found = dict(zip([view.name for view in views], pool.map(one, views), strict=True))
    return Burned(found, evidence)


def _burn_on(node: Node, view: View, facts: Facts, how: str) -> tuple[NodeBurn | Missing, str]:
    if facts.profile is None:
        return Missing("no engine profile was chosen, so there is no image to run it in"), ""
    run = uuid.uuid4().hex[:12]
    env = {"H20_SCRIPT": burn_source()}
    argv = ["python3", "-c", TORCH_BOOT, how]
    spec = container_spec(facts.inventory, view.spec, facts.profile, argv, env, f"h20-burn-{view.name}-{run}", run)
    try:
        result = node.containers.run(spec, timeout=SECONDS[how])
    except H20Error as error:
        return Missing(f"the burn on {node.name}: {error}", "see `docker run` of the engine's image on the node"), ""
    text = f"{result.stdout}\n--- standard error ---\n{result.stderr}"
    found = parse_burn(result.stdout)
    if not found.how:
        tail = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no output"]
        return Missing(f"the burn on {node.name} ended with {result.rc}: {tail[0][:200]}", "read the recorded output"), text
    return found, text
