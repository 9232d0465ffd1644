"""What a bring-up proved, as verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_h20.checks.frame import Say
from pytest_h20.cluster.state import ClusterState, Phase
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.nodes import Node

if TYPE_CHECKING:
    from pytest_h20.run.facts import GatheredFacts

TITLES = {
    "bringup.ready": "The engine became ready in time",
    "bringup.ours": "The server that answers is the one that was started",
    "bringup.first_completion": "The first completion came back in time",
    "bringup.every_rank_runs": "The engine's process still runs",
    "bringup.same_versions": "Every node runs the same engine, torch and NCCL",
}


def _say(check: str, cluster: ClusterState) -> Say:
    """What makes the verdicts of one check about this engine."""
    return Say(check, TITLES[check], cluster.engine)


ATTACHED = "attached: somebody else started this engine"


def ready_in_time(cluster: ClusterState, limit_s: float) -> Verdict:
    """Seconds from the first container to ready, against the profile's limit."""
    say = _say("bringup.ready", cluster)
    if cluster.attached:
        return say.skip(ATTACHED)
    seconds = dict(cluster.timeline).get(Phase.READY.value)
    return say.judge(
        None if seconds is None else round(seconds, 1),
        Limit(kind="max", value=limit_s, unit="s", origin=Origin(kind="inventory", detail="ready_timeout of the profile")),
        details={"timeline": [[name, round(at, 1)] for name, at in cluster.timeline]},
        action="look at the timeline in the report: slow storage, cold JIT cache and torch.compile are the usual reasons",
    )


def ours(cluster: ClusterState) -> Verdict:
    """Proof that the answering server is the one we started (SGLang prints its ready line with its port taken, too)."""
    say = _say("bringup.ours", cluster)
    if not cluster.proof:
        return say.skip(ATTACHED) if cluster.attached else say.unknown("no proof was recorded")
    return Verdict(check=say.check, status=Status.PASS, title=say.title, subject=say.subject, reason=cluster.proof)


def first_completion(cluster: ClusterState, limit_s: float) -> Verdict:
    """Seconds from the ready line to the first completed request."""
    say = _say("bringup.first_completion", cluster)
    if cluster.attached:
        return say.skip(ATTACHED)
    seconds = cluster.first_completion_s
    origin = Origin(kind="inventory", detail="first_completion_timeout of the profile")
    return say.judge(
        None if seconds is None else round(seconds, 2),
        Limit(kind="max", value=limit_s, unit="s", origin=origin),
        action="a forward pass that hangs while /health answers 200 is a stalled collective: look at both ranks' NCCL logs",
    )


def alive(cluster: ClusterState, nodes: Mapping[str, Node]) -> list[Verdict]:
    """One verdict per process of the engine: its container still runs."""
    say = _say("bringup.every_rank_runs", cluster)
    if cluster.attached and not cluster.roles:
        return [say.skip(ATTACHED)]
    verdicts = []
    for role in cluster.roles:
        info = nodes[role.node].containers.inspect(role.container_id)
        verdicts.append(
            say.about(f"{role.node} {role.role}").judge(
                "gone" if info is None else info.status,
                Limit(kind="equal", value="running", origin=Origin(kind="protocol", detail="a rank that ended takes no part")),
                reason="" if info is None else f"exit code {info.exit_code}" + (", killed for memory" if info.oom_killed else ""),
                action=f"read the end of the log of {role.role} in the run folder (evidence/nodes/{role.node}/)",
            )
        )
    return verdicts


def same_versions(facts: GatheredFacts, cluster: ClusterState) -> Verdict:
    """The image holds the same engine, torch, NCCL and Ray on every node (F09)."""
    say = _say("bringup.same_versions", cluster)
    if cluster.attached and not cluster.roles:
        return say.skip(ATTACHED)
    found = {node: {k: v for k, v in versions.__dict__.items() if isinstance(v, str)} for node, versions in facts.images.versions.items()}
    names = sorted({name for held in found.values() for name in held})
    differing = [n for n in names if len({held.get(n) for held in found.values()}) > 1]
    told = "; ".join(f"{n}: " + ", ".join(f"{node} {held.get(n, 'absent')}" for node, held in found.items()) for n in differing)
    return Verdict(
        check=say.check,
        status=Status.UNKNOWN if not found else Status.FAIL if differing else Status.PASS,
        title=say.title,
        subject=say.subject,
        measured=", ".join(differing) or "equal",
        reason=told if differing else "" if found else "the image was not asked for its versions",
        action="pull the same image on every node" if differing else "",
        details={node: dict(held) for node, held in found.items()},
    )
