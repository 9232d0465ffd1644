"""The fast look at the weights of one engine on all nodes: once for all tests and workers, and before the engine starts."""

from __future__ import annotations

from pytest_h20.checks.frame import silence
from pytest_h20.checks.weights.facts import WeightFacts
from pytest_h20.checks.weights.judge import WeightsJudge
from pytest_h20.checks.weights.runner import fast_check
from pytest_h20.core.verdict import Verdict
from pytest_h20.run.facts import gathered, held_by_file
from pytest_h20.run.settings import Session
from pytest_h20.run.store import WEIGHTS


def _look(session: Session, label: str) -> WeightFacts:
    """All nodes that answer, at once: seconds, a few blocks of each shard are read."""
    target = session.target(label)
    silent = {view.name for view in gathered(session, label).probes.views if view.silence}
    nodes = {n.name: session.nodes[n.name] for n in target.nodes if n.name not in silent}
    record = session.folder.evidence
    return fast_check(nodes, session.inventory, profile=target.profile, record=lambda name, text: record(name, text))


def judge_of(session: Session, label: str) -> WeightsJudge:
    """What judges them; looked at by whoever asks first."""
    found = session.shared.once(WEIGHTS(label), lambda: _look(session, label))
    return WeightsJudge(found, session.inventory, silence(gathered(session, label).probes.views))


def weights_verdicts(session: Session, label: str) -> list[Verdict]:
    """What a look at them said, where somebody has looked: an engine that misses a shard loads for as long as one that does not, and may
    answer (F46: with garbage)."""
    if session.shared.published(WEIGHTS(label)) is None:
        return []
    judge = judge_of(session, label)
    return held_by_file(session, label, [*(v for node in judge.facts.fast for v in judge.node(node)), *judge.equal()])
