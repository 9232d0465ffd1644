"""The machines of a run while it is under load: watched in every cell, looked at before and after it, and what their kernels said
while each gate ran. No pytest in here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pytest_h20.checks import machines as checks
from pytest_h20.checks.frame import Say
from pytest_h20.checks.machines import CellMachines, Said, Snapshot
from pytest_h20.checks.rdma.traffic import nothing_crosses
from pytest_h20.cluster.shared import key
from pytest_h20.cluster.state import ClusterState
from pytest_h20.cluster.watch import Watch
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import GateName, Verdict
from pytest_h20.load.server_metrics import ServerView
from pytest_h20.nodes import Node
from pytest_h20.probes.counters import COUNTERS
from pytest_h20.probes.dcgm import DCGM
from pytest_h20.probes.gpu import GPUS
from pytest_h20.probes.kernel_log import KERNEL_LOG, Reading, explain, stretch
from pytest_h20.probes.script import Missing, Probe, Section, build, split
from pytest_h20.probes.telemetry import GAP_S, Lately
from pytest_h20.report.model import CellLoad, GpuLoad, HostLoad, KernelLine
from pytest_h20.run.facts import published_facts
from pytest_h20.run.settings import Session
from pytest_h20.run.store import BEFORE_LOAD, DOWN, KERNEL, drilled

REHEARSED_EVERY_S = 0.25
"""Between two samples where time runs faster; else one second."""

REHEARSED_SOAK_S = 0.05
"""The same where a soak of hours is rehearsed in seconds."""

SHORT = 8
"""A cell shorter than so many samples is seen by those just before it as well: it may lie between two (an engine that dies at once)."""

WHENS = ("burn", "start", "ready", "load", "end")
"""Moments at which the kernel log is read: before the burn, before the bring-up, after it, before the load, at the end. A ring buffer that
wraps between two of them is said."""

SOAK_READS = 24
"""And so often while a soak runs."""


def soak_when(number: int) -> str:
    """The name of one of them."""
    return f"soak{number}"


WINDOWED = (
    GateName.COMPUTE,
    GateName.BRINGUP,
    GateName.RDMA,
    GateName.ENDPOINT,
    GateName.REASONING,
    GateName.ANSWERS,
    GateName.THROUGHPUT,
    GateName.SOAK,
)
"""Gates of which the kernel log is looked at: from the burn to the end of the load."""


def nodes_of(session: Session, label: str) -> dict[str, Node]:
    """The nodes of an engine that can be asked; none where it was attached to by its address alone."""
    if not session.settings.nodes:
        return {}
    return {n.name: session.nodes[n.name] for n in session.target(label).nodes if n.name in session.nodes}


def _optional(session: Session, node: str, check: str) -> tuple[str, ...]:
    """``expect.unmeasured_ok`` of a node. Who lets the kernel log of the environment stay unread lets that of the gates, too."""
    spec = next((n for n in session.inventory.nodes if n.name == node), None)
    allowed = session.inventory.expect_of(spec).unmeasured_ok if spec is not None else session.inventory.expect.unmeasured_ok
    unread = check.endswith(".kernel_log") and any(fnmatchcase("environment.kernel_log", pattern) for pattern in allowed)
    return (*allowed, check) if unread else allowed


def _say(session: Session, check: str, subject: str, node: str, evidence: Sequence[str] = ()) -> Say:
    return checks.say(check, subject, _optional(session, node, check), evidence)


def _ask(session: Session, label: str, probes: Sequence[Probe[object]], when: str) -> dict[str, tuple[float, dict[str, Section]]]:
    """Node to the moment (our clock) at which it answered and the sections; all nodes at once. A node that is gone has none."""

    def one(item: tuple[str, Node]) -> tuple[float, dict[str, Section]]:
        name, node = item
        began = time.monotonic()
        try:
            text = node.run(build(probes), timeout=90.0).stdout
        except H20Error as error:
            session.folder.event("note", text=f"{name} could not be looked at ({when} of {label}): {error}")
            return began, {}
        at = (began + time.monotonic()) / 2
        session.folder.evidence(f"machines/{key(label)}/{name}-{when}.txt", text)
        return at, split(text)

    nodes = nodes_of(session, label)
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        return dict(zip(nodes, pool.map(one, nodes.items()), strict=True))


def read_kernel(session: Session, label: str, when: str) -> None:
    """Read the kernel log of every node and keep it under ``when``. What could not be read is missing there, and said in the end."""
    _keep_kernel(session, label, when, _ask(session, label, [KERNEL_LOG], when))


def _keep_kernel(session: Session, label: str, when: str, told: Mapping[str, tuple[float, dict[str, Section]]]) -> None:
    found: dict[str, Reading] = {}
    for name, (at, sections) in told.items():
        log = KERNEL_LOG.read(sections)
        if not isinstance(log, Missing):
            found[name] = Reading(at, log)
    session.shared.publish(KERNEL(label, when), found)


# ------------------------------------------------------------------------------------------------------------- before and after
def before_load(session: Session, label: str) -> None:
    """Counters, GPUs and kernel log of every node before the first cell; made once, by whoever measures it."""
    session.shared.once(BEFORE_LOAD(label), lambda: _look(session, label, "load"))


def _look(session: Session, label: str, when: str) -> dict[str, Snapshot]:
    told = _ask(session, label, [COUNTERS, GPUS, DCGM, KERNEL_LOG], when)
    _keep_kernel(session, label, when, told)
    return {name: Snapshot(COUNTERS.read(sections), GPUS.read(sections), DCGM.read(sections)) for name, (_, sections) in told.items()}


def after_load(session: Session, label: str, ended: bool = False) -> list[Verdict]:
    """Every node after the last cell against before the first; nothing where no cell was begun. Before anything is stopped. ``ended``:
    the run was, before its tests had reported: rails that carried nothing are no finding then."""
    before = session.shared.value(BEFORE_LOAD(label))
    if before is None or drilled(session.shared, label):
        return []
    after = _look(session, label, "end")
    target, verdicts = session.target(label), []
    measured = any(cell.engine == label for cell in session.folder.view().cells)
    gate = "soak" if GateName.SOAK in session.required and not measured else "throughput"
    unsent = "the run was ended before anything was sent" if ended and not measured else ""
    many = len(session.labels) > 1
    facts = published_facts(session, label)
    folder = Missing("") if facts is None else facts.probes.nodes[target.head.name].model_folder
    idle = "" if isinstance(folder, Missing) else nothing_crosses(folder.config, target.layout)
    for spec in target.nodes:
        if spec.name not in before:
            continue
        old, new = before[spec.name], after[spec.name]
        subject = f"{label} {spec.name}" if many else spec.name
        evidence = [f"evidence/machines/{key(label)}/{spec.name}-{when}.txt" for when in ("load", "end")]
        verdicts.append(checks.gpu_state(_say(session, f"{gate}.gpu_state", subject, spec.name, evidence), old, new))
        verdicts.append(checks.dcgm(_say(session, f"{gate}.dcgm", subject, spec.name, evidence), old, new))
        if not target.has_rdma or len(target.nodes) < 2:
            continue
        moved = {rail.hca: checks.rail_delta(old, new, rail.hca, rail.port) for rail in spec.rails}
        for hca, delta in moved.items():
            about = f"{subject} {hca}"
            verdicts.append(checks.rail_errors(_say(session, f"{gate}.rail_errors", about, spec.name, evidence), delta, idle or unsent))
            verdicts.append(
                checks.rail_congestion(_say(session, f"{gate}.rail_congestion", about, spec.name, evidence), delta, idle or unsent)
            )
        verdicts.append(checks.rail_shares(_say(session, f"{gate}.rail_shares", subject, spec.name, evidence), moved, idle, unsent))
    return verdicts


# ------------------------------------------------------------------------------------------------------------------- one cell
@dataclass
class Watched:
    """The nodes of one engine, watched by this process while it measures cells."""

    session: Session
    label: str
    cluster: ClusterState
    _watch: Watch | None = None

    def start(self) -> None:
        """Before the first cell of this process. Nothing where no node can be asked."""
        nodes = nodes_of(self.session, self.label)
        if self._watch is not None or not nodes:
            return
        before_load(self.session, self.label)
        held: dict[str, list[str]] = {}
        for role in self.cluster.roles:
            held.setdefault(role.node, []).append(role.container_id)
        self._watch = Watch(nodes, held, self.every_s)
        self._watch.start()

    @property
    def every_s(self) -> float:
        """Between two samples, on the clock of this machine."""
        if self.session.clock.scale == 1.0:
            return 1.0
        return REHEARSED_SOAK_S if GateName.SOAK in self.session.required else REHEARSED_EVERY_S

    def span(self, began: float, ended: float) -> tuple[float, float]:
        """The stretch to look at for a cell."""
        return (min(began, ended - GAP_S) if ended - began < SHORT * self.every_s else began), ended

    def stop(self) -> None:
        """After the last cell of this process."""
        if self._watch is not None:
            self._watch.stop()

    def told(self, start: float, end: float) -> CellMachines:
        """What every node told between two moments."""
        windows, missing = self._watch.since(start, end) if self._watch is not None else ({}, {})
        return CellMachines(windows, missing, self.session.clock.scale)

    def judge(self, name: str, told: CellMachines, start: float, end: float) -> list[Verdict]:
        """The verdicts about the machines in one cell. ``name``: the cell's, with its repeat."""
        subject = f"{self.label} {name}"
        if self._watch is None:
            why = "attached to by its address alone: no node can be looked at"
            return [checks.say("throughput.telemetry", subject).skip(why)]
        texts = self._watch.text(start, end)
        evidence = [self.session.folder.evidence(f"telemetry/{key(self.label)}/{name}-{node}.txt", t) for node, t in texts.items() if t]
        self._watch.forget(end - GAP_S)
        first = next(iter(texts), "")
        return list(self.held(name, told, first, evidence).values())

    def held(self, name: str, told: CellMachines, node: str = "", evidence: Sequence[str] = ()) -> dict[str, Verdict]:
        """Check to verdict, of what was told in a stretch. ``node``: whose ``expect.unmeasured_ok`` counts."""
        subject = f"{self.label} {name}"
        return {
            check: judge(_say(self.session, check, subject, node or next(iter(told.windows), ""), evidence), told)
            for check, judge in checks.OF_A_CELL.items()
        }

    def text(self, start: float, end: float) -> dict[str, str]:
        """What every node told between two moments, as it came."""
        return self._watch.text(start, end) if self._watch is not None else {}

    def lately(self, most: int) -> dict[str, Lately]:
        """The last samples of every node."""
        return self._watch.lately(most) if self._watch is not None else {}

    def forget(self, before: float) -> None:
        """Drop what was told before a moment."""
        if self._watch is not None:
            self._watch.forget(before)


