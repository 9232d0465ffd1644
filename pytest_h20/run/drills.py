"""A drill on the cluster that this run started: clients ask all the time, something is broken, and everything about it is written down
until the engine serves again. No pytest in here; what it shows is judged in ``checks.drill``."""

from __future__ import annotations

import calendar
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from pytest_h20.checks.drill import FAILED, AskedAfter, Attempt, Ending, Health, Restart, Seen, judged
from pytest_h20.checks.under_load import Alone, canary, candidates, is_right
from pytest_h20.cluster import drill_steps, drills
from pytest_h20.cluster.drill_steps import Broken
from pytest_h20.cluster.drills import DidNothing, Drill
from pytest_h20.cluster.http import ask
from pytest_h20.cluster.ledger import ledger_of
from pytest_h20.cluster.shared import key
from pytest_h20.cluster.state import ClusterState, RoleRef
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.core.verdict import Verdict
from pytest_h20.load import LoadPlan, Target
from pytest_h20.load.canary import FORMS, answer_of
from pytest_h20.load.metrics import COMPLETE
from pytest_h20.load.prompts import Prompt
from pytest_h20.load.run import one_request
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded
from pytest_h20.probes.gpu import GPUS, Gpus
from pytest_h20.probes.script import Missing, build, split
from pytest_h20.report.model import DrillRow
from pytest_h20.run.bringup import engine_down, engine_up, stayed_up
from pytest_h20.run.canaries import ask_alone
from pytest_h20.run.endpoint import Endpoint, endpoint_of, vocabulary_of
from pytest_h20.run.facts import published_facts
from pytest_h20.run.machines import after_load, read_kernel
from pytest_h20.run.settings import Session
from pytest_h20.run.store import CLUSTER, DRILL_ALONE, DRILL_LOST, DRILLED, KERNEL

Write = Callable[[str], None]

CLIENTS = 4
"""Requests in flight while the fault happens."""
ANSWER_TOKENS = 64
WELL_AFTER = 3
"""So many answers one after the other, begun after the fault or after it was taken back, and /health 200: the engine is well."""
GIVE_UP_S = 30.0
"""A client waits so much longer than it may have to: what has no end by then hangs."""
FASTEST_S = 0.02
"""Between two looks, on the clock of this machine."""
GPU_SLACK_MIB = 512
"""A driver's own memory differs a little from one moment to the next."""
SHM_SLACK = 1 << 20
"""Bytes in /dev/shm of a node that are no loss: a process that was killed leaves its semaphores, 32 bytes each (vLLM 0.32's worker)."""
LEFT_S = 10.0
"""The driver takes so long at most to give a dead process's memory back."""

LEFT = f"""{drills.MARK} left
for f in {drills.SHM}/* {drills.SHM}/.[!.]*; do [ -e "$f" ] && echo "shm $(stat -c '%Y %s' "$f") ${{f##*/}}"; done
for t in /proc/net/tcp /proc/net/tcp6; do
  while read -r n l r s x; do [ "$s" = 0A ] && echo "port ${{l##*:}}"; done <$t
done
:
"""
"""What an engine may leave on a node: files in /dev/shm with their second and size, and ports that are listened on (hex)."""


