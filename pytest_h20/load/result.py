"""The result of one cell: every figure, where it came from, and whether it can be believed. JSON-safe.

The JSON form is described by `schema.json`; `SCHEMA` changes when a field changes its meaning or goes away.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.core.errors import UsageError
from pytest_h20.load.canary import CanaryAnswer, TextCounts
from pytest_h20.load.cells import Cell
from pytest_h20.load.metrics import COMPLETE, Rates, Summary
from pytest_h20.load.plan import Slo
from pytest_h20.load.selfcheck_types import SelfCheck
from pytest_h20.load.server_metrics import ServerView

SCHEMA = 1


@dataclass(frozen=True)
class Sanity:
    """One sanity rule applied to one cell.

    status    ok | failed | unknown ("could not be checked", with the reason in `text`)
    required  without it the cell counts as not measured; a rule that is not required blocks only when it failed
    """

    rule: str
    status: str
    text: str
    measured: float | None = None
    expected: float | None = None
    unit: str = ""
    required: bool = True

    @property
    def blocks(self) -> bool:
        return self.status == "failed" or (self.required and self.status != "ok")


@dataclass(frozen=True)
class RequestCounts:
    """`planned` None: bounded by time only. `outcomes` has the words of `loop.OUTCOMES`."""

    planned: int | None
    sent: int
    complete: int
    failed: int
    outcomes: dict[str, int]
    retried: int = 0
    first_failures: tuple[str, ...] = ()
    """The first few different failure texts."""


@dataclass(frozen=True)
class TokenCounts:
    """Of complete requests. `input` and `output` are the server's counts, `asked_*` what was asked for."""

    asked_input: int
    asked_output: int
    input: int
    output: int
    cached: int | None = None
    reasoning: int | None = None
    wrong_input: int = 0
    """Requests whose input count by the server is not the prompt's length."""
    wrong_output: int = 0
    canary_input: int = 0
    """Of `input`, those of canaries: nothing was asked of their length."""


@dataclass(frozen=True)
class Flight:
    """Requests in flight: time averages kept by the loop itself, independent of the records."""

    mean: float
    steady_mean: float | None
    peak: int
    latency_ms: float | None = None
    """Mean E2E of all complete requests, canaries included: for Little's law, which is about all of them."""
    answering: int | None = None
    """The most requests between their first and their last token at one moment (`metrics.most_answering`)."""


@dataclass(frozen=True)
class ClientView:
    """The load generator itself. Wall-clock seconds."""

    processes: int
    cpu_s: float
    cpu_s_per_1000_tokens: float | None
    start_to_first_request_s: float
    longest_busy_s: float
    """Longest time between two looks at the sockets: how late a stamp could be."""
    clock_backwards: int
    clock_drift_s: float
    """Wall clock against monotonic clock over the run; a step shows here."""
    reconnects: int
    clock_steps: int = 0
    """How often the wall clock was set (by more than 1 ms) during the run."""
    host: str = ""
    python: str = ""


@dataclass(frozen=True)
class CellResult:
    """See the module's text. Latencies are `Summary` in ms, rates per second, all in model time (x `time_scale`)."""

    cell: Cell
    generator: str
    url: str
    dialect: str
    model: str
    started_at: str
    recipe: str
    arrivals: str
    prompts: str
    seed: int
    requests: RequestCounts
    tokens: TokenCounts
    ttft: Summary
    tpot: Summary
    itl: Summary
    e2e: Summary
    connect: Summary
    whole: Rates | None
    steady: Rates | None
    flight: Flight
    time_scale: float = 1.0
    schema: int = SCHEMA
    itl_basis: str = "event"
    lag: Summary = field(default_factory=lambda: Summary(0))
    slo: Slo = field(default_factory=Slo)
    goodput_requests_per_s: float | None = None
    goodput_share: float | None = None
    server: ServerView | None = None
    client: ClientView | None = None
    selfcheck: SelfCheck | None = None
    stopped: str = ""
    sanity: tuple[Sanity, ...] = ()
    notes: tuple[str, ...] = ()
    records_path: str | None = None
    silence_ms: float | None = None
    """The longest time without a token event in any answer to the load itself, after its first."""
    tokens_per_arrival: float | None = None
    """`metrics.tokens_per_arrival`"""
    canaries: tuple[CanaryAnswer, ...] = ()
    texts: TextCounts = field(default_factory=TextCounts)

    @property
    def id(self) -> str:
        return self.cell.id

    @property
    def trustworthy(self) -> bool:
        """Whether the figures may be judged: sanity was looked at, and no rule blocks."""
        return bool(self.sanity) and not any(finding.blocks for finding in self.sanity)

    @property
    def blockers(self) -> tuple[Sanity, ...]:
        return tuple(finding for finding in self.sanity if finding.blocks)

    @property
    def output_throughput(self) -> float | None:
        """Output tokens/s over the whole run, as the write-up's table has it."""
        return self.whole.output_tokens_per_s if self.whole else None

    @property
    def mean_ttft_ms(self) -> float | None:
        return self.ttft.mean

    @property
    def mean_tpot_ms(self) -> float | None:
        return self.tpot.mean

    @property
    def mean_input_len(self) -> float | None:
        canaries = sum(1 for answer in self.canaries if answer.outcome in COMPLETE)
        ordinary = self.requests.complete - canaries
        return (self.tokens.input - self.tokens.canary_input) / ordinary if ordinary else None

    @property
    def mean_output_len(self) -> float | None:
        return self.tokens.output / self.requests.complete if self.requests.complete else None

    def to_json(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        document["cell_id"] = self.cell.id
        document["trustworthy"] = self.trustworthy
        return document

    @classmethod
    def from_json(cls, document: Any) -> CellResult:
        """The reverse of `to_json`. Raises UsageError saying which field is wrong. Needs Python 3.10."""
        if not isinstance(document, dict):
            raise UsageError("cell result: an object is needed")
        if document.get("schema") != SCHEMA:
            raise UsageError(f"cell result: schema {document.get('schema')!r}, this version reads {SCHEMA}")
        rest = {key: value for key, value in document.items() if key not in ("cell_id", "trustworthy")}
        result = _build(cls, rest, "cell result")
        assert isinstance(result, cls)
        return result


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` (from JSON) as `kind`, an annotation of the dataclasses above."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, getattr(types, "UnionType", None)):
        if value is None:
            return None
        return _build(next(option for option in arguments if option is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is needed")
        assert isinstance(kind, type)
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise UsageError(f"{where}: unknown fields {', '.join(sorted(unknown))}")
        made = {name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()}
        try:
            return kind(**made)
        except TypeError as error:
            raise UsageError(f"{where}: {error}") from None
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: a list is needed")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: an object is needed")
        return {str(key): _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UsageError(f"{where}: {value!r} is no {getattr(kind, '__name__', kind)}")


def write_json(path: str, document: Any) -> None:
    """Write a JSON file whole or not at all: a run that is killed leaves the old file or none.

    Raises UsageError when the place cannot be written. Standard JSON: infinities and NaN are refused.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
