"""Limit files: which figure is good enough, per cell, per check, per GPU; each limit with its origin.

A file is YAML (or JSON) that people read and edit::

    schema_version: 1
    name: sglang-default
    origin: {kind: blog, detail: "2 x 8 H20, 2025-04-05"}
    engine: sglang                              # what it was written for; a run of anything else refuses it. Left out: any
    profile: default                            # one, or a list
    model: deepseek-r1                          # the inventory's model.kind, or a part of the model's name
    kind: hardware                              # or lab, rehearsal: figures of a stand-in never judge hardware
    metrics:                                    # what a plain number of each figure means
      output_throughput: {kind: min, unit: tok/s, tolerance: 0.10}
      mean_tpot_ms: {kind: max, unit: ms, tolerance: 0.20}
      mean_ttft_ms: {kind: info, unit: ms}
      p99_ttft_ms: {of: mean_ttft_ms, factor: 10}   # in every row that has the one: that much at most, "derived"
    cells:                                      # one row per cell; a number takes the metric's kind
      - {input: 128, output: 128, concurrency: 1, output_throughput: 17.42, mean_tpot_ms: 55.60, mean_ttft_ms: 285.84}
    checks:                                     # limits of other checks, by check id
      fabric.all_reduce: {kind: min, value: 190, unit: GB/s}
    skus:                                       # limits by the PCI id the GPU reports, never by its name
      "10de:2329": {name: H20, checks: {environment.gpu_memory: {kind: min, value: 97000, unit: MiB}}}

Direction, unit and range of a figure are not the file's to choose: :mod:`pytest_h20.config.figures` has them. ``checks`` and ``skus``
can only make a check stricter than it is (:func:`stricter`). ``tolerance`` is the fraction a figure may be worse than the written
value; what is applied is value x (1 - tolerance) for ``min`` and value x (1 + tolerance) for ``max``, and the origin says so. A
calibrated value carries ``n`` and ``spread`` and is judged with its noise (:func:`pytest_h20.report.stats.judge_change`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, JsonValue, ValidationError, model_validator

from pytest_h20.config.environments import environments
from pytest_h20.config.figures import CHECK_FIGURES, METRIC_FIGURES, Figure, metric_figure, percentile_of
from pytest_h20.config.inventory import NEEDED
from pytest_h20.core.errors import UsageError
from pytest_h20.core.model import Frozen
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, rejudge

Kind = Literal["min", "max", "within", "ratio", "info"]
RunKind = Literal["hardware", "lab", "rehearsal"]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
"""A bound that may be missed by more than half is none."""
SANE = 1e15
"""No figure of ours is larger; what is recorded only is held to that alone."""


class MetricRule(Frozen):
    """What a plain number of this metric means in a cell's row; or, with ``of`` and ``factor``, what it is in a row that does not name it:
    so many times the number written for another figure."""

    kind: Kind | None = None
    unit: str | None = None
    tolerance: Tolerance = 0.0
    origin: Origin | None = None
    of: str | None = None
    factor: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> MetricRule:
        if (self.of is None) != (self.factor is None):
            raise ValueError("of and factor belong together: so many times another figure of the same row")
        if self.kind is None and self.of is None:
            raise ValueError("kind is missing: min, max, within, ratio or info; or of and factor")
        return self


class Spec(Frozen):
    """One limit as written. Unset fields come from the metric's rule and the file's origin.

    ``n``: repeats behind ``value`` (their mean). ``spread``: their standard deviation as a fraction of the mean. ``interval``:
    95 % interval of the mean. ``drop``: the change for the worse that matters; the gate is built to see exactly that much.
    """

    kind: Kind | None = None
    value: JsonValue = None
    unit: str | None = None
    tolerance: Tolerance | None = None
    reference: float | None = Field(None, gt=0, allow_inf_nan=False)
    origin: Origin | None = None
    n: Annotated[int, Field(ge=2)] | None = None
    spread: Fraction | None = None
    interval: tuple[float, float] | None = None
    drop: Annotated[float, Field(gt=0, le=0.5)] | None = None

    @model_validator(mode="after")
    def _calibrated_whole(self) -> Spec:
        given = [name for name in ("n", "spread", "drop") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(f"{', '.join(given)} without the rest: a calibrated limit has n, spread and drop together")
        return self


@dataclass(frozen=True)
class Baseline:
    """A calibrated figure: ``mean`` of ``n`` repeats, ``spread`` = their standard deviation / mean, ``drop`` that matters."""

    mean: float
    n: int
    spread: float
    drop: float


class CellLimits(Frozen):
    """A row: one cell and its limits."""

    input: Annotated[int, Field(ge=1)]
    output: Annotated[int, Field(ge=1)]
    concurrency: Annotated[int, Field(ge=1)]
    limits: dict[str, Spec] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        """Every key that is not the cell's own is a metric."""
        if not isinstance(data, Mapping) or "limits" in data:
            return data
        own = {key: data[key] for key in ("input", "output", "concurrency") if key in data}
        metrics = {k: v if isinstance(v, Mapping) else {"value": v} for k, v in data.items() if k not in own}
        return {**own, "limits": metrics}

    @property
    def id(self) -> str:
        """``in128-out128-c64``"""
        return f"in{self.input}-out{self.output}-c{self.concurrency}"