# ------------------------------------------------------------------------------------------------------------------- clients
@dataclass
class Clients:
    """Some clients that ask, one request after the other each, and one that asks ``/health``; from ``start`` to ``stop``.

    All moments are ``time.monotonic``.
    """

    target: Target
    plan: LoadPlan
    alone: Alone
    pause_s: float
    attempts: list[Attempt] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    _open: dict[int, float] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to ask."""
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True, name=f"h20-client-{n}") for n in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._poll, daemon=True, name="h20-health"))
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float) -> None:
        """No new requests; those in flight get so long to end, and hang if they do not."""
        self._ending.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            now = time.monotonic()
            self.attempts += [Attempt(began, now, "hang", "no end while it was watched") for began in self._open.values()]
            self._open.clear()
            self._closed = True

    _closed: bool = False

    def _ask(self, number: int) -> None:
        turn = number
        while not self._ending.is_set():
            began = time.monotonic()
            with self._lock:
                self._open[number] = began
            how, detail = one(self.target, self.plan, self.alone, turn)
            with self._lock:
                if self._closed:
                    return
                self._open.pop(number, None)
                self.attempts.append(Attempt(began, time.monotonic(), how, detail))
            turn += CLIENTS
            self._ending.wait(self.pause_s)

    def _poll(self) -> None:
        while not self._ending.is_set():
            status = 0
            with suppress(TransportError):
                status = ask(self.target.url, "/health", headers=dict(self.target.headers), timeout=max(1.0, 5 * self.pause_s)).status
            with self._lock:
                if not self._closed:
                    self.health.append(Health(time.monotonic(), status))
            self._ending.wait(self.pause_s)

    def so_far(self) -> tuple[list[Attempt], list[Health]]:
        """What has come, oldest first."""
        with self._lock:
            return sorted(self.attempts, key=lambda a: a.ended), list(self.health)

    def well_since(self, moment: float) -> bool:
        """The last requests that began after it were answered, and ``/health`` says so too."""
        attempts, health = self.so_far()
        last = [a for a in attempts if a.began >= moment][-WELL_AFTER:]
        return len(last) == WELL_AFTER and not any(a.how in FAILED for a in last) and bool(health) and health[-1].status == 200


def one(target: Target, plan: LoadPlan, alone: Alone, turn: int) -> tuple[Ending, str]:
    """One question, streamed, as a client sees its end. Whether the answer is right is known of what was answered rightly alone."""
    known = alone.right if alone.form is not None else tuple(candidates())
    name = known[turn % len(known)]
    asked = canary(alone.form or FORMS[-1], name, "question")
    answer, outcome, detail = one_request(target, plan, Prompt(0, ANSWER_TOKENS, text=asked.prompt), special=True)
    if answer is None or outcome not in (*COMPLETE, "uncounted"):
        if outcome == "cut" and detail.startswith("no finish reason"):
            return "cut", f"{detail}: {answer.text[:80] if answer is not None else ''!r}"
        return ("hang" if outcome == "timeout" else "error"), f"{outcome}: {detail}"[:300]
    if alone.form is None:
        return "answered", ""
    said, ended, _ = answer_of(asked, answer.text + (asked.end if answer.finish == "stop" and asked.end not in answer.text else ""))
    return ("answered", "") if ended and is_right(name, said) else ("wrong", f"{name}: {said[:120]!r}")


def patience_s(seen: Seen) -> float:
    """How long a request that is in flight when the watch ends may take until it is said to hang. One of an engine that is well was begun
    a moment ago: it has as long as any other."""
    return seen.told_s if seen.settled == "well" else 5.0


# ------------------------------------------------------------------------------------------------------------------- one drill
def run_drill(session: Session, label: str, drill: Drill, write: Write) -> list[Verdict]:
    """Make one drill and judge it. What the run knew of the load and of the engine before is told first, once."""
    _settle(session, label)
    subject = f"{label} {drill.name}"
    lost = session.shared.value(DRILL_LOST(label))
    if lost is not None:
        return judged(Seen(drill.told_s, drill.why, nothing=f"the engine is not up since an earlier drill: {lost}"), subject)
    write(f"h20: drill {drill.name}: {drill.sentence}\n")
    seen = _Drilling(session, label, drill, write).made()
    record = json.dumps(asdict(seen), indent=1)
    evidence = session.folder.evidence(f"drills/{key(label)}/{drill.name}.json", record)
    verdicts = judged(seen, subject, [evidence])
    session.folder.add(row_of(label, drill, seen))
    return verdicts


def row_of(label: str, drill: Drill, seen: Seen) -> DrillRow:
    """The drill as the report's recovery table shows it."""
    after = [a for a in seen.attempts if a.ended >= 0]
    counts = {how: sum(a.how == how for a in after) for how in ("answered", "wrong", "cut", "error", "hang")}
    first = min((a.ended for a in after if a.how != "answered"), default=None)
    return DrillRow(
        engine=label,
        drill=drill.name,
        proof=(seen.nothing and f"did nothing: {seen.nothing}") or seen.proof,
        clients={how: n for how, n in counts.items() if n},
        told_s=None if first is None else round(first, 1),
        health=tuple(dict.fromkeys(h.status for h in seen.health if h.at >= 0)),
        settled=seen.settled,
        settled_s=round(seen.settled_s, 1) if seen.proof else None,
        restart_s=round(seen.restart.seconds, 1) if seen.restart is not None and seen.restart.ok else None,
        restart="" if seen.restart is None else "started again" if seen.restart.ok else f"did not start again: {seen.restart.why}"[:300],
        left=tuple(seen.left or ()),
        stuck=seen.stuck,
    )


