"""An engine that ended after it was ready: which process, on which node, and the first cause its logs tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.cluster import regular
from pytest_h20.cluster.http import ask
from pytest_h20.cluster.journal import Journal
from pytest_h20.cluster.logs import log_tail, nccl_warnings
from pytest_h20.cluster.state import ClusterState, RoleRef
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.diagnosis import BY_ID, Diagnosis, diagnose, primary
from pytest_h20.nodes import Node

HEALTH_S = 10.0
LOST, LATELY, ONE_READ = "died unexpectedly", 1 << 17, 1 << 14
"""What is looked for in so many bytes at the end of a log; so many of what is found are read."""
SIGKILLED = "exit code 137"
"""128 + 9: no log can tell of it."""


@dataclass(frozen=True)
class Death:
    """``reason``: who ended where, and why, in one sentence. ``evidence``: the logs that say so, relative to the run folder."""

    reason: str
    action: str
    evidence: tuple[str, ...] = ()


def examine(
    cluster: ClusterState,
    nodes: Mapping[str, Node],
    journal: Journal,
    url: str,
    headers: Mapping[str, str],
    losses: Mapping[str, str] | None = None,
) -> Death | None:
    """What ended the engine, or None while there is no proof that it ended.

    Proof is a process of it that is gone, a port that nobody holds any more, or an unhealthy answer together with a log that tells a
    failure. An engine that is only slow to answer lives. ``losses``: what ``Losses`` saw. Raises ``TransportError`` when a node cannot
    be asked.
    """
    ended = {**(losses or {}), **ended_roles(cluster, nodes)}
    answer = "" if ended else _health(url, headers)
    if not ended and answer == "":
        return None
    warned = {node: nccl_warnings(nodes[node], folder) for node, folder in cluster.node_dirs.items() if node in nodes}
    texts = {role.role: log_tail(nodes[role.node], role.log_path) for role in cluster.roles}
    where = {role.role: role for role in cluster.roles}
    told_by = {role: warned.get(where[role].node, "") + text for role, text in texts.items()}
    found = primary({role: diagnose(text) for role, text in told_by.items()})
    if not ended and not answer.startswith("refused") and found is None:
        return None
    cause = _cause(told_by, found)
    kept = tuple(journal.evidence(f"logs/{role}.at-its-end.log", text) for role, text in texts.items() if text)
    first = [cause.role] if cause is not None else []
    told = [f"{_place(where[role])} {ended.get(role, 'failed')}" for role in dict.fromkeys([*first, *ended])]
    if not told:
        told = [f"{url} does not answer any more ({answer.removeprefix('refused: ')})"]
    if cause is None and any(SIGKILLED in how for how in ended.values()):
        killed = BY_ID["killed"]
        return Death(f"{'; '.join(told)}; {killed.id}: {killed.cause}", killed.fix, kept)
    if cause is None:
        why = "its log names no cause that is known" if cluster.roles else "somebody else started it: its logs are not known"
        return Death(f"{'; '.join(told)}; {why}", "read the end of the logs of all ranks, and the kernel log of their nodes", kept)
    return Death(f"{'; '.join(told)}; {cause.meaning}; log of {cause.role}: {cause.line.strip()[:300]}", cause.fix, kept)


def ended_roles(cluster: ClusterState, nodes: Mapping[str, Node]) -> dict[str, str]:
    """Role to how its process ended, of those that do not run any more."""
    return {role.role: how for role in cluster.roles if (how := _ended(role, nodes[role.node]))}


@dataclass
class Losses:
    """Workers that vLLM says to have died, while the process that started them waits for the others: ten seconds with 0.24, in which every
    request hangs. What stood in a log before the first look is of an earlier start."""

    _before: dict[str, bytes] = field(default_factory=dict)

    def look(self, cluster: ClusterState, nodes: Mapping[str, Node]) -> dict[str, str]:
        """Role to what happened, of those that lost one since the first look; a log that cannot be read tells nothing."""
        found = {}
        for role in cluster.roles if cluster.engine == "vllm" else ():
            try:
                said = regular.read(nodes[role.node], role.log_path, -LATELY, ONE_READ, only=LOST)
            except (FileNotFoundError, H20Error):
                continue
            before = self._before.setdefault(role.role, said).splitlines()
            new = [line for line in said.splitlines() if line not in before]
            if any(BY_ID["worker_died"].search(line.decode("utf-8", "replace")) for line in new):
                found[role.role] = "lost a worker process"
        return found


@dataclass(frozen=True)
class _Cause:
    role: str
    meaning: str
    line: str
    fix: str


def _cause(texts: Mapping[str, str], found: tuple[str, Diagnosis] | None) -> _Cause | None:
    """The most primary cause in the logs of processes that are known to have ended.

    Judged as a start, a log that became ready and then holds a line such as "illegal memory access" is still "ready": for an engine
    that ended, that line is the cause.
    """
    if found is not None and found[1].cause is not None:
        role, d = found
        return _Cause(role, f"{d.cause}: {d.explanation}", d.decisive_line, d.fix)
    known = [
        (signature.rank, role, signature, line)
        for role, text in texts.items()
        for signature in (BY_ID[name] for name in diagnose(text).also if name in BY_ID)
        if signature.kind == "cause"
        for line in [next((line for line in reversed(text.splitlines()) if signature.pattern.search(line)), "")]
    ]
    if not known:
        return None
    _, role, signature, line = min(known, key=lambda item: item[0])
    return _Cause(role, f"{signature.id}: {signature.cause}", line, signature.fix)


def _place(role: RoleRef) -> str:
    return f"{role.role} (rank {role.rank}) on {role.node}"


def _ended(role: RoleRef, node: Node) -> str:
    """How a process of the engine ended; empty while it runs."""
    info = node.containers.inspect(role.container_id)
    if info is None:
        return f"is gone: somebody removed its container {role.container_name}"
    if not info.running:
        return "was killed for memory" if info.oom_killed else f"ended (exit code {info.exit_code})"
    try:  # a process that was started in a container of somebody else leaves its status beside its log
        return f"ended (exit code {regular.read(node, role.log_path + '.exit', 0, 20).decode(errors='replace').strip()})"
    except (FileNotFoundError, H20Error):
        return ""


def _health(url: str, headers: Mapping[str, str]) -> str:
    """Empty when the server is well, or only slow; ``refused: …`` when nobody listens; else what it does.

    A process that is just ending still takes connections and closes them: it is asked again, and while it goes on so the logs decide.
    """
    closed = ""
    for _ in range(4):
        try:
            status = ask(url, "/health", headers=dict(headers), timeout=HEALTH_S).status
        except TransportError as error:
            text = str(error).lower()
            if "refused" in text:
                return f"refused: {error}"
            if "timed out" in text or "no complete answer" in text:
                return ""
            closed = str(error)
        else:
            return "" if status < 500 else f"/health answers {status}"
        time.sleep(0.5)
    return closed
