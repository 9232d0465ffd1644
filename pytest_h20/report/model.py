"""What a run records, as data: header, checks, and the records that the report draws.

Every record is one line of ``events.jsonl`` (its ``kind`` says which) and comes back from
:func:`pytest_h20.report.run.load_run` as a member of :class:`RunView`. Field names of figures are those of sglang's
``bench_serving`` (``output_throughput`` in tokens/s, ``mean_ttft_ms``, ``mean_tpot_ms``), so that a limit, a CSV column and a
chart say the same word.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from pytest_h20.core.model import Frozen
from pytest_h20.core.verdict import ALWAYS, Decision, GateName, GateResult, Limit, Status, Verdict

SCHEMA_VERSION = 1

METRICS: dict[str, tuple[str, str]] = {
    "output_throughput": ("Output throughput", "tok/s"),
    "mean_tpot_ms": ("Mean TPOT", "ms"),
    "mean_ttft_ms": ("Mean TTFT", "ms"),
}
"""The figures that are charted and compared: title and unit. Throughput is better when higher, the others when lower."""
WORDS: dict[Status, str] = {
    Status.PASS: "passed",
    Status.SKIP: "skipped",
    Status.WARN: "passed, with warnings",
    Status.UNKNOWN: "could not measure",
    Status.FAIL: "FAILED",
}
"""A gate's outcome, as the terminal says it."""


def higher_is_better(metric: str) -> bool:
    """True for rates, False for times."""
    return not metric.endswith("_ms")


class Mode(str, Enum):
    """What a run did. Only ``full`` and ``attach`` look at the real thing, so only they can be accepted."""

    FULL = "full"
    ATTACH = "attach"
    PLAN = "plan"
    REPLAY = "replay"
    REHEARSAL = "rehearsal"
    LAB = "lab"

    @property
    def can_accept(self) -> bool:
        """False when something below the verdict was stood in, or nothing was measured now."""
        return self in (Mode.FULL, Mode.ATTACH)

    @property
    def words(self) -> str:
        """One sentence for a reader who does not know the modes."""
        return {
            Mode.FULL: "full run: checked, started and tested the engine on the machines",
            Mode.ATTACH: "attached: tested an engine that was already running",
            Mode.PLAN: "plan: printed what would be done and touched nothing",
            Mode.REPLAY: "replay: judged the recorded evidence of an earlier run again; nothing was measured now",
            Mode.REHEARSAL: "REHEARSAL: the cluster was an embedded stand-in; no hardware was touched",
            Mode.LAB: "LAB: parts of the hardware were stood in",
        }[self]


