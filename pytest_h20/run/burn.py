"""The burn of one engine's image on all nodes: once for all tests and workers, and before the engine starts."""

from __future__ import annotations

from pytest_h20.checks.compute.facts import Burned
from pytest_h20.checks.compute.judge import BurnJudge
from pytest_h20.checks.compute.runner import burn
from pytest_h20.core.verdict import GateName, Verdict
from pytest_h20.run.facts import gathered, held_by_file
from pytest_h20.run.settings import Session
from pytest_h20.run.store import BURNED


def how(session: Session) -> str:
    """fast or full; "" when the GPUs are not burned in this run (``session.left_out`` says why)."""
    if GateName.COMPUTE in session.left_out:
        return ""
    return session.settings.burn or "fast"


def burned(session: Session, label: str) -> Burned:
    """What the burn said, made by whoever asks first. The image of each engine is asked: each has a torch of its own."""
    return session.shared.once(BURNED(label), lambda: _burn(session, label))


def _burn(session: Session, label: str) -> Burned:
    from pytest_h20.run.machines import read_kernel

    nodes = {n.name: session.nodes[n.name] for n in session.target(label).nodes}
    read_kernel(session, label, "burn")
    record = session.folder.evidence
    return burn(nodes, gathered(session, label).probes, how(session), record=lambda name, text: record(name, text))


def judge_of(session: Session, label: str) -> BurnJudge:
    """What judges it."""
    return BurnJudge(burned(session, label), gathered(session, label).probes)


def burn_verdicts(session: Session, label: str) -> list[Verdict]:
    """The verdicts of the gate; none where the GPUs are not burned. An engine is not started on a GPU that fails."""
    return held_by_file(session, label, judge_of(session, label).all()) if how(session) else []
