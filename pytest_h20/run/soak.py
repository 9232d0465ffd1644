"""``--h20-soak``: the engine under a mixed load for hours, its machines watched all the time. No pytest in here.

What is kept does not grow with the hours: a line per bin in ``load/ENGINE/soak.jsonl``, a handful of examples, a verdict per figure. The
kernel's log is read again every so often, so that a ring buffer that wraps loses little.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_h20.checks import under_load
from pytest_h20.checks.machines import CellMachines
from pytest_h20.checks.soak import judge as checks
from pytest_h20.checks.soak.judge import Graded, Hole, Risen, Series, Wanted
from pytest_h20.cluster.hang import Hang
from pytest_h20.cluster.shared import key
from pytest_h20.config.inventory import SoakSettings
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load import LoadPlan
from pytest_h20.load.canary import Canary
from pytest_h20.load.soak import Bin, Soak, SoakEnd, SoakInterrupted, SoakPlan, Stall
from pytest_h20.probes.counters import ERRORS
from pytest_h20.probes.telemetry import GAP_S
from pytest_h20.report.model import Canaries, SoakEvent, SoakRecord, SoakSeries
from pytest_h20.run.canaries import ask_alone
from pytest_h20.run.hang import look_once
from pytest_h20.run.machines import SOAK_READS, Watched, read_kernel, soak_when
from pytest_h20.run.settings import soak_hours
from pytest_h20.run.store import ALONE
from pytest_h20.run.throughput import Load

BINS = 120
"""Points of every chart: half a minute each in an hour, twelve minutes in a day."""

REHEARSED_S, REHEARSED_BINS = 3.2, 40
"""A rehearsed soak takes so long (wall), in so many bins, whatever its hours."""

SILENCE_S, REHEARSED_SILENCE_S = 60.0, 18.0
"""All streams silent for so long (model time) is a hang, which is looked into."""

REHEARSED_CANARY = 5
"""One of so many requests of a rehearsed soak, at least, is a canary."""

KERNEL_READS = SOAK_READS
"""How often the kernel's log is read in a soak."""

BATCH = 60
"""Canaries that are made at a time: in turn a nonce, a twin, a question."""

SEEDS_APART = 500_000
"""A soak must not find the prompts of an earlier cell in the prefix cache."""


def soak(load: Load) -> list[Verdict]:
    """Run the soak of one engine and judge it. When it is interrupted, what there is is judged and recorded before that goes on."""
    it = _Soak(load)
    try:
        end = it.run()
    except SoakInterrupted as stop:
        for verdict in it.judged(stop.end):
            load.session.folder.record(verdict, "session::soak")
        raise
    return it.judged(end)