def _settle(session: Session, label: str) -> None:
    """Before the first drill: what is told of the engine and of the machines at the end of a run is told now, while it is true."""

    def tell() -> bool:
        for verdict in [*after_load(session, label), *stayed_up(session, label)]:
            session.folder.record(verdict, "session::before-the-drills")
        if session.shared.published(KERNEL(label, "end")) is None:
            read_kernel(session, label, "end")
        return True

    session.shared.once(DRILLED(label), tell)


@dataclass
class _Drilling:
    session: Session
    label: str
    drill: Drill
    write: Write

    @property
    def state(self) -> ClusterState:
        """The cluster as it was started last."""
        state = self.session.shared.value(CLUSTER(self.label))
        if state is None:
            raise H20Error(f"{self.label} is not up: a drill is made on an engine that serves")
        return state

    def made(self) -> Seen:
        """From the look before to the engine that serves again."""
        drill, state = self.drill, self.state
        seen = Seen(drill.told_s, drill.why, drill.survives)
        endpoint = endpoint_of(self.session, self.label, state)
        target = load_target(endpoint)
        plan = self._plan(drill.told_s + GIVE_UP_S)
        alone = self.session.shared.once(DRILL_ALONE(self.label), lambda: ask_alone(target, self._plan(120.0), ANSWER_TOKENS, few=True))
        no_answers = "" if alone.form is not None else f"this model answers none of the questions even alone ({alone.why})"
        seen = replace(seen, no_answers=no_answers)
        node, role = self._place(state)
        began = self._created(state)
        clients = Clients(target, plan, alone, self._wall(1.0))
        clients.start()
        try:
            if not self._until(60.0, lambda: clients.well_since(0.0)):
                return replace(seen, nothing="the engine did not serve before it: nothing was broken")
            try:
                with self._broken(node, role) as broken:
                    seen = self._watch(seen, clients, broken, node, role)
            except DidNothing as error:
                return replace(seen, nothing=str(error))
            if broken.stuck:
                seen = replace(seen, stuck=broken.stuck)
        finally:
            clients.stop(self._wall(patience_s(seen)))
        seen = self._with(seen, clients, broken.of.at)
        if seen.nothing:
            return seen if self._serves(clients) else self._up_again(seen, target, plan, alone, began)
        if seen.settled == "well":
            return replace(seen, after=self._ask_all(target, plan, alone))
        return self._up_again(seen, target, plan, alone, began)

    # ------------------------------------------------------------------ the fault
    @dataclass
    class _Fault:
        of: Broken
        stuck: str = ""
        back: bool = False

    @contextmanager
    def _broken(self, node: Node, role: RoleRef) -> Iterator[_Drilling._Fault]:
        """The fault while it stands; whatever happens, it is taken back."""
        planted = drill_steps.prepared(self.drill, role.container_id, self._interface(node.name), node)
        ledger = ledger_of(node)
        fault = self._Fault(drill_steps.break_it(node, ledger, planted, self._wait))
        self.write(f"h20:   {fault.of.proof}\n")
        try:
            yield fault
        finally:
            if not fault.back:
                fault.stuck = drill_steps.end(node, ledger, fault.of, self._wait)

    def _watch(self, seen: Seen, clients: Clients, fault: _Drilling._Fault, node: Node, role: RoleRef) -> Seen:
        """Until the engine is down or well, or the time for it is over."""
        drill, since = self.drill, fault.of.at
        seen = replace(seen, proof=fault.of.proof)
        down = self._down_of(next(r for r in reversed(self.state.roles) if r.node == self.state.head))
        if drill.stands_s and not self._until(drill.stands_s, down):
            shown = drill_steps.last_look(node, fault.of)
            seen = replace(seen, nothing="" if shown.yes else shown.words, proof="; ".join(filter(None, (seen.proof, shown.words))))
            fault.stuck, fault.back = drill_steps.end(node, ledger_of(node), fault.of, self._wait), True
            since = time.monotonic()
        settled: Literal["well", "down", ""] = ""

        def rests() -> bool:
            nonlocal settled
            settled = "down" if down() else "well" if drill.kind != "freeze" and clients.well_since(since) else ""
            return bool(settled)

        self._until(drill.told_s, rests)
        return replace(seen, settled=settled, settled_s=(time.monotonic() - since) * self.session.clock.scale)

    def _down_of(self, head: RoleRef) -> Callable[[], bool]:
        """Whether the head's process has ended, or nobody listens any more. A node that does not answer for a moment says nothing."""
        node = unrecorded(self.session.nodes[head.node])
        exec_role = head.role not in head.container_name

        def down() -> bool:
            with suppress(H20Error):
                info = node.containers.inspect(head.container_id)
                if info is None or not info.running:
                    return True
                if exec_role and node.get(head.log_path + ".exit", 0, 20):
                    return True
            return False

        def quiet() -> bool:
            try:
                return down()
            except (FileNotFoundError, OSError):
                return False

        return quiet

    def _with(self, seen: Seen, clients: Clients, at: float) -> Seen:
        """What the clients saw, its moments as model seconds after the fault."""
        attempts, health = clients.so_far()

        def since(moment: float) -> float:
            return round(self._model(moment - at), 2)

        moved = [replace(a, began=since(a.began), ended=since(a.ended)) for a in attempts]
        return replace(seen, attempts=tuple(moved), health=tuple(Health(since(h.at), h.status) for h in health))

    # ------------------------------------------------------------------ afterwards
    def _serves(self, clients: Clients) -> bool:
        attempts, _ = clients.so_far()
        return bool(attempts) and attempts[-1].how not in FAILED

    def _ask_all(self, target: Target, plan: LoadPlan, alone: Alone) -> AskedAfter:
        if alone.form is None:
            return AskedAfter(0, 0)
        told = [one(target, plan, alone, turn) for turn in range(len(alone.right))]
        wrong = [detail for how, detail in told if how != "answered"]
        return AskedAfter(len(told) - len(wrong), len(told), wrong[0] if wrong else "")

    def _up_again(self, seen: Seen, target: Target, plan: LoadPlan, alone: Alone, began: float) -> Seen:
        """Take down what is left of it, look at what stays behind, start it, ask."""
        shared = self.session.shared
        self.write(f"h20: drill {self.drill.name}: the engine is {seen.settled or 'neither well nor down'}; it is started again\n")
        result = engine_down(self.session, self.label, self.write)
        left = [*result.left, *self._left(began)]
        start = time.monotonic()
        try:
            state = engine_up(self.session, self.label, self.write)
        except H20Error as error:
            why = str(error).splitlines()[0]
            shared.publish(DRILL_LOST(self.label), f"{self.drill.name}: {why}")
            return replace(seen, left=tuple(left), restart=Restart(False, self._model(time.monotonic() - start), why))
        shared.publish(CLUSTER(self.label), state)
        restart = Restart(True, self._model(time.monotonic() - start))
        target = load_target(endpoint_of(self.session, self.label, state))
        return replace(seen, left=tuple(left), restart=restart, after=self._ask_all(target, plan, alone))

    def _left(self, began: float) -> list[str]:
        """What the engine left on its nodes, now that all of its containers are gone."""
        found: list[str] = []
        deadline = time.monotonic() + min(LEFT_S, self._wall(LEFT_S) + 0.2)
        for spec in self.session.target(self.label).nodes:
            node = self.session.nodes[spec.name]
            while True:
                left = self._left_on(node, began)
                if not left or time.monotonic() > deadline:
                    break
                time.sleep(self._wall(1.0))
            found += [f"{spec.name}: {what}" for what in left]
        return found

    def _left_on(self, node: Node, began: float) -> list[str]:
        profile = self.session.target(self.label).profile
        told = node.run(LEFT, timeout=60.0).stdout
        found = shm_left(told, began)
        ports = {int(m, 16) for m in re.findall(r"^port ([0-9A-F]{1,4})$", told, re.M)}
        mine = [p for p in (profile.http_port, profile.dist_port) if p is not None]
        found += [f"port {port} is listened on" for port in mine if port in ports]
        gpus = GPUS.read(split(node.run(build([GPUS]), timeout=60.0).stdout))
        facts = published_facts(self.session, self.label)
        before = None if facts is None or node.name not in facts.probes.nodes else facts.probes.nodes[node.name].gpus
        if isinstance(gpus, Gpus) and not isinstance(before, Missing) and before is not None:
            used = {g.index: g.memory_used_mib for g in before.gpus}
            for gpu in gpus.gpus:
                old, new = used.get(gpu.index), gpu.memory_used_mib
                if old is not None and new is not None and new > old + GPU_SLACK_MIB:
                    found.append(f"GPU {gpu.index} holds {new:g} MiB, {old:g} MiB before the engine was started")
        return found

    # ------------------------------------------------------------------ small things
    def _place(self, state: ClusterState) -> tuple[Node, RoleRef]:
        """Where this drill is made: the last node for ranks, rails and interfaces, else the head."""
        nodes = state.role_nodes()
        name = nodes[-1] if self.drill.victim in ("worker", "rail", "control") else state.head
        role = next(r for r in state.roles if r.node == name)
        return self.session.nodes[name], role

    def _interface(self, node: str) -> str:
        spec = next(n for n in self.session.target(self.label).nodes if n.name == node)
        if self.drill.victim == "control":
            return spec.control_interface
        if self.drill.victim != "rail":
            return ""
        if not spec.rails:
            raise DidNothing(f"{node} has no rails in the inventory")
        rail = spec.rails[0].interface
        if self.drill.kind == "link" and rail == spec.control_interface:
            raise DidNothing(f"{rail} is the control interface of {node} too: it would cut off this run")
        return rail

    def _created(self, state: ClusterState) -> float:
        """When the engine's first container was made, by its node's clock."""
        found = []
        for role in state.roles:
            info = self.session.nodes[role.node].containers.inspect(role.container_id)
            with suppress(ValueError, AttributeError):
                found.append(float(calendar.timegm(time.strptime(info.created[:19], "%Y-%m-%dT%H:%M:%S"))))  # type: ignore[union-attr]
        return min(found, default=time.time())

    def _plan(self, timeout: float) -> LoadPlan:
        return LoadPlan(
            seed=self.session.seed,
            time_scale=self.session.clock.scale,
            request_timeout_s=max(timeout, 2 * self.session.clock.scale),
            ignore_eos=False,
        )

    def _wall(self, seconds: float) -> float:
        return max(FASTEST_S, seconds / self.session.clock.scale)

    def _model(self, seconds: float) -> float:
        return seconds * self.session.clock.scale

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds / self.session.clock.scale)

    def _until(self, seconds: float, ready: Callable[[], bool]) -> bool:
        """Look until it is so; False when this many model seconds are over."""
        deadline = time.monotonic() + self._wall(seconds)
        while True:
            if ready():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(self._wall(0.5))


def shm_left(text: str, began: float) -> list[str]:
    """The files changed since ``began`` (seconds of the node's clock) that ``LEFT`` told of, where they hold more than a little."""
    told = re.findall(r"^shm (\d+) (\d+) (.+)$", text, re.M)
    files = [(name, int(size)) for second, size, name in told if float(second) >= began]
    return [f"{drills.SHM}/{name} ({size} bytes)" for name, size in files] if sum(size for _, size in files) > SHM_SLACK else []


def load_target(endpoint: Endpoint) -> Target:
    """The endpoint in the words of the load generator."""
    dialect = "sglang" if endpoint.target.engine == "sglang" else "vllm"
    return Target(endpoint.url, dialect, endpoint.model, headers=dict(endpoint.headers), vocabulary=vocabulary_of(endpoint.target))


def minutes(drill: Drill, ready_timeout: float) -> float:
    """The most a drill takes, with one start of the engine."""
    return drill.minutes + ready_timeout / 60.0
