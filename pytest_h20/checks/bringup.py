"""What a bring-up proved, as verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.checks.frame import Say
from pytest_h20.cluster.postmortem import Death
from pytest_h20.cluster.state import ClusterState, Phase
from pytest_h20.cluster.teardown import Down
from pytest_h20.core.errors import BringUpError, H20Error, TransportError
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
    "bringup.stays_up": "The engine stays up while it is tested",
    "bringup.stops": "The engine ends on SIGTERM",
    "bringup.nothing_left": "Everything that was started is gone again",
}
NOTHING_LEFT = "bringup.nothing_left"
NOT_STARTED = "The engine could be started"
MEND_FIRST = "mend that first; --h20-force brings the engine up all the same"
"""The last line of a refusal."""


def say_of(check: str, engine: str, action: str = "") -> Say:
    """What makes the verdicts of one check about this engine."""
    return Say(check, TITLES[check], engine, action=action)


def _say(check: str, cluster: ClusterState) -> Say:
    return say_of(check, cluster.engine)


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
    return say.plain(Status.PASS, cluster.proof)


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
        action="a forward pass that hangs while /health answers 200 is a stalled collective: look at the NCCL logs of all ranks",
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
    return say.plain(
        Status.UNKNOWN if not found else Status.FAIL if differing else Status.PASS,
        told if differing else "" if found else "the image was not asked for its versions",
        measured=", ".join(differing) or "equal",
        action="pull the same image on every node" if differing else "",
        details={node: dict(held) for node, held in found.items()},
    )


# ---------------------------------------------------------------------- when it fails, and when it ends
def failed(engine: str, error: H20Error, started: bool = True) -> Verdict:
    """A bring-up that failed. A node that could not be reached is "could not measure", not the engine's fault.

    ``started``: whether a container was; what was never started did not become ready too late.
    """
    # Up to the log tails: the cause, and the line or the refusals that show it. What to do next has a place of its own.
    told = [line.strip() for line in str(error).split("\n--- ")[0].splitlines() if line.strip()] or [type(error).__name__]
    say = say_of(error.check if isinstance(error, BringUpError) else "bringup.ready", engine)
    fix = next((line for line in told if line.startswith("fix: ") or line == MEND_FIRST), "")
    if fix == MEND_FIRST:  # the checks that refused it have told the rest already
        told = told[:1]
    return (say if started else replace(say, title=NOT_STARTED)).plain(
        Status.UNKNOWN if isinstance(error, TransportError) else Status.FAIL,
        "; ".join(line.rstrip(":") for line in told if line != fix)[:1000],
        action=fix.removeprefix("fix: ") or "read the log tails in the report, or: python -m pytest_h20 diagnose EVIDENCE/LOG",
    )


def ended_early(death: Death, engine: str) -> Verdict:
    """The engine ended while it was tested."""
    return say_of("bringup.stays_up", engine).about(engine, death.evidence).fail(death.reason, action=death.action)


def down_verdicts(result: Down, engine: str, source: str = "INVENTORY", ended: str | None = "") -> list[Verdict]:
    """Two checks of the tear-down: SIGTERM is enough, and nothing is left.

    ``ended``: why the engine was not there any more when the tear-down began; "" when nothing is known of that, None when it never
    came up. ``source``: the inventory, for what to do next.
    """
    return [_stops(result, engine, ended), _nothing_left(result, engine, source)]


def _stops(result: Down, engine: str, ended: str | None) -> Verdict:
    ran = [s for s in result.stopped if not s.gone]
    ignored = [s for s in ran if s.ignored_sigterm]
    gone = [f"{s.node}: {s.role} had ended before it was stopped (exit code {s.exit_code})" for s in result.stopped if s.gone]
    gone = gone or ([ended] if ended else [])
    say = say_of("bringup.stops", engine)
    status, told, action = Status.PASS, "", ""
    if ignored:
        status = Status.FAIL
        told = "; ".join(f"{s.node}: {s.role} ignored SIGTERM for {s.seconds:.0f} s and was killed" for s in ignored)
        action = "use a stop timeout with SIGKILL in your service unit; SGLang 0.5.16 does this after any request with n > 1"
    elif ended is None and gone:
        status, told = Status.SKIP, f"the engine never came up, and {'; '.join(gone)}: the bring-up told why"
    elif gone:
        status, told = Status.FAIL, f"it was gone before it was asked to end: {'; '.join(gone)}"
        action = "see bringup.stays_up and the end of its log: an engine that ends by itself has shown nothing about SIGTERM"
    elif not ran:
        status, told = Status.UNKNOWN, "no container of this run was found to be stopped"
    return say.plain(status, told, action=action, measured=max((round(s.seconds, 1) for s in ran), default=None), unit="s")


def _nothing_left(result: Down, engine: str, source: str) -> Verdict:
    say = say_of(NOTHING_LEFT, engine, reap(source))
    return say.plain(Status.FAIL if result.left else Status.PASS, "; ".join(result.left), measured=len(result.left))


def not_down(engine: str, source: str, reason: str) -> Verdict:
    """Something of this run may still be there."""
    return say_of(NOTHING_LEFT, engine, reap(source)).unknown(reason)


def reap(source: str) -> str:
    """What takes away what a run left."""
    return f"python -m pytest_h20 reap --nodes {source}"
