"""What a stand-in node prints for a probe script: its machine's values, and its model's folder."""

from __future__ import annotations

import time
from dataclasses import replace

from pytest_h20.probes.script import requests
from pytest_h20.rehearsal import standin
from pytest_h20.rehearsal.standin import Machine
from pytest_h20.rehearsal.weights import sections
from pytest_h20.rehearsal.world import World


def answers(world: World, node: str, machine: Machine, script: str, *, inside: bool = False) -> str:
    """The framed output of a script on a node (``inside``: in a container on it)."""
    prefix = "image/" if inside else ""
    own = {f"{prefix}{k}": v for k, v in sections(world.weights[node], requests(script)).items()}
    shown = replace(machine, overrides={**own, **machine.overrides}) if own else machine
    return standin.answer(shown, script, now=time.time(), inside=inside)
