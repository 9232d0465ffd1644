"""The load generator aimed at the cluster: which cells, how, what is kept, and how a cell is judged. No pytest in here."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_h20.checks import under_load
from pytest_h20.checks.endpoint.answers import LOWER_BOUND, accuracy
from pytest_h20.checks.endpoint.questions import shipped
from pytest_h20.checks.endpoint.serving import with_served_version
from pytest_h20.checks.machines import energy_wh_per_1k
from pytest_h20.checks.throughput import doubts, judge_cell, no_limits, recorded, sanity_verdict, slo_verdict, why_doubted
from pytest_h20.cluster.shared import key
from pytest_h20.config.inventory import LoadSettings
from pytest_h20.config.limits import LimitFile
from pytest_h20.core.errors import H20Error
from pytest_h20.core.gpus import gpu_model
from pytest_h20.core.verdict import GateName, Status, Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.engines.layout import Layout
from pytest_h20.engines.speculation import Speculation, speculation_of
from pytest_h20.load import Cell, CellProgress, CellResult, LoadPlan, SelfCheck, Slo, Target
from pytest_h20.load.canary import Canary
from pytest_h20.load.cells import requests_for
from pytest_h20.load.metrics import Summary
from pytest_h20.load.roofline import GpuSpec, ModelSpec, decode_bound, spec_of
from pytest_h20.load.run import CellInterrupted, run_cell
from pytest_h20.load.sanity import tokens_per_step
from pytest_h20.load.selfcheck import self_check
from pytest_h20.load.soak import Bin, SoakPlan
from pytest_h20.probes.script import Missing
from pytest_h20.report.model import METRICS, Canaries, CellRow, Late
from pytest_h20.report.requests import intervals, read_requests, windows
from pytest_h20.run.canaries import ask_alone
from pytest_h20.run.endpoint import Endpoint, vocabulary_of
from pytest_h20.run.hang import look_once
from pytest_h20.run.live import LiveLoad, bin_now, cell_now
from pytest_h20.run.machines import Watched, cell_load, in_a_line
from pytest_h20.run.settings import Session
from pytest_h20.run.store import ALONE, SCORES

Write = Callable[[str], None]
T = TypeVar("T")

SELFCHECK_LEVELS = (1, 4, 16, 64, 256, 1024)
"""Streams at which the client checks itself: a client that is right at more streams than a cell has is right at the cell's."""

SELFCHECK_TRIES = 3
"""A self-check that something else on this machine disturbed is made again: one that is right proves what the client can do."""


REPEAT_TRIES = 3
"""A repeat of a calibration that cannot be believed is measured again, up to so often in all: hours hang on it."""


SILENCE_S = 60.0
"""Model seconds without a token of any stream that are looked into as a hang."""


LEAST_SILENCE_S = 3.0
"""And wall seconds: a rehearsal's own machine may pause."""


class NotRun(H20Error):
    """A cell was not measured because the engine is gone: that is no pass."""


