"""One run's cluster: brought up once by whoever needs it first, taken down once by the controller. No pytest in here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from pytest_h20.checks.bringup import MEND_FIRST, NOTHING_LEFT, down_verdicts, ended_early, not_down, say_of
from pytest_h20.checks.environment.containers import DOCKER
from pytest_h20.checks.frame import SEE_THERE
from pytest_h20.cluster import labels
from pytest_h20.cluster.bringup import BringUp, reachable_url
from pytest_h20.cluster.http import ask
from pytest_h20.cluster.launch import LaunchTarget, secrets_note
from pytest_h20.cluster.ledger import containers_of, ledger_of
from pytest_h20.cluster.postmortem import Losses, ended_roles, examine
from pytest_h20.cluster.preflight import prepare, refuse_leftovers
from pytest_h20.cluster.progress import StartProgress
from pytest_h20.cluster.shared import Shared
from pytest_h20.cluster.state import ClusterState, EngineVersions
from pytest_h20.cluster.teardown import Down, down, tried_again
from pytest_h20.core.errors import BringUpError, H20Error, TransportError
from pytest_h20.core.verdict import GateName, Status, Verdict, headline
from pytest_h20.endpoint.split import told_version
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded
from pytest_h20.report.model import Warning_
from pytest_h20.run.burn import burn_verdicts
from pytest_h20.run.facts import early_verdicts, gathered, launch_facts
from pytest_h20.run.kept import Kept, kept
from pytest_h20.run.live import tell_bring_up
from pytest_h20.run.lookout import Lookout
from pytest_h20.run.settings import Session
from pytest_h20.run.store import CLUSTER, DEATH_TOLD, DIED, DOWN, DRILL_LOST, LAUNCHED, drilled, told_mark
from pytest_h20.run.weights import weights_verdicts

Write = Callable[[str], None]


def run_id_of(session: Session, label: str) -> str:
    """Every engine of a run has its own id: its containers are told apart by it."""
    if len(session.targets) == 1:
        return session.run_id
    return f"{session.run_id}-{session.labels.index(label)}"


def bring_up(session: Session, label: str, write: Write, terminal: bool) -> ClusterState:
    """The cluster of this engine, up. Raises ``FailedElsewhere`` when it was tried before, ``H20Error`` when it fails now."""
    return session.shared.once(CLUSTER(label), lambda: _bring_up(session, label, write, terminal))


def _bring_up(session: Session, label: str, write: Write, terminal: bool) -> ClusterState:
    from pytest_h20.run.machines import read_kernel

    target = session.target(label)
    if session.inventory.attach is not None or session.settings.attach:
        read_kernel(session, label, "start")
        return attach(session, label)
    progress = StartProgress(write, terminal)
    progress.phase("preflight", f"{label}: profile {target.profile_name} on {', '.join(n.name for n in target.nodes)}")
    session.folder.event("state", engine=label, state="preflight")
    nodes = nodes_of(session, target)
    run_id = run_id_of(session, label)
    facts = gathered(session, label)
    early = early_verdicts(session, label, facts)
    if silent := [v for v in early if v.check == DOCKER and v.status is Status.UNKNOWN]:
        raise TransportError(refusal_text(silent, session.shared, NOT_FORCED))
    refuse_leftovers(nodes, session.inventory.run_dir_on_node, session.run_id, session.place)
    if not session.settings.force:
        red = [v for v in early if v.status is Status.FAIL]
        red = red or [v for v in weights_verdicts(session, label) if v.status is Status.FAIL]
        red = red or [v for v in burn_verdicts(session, label) if v.status is Status.FAIL]
        if red:
            raise BringUpError(refusal_text(red, session.shared))
    ready = prepare(target, facts.images, launch_facts(session, facts))
    read_kernel(session, label, "start")
    bring = BringUp(target, nodes, run_id, session.folder, ready, label, session.clock, progress)
    progress.tell = lambda stages, seconds, limit: tell_bring_up(session.folder, label, bring.roles, stages, seconds, limit)
    if note := secrets_note(target, ready.plan):
        write(f"h20: {note}\n")
        session.folder.add(Warning_(text=f"{label}: {note}"))
    session.shared.once(LAUNCHED(label), lambda: run_id)
    try:
        state = bring.up()
        read_kernel(session, label, "ready")
        return state
    except BaseException:
        if not session.settings.keep:
            _down_now(session, label, write)
        raise
    finally:
        session.folder.over("bringup", label)


NOT_FORCED = f"fix: {SEE_THERE}; no container can be started there, not with --h20-force either"


def refusal_text(red: Sequence[Verdict], shared: Shared | None = None, last: str = MEND_FIRST, most: int = 6) -> str:
    """Why the engine is not brought up: the red checks with their reasons and next steps, the rest counted. Those that a test of the
    run has told already (``shared``) are only named."""
    told = [v for v in red if shared is not None and shared.marked(told_mark(v))]
    left = [v for v in red if v not in told]
    there = [f"because of {named(v)}, told there" for v in told]
    head = f"not brought up: {headline(red) if left else there[0]}" + (f" (and {len(red) - 1} more)" if len(red) > 1 else "")
    lines = [line for v in left[:most] for line in v.text().splitlines()]
    if len(left) > most:
        lines.append(f"... and {len(left) - most} more; the report has them all")
    return "\n".join([head, *(f"  {line}" for line in [*lines, *(there if left else ()), last])])


def named(verdict: Verdict) -> str:
    """Check and subject, as the head of its text has them."""
    return f"{verdict.check} [{verdict.subject}]" if verdict.subject else verdict.check


def nodes_of(session: Session, target: LaunchTarget) -> dict[str, Node]:
    """The connected nodes of a target, head first."""
    return {n.name: session.nodes[n.name] for n in target.nodes}


UNNAMED = "unknown"
"""sglang_router 0.3.2 lists this where its servers tell no model by ``/get_model_info`` (vLLM's), and hands any name on to them."""


def attach(session: Session, label: str) -> ClusterState:
    """A cluster somebody else started. It is looked at, never changed."""
    target = session.target(label)
    url = attach_url(session)
    headers = attach_headers(session)
    try:
        models = ask(url, "/v1/models", headers=headers, timeout=15.0).json()
        model = str(models["data"][0]["id"])  # type: ignore[index]
    except TransportError as error:
        raise BringUpError(f"--h20-attach: {error}; is the engine up, and is this its address?") from None
    except (KeyError, IndexError, TypeError):
        raise BringUpError(f"{url}/v1/models does not list a model; is this an OpenAI-compatible server?") from None
    if model == UNNAMED and session.settings.nodes:
        model = target.served_model
    told = next((found for asked in (url, *servers_behind(session)) if (found := running_version(asked, headers))), "")
    version = told or target.profile.version or ""
    if not version:  # without one there is no dialect to hold the answers against: told here, once, and not by every check
        raise BringUpError(
            f"{url} tells no engine version (SGLang's gateway passes none on), and what an answer must look like depends on it. Next: "
            f"--nodes=INVENTORY with attach: {{url, servers: the URLs of the engines behind it}} or engines.{target.engine}.profiles.NAME."
            "version, or attach to a server behind it"
        )
    ours = Kept()
    if session.settings.nodes:
        port = urlsplit(url).port or target.profile.http_port
        ours = kept(nodes_of(session, target), target.head.name, port, session.inventory.run_dir_on_node)
        session.folder.event("note", text=f"--h20-attach={url}: {ours.proof or ours.unseen or 'no container of ours holds the port'}")
    return ClusterState(
        run_id=run_id_of(session, label),
        engine=target.engine,
        profile=target.profile_name,
        head=target.head.name,
        url=url,
        model=model,
        versions=EngineVersions(engine=version),
        roles=ours.roles,
        node_dirs=dict(ours.node_dirs),
        attached=True,
        worker_health_urls={n.name: f"http://{n.engine_ip}:{target.profile.http_port}" for n in target.nodes[1:] if ours.roles},
        proof=ours.proof,
    )


def attach_url(session: Session) -> str:
    """Where the attached endpoint is; of what was published about it a password is gone."""
    configured = session.inventory.attach.url if session.inventory.attach else ""
    return str(session.settings.attach or configured).rstrip("/")


def servers_behind(session: Session) -> tuple[str, ...]:
    """The engines behind the attached router, as the inventory names them; not those of another router than this one."""
    attach = session.inventory.attach
    return attach.servers if attach is not None and attach.url.rstrip("/") == attach_url(session) else ()


def attach_headers(session: Session) -> dict[str, str]:
    """The API key of an attached endpoint, from the environment variable the inventory names."""
    import os

    name = session.inventory.attach.api_key_env if session.inventory.attach else None
    if not name:
        return {}
    value = os.environ.get(name)
    if not value:
        raise BringUpError(f"attach.api_key_env: the environment variable {name} is not set")
    return {"Authorization": f"Bearer {value}"}


def running_version(url: str, headers: Mapping[str, str]) -> str:
    """The version a running server tells: vLLM's ``/version``, SGLang's ``/server_info``. Empty when it tells none."""
    for path, field in (("/version", "version"), ("/server_info", "version"), ("/get_server_info", "version")):
        try:
            data = ask(url, path, headers=dict(headers), timeout=10.0).json()
        except TransportError:
            continue
        if found := told_version(data, field):
            return found
    return ""


def post_mortem(session: Session, label: str) -> Verdict | None:
    """Why the engine ended since it was ready, for whoever tells it; None while it runs, and when it was told already."""
    verdict = noticed(session, label)
    if verdict is None:
        return None
    told_by: list[Verdict] = []

    def tell() -> bool:
        told_by.append(verdict)
        return True

    session.shared.once(DEATH_TOLD(label), tell)
    return told_by[0] if told_by else None


def noticed(session: Session, label: str, losses: Mapping[str, str] | None = None) -> Verdict | None:
    """Why the engine ended since it was ready, looked at until anybody has seen it; None while it runs. ``losses``: see ``examine``."""
    state = session.shared.value(CLUSTER(label))
    if state is None or drilled(session.shared, label):
        return None
    known = session.shared.value(DIED(label))
    if known is not None:
        return known
    target = session.target(label)
    url = (
        attach_url(session)
        if state.attached
        else reachable_url(state.url, target.head.engine_ip, target.profile.http_port, session.nodes[target.head.name])
    )
    try:
        headers = attach_headers(session) if state.attached else {}
        death = examine(state, session.nodes if state.roles else {}, session.folder, url, headers, losses)
    except H20Error as error:
        session.folder.event("note", text=f"whether {label} still runs could not be seen: {error}")
        return None
    if death is None:
        return None

    def tell() -> Verdict:
        session.folder.event("state", engine=label, state="broken", note=death.reason)
        return ended_early(death, label)

    return session.shared.once(DIED(label), tell)


_LOOKOUTS: dict[tuple[str, str], Lookout] = {}
"""Of this process, by run and engine."""


def look_out(session: Session, label: str, write: Write) -> None:
    """From now on the engine's processes are looked at every two seconds, until it is taken down. Nothing where none of them is known."""
    state, key = session.shared.value(CLUSTER(label)), (session.run_id, label)
    if state is None or not state.roles or key in _LOOKOUTS:
        return

    losses = Losses()

    def look() -> bool:
        if drilled(session.shared, label) or session.shared.published(DIED(label)) is not None:
            return True
        lost = losses.look(state, session.nodes)
        if not (lost or ended_roles(state, session.nodes)) or lookout.ending:
            return False
        death = noticed(session, label, lost)
        if death is not None:
            write(f"h20: broken: {death.reason}\n")
        return death is not None

    lookout = _LOOKOUTS[key] = Lookout(look)


def look_away(session: Session, label: str) -> None:
    """Before it is stopped."""
    lookout = _LOOKOUTS.pop((session.run_id, label), None)
    if lookout is not None:
        lookout.end()


def died(session: Session, label: str) -> str | None:
    """Why the engine ended, when that was found."""
    known = session.shared.value(DIED(label))
    return None if known is None else known.reason


# ---------------------------------------------------------------------- down
def previous_engine_down(session: Session, label: str, write: Write) -> None:
    """Before an engine comes up, the one before it goes: two engines do not fit on the GPUs."""
    for other in session.labels[: session.labels.index(label)]:
        if session.shared.published(LAUNCHED(other)) and not session.shared.published(DOWN(other)):
            from pytest_h20.run.machines import after_load

            for verdict in [*after_load(session, other), *stayed_up(session, other)]:
                session.folder.record(verdict, "session::tear-down")
            _down_now(session, other, write)


def engine_down(session: Session, label: str, write: Write) -> Down:
    """Take the engine down in the middle of a run, to start it again."""
    return _down(session, label, write)


def engine_up(session: Session, label: str, write: Write) -> ClusterState:
    """Start the engine again, as it was started before. Raises ``H20Error``; what was started then is taken down."""
    target, facts = session.target(label), gathered(session, label)
    ready = prepare(target, facts.images, launch_facts(session, facts))
    nodes, run_id = nodes_of(session, target), run_id_of(session, label)
    try:
        return BringUp(target, nodes, run_id, session.folder, ready, label, session.clock, StartProgress(write, False)).up()
    except BaseException:
        _down(session, label, write)
        raise


def _down_now(session: Session, label: str, write: Write) -> Down:
    """What was taken down completely is not taken down again; what was not, is tried again by whoever comes next."""
    shared, topic = session.shared, DOWN(label)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a full disk keeps nothing up
            stack.enter_context(shared.exclusive(topic.name))
        known = shared.value(topic)
        if known is not None and not known.left:
            return known
        result = _down(session, label, write)
        if known is not None:
            result = tried_again(known, result)
        with contextlib.suppress(OSError):  # a full disk: the cluster is down all the same
            shared.publish(topic, result)
        return result


def _down(session: Session, label: str, write: Write) -> Down:
    look_away(session, label)
    target = session.target(label)
    write(f"h20: down: stopping {label}\n")
    run_id = run_id_of(session, label)
    result = down(
        run_id,
        nodes_of(session, target),
        target.node_dir(run_id),
        session.folder,
        session.clock.scale,
        tuple(n.name for n in target.nodes),
    )
    with contextlib.suppress(OSError):
        session.folder.event("state", engine=label, state="down")
    return result


def take_down(session: Session, write: Write) -> list[Verdict]:
    """At the end of the run: stop everything that was started, and say whether that went well.

    First of all no process of this run may start anything more: a worker that is at its preflight would launch into the tear-down.
    """
    verdicts: list[Verdict] = []
    keep = session.settings.keep
    for label in session.labels:
        look_away(session, label)
    broken = _take_back_drills(session)
    settled = session.shared.end_launches(meanwhile=lambda: None if keep else _remove_all(session))
    for label in session.labels:
        try:
            verdicts += stayed_up(session, label)
        except (H20Error, OSError) as error:  # looking must not keep it from being taken down
            why = f"could not be looked at: {error}"
            verdicts.append(say_of("bringup.stays_up", label).unknown(why))
        launched = session.shared.value(LAUNCHED(label))
        if launched is None:
            continue
        if keep:
            write(keep_text(session, label, launched))
            continue
        try:
            found = down_verdicts(_down_now(session, label, write), label, session.place, ended_before(session, label))
            lost = session.shared.value(DRILL_LOST(label)) is not None  # of what is not there nothing ends on SIGTERM
            verdicts += found[1:] if lost else found
        except (H20Error, OSError) as error:
            verdicts.append(not_down(label, session.place, f"the tear-down broke off: {error}"))
    left = [] if settled else ["a process of this run is still starting a container"]
    left += [*broken, *_end_ledgers(session, keep)]
    return with_left(verdicts, left, session.place)


def with_left(verdicts: Sequence[Verdict], left: Sequence[str], source: str) -> list[Verdict]:
    """The verdicts of a tear-down and what the nodes' records say is left at its very end. Told once: what an engine's tear-down could
    not remove is met again there."""
    found = list(verdicts)
    red = next((index for index, v in enumerate(found) if v.check == NOTHING_LEFT and v.status.blocks), None)
    if red is None:
        return [*found, not_down("", source, "; ".join(left))] if left else found
    more = [line for line in left if line not in found[red].reason]
    found[red] = found[red].model_copy(update={"reason": "; ".join([found[red].reason, *more])})
    return found


def _opened(session: Session) -> dict[str, Node]:
    """The nodes on which any process of this run did anything; the others are not asked again."""
    return {name: unrecorded(node) for name, node in session.nodes.items() if session.shared.marked(f"opened-{name}")}


def _take_back_drills(session: Session) -> list[str]:
    """What an interrupted drill broke, before anything else: a stopped process does not end. Returns what is still broken."""
    left: list[str] = []
    for name, node in _opened(session).items() if GateName.DRILL in session.required else ():
        try:
            left += ledger_of(node).take_back()
        except (H20Error, OSError) as error:
            left.append(f"{name}: whether a drill was taken back could not be seen: {error}")
    return left


def _remove_all(session: Session) -> None:
    for node in _opened(session).values():
        with contextlib.suppress(H20Error, OSError):
            entry = ledger_of(node).entry()
            for container in containers_of(node, entry) if entry is not None else ():
                node.containers.remove(container.id)


def _end_ledgers(session: Session, keep: bool) -> list[str]:
    """Probe containers, commands that still run, temporary files, and the record itself. Returns what is left."""
    left: list[str] = []
    for name, node in _opened(session).items():
        try:
            ledger = ledger_of(node)
            entry = ledger.entry()
            kept = keep and entry is not None and bool(entry.folders)
            if kept:
                ledger.note(kept=True)
            left += ledger.end(folders=not kept)
        except (H20Error, OSError) as error:
            left.append(f"{name}: {error}")
    return left


def started(session: Session, label: str) -> bool:
    """Whether any process of this run began to start containers of this engine."""
    return session.shared.published(LAUNCHED(label)) is not None


def stayed_up(session: Session, label: str) -> list[Verdict]:
    """At the end, before anything is stopped: the engine that came up is still there. An end that was told is not told again."""
    state = session.shared.value(CLUSTER(label))
    stopped = session.shared.published(DOWN(label)) is not None  # by the next engine's start, which asked before
    if state is None or stopped:
        return []
    found = post_mortem(session, label)
    if found is None and died(session, label) is None and not state.attached:
        found = say_of("bringup.stays_up", label).plain(Status.PASS, measured="running")
    return [found] if found is not None else []


def ended_before(session: Session, label: str) -> str | None:
    """Why the engine was not there any more when the tear-down began; "" when nothing is known of that, None when it never came up."""
    if session.shared.value(CLUSTER(label)) is None:
        return None
    return died(session, label) or ""


def keep_text(session: Session, label: str, run_id: str) -> str:
    """What ``--h20-keep`` prints: how to attach and how to remove."""
    target = session.target(label)
    state = session.shared.value(CLUSTER(label))
    up = state is not None and died(session, label) is None
    lines = [f"h20: kept: {label} stays up (run {run_id})"]
    if not up:
        came = "ended while it was tested" if state is not None else "did not come up"
        lines = [f"h20: kept: {label} {came}; its containers and logs are left as they are (run {run_id})"]
    if up and isinstance(state, ClusterState):
        slurm = " --h20-hosts-from-slurm" if session.settings.hosts_from_slurm else ""
        lines.append(f"h20:   test it again:  pytest --engine={label} --nodes={session.source}{slurm} --h20-attach={state.url}")
    lines += [f"h20:   on {node.name}: docker ps --filter label={labels.RUN}={run_id}" for node in target.nodes]
    lines.append(f"h20:   remove it:      python -m pytest_h20 reap --nodes {session.place} --run {session.run_id}")
    return "\n".join(lines) + "\n"