def gauges_of(server: ServerView | None) -> dict[str, float]:
    """What the engine said of itself during a cell, as far as it did."""
    if server is None:
        return {}
    told = {"running": server.running_max, "waiting": server.waiting_max, "kv_use": server.kv_use_max, "put_back": server.put_back}
    return {name: value for name, value in told.items() if value is not None}


def cell_load(
    label: str,
    cell: str,
    repeat: int,
    told: CellMachines,
    span: tuple[float, float],
    energy: float | None,
    server: ServerView | None = None,
) -> CellLoad:
    """What the report keeps and draws of the machines in one cell. Times in model seconds since its start."""
    odd = {(node, gpu.identity.index): words for node, gpu, _, words in checks.odd_ones(told)}
    gpus = [
        GpuLoad(
            node=node,
            index=gpu.identity.index,
            serial=gpu.identity.serial,
            slot=gpu.identity.bus_id,
            spreads={name: (s.low, s.median, s.high) for name, s in gpu.spreads.items()},
            series={name: tuple((round(x * told.scale, 2), y) for x, y in points) for name, points in gpu.series.items() if name in DRAWN},
            throttled=dict(gpu.throttled),
            samples=gpu.samples,
            apart=odd.get((node, gpu.identity.index), ""),
        )
        for node, gpu in told.gpus
    ]
    hosts = {
        node: HostLoad(
            steal_share=w.steal_share,
            run_queue=None if w.run_queue is None else (w.run_queue.low, w.run_queue.median, w.run_queue.high),
            memory_bytes=w.memory_bytes,
            rails={rail: dict(risen) for rail, risen in w.rails.items()},
        )
        for node, w in told.windows.items()
    }
    return CellLoad(
        engine=label,
        cell=cell,
        repeat=repeat,
        began=span[0],
        ended=span[1],
        seconds=round((span[1] - span[0]) * told.scale, 2),
        gpus=tuple(gpus),
        hosts=hosts,
        gaps=tuple(told.holes()),
        missing=dict(told.missing),
        energy_wh_per_1k=energy,
        gauges=gauges_of(server),
    )