@dataclass
class Load:
    """Measures cells on one endpoint. ``run(cell)`` gives the result; ``judge(result)`` its verdicts."""

    session: Session
    label: str
    endpoint: Endpoint
    write: Write
    terminal: bool
    settings: LoadSettings
    limits: LimitFile | None
    cells: tuple[Cell, ...]
    done: int = 0
    subfolder: str = ""
    speaks: str = ""
    """Another dialect of the load generator than the engine's own: ``chat``."""
    _checks: dict[int, SelfCheck] = field(default_factory=dict)
    _warm: set[tuple[int, int]] = field(default_factory=set)
    _late: dict[str, Late] = field(default_factory=dict)
    _watched: Watched | None = None
    _live: LiveLoad | None = None
    _spoke: tuple[str, int, float] = ("", 0, 0.0)
    _machines: dict[tuple[str, int], list[Verdict]] = field(default_factory=dict)

    @property
    def repeats(self) -> tuple[int, ...]:
        """How often each cell is measured: once (0), or 1 … N when calibrating."""
        if not self.session.settings.calibrate:
            return (0,)
        return tuple(range(1, self.session.settings.repeats + 1))

    @property
    def total(self) -> int:
        """How many measurements of ours a whole run makes."""
        from pytest_h20.run.crosscheck import crosscheck_cells

        again = 2 * len(crosscheck_cells(self)) if self.session.settings.load_crosscheck else 0
        return len(self.cells) * len(self.repeats) + again

    def run(self, cell: Cell, repeat: int = 0, attempt: int = 0) -> CellResult:
        """Measure one cell with everything recorded. A finished cell is kept whatever happens after it.

        Raises ``NotRun`` when the engine does not answer any more.
        """
        self._engine_lives(cell)
        plan = self.plan(cell, repeat, attempt)
        watched = self.watch()
        began = time.monotonic()
        rehearsal = self.session.rehearsal
        if rehearsal is not None:
            rehearsal.late()
        try:
            result = self._measure(cell, plan)
        except CellInterrupted as stop:
            self._keep(stop.result, repeat)
            raise
        finally:
            if self._live is not None:
                self._live.cell = None
        if rehearsal is not None:
            self._late[_stem(cell, repeat)] = lateness(result, rehearsal.late(), self.session.clock.scale)
        ended = time.monotonic()
        self._warm.add(_shape(cell))
        self.done += 1
        self._keep(result, repeat)
        name = "-".join(filter(None, (self.subfolder, _stem(cell, repeat))))
        self._machines[cell.id, repeat] = self._look_at_machines(watched, name, (began, ended), result, cell.id, repeat)
        return result

    def watching(self, name: str, measure: Callable[[], T]) -> tuple[T, list[Verdict]]:
        """Measure what is no cell of the matrix: what came of it, and how the machines were meanwhile."""
        watched, began = self.watch(), time.monotonic()
        found = measure()
        result = found if isinstance(found, CellResult) else None
        return found, self._look_at_machines(watched, name, (began, time.monotonic()), result)

    def machines_of(self, cell: Cell, repeat: int = 0) -> list[Verdict]:
        """How the machines were while a cell ran; told once."""
        return self._machines.pop((cell.id, repeat), [])

    def close(self) -> None:
        """After the last cell of this process: nothing of ours goes on on the nodes. A second time it does nothing."""
        watched, live, self._watched, self._live = self._watched, self._live, None, None
        if watched is not None:
            watched.stop()
        if live is not None:
            live.stop()

    def watch(self) -> Watched:
        """The nodes of this engine, watched from now on by this process."""
        if self._watched is None:
            self._watched = Watched(self.session, self.label, self.endpoint.cluster)
            self._watched.start()
            self._live = LiveLoad(self.session.folder, self.label, self.session.clock.scale, self._watched.lately)
            self._live.start()
        return self._watched

    def _look_at_machines(
        self, watched: Watched, name: str, span: tuple[float, float], result: CellResult | None, cell: str = "", repeat: int = 0
    ) -> list[Verdict]:
        """Judge what the nodes told while something was measured, and keep it for the report. ``cell``: of the matrix, else ``name``."""
        span = watched.span(*span)
        told = watched.told(*span)
        verdicts = watched.judge(name, told, *span)
        if told.windows or told.missing:
            seconds = result.whole.seconds if result is not None and result.whole else 0.0
            energy = energy_wh_per_1k(told, seconds, result.tokens.output) if result is not None else None
            load = cell_load(self.label, cell or name, repeat, told, span, energy, result.server if result is not None else None)
            self.session.folder.add(load)
            self.write(f"h20:   {in_a_line(load)}\n")
        return verdicts

    def results(self, cell: Cell) -> Iterator[tuple[CellResult, int]]:
        """The cell as often as it is measured, with the number of the repeat. In a calibration, a repeat that cannot be believed is
        measured again; the record of the first one is kept beside the other."""
        for repeat in self.repeats:
            result = self.run(cell, repeat)
            for attempt in range(1, REPEAT_TRIES if repeat else 1):
                why = doubts(result)
                if not why:
                    break
                self.write(f"h20: cell {cell.id}, repeat {repeat} cannot be believed ({why[0].rule}: {why[0].text}): measured again\n")
                for file in self.folder.glob(f"{_stem(cell, repeat)}.*json*"):
                    file.rename(file.with_name(file.name.replace(".", f"-unbelievable{attempt}.", 1)))
                self.done -= 1
                result = self.run(cell, repeat, attempt)
            yield result, repeat

    def plan(self, cell: Cell, repeat: int = 0, attempt: int = 0) -> LoadPlan:
        """How a cell is run."""
        recipe = self.session.settings.load_recipe or self.settings.recipe
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        return LoadPlan(
            recipe=recipe,
            requests=self.settings.min_requests and max(self.settings.min_requests, cell.concurrency),
            seed=self.session.seed + repeat + 1000 * attempt,  # a repeat must not find its own prompts in the prefix cache
            time_scale=self.session.clock.scale,
            slo=Slo(self.settings.slo_ttft_ms, self.settings.slo_tpot_ms),
            warmup=0 if _shape(cell) in self._warm else 1,
            processes=0,
            records_path=str(folder / f"{_stem(cell, repeat)}.requests.jsonl"),
            tpot_floor_ms=self.floor_ms(cell),
            drafts=None if self.speculation is None else float(self.speculation.most or 0),
            selfcheck=self._selfcheck(cell),
            canaries=self._canaries(cell, recipe, repeat, attempt),
            percentiles=self.limits.percentiles if self.limits else (),
        )

    # ------------------------------------------------------------------ canaries
    def _canaries(self, cell: Cell, recipe: str, repeat: int, attempt: int) -> tuple[Canary, ...]:
        """The prompts with known answers among this cell's. None where two generators are compared."""
        least = self.settings.min_requests and max(self.settings.min_requests, cell.concurrency)
        count = under_load.count_of(self.settings.canaries, cell.concurrency, least or requests_for(cell, recipe))
        if not count or self.subfolder or self.foreign:
            return ()
        return under_load.canaries_of(self.alone, count, f"{self.session.seed} {cell.id} {repeat} {attempt}")

    @property
    def foreign(self) -> bool:
        """Whether another generator sends the load: it has no canaries."""
        return self.session.settings.load != "own"

    @property
    def alone(self) -> under_load.Alone:
        """What the engine answers alone, asked once per engine and run before the first cell that needs it."""
        plan = LoadPlan(seed=self.session.seed, time_scale=self.session.clock.scale, request_timeout_s=120.0 * self.session.clock.scale)
        return self.session.shared.once(ALONE(self.label), lambda: ask_alone(self.target, plan, self.canary_tokens))

    @property
    def canary_tokens(self) -> int:
        """Tokens that an answer may have: the fewest of a cell that carries canaries."""
        crowded = [cell.output_len for cell in self.cells if cell.concurrency >= under_load.FROM_STREAMS]
        return min(crowded or [cell.output_len for cell in self.cells])

    def answers(self, record: CellRow) -> list[Verdict]:
        """What a cell's canaries come to: always what was answered and how it looks, of the rest what is wrong."""
        found = record.canaries
        if found is None:
            return []
        subject = f"{self.label} {record.name}"
        if record.concurrency < under_load.FROM_STREAMS:
            told = under_load.ordinary_text(found)
            return [under_load.voice(under_load.TEXT, subject, record.file).warn(None, told)] if told else []
        if why := self.no_canaries:
            return [under_load.voice(under_load.ANSWERS, subject, record.file).skip(why)]
        always = (under_load.ANSWERS, under_load.TEXT)
        return [v for v in self._judged(found, subject, record.file) if v.check in always or v.status.blocks]

    def _judged(self, found: Canaries, subject: str, *evidence: str) -> list[Verdict]:
        verdicts = under_load.verdicts(found, subject, *evidence)
        if not found.asked and self.settings.canaries and self.alone.why:
            why = f"no canary was sent: the engine answered none rightly even alone ({self.alone.why})"
            verdicts = [v.model_copy(update={"reason": why, "action": "see the gate answers first"}) for v in verdicts]
        return verdicts

    @property
    def no_canaries(self) -> str:
        """Why answers under load are not judged here; empty when they are."""
        if self.foreign:
            return "another generator sent the load (--h20-load): it asks nothing that could be judged"
        if not self.settings.canaries or self.endpoint.target.inventory.model.kind == "deepseek-r1" or self.alone.form is not None:
            return ""
        return f"this model answers none of the canaries even alone ({self.alone.why})"

    def answers_of_all(self) -> list[Verdict]:
        """The canaries of all cells of this engine together."""
        measured = [c for c in self.session.folder.view().cells if c.engine == self.label]
        crowded = [c for c in measured if c.concurrency >= under_load.FROM_STREAMS and c.canaries is not None]
        subject, evidence = f"{self.label}, all cells", [c.file for c in crowded[:1]]
        say = under_load.voice(under_load.ANSWERS, subject, *evidence)
        if not any(cell.concurrency >= under_load.FROM_STREAMS for cell in self.cells):
            return [say.skip(f"no cell has {under_load.FROM_STREAMS} streams or more")]
        if why := self.no_canaries:
            return [say.skip(why)]
        if not crowded:
            return [say.unknown("no cell was measured", "measure the cells, or see why not")]
        return self._judged(under_load.together([c.canaries for c in crowded if c.canaries is not None]), subject, *evidence)

    def after_load(self) -> list[Verdict]:
        """The graded questions once more, now that the heaviest cell is over."""
        say = under_load.voice(under_load.AFTER, f"{self.label}, shipped set")
        if GateName.ANSWERS not in self.session.required:
            return [say.skip("this inventory does not ask for the gate answers")]
        known = self.session.shared.value(SCORES(self.label, "shipped"))  # of the gate answers, when it was selected
        before = known[1] if known is not None and known[1].n else None
        ctx = self.endpoint.ctx
        lowest = ctx.limits.get("answers.accuracy") or LOWER_BOUND
        if before is not None and lowest.accepts(before.interval[0]) is False:
            why = "the same questions were not answered rightly before the load either: see answers.accuracy"
            return [say.skip(why)]
        told, now = accuracy(Api(with_served_version(ctx)), shipped(), under_load.AFTER, say.title, say.subject)
        if not now.n:
            return told
        cells = sum(cell.engine == self.label for cell in self.session.folder.view().cells)
        return [under_load.after_load(replace(say, evidence=told[0].evidence), before, now, lowest, cells)]

    @property
    def folder(self) -> Path:
        """Where this engine's cells are kept."""
        return self.session.folder.path / "load" / key(self.label) / self.subfolder

    @property
    def speculation(self) -> Speculation | None:
        """How the engine drafts, by the options of its profile."""
        target = self.endpoint.target
        return None if target.inventory.attach is not None else speculation_of(target.engine, target.profile.flags)

    def floor_ms(self, cell: Cell) -> float | None:
        """The hardware's lower bound of a decode step, when GPU and model (its config.json) are known; None otherwise."""
        target = self.endpoint.target
        if "gpu" in {s.lower() for s in target.inventory.stood_in}:
            return None
        from pytest_h20.run.facts import published_facts

        facts = published_facts(self.session, self.label)
        node = None if facts is None else facts.probes.nodes.get(target.head.name)
        if node is None or isinstance(node.gpus, Missing) or not node.gpus.gpus or isinstance(node.model_folder, Missing):
            return None
        first, config = node.gpus.gpus[0], node.model_folder.config
        gpu = gpu_model(first.pci_device_id, first.name)
        model = None if isinstance(config, Missing) else spec_of(config)
        if gpu is None or not gpu.hbm or model is None:
            return None
        return step_floor_ms(cell, target.layout, gpu, model)

    def _selfcheck(self, cell: Cell) -> SelfCheck:
        """This client's own error at the cell's concurrency or the next level above it, measured once per level in this process."""
        level = next((known for known in SELFCHECK_LEVELS if known >= cell.concurrency), cell.concurrency)
        if level not in self._checks:
            found = self_check(level, self.dialect, LoadPlan(processes=0))
            for _ in range(SELFCHECK_TRIES - 1):
                if not found.saturated:
                    break
                found = self_check(level, self.dialect, LoadPlan(processes=0))
            rehearsal = self.session.rehearsal
            self._checks[level] = rehearsal.client_check(found) if rehearsal is not None else found
        return self._checks[level]

    @property
    def dialect(self) -> str:
        """How the load speaks: SGLang's native route, or completions with token ids."""
        return self.speaks or ("sglang" if self.endpoint.target.engine == "sglang" else "vllm")

    @property
    def target(self) -> Target:
        """The server under load."""
        return Target(
            self.endpoint.url,
            self.dialect,
            self.endpoint.model,
            headers=dict(self.endpoint.headers),
            vocabulary=vocabulary_of(self.endpoint.target),
            ended_file=self.endpoint.ended_file,
        )

    def _measure(self, cell: Cell, plan: LoadPlan) -> CellResult:
        generator = self.session.settings.load
        if generator != "own":
            from pytest_h20.run.crosscheck import run_in_container

            return run_in_container(self, cell, generator)
        if self.session.settings.load_from:
            from pytest_h20.run.crosscheck import run_from_node

            return run_from_node(self, cell, plan, self.session.settings.load_from)
        return run_cell(self.target, cell, plan, self._progress)

    def _look_for_a_hang(self, progress: CellProgress) -> None:
        """No token of any stream for a minute: looked into while it hangs, before its requests are given up."""
        tokens = round(progress.tokens_per_s * progress.elapsed_s)
        cell, before, since = self._spoke
        if cell != progress.cell or tokens != before or not progress.in_flight:
            self._spoke = (progress.cell, tokens, progress.elapsed_s)
        elif progress.elapsed_s - since >= max(SILENCE_S, LEAST_SILENCE_S * self.session.clock.scale):
            self._spoke = (progress.cell, tokens, math.inf)
            hang = look_once(self.session, self.label, f"no token came in cell {progress.cell}", progress.elapsed_s - since)
            if hang is not None:
                self.write(f"h20: {hang.sentence}\n")

    def _progress(self, progress: CellProgress) -> None:
        self._look_for_a_hang(progress)
        if self._live is not None:
            limits = self.limits.cell(progress.cell) if self.limits and not self.subfolder else {}
            number, of = self.done + 1, max(self.total, self.done + 1)
            self._live.cell = partial(cell_now, self.session.folder, self.label, progress, number, of, limits)
        if not self.terminal:
            return
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        total = progress.total or "?"
        self.write(
            f"\r\x1b[2Kh20: cell {self.done + 1} of {max(self.total, self.done + 1)} {progress.cell}: {progress.done}/{total} requests, "
            f"{progress.tokens_per_s:.0f} tok/s{left}"
        )

    def tell_bin(self, found: Bin, plan: SoakPlan) -> None:
        """The last bin of a soak, to those who look from outside."""
        if self._live is not None:
            self._live.cell = partial(bin_now, self.session.folder, self.label, found, plan)

    def _engine_lives(self, cell: Cell) -> None:
        from pytest_h20.cluster.http import ask
        from pytest_h20.core.errors import TransportError
        from pytest_h20.run.bringup import died

        if (gone := died(self.session, self.label)) is not None:  # its API may still say that it is well
            raise NotRun(f"cell {cell.id} was not run because the engine was gone by then: {gone}")
        try:
            ask(self.endpoint.url, "/health", headers=dict(self.endpoint.headers), timeout=30.0)
        except TransportError as error:
            raise NotRun(f"cell {cell.id} was not run because the engine does not answer: {error}") from None

    # ------------------------------------------------------------------ keeping and judging
    def _keep(self, result: CellResult, repeat: int) -> None:
        from pytest_h20.load.bench_serving import read_records, write_file

        self.folder.mkdir(parents=True, exist_ok=True)
        cell = result.cell
        (self.folder / f"{_stem(cell, repeat)}.json").write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
        records = read_records(result.records_path) if result.records_path and Path(result.records_path).exists() else []
        write_file(str(self.folder), result, records)
        if self.terminal:
            self.write("\r\x1b[2K")
        figures = figures_of(result)
        said = under_load.seen(result.canaries, result.texts).words
        self.write(f"h20: cell {self.done} of {max(self.total, self.done)} {cell.id}: {figures}{said and f'; {said}'}\n")

    def record(self, result: CellResult, repeat: int = 0) -> CellRow:
        """The cell as the report draws it."""
        cell = result.cell
        path = Path(result.records_path) if result.records_path else None
        requests = read_requests(path) if path is not None and path.exists() else ()
        limits = self.limits.cell(cell.id) if self.limits else {}
        floor, each = self.floor_ms(cell), tokens_per_step(result, None if self.speculation is None else 0.0)
        floor = None if floor is None or each is None else floor / each
        blog = {}
        if self.limits is not None and self.limits.origin.kind == "blog":
            for metric in ("output_throughput", "mean_tpot_ms", "mean_ttft_ms"):
                value = self.limits.written(cell.id, metric)
                if value is not None:
                    blog[metric] = value
        blockers = doubts(result)
        return CellRow(
            engine=self.label,
            profile=self.endpoint.target.profile_name,
            input_len=cell.input_len,
            output_len=cell.output_len,
            concurrency=cell.concurrency,
            output_throughput=result.output_throughput,
            input_throughput=result.whole.input_tokens_per_s if result.whole else None,
            mean_ttft_ms=result.mean_ttft_ms,
            mean_tpot_ms=result.mean_tpot_ms,
            more=further(result),
            requests=result.requests.complete,
            seconds=result.whole.seconds if result.whole else 0.0,
            windows=windows(requests, cell.concurrency) if requests else (),
            intervals=intervals(requests) if requests else {},
            repeat=repeat,
            limits=limits,
            blog=blog,
            floor={} if floor is None else {"mean_tpot_ms": floor, "output_throughput": 1e3 * cell.concurrency / floor},
            status=Status.UNKNOWN if blockers or not result.sanity else Status.PASS,
            reason=why_doubted(blockers, self._late.get(_stem(cell, repeat))),
            file=f"{self.folder.relative_to(self.session.folder.path)}/{_stem(cell, repeat)}.json",
            late=self._late.get(_stem(cell, repeat)),
            canaries=under_load.seen(result.canaries, result.texts),
        )

    def judge(self, result: CellResult, repeat: int = 0) -> list[Verdict]:
        """Sanity first, then the limits. Records the cell for the report."""
        record = self.record(result, repeat)
        verdicts = [sanity_verdict(result, self.label, record.file, record.late)]
        machines = self.machines_of(result.cell, repeat)
        if record.status is not Status.UNKNOWN:
            verdicts += self._limit_verdicts(record)
            slo = Slo(self.settings.slo_ttft_ms, self.settings.slo_tpot_ms)
            if slo and not self.session.settings.calibrate:
                verdicts.append(slo_verdict(result, slo, self.settings.slo_share, self.label, record.file))
            worst = max((v.status for v in verdicts), key=lambda s: s.rank)
            record = record.model_copy(update={"status": worst})
        self.session.folder.add(record)
        return verdicts + self.answers(record) + machines

    def _limit_verdicts(self, record: CellRow) -> list[Verdict]:
        if self.session.settings.calibrate or self.settings.limit == "none":
            return [recorded(record)]
        if self.limits is None:
            return [no_limits(record, self.endpoint.target.profile_name)]
        return judge_cell(record, self.limits, str(self.session.folder.path))