def _inside(path: str) -> str:
    """A path of the run's folder: a record that somebody planted must not name another file."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("a path inside the run's folder is needed")
    return path


# ---------------------------------------------------------------- records, one line of events.jsonl each


class StateChange(Frozen):
    """The cluster entered a state: off, preflight, launching, joining, loading, ready, broken, down.

    ``node`` is empty for the cluster as a whole. The state lasts until the next change of the same engine and node.
    """

    kind: Literal["state"] = "state"
    engine: str
    state: str
    node: str = ""
    note: str = ""


LATE_SHARE = 0.02
"""From this part of a request's time on, this machine's own lateness is told as the cause of what could not be measured."""


class Late(Frozen):
    """How late the machine of the run itself was with a cell: ms of model time, means over its requests.

    ``first_ms``, ``last_ms``: when the stand-in's first and last tokens left, after they were due; ``most_ms``: the latest of them;
    ``worst_ms``: how late any token was, here or when this client looked.
    ``client_ms``: until this client noticed that an answer had ended, after it had arrived. ``answer_ms``: mean E2E, to compare.
    """

    first_ms: float = 0.0
    last_ms: float = 0.0
    most_ms: float = 0.0
    worst_ms: float = 0.0
    client_ms: float = 0.0
    answer_ms: float = 0.0

    @property
    def share(self) -> float:
        """The part of the time of a request that is nobody's but this machine's."""
        return (self.last_ms + self.client_ms) / self.answer_ms if self.answer_ms else 0.0

    @property
    def words(self) -> str:
        """The cause in one sentence."""
        parts = [
            f"{who} was late by {ms:.0f} ms a request"
            for who, ms in (("the stand-in", max(self.first_ms, self.last_ms)), ("this client", self.client_ms))
            if ms > 0.01 * self.answer_ms
        ]
        said = " and ".join(parts) or f"a token was late by {max(self.most_ms, self.worst_ms):.0f} ms"
        return f"{said} (mean E2E {self.answer_ms:.0f} ms): this machine is too busy to measure"

    def without(self, metric: str, value: float, cell: CellRow) -> float:
        """The figure as it may have been on a machine that keeps its time: the means are right, of the rest it is the best case."""
        _, _, name = metric.removesuffix("_ms").rpartition("_")
        if metric.endswith("throughput"):
            # The latest stream ends the measurement: by its own lateness in one wave, by that of all its turns in several.
            lost = max(self.most_ms, (self.last_ms + self.client_ms) * cell.requests / cell.concurrency)
            return value * 1e3 * cell.seconds / max(1.0, 1e3 * cell.seconds - lost) if cell.seconds else value
        if metric == "tokens_per_arrival":
            return 1.0 if self.share > LATE_SHARE else value
        mean = metric.startswith("mean_")
        tokens = max(1, cell.output_len - 1)
        late = {
            "ttft": self.first_ms if mean else self.most_ms,
            "e2e": self.last_ms if mean else self.most_ms,
            "tpot": (max(0.0, self.last_ms - self.first_ms) if mean else self.most_ms) / tokens,
            "itl": max(0.0, self.last_ms - self.first_ms) / tokens if mean else max(self.most_ms, self.worst_ms),
            "silence": self.worst_ms,
        }
        return value - late.get(name, 0.0)


class Canaries(Frozen):
    """What a cell's canaries said (`load/canary.py`), and the text of its ordinary load. Every canary is counted in exactly one of
    ``failed`` (its request), ``blank``, ``flood`` (one token for ever), ``loop``, ``cut`` (it never ended), ``swapped`` (somebody else's
    answer), and those that gave an answer: ``questions`` and ``nonces`` (of which ``right`` and ``back``), ``twins`` (prompts asked
    several times at once, of which ``alike`` say what one says alone). ``lost``: of the nonces that did not come back, those whose
    answer has nothing of it.
    """

    asked: int = 0
    failed: int = 0
    questions: int = 0
    right: int = 0
    nonces: int = 0
    back: int = 0
    lost: int = 0
    twins: int = 0
    alike: int = 0
    blank: int = 0
    flood: int = 0
    loop: int = 0
    cut: int = 0
    swapped: int = 0
    texts: int = Field(0, description="answers of the ordinary load whose text was seen")
    texts_empty: int = Field(0, description="of them, those without any text although the server counted tokens")
    texts_one_token: int = Field(0, description="of them, those of one token or short phrase for ever")
    examples: tuple[str, ...] = Field((), description="the first of what was wrong")

    @property
    def graded(self) -> int:
        """Questions and nonces that were answered."""
        return self.questions + self.nonces

    @property
    def wrong(self) -> int:
        """Of them, those answered wrongly."""
        return self.graded - self.right - self.back

    @property
    def degenerate(self) -> int:
        """Answers that are none: blank, a flood or a loop."""
        return self.blank + self.flood + self.loop

    @property
    def words(self) -> str:
        """In one line. Empty when none was asked."""
        if not self.asked:
            return ""
        parts = [f"{self.right} of {self.questions} right"] if self.questions else []
        parts += [f"{self.back} of {self.nonces} nonces back"] if self.nonces else []
        parts += [f"{self.alike} of {self.twins} alike"] if self.twins else []
        others = ("blank", "flood", "loop", "cut", "swapped", "failed")
        parts += [f"{count} {name}" for name in others if (count := getattr(self, name))]
        return f"{self.asked} canaries: " + ", ".join(parts)


class CellRow(Frozen):
    """One load cell: input length x output length x concurrency, with its figures and what they are held against.

    ``windows``: output tokens per second in equal windows of the steady part, for the bootstrap. ``intervals``: 95 % interval
    (low, high) of a figure where it was computed. ``blog``: the write-up's figures. ``floor``: what the hardware cannot beat
    (for times a lower bound, for throughput an upper one). ``status`` UNKNOWN with ``reason`` when sanity failed.
    ``repeat``: 1, 2 ... when a calibration measures the cell several times; 0 when it is measured once.
    ``file``: the cell's own JSON in the run folder, with per-request lists (``ttfts``, ``latencies`` ... in seconds).
    """

    kind: Literal["cell"] = "cell"
    engine: str
    profile: str = ""
    input_len: Annotated[int, Field(ge=1)]
    output_len: Annotated[int, Field(ge=1)]
    concurrency: Annotated[int, Field(ge=1)]
    output_throughput: float | None = None
    input_throughput: float | None = None
    mean_ttft_ms: float | None = None
    mean_tpot_ms: float | None = None
    more: dict[str, float] = Field(default_factory=dict, description="further figures by bench_serving's names")
    repeat: Annotated[int, Field(ge=0)] = 0
    requests: int = 0
    seconds: float = 0.0
    windows: tuple[float, ...] = ()
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    limits: dict[str, Limit] = Field(default_factory=dict)
    blog: dict[str, float] = Field(default_factory=dict)
    floor: dict[str, float] = Field(default_factory=dict)
    canaries: Canaries | None = Field(None, description="answers under this cell's load")
    status: Status = Status.UNKNOWN
    reason: str = ""
    file: Annotated[str, AfterValidator(_inside)] = ""
    late: Late | None = Field(None, description="of a rehearsal: how late its own machine was")

    @property
    def name(self) -> str:
        """``in128-out128-c64``, as in limit files and verdict subjects."""
        return f"in{self.input_len}-out{self.output_len}-c{self.concurrency}"

    @property
    def lengths(self) -> tuple[int, int]:
        """Input and output length in tokens."""
        return self.input_len, self.output_len

    def figure(self, metric: str) -> float | None:
        """A figure by name, or None when it was not measured."""
        value: float | None = getattr(self, metric) if metric in METRICS else self.more.get(metric)
        return value

    def with_figure(self, metric: str, value: float) -> CellRow:
        """The cell with another value of one figure."""
        return self.model_copy(update={metric: value} if metric in METRICS else {"more": {**self.more, metric: value}})


class RailTraffic(Frozen):
    """What one rail (``node``'s HCA) did during the proof: GB (10^9 bytes) sent and received, channels NCCL put on it.

    ``gdr``: True when every channel says GDRDMA, False when one does not, None when that was not seen.
    """

    kind: Literal["rail"] = "rail"
    engine: str = ""
    node: str
    hca: str
    port: int = 1
    interface: str = ""
    peer_node: str = ""
    peer_hca: str = ""
    gb_sent: float | None = None
    gb_received: float | None = None
    gb_expected: float | None = None
    channels: int | None = None
    gdr: bool | None = None
    status: Status = Status.UNKNOWN
    reason: str = ""


class RailPair(Frozen):
    """What one GPU moved through its NIC to the GPU of the peer before the engine started, all rails of the node at once. Gbit/s;
    ``latency_us`` of 8 bytes. ``gpu``: nvidia-smi's number, None where it was host memory. None: not measured."""

    kind: Literal["pair"] = "pair"
    engine: str = ""
    node: str
    hca: str
    gpu: int | None = None
    peer_node: str = ""
    peer_hca: str = ""
    peer_gpu: int | None = None
    write_gbps: float | None = None
    read_gbps: float | None = None
    line_gbps: float | None = None
    latency_us: float | None = None


class GpuLoad(Frozen):
    """One GPU while a cell ran. ``spreads``: quantity (``sm_mhz``, ``power_w``, ``temperature_c``, ``mem_mhz``, ``memory_mib``) to its
    (smallest, median, largest). ``series``: (model seconds since the cell's start, value), thinned. ``throttled``: reason to samples.
    ``apart``: in what it stands apart from the others; empty when it does not."""

    node: str
    index: int
    serial: str = ""
    slot: str = ""
    spreads: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    series: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
    throttled: dict[str, int] = Field(default_factory=dict)
    samples: int = 0
    apart: str = ""


class HostLoad(Frozen):
    """One node while a cell ran. ``run_queue``: (smallest, median, largest). ``memory_bytes``: of our containers, at most. ``rails``:
    port to counter to how far it rose."""

    steal_share: float | None = None
    run_queue: tuple[float, float, float] | None = None
    memory_bytes: int | None = None
    rails: dict[str, dict[str, int]] = Field(default_factory=dict)


class CellLoad(Frozen):
    """The machines while one cell ran. ``began``, ``ended``: of a clock that only runs forward, of the machine that made the load.
    ``gaps``: what was not seen, in words; ``missing``: nodes that told nothing, and why. ``energy_wh_per_1k``: watt-hours of the GPUs per
    1,000 output tokens, None unless every power was seen. ``gauges``: what the engine said of itself in ``/metrics``: most running and
    waiting requests, most of its KV cache in use (0 to 1), requests that it preempted or retracted."""

    kind: Literal["load"] = "load"
    engine: str
    cell: str
    repeat: int = 0
    began: float = 0.0
    ended: float = 0.0
    seconds: float = 0.0
    gpus: tuple[GpuLoad, ...] = ()
    hosts: dict[str, HostLoad] = Field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    missing: dict[str, str] = Field(default_factory=dict)
    energy_wh_per_1k: float | None = None
    gauges: dict[str, float] = Field(default_factory=dict)


class DrillRow(Frozen):
    """One drill in the recovery table. ``clients``: how requests ended after the fault; ``told_s``: until the first one that was not
    answered was over; ``health``: statuses of ``/health`` in their order (0: no answer); ``settled``: ``well``, ``down`` or neither."""

    kind: Literal["drill"] = "drill"
    engine: str
    drill: str
    proof: str = ""
    clients: dict[str, int] = Field(default_factory=dict)
    told_s: float | None = None
    health: tuple[int, ...] = ()
    settled: str = ""
    settled_s: float | None = None
    restart: str = ""
    restart_s: float | None = None
    left: tuple[str, ...] = ()
    stuck: str = ""


class SoakSeries(Frozen):
    """One figure of a soak over its hours. ``shift_at``: hours at which its level changed. ``said``: what it comes to, in words."""

    check: str
    name: str
    unit: str
    of: str = ""
    points: tuple[tuple[float, float], ...] = ()
    status: Status
    said: str = ""
    shift_at: float | None = None


class SoakEvent(Frozen):
    """What happened once in a soak: a stall, failed requests, its end."""

    hours: float
    words: str


class SoakRecord(Frozen):
    """A soak as the report draws it. ``asked`` and ``lasted``: hours. ``began``, ``ended``: ``time.monotonic`` of the run's machine.
    ``leap``: by how much an hour was shortened beyond the rehearsal's own speed (1: a real hour)."""

    kind: Literal["soak"] = "soak"
    engine: str
    streams: int
    lengths: tuple[tuple[int, int], ...]
    asked: float
    lasted: float
    stopped: str
    sent: int
    complete: int
    began: float = 0.0
    ended: float = 0.0
    leap: float = 1.0
    series: tuple[SoakSeries, ...] = ()
    events: tuple[SoakEvent, ...] = ()
    file: Annotated[str, AfterValidator(_inside)] = ""


class KernelLine(Frozen):
    """A line of a node's kernel log, written while a gate ran. ``after_s``: since the start of the cell, else of the gate, model time."""

    kind: Literal["kernel"] = "kernel"
    node: str
    gate: GateName
    engine: str = ""
    cell: str = ""
    after_s: float | None = None
    severity: str = ""
    meaning: str = ""
    action: str = ""
    text: str = ""


class NodeColumn(Frozen):
    """Facts of one node for the table that compares nodes: a word to a short text (``driver``: ``535.216.03``)."""

    kind: Literal["facts"] = "facts"
    node: str
    facts: dict[str, str]


class Command(Frozen):
    """A command that was run (or, in a plan, would be), exactly as a person could type it."""

    kind: Literal["command"] = "command"
    node: str
    command: str
    purpose: str = ""
    rc: int | None = None
    seconds: float | None = None


class LogTail(Frozen):
    """The last lines of a log: what a reader needs when a start failed. ``evidence``: the whole file in the run folder."""

    kind: Literal["log"] = "log"
    node: str
    source: str
    text: str
    evidence: str = ""


class SetupError(Frozen):
    """A test (or the bring-up all tests need) broke before it could check anything; or a test that counts for no gate failed
    (``words`` says which of the two)."""

    kind: Literal["setup_error"] = "setup_error"
    test_id: str
    title: str
    words: str = "set-up error"
    cause: str = ""
    fix: str = ""
    text: str = ""
    evidence: tuple[str, ...] = ()


class Warning_(Frozen):
    """Something a reader of the figures must know (host key checking off, a slow client, a damaged record)."""

    kind: Literal["warning"] = "warning"
    text: str


class Other(BaseModel):
    """Any further event; ``kind`` and whatever fields came with it."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str


Record = Annotated[
    StateChange
    | CellRow
    | RailTraffic
    | RailPair
    | CellLoad
    | SoakRecord
    | KernelLine
    | DrillRow
    | NodeColumn
    | Command
    | LogTail
    | SetupError
    | Warning_,
    Field(discriminator="kind"),
]
RECORD_TYPES: dict[str, type[BaseModel]] = {
    "state": StateChange,
    "cell": CellRow,
    "rail": RailTraffic,
    "pair": RailPair,
    "load": CellLoad,
    "soak": SoakRecord,
    "kernel": KernelLine,
    "drill": DrillRow,
    "facts": NodeColumn,
    "command": Command,
    "log": LogTail,
    "setup_error": SetupError,
    "warning": Warning_,
}


class Timed(Frozen):
    """A state with the time it was entered."""

    time: datetime
    change: StateChange


# ---------------------------------------------------------------- the run


class NodeBrief(Frozen):
    """A node as the first screen names it."""

    name: str
    address: str = ""
    gpus: str = ""


NOT_ASKED = "no test of a gate was selected"


class Header(Frozen):
    """What was run, on what, since when. Known at the start; fields learnt later come by ``RunFolder.describe``.

    ``settings``: effective option -> "value (where it came from)". ``required``: gates that must pass. ``cannot_accept``:
    reasons beyond the mode why this run can never be accepted (a profile that records without judging, a partial selection).
    ``conditions``: what the inventory looks away from; an acceptance is one under these conditions. ``unfinished``: why the run ended
    before everything had reported; empty when it did not. ``time_scale``: 1 in reality; a rehearsal that plays time faster says by
    how much.
    """

    run: str = ""
    name: str = ""
    engines: tuple[str, ...] = ()
    mode: Mode = Mode.FULL
    started: datetime | None = None
    ended: datetime | None = None
    nodes: tuple[NodeBrief, ...] = ()
    images: dict[str, str] = Field(default_factory=dict, description="engine: image reference or digest")
    driver: str = ""
    model: str = ""
    inventory: str = ""
    limits: str = ""
    required: tuple[GateName, ...] = ALWAYS
    settings: dict[str, str] = Field(default_factory=dict)
    stood_in: tuple[str, ...] = ()
    time_scale: float = 1.0
    cannot_accept: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    unfinished: str = ""
    command_line: str = ""
    plugin_version: str = ""
    replay_of: str = ""

    @property
    def asked(self) -> bool:
        """Whether anything that counts for a gate was to be run; False for a run of a repository's own tests alone."""
        return NOT_ASKED not in self.cannot_accept

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Everything that keeps this run from being an acceptance whatever passes. Empty: it can be one."""
        found = [] if self.mode.can_accept else [self.mode.words]
        if self.stood_in:
            found.append("stood in: " + ", ".join(self.stood_in))
        if self.time_scale != 1.0:
            found.append(f"time ran {self.time_scale:g} times as fast as in reality")
        return (*found, *self.cannot_accept)


class CheckRow(Verdict):
    """A verdict with the test that gave it. ``duration_s``: seconds that test took, when known."""

    test_id: str = ""
    duration_s: float | None = None

    @property
    def recorded(self) -> bool:
        """It was measured and nothing was expected of it: neither judged nor skipped."""
        unjudged = self.status is Status.SKIP or (self.status is Status.PASS and self.limit is not None and self.limit.kind == "info")
        return unjudged and self.measured is not None

    def bare(self) -> Verdict:
        """The verdict alone."""
        return Verdict(**{name: getattr(self, name) for name in Verdict.model_fields})


class NotMeasured(Frozen):
    """A gate or check that gave no figure, and why."""

    what: str
    subject: str = ""
    reason: str = ""


class EvidenceFile(Frozen):
    """A file below the run folder. ``sha256`` of its bytes as stored (after redaction)."""

    path: str
    size: int
    sha256: str


class RunDocument(Frozen):
    """``verdict.json``: one document with everything a machine needs to decide and a person to check.

    Written at the start with ``complete: false`` and at the end with the decision, so that a killed run never reads as a pass.
    """

    schema_version: Literal[1] = 1
    complete: bool = False
    accepted: bool = False
    green: bool = False
    reason: str = "the run has not finished"
    mode: Mode
    started: datetime | None = None
    ended: datetime | None = None
    time_scale: float = 1.0
    stood_in: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    header: Header
    gates: tuple[GateResult, ...] = ()
    checks: tuple[CheckRow, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    cells: tuple[CellRow, ...] = ()
    rails: tuple[RailTraffic, ...] = ()
    pairs: tuple[RailPair, ...] = ()
    setup_errors: tuple[SetupError, ...] = ()
    records: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of every record of the folder as the run left it, by path; load_run checks them"
    )
    seal: str = Field("", description="SHA-256 of this document without the seal: header and decision are covered too")


class Fingerprint(Frozen):
    """``fingerprint.json``: what may explain a different figure. Empty text or missing key: not known.

    ``engines``: engine -> {version, image, image_digest, torch, nccl, cuda, ...}; ``flags``: engine -> flag -> value;
    ``nodes``: node -> {driver, kernel, gpu, pci_id, vbios, ofed, fw_mlx5_1 ...}.
    """

    schema_version: Literal[1] = 1
    plugin_version: str = ""
    python: str = ""
    engines: dict[str, dict[str, str]] = Field(default_factory=dict)
    flags: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    nodes: dict[str, dict[str, str]] = Field(default_factory=dict)
    model: dict[str, str] = Field(default_factory=dict)
    inventory_sha256: str = ""
    limits_sha256: str = ""


class RunView(Frozen):
    """A run as read back from its folder: what replay, comparison and every report work on."""

    path: Path
    header: Header
    complete: bool
    decision: Decision
    checks: tuple[CheckRow, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    timeline: tuple[Timed, ...] = ()
    cells: tuple[CellRow, ...] = ()
    rails: tuple[RailTraffic, ...] = ()
    pairs: tuple[RailPair, ...] = ()
    loads: tuple[CellLoad, ...] = ()
    soaks: tuple[SoakRecord, ...] = ()
    kernel: tuple[KernelLine, ...] = ()
    drills: tuple[DrillRow, ...] = ()
    facts: tuple[NodeColumn, ...] = ()
    commands: tuple[Command, ...] = ()
    logs: tuple[LogTail, ...] = ()
    setup_errors: tuple[SetupError, ...] = ()
    warnings: tuple[str, ...] = ()
    damage: tuple[str, ...] = Field((), description="records that could not be read back: such a run is never green")
    others: tuple[Other, ...] = ()
    fingerprint: Fingerprint | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts alone."""
        return tuple(check.bare() for check in self.checks)


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema of ``verdict.json``; checked in as ``verdict.schema.json`` beside this module."""
    schema = RunDocument.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$id"] = f"urn:pytest-h20:verdict:{SCHEMA_VERSION}"
    schema["title"] = "pytest-h20 verdict"
    return schema