@dataclass
class _Soak:
    """One soak: what comes bin by bin, and what it comes to."""

    load: Load
    bins: list[Bin] = field(default_factory=list)
    canaries: list[Canaries] = field(default_factory=list)
    memory: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    risen: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    worst: dict[str, Verdict] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    counters: set[str] = field(default_factory=set)
    holes: list[Hole] = field(default_factory=list)
    nodes: set[str] = field(default_factory=set)
    watched_s: float = 0.0
    alone: under_load.Alone | None = None
    hang: Hang | None = None
    busy: list[float] = field(default_factory=list)
    _watched: Watched | None = None
    _began: float = 0.0
    _kernel: int = 0

    @property
    def settings(self) -> SoakSettings:
        return self.load.session.inventory.soak

    @property
    def asked(self) -> Wanted:
        return Wanted(soak_hours(self.load.session.settings.soak) or 0.0, self.settings.slope)

    @property
    def plan(self) -> SoakPlan:
        session = self.load.session
        scale, seconds = session.clock.scale, 3600 * self.asked.hours
        rehearsed = session.rehearsal is not None
        share = self.load.settings.canaries
        every = round(1 / share) if share else 0
        if rehearsed:  # some hundred requests stand for hours
            every = min(every, REHEARSED_CANARY)
        return SoakPlan(
            duration_s=seconds,
            streams=self.settings.streams,
            lengths=self.settings.lengths,
            seed=session.seed + SEEDS_APART,
            bins=REHEARSED_BINS if rehearsed else BINS,
            stall_s=self.settings.stall_s,
            silence_s=REHEARSED_SILENCE_S if rehearsed else SILENCE_S,
            canary_every=every,
            time_scale=scale,
            leap=max(1.0, seconds / (REHEARSED_S * scale)) if rehearsed else 1.0,
        )

    def run(self) -> SoakEnd:
        """Raises ``SoakInterrupted``."""
        load, plan = self.load, self.plan
        session = load.session
        self._watched = load.watch()
        load.folder.mkdir(parents=True, exist_ok=True)
        canaries = self._canaries()
        asked = {"asked_hours": self.asked.hours, "streams": plan.streams, "lengths": plan.lengths, "leap": plan.leap}
        self._keep(asked)
        if session.rehearsal is not None:
            session.rehearsal.soak_begins(plan.leap * plan.time_scale / 3600)
        self._began = time.monotonic()
        load.write(f"h20: soak: {plan.streams} streams for {self.asked.hours:.3g} h, a line per bin in {self.file}\n")
        try:
            return Soak(load.target, plan, canaries, self._bin, self._silent).run()
        finally:
            self._ended = time.monotonic()

    _ended: float = 0.0

    @property
    def file(self) -> str:
        return f"load/{key(self.load.label)}/soak.jsonl"

    def _canaries(self) -> Iterator[Canary]:
        load, session = self.load, self.load.session
        if not load.settings.canaries:
            return iter(())
        shortest = min(asked for _, asked in self.settings.lengths)
        scale = session.clock.scale
        plan = LoadPlan(seed=session.seed, time_scale=scale, request_timeout_s=120.0 * scale)
        alone = self.alone = session.shared.once(ALONE(load.label, "soak"), lambda: ask_alone(load.target, plan, shortest))

        def forever() -> Iterator[Canary]:
            batch = 0
            while made := under_load.canaries_of(alone, BATCH, f"{session.seed} soak {batch}"):
                yield from made
                batch += 1

        return forever()

    # ------------------------------------------------------------------ one bin
    def _bin(self, found: Bin) -> None:
        """Keep a bin's figures, what its canaries said, and what the nodes told meanwhile; drop everything else."""
        plan = self.plan
        self.bins.append(Bin(**{**vars(found), "answers": ()}))
        self.canaries.append(under_load.seen(found.answers, found.texts))
        wall = plan.bin_s / plan.leap / plan.time_scale
        end = self._began + (found.number + 1) * wall
        told = self._machines(found, end - wall, end)
        self.busy.append(os.getloadavg()[0] / (os.cpu_count() or 1))
        told["own_load_per_core"] = round(self.busy[-1], 2)
        row = {**found.to_json(), "canaries": {k: v for k, v in self.canaries[-1].model_dump(mode="json").items() if v}, **told}
        self._keep(row)
        if found.number * KERNEL_READS // plan.bins > self._kernel and plan.leap == 1:
            self._kernel = found.number * KERNEL_READS // plan.bins
            # not in the loop that sends: a node may take seconds
            args = (self.load.session, self.load.label, soak_when(self._kernel))
            threading.Thread(target=read_kernel, args=args, name="h20-soak-kernel", daemon=True).start()
        self.load.tell_bin(found, plan)
        self._say(found)

    def _keep(self, row: Mapping[str, object]) -> None:
        with (self.load.session.folder.path / self.file).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _say(self, found: Bin) -> None:
        if self.load.terminal:
            self.load.write(
                f"\r\x1b[2Kh20: soak {checks.clock(found.hours)} of {self.asked.hours:.3g} h: {found.output_throughput:.0f} tok/s, "
                f"{found.in_flight:.0f} in flight, {found.failed} failed"
            )

    def _machines(self, found: Bin, start: float, end: float) -> dict[str, float]:
        """What the nodes told in a bin; their verdicts are kept where they are the worst so far."""
        assert self._watched is not None
        told = self._watched.told(start, end)
        row: dict[str, float] = {}
        for node, window in told.windows.items():
            if window.used_bytes is not None:
                row[f"{node} host_gib"] = round(window.used_bytes / 2**30, 3)
                self.memory.setdefault((node, "host"), []).append((found.hours, window.used_bytes / 2**30))
            if window.memory_bytes is not None:
                row[f"{node} containers_gib"] = round(window.memory_bytes / 2**30, 3)
                self.memory.setdefault((node, "containers"), []).append((found.hours, window.memory_bytes / 2**30))
            for index, gpu in window.gpus.items():
                if (used := gpu.median("memory_mib")) is not None:
                    self.memory.setdefault((node, f"GPU {index}"), []).append((found.hours, used))
        for node, window in self._watched.told(start - 2 * self._watched.every_s, end).windows.items():  # with the sample before it
            for rail, counters in window.rails.items():
                for name in ERRORS:
                    if name in counters:
                        self.counters.add(f"{node} {rail} {name}")
                    if counters.get(name):
                        self.risen.setdefault(f"{node} {rail} {name}", []).append((found.number, counters[name]))
        if self.plan.leap == 1 or found.number % 10 == 9:
            start, end = self._watched.span(start, end)
            told = self._watched.told(start, end)
            self._hold(found, told)
            self._look(told, start, end)
        self._watched.forget(end - 2 * GAP_S)
        return row

    def _look(self, told: CellMachines, start: float, end: float) -> None:
        """What the nodes did not tell between two moments, in seconds of the soak."""
        if not told.windows and not told.missing:
            return
        pace = self.plan.leap * self.plan.time_scale
        self.watched_s += (end - start) * pace
        self.nodes |= {*told.windows, *told.missing}
        for node, what, since, until in told.unseen():
            until = end - start if until is None else until
            self.holes.append(Hole(node, what, (start + since - self._began) * pace, (start + until - self._began) * pace))

    def _hold(self, found: Bin, told: CellMachines) -> None:
        if not told.windows and not told.missing:
            return
        assert self._watched is not None
        for check, verdict in self._watched.held(f"soak {checks.clock(found.hours)}", told).items():
            if check == "throughput.telemetry":  # of the soak as a whole
                continue
            mine = f"soak.{check.partition('.')[2]}"
            self.looked[mine] = self.looked.get(mine, 0) + (verdict.looked_at or 0)
            if mine not in self.worst or verdict.status.rank > self.worst[mine].status.rank:
                self.worst[mine] = verdict.model_copy(update={"check": mine})

    def _silent(self, seconds: float) -> None:
        """All streams are silent: look before any request is given up."""
        now = time.monotonic()
        scale = self.load.session.clock.scale
        told = self._watched.text(now - 60.0 / scale, now) if self._watched is not None else {}
        more = "".join(f"# {node}\n{text}" for node, text in told.items())
        self.hang = look_once(self.load.session, self.load.label, "no token came on any stream", seconds, more)

    # ------------------------------------------------------------------ what it comes to
    def judged(self, end: SoakEnd) -> list[Verdict]:
        """Every verdict, and the record that the report draws."""
        subject, evidence, asked = self.load.label, (self.file,), self.asked
        series = [*checks.series_of(self.bins, asked.hours), *self._memory()]
        drifts = [(s, self._drift(s, subject, evidence)) for s in series] if end.sent else []
        hang = self.hang
        seen = (*evidence, *hang.evidence) if hang is not None else evidence
        verdicts = [checks.lasted(end, asked, subject, seen, hang.sentence if hang is not None else "")]
        if end.sent:
            verdicts += [
                checks.failures(end, subject, evidence, hang.sentence if hang is not None else ""),
                checks.stalls(end, self.settings.stall_s, subject, seen, hang.sentence if hang is not None else ""),
            ]
            verdicts += [v for _, v in drifts]
            verdicts += self._answers(subject, evidence)
            verdicts += self._machine_verdicts(subject, evidence)
        if verdicts[0].status.blocks:  # what there was is too short for some figures, and that it ended is told
            verdicts = [verdicts[0], *(_too_short(v) for v in verdicts[1:])]
        if self.plan.leap > 1:
            verdicts = [_no_tail(v) for v in verdicts]
        self._record(end, drifts)
        for verdict in verdicts:
            if (said := verdict.details.get("said")) and verdict.check == checks.SPEED:
                self.load.write(f"h20: soak: {verdict.subject}: {said}\n")
        return verdicts

    def _drift(self, series: Series, subject: str, evidence: Sequence[str]) -> Verdict:
        return checks.too_busy(checks.drift(series, self.asked, subject, evidence), self.busy, self.settings.client_load)

    def _memory(self) -> list[Series]:
        """A series per node: its host's memory, that of our containers, and of its GPUs the one that grew most."""
        warm = checks.WARM_UP * self.asked.hours
        found = []
        for node in dict.fromkeys(node for node, _ in self.memory):
            mine = {of: [(h, v) for h, v in points if h >= warm] for (name, of), points in self.memory.items() if name == node}
            held = [(of, mine.pop(of, [])) for of in ("host", "containers")]
            found += [_series(checks.HOST_MEMORY, points, f"{node} {of}") for of, points in held if points]
            if grown := max(mine, key=lambda of: _growth(mine[of]), default=None):
                found.append(_series(checks.GPU_MEMORY, mine[grown], f"{node} {grown}"))
        return found

    def _answers(self, subject: str, evidence: tuple[str, ...]) -> list[Verdict]:
        alone, kind = self.alone, self.load.session.inventory.model.kind
        if alone is not None and alone.form is None and kind != "deepseek-r1":
            why = f"this model answers none of the canaries even alone ({alone.why})"
            return [_of_soak(under_load.voice(under_load.ANSWERS, subject, *evidence).skip(why))]
        together = under_load.together(self.canaries)
        verdicts = [_of_soak(v) for v in under_load.verdicts(together, subject, *evidence)]
        graded = [Graded(b.hours, c.graded, c.graded - c.wrong) for b, c in zip(self.bins, self.canaries, strict=True)]
        return [*verdicts, checks.accuracy(graded, subject, evidence)]

    def _machine_verdicts(self, subject: str, evidence: tuple[str, ...]) -> list[Verdict]:
        verdicts = [v if v.looked_at is None else v.model_copy(update={"looked_at": self.looked[check]}) for check, v in self.worst.items()]
        if self.nodes:
            verdicts.insert(0, checks.telemetry(self.holes, self.watched_s, len(self.nodes), subject, evidence))
        if self.counters:
            bins = max(1, len(self.bins))
            risen = [
                Risen(name, len(found), bins, sum(n for _, n in found), tuple(10 * number // bins for number, _ in found))
                for name, found in self.risen.items()
            ]
            verdicts.append(checks.creep(risen, len(self.counters), subject, evidence))
        return verdicts

    def _record(self, end: SoakEnd, drifts: Sequence[tuple[Series, Verdict]]) -> None:
        events = [SoakEvent(hours=s.hours, words=_stall(s)) for s in end.stalls]
        if end.stopped != "duration":
            events.append(SoakEvent(hours=end.last_complete_hours or end.hours, words=f"the end: {end.stopped}"))
        events += [SoakEvent(hours=b.hours, words=f"{b.failed} requests failed") for b in self.bins if b.failed][:20]
        self.load.session.folder.add(
            SoakRecord(
                engine=self.load.label,
                streams=self.plan.streams,
                lengths=self.plan.lengths,
                asked=self.asked.hours,
                lasted=end.hours,
                stopped=end.stopped,
                sent=end.sent,
                complete=end.complete,
                began=self._began,
                ended=self._ended,
                leap=self.plan.leap,
                series=tuple(_drawn(s, v) for s, v in drifts if s.values),
                events=tuple(events),
                file=self.file,
            )
        )


def _too_short(verdict: Verdict) -> Verdict:
    if verdict.status is not Status.UNKNOWN or verdict.check not in (checks.SPEED, checks.MEMORY, checks.KV, "soak.accuracy"):
        return verdict
    return verdict.model_copy(update={"status": Status.SKIP, "reason": f"{verdict.reason}; see soak.lasted", "action": ""})


def _no_tail(verdict: Verdict) -> Verdict:
    """Of the seconds of traffic that a rehearsal's hours are made of, the slowest 1 % is this machine's own."""
    if verdict.check != checks.SPEED or " p99 " not in verdict.subject or not verdict.status.blocks:
        return verdict
    return verdict.model_copy(update={"status": Status.SKIP, "reason": f"rehearsed: too few for a tail; {verdict.reason}", "action": ""})


def _of_soak(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"check": f"soak.{verdict.check.partition('.')[2]}"})


def _series(figure: checks.SoakFigure, points: Sequence[tuple[float, float]], of: str) -> Series:
    return Series(figure, tuple(h for h, _ in points), tuple(v for _, v in points), of)


def _growth(points: Sequence[tuple[float, float]]) -> float:
    """Of a GPU's memory: the last tenth against the first."""
    part = max(1, len(points) // 10)
    values = [v for _, v in points]
    return sum(values[-part:]) / part - sum(values[:part]) / part if values else 0.0


def _stall(stall: Stall) -> str:
    return f"{stall.streams} streams silent for {stall.seconds:.0f} s"


def _drawn(series: Series, verdict: Verdict) -> SoakSeries:
    details: Mapping[str, object] = verdict.details
    shift = details.get("shift_at_hours")
    return SoakSeries(
        check=verdict.check,
        name=series.figure.name,
        unit=series.figure.unit,
        of=series.of,
        points=tuple((round(h, 4), round(v, 4)) for h, v in zip(series.hours, series.values, strict=True)),
        status=verdict.status,
        said=str(details.get("said") or verdict.reason),
        shift_at=shift if isinstance(shift, float) else None,
    )