def step_floor_ms(cell: Cell, layout: Layout, gpu: GpuSpec, model: ModelSpec) -> float:
    """The hardware's lower bound of a decode step of a cell.

    Stages of a pipeline take turns: a token passes all of them, each with its part of the requests. Copies that share nothing stand
    side by side: none of them has the GPUs of another, nor its requests.
    """
    apart = 1 if layout.joined else layout.replicas
    return 1e3 * decode_bound(
        max(1, cell.concurrency // layout.pipeline // apart),
        cell.input_len + cell.output_len / 2,
        layout.tensor * layout.replicas // apart,
        gpu=gpu,
        model=model,
        kv_groups=layout.attention * layout.replicas // apart,
        cut_over=layout.tensor,
    )


def lateness(result: CellResult, stand_in: Sequence[tuple[float, float, float]], scale: float) -> Late:
    """How late this machine was with a cell. ``stand_in``: wall s of the first, the last and the latest token of each request."""
    to_ms = 1e3 * scale
    firsts, lasts = [a * to_ms for a, _, _ in stand_in] or [0.0], [b * to_ms for _, b, _ in stand_in] or [0.0]
    busy = result.client.longest_busy_s if result.client is not None else 0.0
    answer, complete = result.flight.latency_ms or result.e2e.mean or 0.0, result.requests.complete
    held = 1e3 * result.flight.mean * result.whole.seconds / complete if result.whole is not None and complete else 0.0
    return Late(
        first_ms=statistics.fmean(firsts),
        last_ms=statistics.fmean(lasts),
        most_ms=max(*firsts, *lasts),
        worst_ms=to_ms * max(busy, *(most for _, _, most in stand_in), 0.0),
        client_ms=max(0.0, held - answer),
        answer_ms=answer,
    )


def load_of(session: Session, label: str, endpoint: Endpoint, write: Write, terminal: bool) -> Load:
    """The load generator of one engine. That its limits fit its cells was seen before anything was started."""
    from pytest_h20.config.cells import cells_of

    target = endpoint.target
    settings = session.inventory.load_of(target.profile)
    cells = cells_of(settings)
    return Load(session, label, endpoint, write, terminal, settings, session.limits_of(label), tuple(cells))


def further(result: CellResult) -> dict[str, float]:
    """Every other figure that can be limited, by the names of :data:`~pytest_h20.config.figures.METRIC_FIGURES`."""
    found: dict[str, float | None] = {}
    if result.whole is not None:
        found["total_throughput"] = result.whole.total_tokens_per_s
        found["request_throughput"] = result.whole.requests_per_s
        found["input_throughput"] = result.whole.input_tokens_per_s
    for name in ("ttft", "tpot", "itl", "e2e"):
        seen = getattr(result, name)
        found |= {f"{word}_{name}_ms": getattr(seen, word) for word in ("mean", "median", "p90", "p95", "p99")}
        found |= {f"p50_{name}_ms": seen.median, **{f"{word}_{name}_ms": value for word, value in seen.others.items()}}
    found |= {"longest_silence_ms": result.silence_ms, "tokens_per_arrival": result.tokens_per_arrival}
    return {metric: value for metric, value in found.items() if value is not None and metric not in METRICS}


def _shape(cell: Cell) -> tuple[int, int]:
    """What one warm-up request serves for: prompts and answers of these lengths, at any concurrency."""
    return cell.input_len, cell.output_len


def _stem(cell: Cell, repeat: int) -> str:
    return f"{cell.id}-r{repeat}" if repeat else cell.id


def _tails(times: Summary) -> str:
    return f"{_figure(times.mean)} ms (p50 {_figure(times.median)}, p90 {_figure(times.p90)}, p99 {_figure(times.p99)})"


def figures_of(result: CellResult) -> str:
    """A cell in a line for the terminal."""
    if not result.requests.complete:
        return "no request was answered"
    return f"{_figure(result.output_throughput)} tok/s, TTFT {_tails(result.ttft)}, TPOT {_tails(result.tpot)}, ITL {_tails(result.itl)}"


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