class SkuLimits(Frozen):
    """Limits of one GPU model, found by PCI id."""

    name: str
    checks: dict[str, Spec]


PciId = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]


class LimitFile(Frozen):
    """A whole file. ``engine``, ``profile``, ``model`` and ``kind`` say what it was written for; empty means any."""

    schema_version: Literal[1] = 1
    name: str
    description: str = ""
    engine: str = ""
    profile: str | tuple[str, ...] = ""
    model: str = ""
    kind: RunKind | None = None
    origin: Origin
    metrics: dict[str, MetricRule] = Field(default_factory=dict)
    cells: tuple[CellLimits, ...] = ()
    checks: dict[str, Spec] = Field(default_factory=dict)
    skus: dict[PciId, SkuLimits] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _usable(self) -> LimitFile:
        problems = []
        for metric, rule in self.metrics.items():
            where = f"metrics: {metric}"
            problems += _figure_problems(where, metric_figure(metric), METRIC_FIGURES, rule.kind, rule.unit)
            if rule.of is not None:
                problems += _figure_problems(f"{where}: of = {rule.of!r}", metric_figure(rule.of), METRIC_FIGURES, None, None)
        seen: set[str] = set()
        for row in self.cells:
            if row.id in seen:
                problems.append(f"cells: {row.id} is given twice")
            seen.add(row.id)
            if not row.limits:
                problems.append(f"cells: {row.id} has no limit; give one of {', '.join(self.metrics) or 'your metrics'}")
            for metric, spec in row.limits.items():
                problems += _spec_problems(f"cells: {row.id}: {metric}", metric, METRIC_FIGURES, spec, self.metrics.get(metric))
        for check, spec in self.checks.items():
            problems += _spec_problems(f"checks: {check}", check, CHECK_FIGURES, spec, None)
        for pci, sku in self.skus.items():
            for check, spec in sku.checks.items():
                problems += _spec_problems(f"skus: {pci}: {check}", check, CHECK_FIGURES, spec, None)
        if not (self.cells or self.checks or self.skus):
            problems.append("no limit in it: give cells, checks or skus")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def _rows(self) -> dict[str, CellLimits]:
        return {row.id: row for row in self.cells}

    @property
    def cell_ids(self) -> tuple[str, ...]:
        """Ids of all cells, as written."""
        return tuple(row.id for row in self.cells)

    def cell(self, cell: str) -> dict[str, Limit]:
        """The limits of a cell by metric; empty when the file does not have the cell."""
        row = self._rows.get(cell)
        if row is None:
            return {}
        found = {m: self._limit(s, self.metrics.get(m), figure) for m, s in row.limits.items() if (figure := metric_figure(m))}
        for metric, rule in self.metrics.items():
            base = self.written(cell, rule.of) if rule.of is not None and metric not in found else None
            figure = metric_figure(metric)
            if base is not None and figure is not None and rule.factor is not None:
                detail = f"{rule.factor:g} x {rule.of} {base:g} ({self.origin})"
                origin = rule.origin or Origin(kind="derived", detail=detail)
                found[metric] = Limit(kind=rule.kind or figure.bound, value=base * rule.factor, unit=figure.unit, origin=origin)
        return found

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The percentiles that it limits, anywhere."""
        named = {*self.metrics, *(metric for row in self.cells for metric in row.limits)}
        return tuple(sorted({percent for metric in named if (percent := percentile_of(metric)) is not None}))

    def baseline(self, cell: str, metric: str) -> Baseline | None:
        """The calibrated figure behind a limit, or None when the limit was not calibrated."""
        row = self._rows.get(cell)
        spec = row.limits.get(metric) if row else None
        if spec is None or spec.n is None or spec.spread is None or spec.drop is None:
            return None
        if not isinstance(spec.value, (int, float)):
            return None
        return Baseline(mean=float(spec.value), n=spec.n, spread=spec.spread, drop=spec.drop)

    def written(self, cell: str, metric: str) -> float | None:
        """The figure as written in the file, before tolerance (the write-up's own, in its file)."""
        row = self._rows.get(cell)
        spec = row.limits.get(metric) if row else None
        return float(spec.value) if spec and isinstance(spec.value, (int, float)) else None

    def check(self, check: str, pci_id: str | None = None) -> Limit | None:
        """The limit of another check: the GPU's own row first, then the file's common one."""
        sku = self.skus.get(pci_id.lower()) if pci_id else None
        spec = (sku.checks.get(check) if sku else None) or self.checks.get(check)
        return self._limit(spec, None, CHECK_FIGURES[check]) if spec else None

    @property
    def checks_limited(self) -> dict[str, None]:
        """Ids of all checks that it limits, for all GPUs or for some."""
        return dict.fromkeys([*self.checks, *(check for sku in self.skus.values() for check in sku.checks)])

    def without_row(self, check: str, pci_id: str | None) -> str:
        """Why a check that is limited by GPU has no limit on this one; "" when it has one, or is not limited by GPU."""
        by_gpu = [pci for pci, sku in self.skus.items() if check in sku.checks]
        if not by_gpu or self.check(check, pci_id) is not None:
            return ""
        return f"limits {self.name!r} have no row for GPU {pci_id or 'with unknown PCI id'}; they have {', '.join(by_gpu)}"

    def unfit(self, *, engine: str, profile: str, model: Iterable[str] = (), kind: str = "") -> list[str]:
        """What this file was written for and the run is not: field, value, what is accepted. Empty: it fits.

        ``model``: what the model is called; ``profile`` and ``kind`` may be empty when nobody knows them.
        """
        problems = []
        if self.engine and self.engine != engine:
            problems.append(f"engine = {self.engine!r}: these limits are for {self.engine}, the run is one of {engine}")
        profiles = (self.profile,) if isinstance(self.profile, str) else self.profile
        if profile and any(profiles) and profile not in profiles:
            accepted = f"the run's profile is {profile!r}; if they are meant for it, add it: profile: [{', '.join((*profiles, profile))}]"
            problems.append(f"profile = {', '.join(profiles)!r}: {accepted}")
        names = [name for name in model if name]
        if self.model and not any(self.model.lower() in name.lower() for name in names):
            problems.append(f"model = {self.model!r}: the run's model is {', '.join(names) or 'not known'}")
        if self.kind and kind and kind not in (("hardware", "rehearsal") if self.kind == "hardware" else (self.kind,)):
            problems.append(f"kind = {self.kind!r}: figures of a {self.kind} cannot judge a run of kind {kind!r}")
        return problems

    def _limit(self, spec: Spec, rule: MetricRule | None, figure: Figure) -> Limit:
        kind = spec.kind or (rule.kind if rule else None) or figure.bound
        unit = figure.unit
        tolerance = spec.tolerance if spec.tolerance is not None else rule.tolerance if rule else 0.0
        if spec.drop is not None:
            # A plain threshold lies half-way to the drop that matters: equally far from "as before" and from "worse by that".
            tolerance = spec.drop / 2
        origin = spec.origin or (rule.origin if rule else None) or self.origin
        value = spec.value
        if kind in ("min", "max") and isinstance(value, (int, float)) and (tolerance or spec.n):
            sign = -1 if kind == "min" else 1
            word = "less" if kind == "min" else "plus"
            basis = f"mean of {spec.n} runs, spread {100 * (spec.spread or 0):.1f} %, " if spec.n else ""
            note = f"{basis}{value:g} {unit}".rstrip() + f" {word} {100 * tolerance:g} %"
            origin = Origin(kind=origin.kind, detail=f"{origin.detail}: {note}" if origin.detail else note)
            value = value * (1 + sign * tolerance)
        return Limit(
            kind=kind,
            value=value,
            unit=unit,
            tolerance=tolerance if kind == "within" else 0.0,
            reference=spec.reference,
            origin=origin,
        )


def _figure_problems(where: str, figure: Figure | None, known: Mapping[str, Figure], kind: str | None, unit: str | None) -> list[str]:
    if figure is None:
        percentiles = "; and any percentile of a time, as p75_ttft_ms" if known is METRIC_FIGURES else ""
        return [f"{where}: there is no such figure to limit; there are {', '.join(known)}{percentiles}"]
    problems = []
    if kind is not None and kind not in figure.kinds:
        meaning = f"{figure.better} is better here"
        problems.append(f"{where}: kind = {json.dumps(kind)}: {meaning}; accepted are {', '.join(figure.kinds)}")
    if unit is not None and unit != figure.unit:
        wanted = f"it is counted in {figure.unit}" if figure.unit else "it has no unit"
        problems.append(f"{where}: unit = {json.dumps(unit)}: {wanted}; convert the value, and write that or leave unit out")
    return problems


def _spec_problems(where: str, name: str, known: Mapping[str, Figure], spec: Spec, rule: MetricRule | None) -> list[str]:
    figure = metric_figure(name) if known is METRIC_FIGURES else known.get(name)
    problems = _figure_problems(where, figure, known, spec.kind, spec.unit)
    if figure is None or problems:
        return problems
    kind = spec.kind or (rule.kind if rule else None) or figure.bound
    value = spec.value
    if kind == "info":
        wild = _is_number(value) and not abs(value) <= SANE
        return [f"{where} = {json.dumps(value)}: no figure is as large as that"] if wild else []
    if not _is_number(value):
        return [f"{where} = {json.dumps(value)}: kind {kind} needs a number"]
    if kind == "ratio":
        if spec.reference is None:
            return [f"{where}: kind ratio needs reference: the number the measurement is divided by"]
        if not 0.5 <= value <= 2:
            return [f"{where} = {value}: a ratio lies between 0.5 and 2"]
        value *= spec.reference
    if kind in ("min", "within") and value <= 0:
        return [f"{where} = {value}: a {kind} of zero or less accepts anything; write kind: info to record only"]
    if not figure.low <= value <= figure.high:
        span = f"{figure.low:g} to {figure.high:g} {figure.unit}".rstrip()
        return [f"{where} = {value:g}: a limit of this figure lies between {span}; is it in another unit?"]
    return []


def _below(a: object, b: object) -> bool:
    return _is_number(a) and _is_number(b) and a < b


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ---------------------------------------------------------------- checks


def stricter(verdict: Verdict, limit: Limit | None) -> Verdict:
    """The verdict of a check, held against a file's limit as well. It can become worse by that, never better.

    A check that was skipped because nothing was expected is judged now; one that measured nothing "could not be measured". Where a
    check has several figures, the limit is that of the one with its unit.
    """
    if limit is None or limit.kind == "info" or verdict.status.blocks:
        return verdict
    if verdict.limit is not None and verdict.limit.unit != limit.unit:
        return verdict
    if limit.accepts(verdict.measured) is None:
        why = f"{limit.origin}: a limit is given, and it was not measured" + (f": {verdict.reason}" if verdict.reason else "")
        return verdict.model_copy(update={"status": Status.UNKNOWN, "reason": why})
    own = verdict.limit
    low, high = (limit, own) if limit.kind == "max" else (own, limit)
    tighter = own is None or own.kind != limit.kind or (low and high and _below(low.value, high.value))
    held = rejudge(verdict.model_copy(update={"status": Status.PASS, "unit": limit.unit}), limit)
    if held.status.blocks:
        return held.model_copy(update={"reason": f"{limit.origin} wants more than the check does of itself" if own is not None else ""})
    if verdict.status is Status.SKIP:
        return held.model_copy(update={"reason": ""})
    return verdict.model_copy(update={"limit": limit}) if tighter else verdict


# ---------------------------------------------------------------- loading


def load_limits(path: Path) -> LimitFile:
    """Read and check a limits file (``.yaml``, ``.yml`` or ``.json``).

    Raises:
        UsageError: one line per problem: file, field, value, what is accepted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such limits file; those that are shipped lie in {environments() / 'thresholds'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return parse_limits(text, str(path))


def parse_limits(text: str, source: str) -> LimitFile:
    """As :func:`load_limits`, for text. JSON is taken when ``source`` ends in ``.json``."""
    data = _json(text, source) if source.endswith(".json") else _yaml(text, source)
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: a limits file is a mapping with name, origin, metrics and cells, not {type(data).__name__}")
    try:
        return LimitFile.model_validate(data)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(error, source))) from None


def _yaml(text: str, source: str) -> object:
    from pytest_h20.config.inventory import read_yaml

    return read_yaml(text, source)


def _json(text: str, source: str) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise UsageError(f"{source}: key {key!r} is given twice")
            seen[key] = value
        return seen

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise UsageError(f"{source}: not valid JSON: {error}") from None
    except RecursionError:
        raise UsageError(f"{source}: not valid JSON: nested too deeply; limits are a few levels deep") from None


def _explain(error: ValidationError, source: str) -> list[str]:
    lines = []
    for item in error.errors():
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":
            lines += [f"{source}: {where}{': ' if where else ''}{line}" for line in message.splitlines()]
        elif item["type"] == "missing":
            lines.append(f"{source}: {where}: missing; this field is required")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{source}: {where}: unknown field")
        else:
            value = json.dumps(item.get("input"), ensure_ascii=False, default=str)
            message = NEEDED.get(item["type"], message)
            lines.append(f"{source}: {where} = {value[:60]}: {message[:1].lower()}{message[1:]}")
    return lines


# ---------------------------------------------------------------- coverage


@dataclass(frozen=True)
class Coverage:
    """How cells and limits fit. Both lists must be empty: a figure nobody judges, and a limit nobody meets, hide faults."""

    without_limit: tuple[str, ...]
    without_cell: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """One sentence per side that does not fit; empty when all is well."""
        found = []
        if self.without_limit:
            found.append(f"cells without a judged limit: {', '.join(self.without_limit)}")
        if self.without_cell:
            found.append(f"limits without a cell: {', '.join(self.without_cell)}")
        return found


def coverage(cells: Iterable[str], limits: LimitFile, metrics: Iterable[str] = ("output_throughput",)) -> Coverage:
    """Hold cell ids (``in128-out128-c64``) against a file.

    A cell counts as limited when at least one of ``metrics`` has a limit that judges (not ``info``).
    """
    wanted = list(dict.fromkeys(cells))
    required = tuple(metrics)

    def judged(cell: str) -> bool:
        found = limits.cell(cell)
        return any(m in found and found[m].kind != "info" for m in required)

    return Coverage(
        without_limit=tuple(c for c in wanted if not judged(c)),
        without_cell=tuple(c for c in limits.cell_ids if c not in set(wanted)),
    )


def require_coverage(cells: Iterable[str], limits: LimitFile, source: str) -> None:
    """Raise ``UsageError`` when a cell has no limit or a limit no cell."""
    problems = coverage(cells, limits).problems
    if problems:
        advice = "add the missing rows, remove the others, or choose the cells with load: in the inventory"
        raise UsageError(f"{source}: " + "; ".join(problems) + f"; {advice}")


def require_fit(limits: LimitFile, source: str, *, engine: str, profile: str, model: Iterable[str] = (), kind: str = "") -> None:
    """Raise ``UsageError`` when the file was written for another engine, profile, model or kind of run."""
    problems = limits.unfit(engine=engine, profile=profile, model=model, kind=kind)
    if problems:
        raise UsageError("\n".join(f"{source}: {problem}" for problem in problems))