DRAWN = ("sm_mhz", "power_w", "temperature_c")


def in_a_line(load: CellLoad) -> str:
    """The machines of one cell, for the terminal: medians over all GPUs, and what is odd."""
    import statistics

    parts = []
    for quantity, unit in (("sm_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "°C")):
        values = [g.spreads[quantity][1] for g in load.gpus if quantity in g.spreads]
        if values:
            parts.append(f"{statistics.median(values):.0f} {unit}")
    if not parts:
        return "GPUs: nothing was told"
    if load.energy_wh_per_1k is not None:
        parts.append(f"{load.energy_wh_per_1k:.3g} Wh per 1,000 tokens")
    odd = [f"{g.node} GPU {g.index}" for g in load.gpus if g.apart]
    return f"{len(load.gpus)} GPUs: {', '.join(parts)}" + (f"; apart: {', '.join(odd)}" if odd else "")


# ------------------------------------------------------------------------------------------------------------------ kernel log
Spans = Mapping[GateName, Sequence[tuple[float, float]]]


def kernel_verdicts(session: Session, spans: Spans, loads: Sequence[CellLoad]) -> list[Verdict]:
    """What the kernel of every node said while each gate ran. ``spans``: moments (``time.monotonic``) between which its tests ran.

    A line belongs to the gate that ran when it was written, or to the last one before. Reads the log for the last time: to be called
    before anything is taken down.
    """
    wanted = {gate: spans[gate] for gate in WINDOWED if spans.get(gate)}
    labels = [label for label in session.labels if any(session.shared.published(KERNEL(label, when)) for when in ("burn", "start"))]
    if not wanted or not labels:
        return []
    names: list[str] = []
    for label in labels:
        if session.shared.published(KERNEL(label, "end")) is None:
            read_kernel(session, label, "end")
        names += [name for name in nodes_of(session, label) if name not in names]
    verdicts = []
    known = [facts for label in labels if (facts := published_facts(session, label)) is not None]
    silent = {view.name for facts in known for view in facts.probes.views if view.silence}
    for name in names:
        if name in silent:  # told once, by the check that asks whether it answers
            continue
        readings = [
            r
            for label in labels
            for when in (*WHENS, *map(soak_when, range(SOAK_READS)))
            if (r := _reading(session, label, when, name)) is not None
        ]
        verdicts += _of_a_node(session, name, readings, wanted, loads)
    return verdicts


def _reading(session: Session, label: str, when: str, node: str) -> Reading | None:
    return (session.shared.value(KERNEL(label, when)) or {}).get(node)


def _of_a_node(session: Session, node: str, readings: Sequence[Reading], spans: Spans, loads: Sequence[CellLoad]) -> list[Verdict]:
    start = min(began for of in spans.values() for began, _ in of)
    end = max((r.at for r in readings), default=max(ended for of in spans.values() for _, ended in of))
    said: dict[GateName, list[Said]] = {gate: [] for gate in spans}
    for at, event in stretch(readings, start, end).events:
        gate = gate_at(at, spans)
        cell = next((c for c in loads if at is not None and c.began <= at <= c.ended), None)
        since = cell.began if cell is not None else min(began for began, _ in spans[gate])
        scale = session.clock.scale
        said[gate].append(Said(event, cell.cell if cell is not None else "", None if at is None else max(0.0, at - since) * scale))
        entry = explain(event)
        session.folder.add(
            KernelLine(
                node=node,
                gate=gate,
                cell=cell.cell if cell is not None else "",
                engine=cell.engine if cell is not None else "",
                after_s=said[gate][-1].after_s,
                severity=entry.severity,
                meaning=entry.meaning,
                action=entry.action,
                text=event.text[:400],
            )
        )
    spec = next(n for n in session.inventory.nodes if n.name == node)
    ours = [spec.control_interface, *(r.interface for r in spec.rails), *(h.interface for h in spec.other_hcas)]
    verdicts = []
    for gate, of in spans.items():
        seen = stretch(readings, min(began for began, _ in of), max(ended for _, ended in of))
        voice = _say(session, f"{gate.value}.kernel_log", node, node)
        verdicts.append(checks.kernel_said(voice, said[gate], seen, [name for name in ours if name]))
    return verdicts


def gate_at(at: float | None, spans: Spans) -> GateName:
    """The gate that ran at a moment: the one that began last of those that run then, else the last that began before it."""
    if at is None:
        return list(spans)[-1]
    running = [(began, gate) for gate, of in spans.items() for began, ended in of if began <= at <= ended]
    before = [(began, gate) for gate, of in spans.items() for began, _ in of if began <= at]
    order = list(spans)
    found = max(running or before, key=lambda pair: (pair[0], order.index(pair[1])), default=(0.0, order[0]))
    return found[1]


def last_look(session: Session, spans: Spans, ended: bool) -> list[Verdict]:
    """On the controller, when every test has reported and nothing is stopped yet: the machines after the load, and all kernel logs.

    Whatever goes wrong here keeps no cluster up: it is a verdict that could not be made.
    """
    verdicts: list[Verdict] = []
    try:
        for label in session.labels:
            if session.shared.published(DOWN(label)) is None:
                verdicts += after_load(session, label, ended)
        verdicts += kernel_verdicts(session, spans, session.folder.view().loads)
    except (H20Error, OSError) as error:
        verdicts.append(checks.say("throughput.kernel_log", "").unknown(f"the machines could not be looked at: {error}"))
    return verdicts
