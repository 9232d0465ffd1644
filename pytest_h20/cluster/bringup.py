"""The bring-up: off → preflight → launching → joining → loading → ready, each with its time recorded. It breaks once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pytest_h20.cluster import hang, regular
from pytest_h20.cluster import ready as readiness
from pytest_h20.cluster.clock import Clock
from pytest_h20.cluster.http import ask, reachable
from pytest_h20.cluster.journal import Journal
from pytest_h20.cluster.launch import LaunchTarget, plan_text, start_step
from pytest_h20.cluster.ledger import ledger_of
from pytest_h20.cluster.logs import Follower, nccl_warnings
from pytest_h20.cluster.postmortem import SIGKILLED
from pytest_h20.cluster.preflight import Preflight
from pytest_h20.cluster.progress import StartProgress
from pytest_h20.cluster.state import ClusterState, Phase, RoleRef
from pytest_h20.core.errors import BringUpError, H20Error, TransportError
from pytest_h20.diagnosis import BY_ID, FatalWatch, diagnose, primary
from pytest_h20.engines.base import LaunchPlan, Stage, Step
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded


def new_run_id() -> str:
    """Short, sortable, unique enough: ``1123-2015-ab12cd``."""
    return time.strftime("%m%d-%H%M", time.gmtime()) + "-" + secrets.token_hex(3)


@dataclass
class BringUp:
    """Brings one target up. Use once: ``up()`` returns the state, or raises ``BringUpError`` with everything cleaned up by the
    caller through ``teardown.down``."""

    target: LaunchTarget
    nodes: Mapping[str, Node]
    run_id: str
    journal: Journal
    preflight: Preflight
    label: str = ""
    clock: Clock = field(default_factory=Clock)
    progress: StartProgress = field(default_factory=lambda: StartProgress(lambda _: None))
    phase: Phase = Phase.OFF
    timeline: list[tuple[str, float]] = field(default_factory=list)
    roles: list[RoleRef] = field(default_factory=list)
    _followers: dict[str, Follower] = field(default_factory=dict)
    _watches: dict[str, FatalWatch] = field(default_factory=dict)
    _stages: dict[str, Stage | None] = field(default_factory=dict)
    _began: float = 0.0
    _seen_ready: int = 0
    _moment: str = "before the engine was ready"

    @property
    def plan(self) -> LaunchPlan:
        """What is launched."""
        return self.preflight.plan

    def up(self) -> ClusterState:
        """Launch, wait, prove. Raises ``BringUpError`` (the engine's fault) or ``TransportError`` (ours to reach it)."""
        self._began = self.clock.now()
        try:
            self._enter(Phase.LAUNCHING, f"{len(self.plan.steps)} processes on {len(self.target.nodes)} nodes")
            self._make_folders()
            self._launch()
            self._enter(Phase.LOADING, "waiting for the engine")
            self._wait_for_ready_line()
            state = self._prove()
            self._enter(Phase.READY, f"after {self.clock.now() - self._began:.0f} s")
            return replace(state, timeline=tuple(self.timeline))
        except BaseException as error:
            self._enter(Phase.BROKEN, str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise

    def _enter(self, phase: Phase, detail: str = "") -> None:
        self.phase = phase
        seconds = self.clock.now() - self._began
        self.timeline.append((phase.value, seconds))
        self.journal.event("state", engine=self.label or self.target.engine, state=phase.value, note=detail)
        self.progress.phase(phase.value, detail)

    def _make_folders(self) -> None:
        for spec in self.target.nodes:
            ledger_of(self.nodes[spec.name]).make_folder(self.run_id)

    # ------------------------------------------------------------------ launch
    def _launch(self) -> None:
        containers: dict[str, RoleRef] = {}
        lines = plan_text(self.target, self.plan, self.run_id)
        for step, (_, command) in zip(self.plan.steps, lines, strict=True):
            try:
                role = start_step(self.target, step, self.run_id, self.nodes[step.node], containers)
            except TransportError:
                raise
            except H20Error as error:
                raise BringUpError(f"{step.node}: {step.role} could not be started: {error}") from None
            if any(r.role == role.role for r in self.roles):
                role = replace(role, role=f"{role.role}-{role.node}")
            self.roles.append(role)
            if step.kind == "container":
                containers[step.node] = role
            self._followers[role.role] = Follower(unrecorded(self.nodes[step.node]), role)
            self._watches[role.role] = FatalWatch()
            self._stages[role.role] = None
            self.journal.event("command", node=step.node, command=command, purpose=f"start {step.role}")
            self._wait_for(step, containers)

    def _wait_for(self, step: Step, containers: Mapping[str, RoleRef]) -> None:
        if step.wait_for == "none":
            return
        if step.wait_for == "started":
            self._look()
            return
        self._enter(Phase.JOINING, "waiting for every node to join Ray")
        head = next(r for r in containers.values() if r.node == self.target.head.name)
        limit = min(300.0, self.target.profile.ready_timeout)
        deadline = self.clock.now() + limit
        seen = ""
        while self.clock.now() < deadline:
            self._look()
            done, seen = self._ray_joined(head)
            if done:
                self.journal.event("ray", seen=seen)
                return
            self.progress.show(self._stages, self.clock.now() - self._began, self.target.profile.ready_timeout)
            self.clock.sleep(2.0)
        raise self._failure(f"Ray did not join within {limit:.0f} s: {seen}")

    def _ray_joined(self, head: RoleRef) -> tuple[bool, str]:
        from pytest_h20.engines.ray import RAY_COMMAND, joined, parse_ray

        result = self.nodes[head.node].containers.exec(head.container_id, RAY_COMMAND, timeout=60.0)
        up = {r.node for r in self.roles}
        plans = [p for p in self.target.node_plans() if p.name in up]
        everybody = len(plans) == len(self.target.nodes)
        gpus = self.target.layout.ranks if everybody and not self.preflight.dialect.version.is_cpu_build else None
        return joined(parse_ray(result.stdout), plans, gpus)

    # ------------------------------------------------------------------ wait
    def _look(self) -> None:
        """Read what is new in every log, note stages, stop at the first certain sign of failure."""
        with ThreadPoolExecutor(max_workers=max(1, len(self._followers))) as pool:
            fresh = dict(zip(self._followers, pool.map(lambda f: f.poll(), self._followers.values()), strict=True))
        fatal, void = None, ""
        for role, lines in fresh.items():
            for line in lines:
                stage = self.preflight.dialect.stage(line, role)
                if stage is not None:
                    self._note(role, stage)
                hit = self._watches[role].feed(line)
                fatal = fatal or (role if hit is not None else None)
            if role == self.plan.ready.role:
                void = void or self._check_ready(lines)
        if fatal is not None or void:
            # Give the other rank a moment to print the cause: the loudest line is rarely it.
            self.clock.sleep(2.0)
            raise self._failure(void)
        self._check_alive()

    def _note(self, role: str, stage: Stage) -> None:
        before = self._stages.get(role)
        if before is None or before.name != stage.name:
            where = next(r.node for r in self.roles if r.role == role)
            note = f"{stage.done}/{stage.total} {stage.unit}".strip() if stage.total else stage.detail
            self.journal.event("state", engine=self.label or self.target.engine, state=stage.name, node=where, note=note)
        self._stages[role] = stage

    def _check_ready(self, lines: list[str]) -> str:
        """Note the ready lines; what makes them worthless, or ends the engine before they came, in words (empty: nothing)."""
        import re

        rule = self.plan.ready
        for line in lines:
            for pattern in rule.voided_by:
                if re.search(pattern, line):
                    came = self._seen_ready >= len(rule.patterns)
                    return f"{'the ready line is worthless' if came else f'no ready line came from {rule.role}'}: {line.strip()[:200]}"
            if self._seen_ready < len(rule.patterns) and re.search(rule.patterns[self._seen_ready], line):
                self._seen_ready += 1
        return ""

    def _check_alive(self) -> None:
        for role in self.roles:
            info = unrecorded(self.nodes[role.node]).containers.inspect(role.container_id)
            if info is None:
                raise self._failure(f"{role.node}: container {role.container_name} is gone; somebody removed it", "bringup.every_rank_runs")
            if not info.running:
                how = "killed for memory" if info.oom_killed else f"exit code {info.exit_code}"
                raise self._failure(f"{role.node}: {role.role} ended ({how}) {self._moment}", "bringup.every_rank_runs")
            if role.log_path.endswith(f"/{role.role}.log") and role.role not in role.container_name:
                self._check_exec_alive(role)

    def _check_exec_alive(self, role: RoleRef) -> None:
        try:
            code = regular.read(self.nodes[role.node], role.log_path + ".exit", 0, 20).decode(errors="replace").strip()
        except FileNotFoundError:
            return
        raise self._failure(f"{role.node}: {role.role} ended (exit code {code}) {self._moment}", "bringup.every_rank_runs")

    def _wait_for_ready_line(self) -> None:
        profile = self.target.profile
        deadline = self._began + profile.ready_timeout
        while True:
            self._look()
            if self._seen_ready >= len(self.plan.ready.patterns):
                return
            now = self.clock.now()
            if now > deadline:
                late = f"not ready after {profile.ready_timeout:.0f} s (ready_timeout of profile {self.target.profile_name!r})"
                raise self._failure(f"{late}; {self._hang('the engine is not ready', profile.ready_timeout, starting=True)}")
            self.progress.show(self._stages, now - self._began, profile.ready_timeout)
            self.clock.sleep(1.0)

    # ------------------------------------------------------------------ proof
    def _prove(self) -> ClusterState:
        target, profile, head = self.target, self.target.profile, self.target.head
        url = f"http://{_bracket(head.engine_ip)}:{profile.http_port}"
        here = reachable_url(url, head.engine_ip, profile.http_port, self.nodes[head.name])
        role = next(r for r in self.roles if r.role == self.plan.ready.role)
        began = time.monotonic()
        last = readiness.wait_for_health(
            here,
            self.plan.ready.health_path,
            deadline=time.monotonic() + self.clock.wall(60.0),
            now=time.monotonic,
            sleep=lambda s: self.clock.sleep(s),
            alive=self._look,
        )
        if last is not None:
            raise self._failure(f"the ready line is there, but the server does not answer: {last}")
        proof = self._owner(role, here)
        self._moment = "when it was asked for its first completion"
        ok, seen = readiness.first_completion(here, target.served_model, self.clock.wall(profile.first_completion_timeout))
        if not ok:
            self._look()
            failed = f"ready line and {self.plan.ready.health_path} are there, but the first completion failed: {seen}"
            if "timed out" in seen or "no complete answer" in seen:
                failed += f"; {self._hang('the first completion has not come', profile.first_completion_timeout, starting=False)}"
            raise self._failure(failed, "bringup.first_completion")
        seconds = (time.monotonic() - began) * self.clock.scale
        self._look()
        return ClusterState(
            run_id=self.run_id,
            engine=target.engine,
            profile=target.profile_name,
            head=head.name,
            url=url,
            model=target.served_model,
            versions=self.preflight.versions,
            roles=tuple(self.roles),
            node_dirs={n.name: target.node_dir(self.run_id) for n in target.nodes},
            commands=tuple(plan_text(target, self.plan, self.run_id)),
            worker_health_urls={n.name: f"http://{_bracket(n.engine_ip)}:{profile.http_port}" for n in target.nodes[1:]},
            first_completion_s=seconds,
            proof=proof,
        )

    def _owner(self, role: RoleRef, url: str) -> str:
        """Prove that the answering server is the one we started; returns the proof in words."""
        port = self.target.profile.http_port
        command = readiness.listeners_command(port)
        result = self.nodes[role.node].containers.exec(role.container_id, command, timeout=60.0)
        found = readiness.parse_listeners(result.stdout)
        if found is not None and found.all_ours:
            return f"every socket listening on port {port} belongs to our container ({', '.join(found.ours.values())})"
        if found is not None and found.sockets:
            raise self._failure(
                f"{role.node}: port {port} answers, but the socket is not held by our container {role.container_name}: another "
                f"server owns the port; find it with `ss -ltnp 'sport = :{port}'` and stop it, or change http_port",
                "bringup.ours",
            )
        # /proc could not be read (hidepid, no shell): fall back to a request that only our server's access log can show.
        nonce = secrets.token_hex(8)
        ask(url, self.plan.ready.identity_path(nonce), timeout=self.clock.wall(10.0))
        pattern = self.plan.ready.identity_pattern(nonce)
        import re

        for _ in range(10):
            self._look()
            if re.search(pattern, self._followers[role.role].text):
                return "a request with a secret path appeared in our server's own access log"
            self.clock.sleep(0.5)
        raise self._failure(
            f"{role.node}: something answers on port {port}, but neither its socket nor its access log is our container's",
            "bringup.ours",
        )

    # ------------------------------------------------------------------ failure
    def _hang(self, waited_for: str, seconds: float, *, starting: bool) -> str:
        """What every rank does at this moment, before anything is stopped."""
        profile = self.target.profile
        engine = hang.HungEngine(
            self.roles,
            {n.name: self.target.node_dir(self.run_id) for n in self.target.nodes},
            self.preflight.versions.nccl,
            profile.env,
            starting,
            profile.stack_signal or "",
        )
        return hang.look(self.nodes, engine, self.journal, waited_for, seconds, scale=self.clock.scale).sentence

    def _failure(self, what: str, check: str = "bringup.ready") -> BringUpError:
        """One error: the cause, its fix, and the end of every role's log."""
        for follower in self._followers.values():
            follower.rest()
        for role, follower in self._followers.items():
            kept = self.journal.evidence(f"logs/{role}.log", follower.text) if follower.text else ""
            tail = follower.tail(40) or "(no output)"
            self.journal.event("log", node=follower.role.node, source=role, text=tail, evidence=kept)
        folder = self.target.node_dir(self.run_id)
        warned = {node: nccl_warnings(self.nodes[node], folder) for node in dict.fromkeys(r.node for r in self.roles)}
        found = primary({role: diagnose(warned[f.role.node] + f.text) for role, f in self._followers.items()})
        lines = []
        if found is not None and found[1].cause is not None and found[1].outcome == "failed":
            role, verdict = found
            check = "bringup.ready"  # a known cause says more than which process it ended first
            ref = self._followers[role].role
            place = f"{role} (rank {ref.rank}) on {ref.node}"
            lines.append(f"{verdict.cause}: {verdict.explanation}; {place}" + (f" ({what})" if what else ""))
            lines.append(f"  {role}: {verdict.decisive_line.strip()[:300]}")
            lines.append(f"  fix: {verdict.fix} [{verdict.source}]")
        elif SIGKILLED in what:
            killed = BY_ID["killed"]
            lines += [f"{killed.id}: {killed.cause}; {what}", f"  fix: {killed.fix} [{killed.source}]"]
        else:
            lines.append(what or "the engine failed; no known cause was recognised in its logs")
        for role, follower in self._followers.items():
            where = follower.role
            lines.append(f"--- {role} on {where.node} (rank {where.rank}), end of its log:")
            lines.append(follower.tail() or "(no output)")
        return BringUpError("\n".join(lines), check)


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def reachable_url(url: str, host: str, port: int, node: Node) -> str:
    """The URL as this process can reach it: directly, or through a tunnel when the port is closed to us."""
    if not node.tunnel_only and reachable(host, port):
        return url
    local_host, local_port = node.forward(host, port)
    return f"http://{_bracket(local_host)}:{local_port}"
