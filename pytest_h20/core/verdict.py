"""What a check says: a verdict with its measurement, its limit, the origin of that limit, and the next action.

Pure data and pure judgement; no pytest, no I/O. Everything here is JSON-safe through pydantic (``model_dump(mode="json")``),
because verdicts travel from xdist workers to the controller and into ``verdict.json``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from pytest_h20.core.model import Frozen


class Status(str, Enum):
    """The outcome lattice. ``UNKNOWN`` is "could not measure": it fails the gate like ``FAIL`` but says something else."""

    PASS = "pass"
    SKIP = "skip"
    WARN = "warn"
    UNKNOWN = "unknown"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """Order from best to worst."""
        return list(Status).index(self)

    @property
    def blocks(self) -> bool:
        """True when a gate that holds this verdict cannot pass."""
        return self in (Status.UNKNOWN, Status.FAIL)


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several outcomes. Nothing at all is ``UNKNOWN``: an empty gate has proved nothing."""
    return max(statuses, key=lambda s: s.rank, default=Status.UNKNOWN)


class GateName(str, Enum):
    """The gates in the order in which they are worth knowing: each is meaningless while an earlier one is red."""

    ENVIRONMENT = "environment"
    FABRIC = "fabric"
    WEIGHTS = "weights"
    COMPUTE = "compute"
    BRINGUP = "bringup"
    RDMA = "rdma"
    ENDPOINT = "endpoint"
    REASONING = "reasoning"
    ANSWERS = "answers"
    THROUGHPUT = "throughput"
    SOAK = "soak"
    DRILL = "drill"


ON_REQUEST = frozenset({GateName.SOAK, GateName.DRILL})
"""Gates that only a run judges that asks for them; the others belong to every run."""
ALWAYS = tuple(gate for gate in GateName if gate not in ON_REQUEST)

GATE_TITLES: dict[GateName, str] = {
    GateName.ENVIRONMENT: "The machines are as they must be",
    GateName.FABRIC: "The RDMA fabric is healthy before the engine starts",
    GateName.WEIGHTS: "The model weights are complete and the same on every node",
    GateName.COMPUTE: "Every GPU and its links do what they should",
    GateName.BRINGUP: "The engine starts on all nodes and becomes ready",
    GateName.RDMA: "The serving processes talk over RDMA",
    GateName.ENDPOINT: "The API answers correctly",
    GateName.REASONING: "Reasoning is split from the answer",
    GateName.ANSWERS: "The answers are right",
    GateName.THROUGHPUT: "It is fast enough",
    GateName.SOAK: "It stays as it is, for hours",
    GateName.DRILL: "A fault is told, survived or recovered from",
}


class Origin(Frozen):
    """Where a limit comes from, so that a reader can decide how far to trust it."""

    kind: Literal["blog", "vendor", "derived", "baseline", "inventory", "builtin", "file", "protocol"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Limit(Frozen):
    """One typed limit.

    ``min``/``max``: the number must not be below/above ``value``. ``within``: no farther from ``value`` than ``tolerance``
    (a fraction of ``value``). ``ratio``: measured / ``reference`` must not be below ``value``. ``equal``/``one_of``: exact.
    ``info``: recorded, never judged.
    """

    kind: Literal["min", "max", "within", "ratio", "equal", "one_of", "info"]
    value: JsonValue = None
    unit: str = ""
    tolerance: float = 0.0
    reference: float | None = None
    origin: Origin

    def accepts(self, measured: Any) -> bool | None:
        """True or False, or None when the measurement cannot be judged (missing, not a number, NaN)."""
        if self.kind == "info":
            return True
        if measured is None:
            return None
        if self.kind == "equal":
            return bool(measured == self.value)
        if self.kind == "one_of":
            return isinstance(self.value, list) and measured in self.value
        if isinstance(measured, bool) or not isinstance(measured, (int, float)) or not math.isfinite(measured):
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)) or not math.isfinite(self.value):
            return None
        if self.kind == "min":
            return bool(measured >= self.value)
        if self.kind == "max":
            return bool(measured <= self.value)
        if self.kind == "within":
            return bool(abs(measured - self.value) <= self.tolerance * abs(self.value))
        if self.reference is None or self.reference <= 0 or not math.isfinite(self.reference):
            return None
        return bool(measured / self.reference >= self.value)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        words = {
            "min": f"at least {_short(self.value)}{unit}",
            "max": f"at most {_short(self.value)}{unit}",
            "within": f"{_short(self.value)}{unit} ± {100 * self.tolerance:g} %",
            "ratio": f"at least {_short(self.value)} × {_short(self.reference)}{unit}",
            "equal": f"{_short(self.value)}{unit}",
            "one_of": "one of " + ", ".join(map(_short, self.value if isinstance(self.value, list) else [self.value])),
            "info": "recorded only",
        }
        return words[self.kind]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def unit_beside(value: object, unit: str) -> str:
    """The unit as it is said beside a value: ``problems`` of which there are 3, ``problem`` of which there is 1."""
    one = value == 1 and not isinstance(value, bool) and re.search(r"[A-Za-z]{3}(?<![us])(?<!ie)(?<!sse|che|she)s$", unit)
    return unit[:-1] if one else unit


def _counted(value: Any, unit: str) -> str:
    return f"{_short(value)} {unit_beside(value, unit)}".rstrip()


class Verdict(Frozen):
    """What one check says about one subject.

    ``check`` is a stable id (``fabric.port_active``): limits, faults and history refer to it. ``subject`` says what was looked
    at (``node01 mlx5_3``, ``in128-out128-c64``). ``evidence`` are paths relative to the run folder.
    """

    check: str = Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)+$")
    status: Status
    title: str
    subject: str = ""
    measured: JsonValue = None
    unit: str = ""
    limit: Limit | None = None
    reason: str = ""
    action: str = ""
    evidence: tuple[str, ...] = ()
    details: dict[str, JsonValue] = Field(default_factory=dict)
    looked_at: int | None = Field(default=None, ge=0)
    """How many things (answers, channels, files, samples) the measurement is made of; None where it is one reading."""

    @model_validator(mode="after")
    def _nothing_is_no_pass(self) -> Verdict:
        if self.status is Status.PASS and self.looked_at == 0:
            raise ValueError(f"{self.check} passes, and nothing was looked at")
        return self

    @property
    def gate(self) -> GateName:
        """The gate is the first word of the check id."""
        return GateName(self.check.split(".", 1)[0])

    def text(self) -> str:
        """Several lines for a terminal: what, measured against what and why that, and what to do next."""
        head = f"{self.check}" + (f" [{self.subject}]" if self.subject else "") + f": {self.title}"
        lines = [head]
        if self.measured is not None or self.limit is not None:
            measured = "nothing" if self.measured is None else _counted(self.measured, self.unit)
            line = f"  measured {measured}"
            if self.limit is not None:
                line += f", wanted {self.limit} ({self.limit.origin})"
            lines.append(line)
        if self.reason:
            lines.append(("  could not measure: " if self.status is Status.UNKNOWN else "  why: ") + self.reason)
        if self.action:
            lines.append(f"  next: {self.action}")
        if self.evidence:
            lines.append("  evidence: " + ", ".join(self.evidence))
        return "\n".join(lines)


def judge(
    check: str,
    title: str,
    measured: JsonValue,
    limit: Limit,
    *,
    subject: str = "",
    unit: str = "",
    reason: str = "",
    action: str = "",
    evidence: Sequence[str] = (),
    details: dict[str, JsonValue] | None = None,
    looked_at: int | None = None,
) -> Verdict:
    """Hold a measurement against a limit. A missing or unusable measurement is ``UNKNOWN``, never a pass, and so is one that is made
    of nothing (``looked_at`` is 0)."""
    accepted = limit.accepts(measured) if looked_at != 0 else None
    status = Status.UNKNOWN if accepted is None else Status.PASS if accepted else Status.FAIL
    if accepted is None and not reason:
        reason = "nothing was looked at" if looked_at == 0 else "no usable measurement" if measured is not None else "nothing was measured"
    return Verdict(
        check=check,
        title=title,
        status=status,
        subject=subject,
        measured=measured,
        unit=unit or limit.unit,
        limit=limit,
        reason=reason if status is not Status.PASS else "",
        action=action if status is not Status.PASS else "",
        evidence=tuple(evidence),
        details=details or {},
        looked_at=looked_at,
    )


def rejudge(verdict: Verdict, limit: Limit | None = None) -> Verdict:
    """Judge a recorded verdict again, with its own or another limit. A verdict without any limit stays as recorded."""
    limit = limit or verdict.limit
    if limit is None or verdict.status is Status.SKIP:
        return verdict
    accepted = limit.accepts(verdict.measured) if verdict.looked_at != 0 else None
    status = Status.UNKNOWN if accepted is None else Status.PASS if accepted else Status.FAIL
    return verdict.model_copy(update={"status": status, "limit": limit})


class GateResult(Frozen):
    """One gate of the decision."""

    name: GateName
    status: Status
    required: bool
    counts: dict[str, int]
    reason: str = ""


class Decision(Frozen):
    """The answer people sign: accepted or not, and why."""

    accepted: bool
    green: bool
    reason: str
    gates: tuple[GateResult, ...]


def decide(verdicts: Sequence[Verdict], required: Sequence[GateName], *, acceptance: bool = True) -> Decision:
    """Reduce all verdicts to one decision.

    A required gate without a single passing verdict is ``UNKNOWN``: all skipped, or nothing measured, is not green.
    ``acceptance=False`` (rehearsal, lab, replay of one) means that ``accepted`` stays false whatever passed; ``green`` still
    says whether every gate held.
    """
    gates = []
    for name in GateName:
        mine = [v for v in verdicts if v.gate is name]
        if not mine and name not in required:
            continue
        counts = {s.value: sum(v.status is s for v in mine) for s in Status if any(v.status is s for v in mine)}
        blocking = [v for v in mine if v.status.blocks]
        passed = any(v.status in (Status.PASS, Status.WARN) for v in mine)
        if blocking:
            status, reason = worst(v.status for v in blocking), headline(blocking)
        elif passed:
            status, reason = worst(v.status for v in mine if v.status is not Status.SKIP), ""
        elif not mine:
            status, reason = Status.UNKNOWN, "nothing in this gate was measured"
        else:
            status, reason = Status.UNKNOWN if name in required else Status.SKIP, _why_skipped(mine)
        gates.append(GateResult(name=name, status=status, required=name in required, counts=counts, reason=reason))
    red = [g for g in gates if g.status.blocks]
    green = not red and any(g.status in (Status.PASS, Status.WARN) for g in gates)
    if red:
        told: dict[str, list[str]] = {}
        for gate in red:
            told.setdefault(gate.reason, []).append(gate.name.value)
        reason = "; ".join(f"{', '.join(names)}: {why}" for why, names in told.items())
    elif not green:
        reason = "nothing was measured"
    else:
        reason = "every gate holds"
    return Decision(accepted=green and acceptance, green=green, reason=reason, gates=tuple(gates))


def headline(blocking: Sequence[Verdict]) -> str:
    """The worst and earliest of a gate's red verdicts, with subject and figure. Checks are recorded in the order in which they
    are made, so the earliest is the cause; a title says what should hold and would sound true."""
    first = max(blocking, key=lambda v: v.status.rank)
    found = first.reason or _missed(first) or f"{first.title}: {'FAILED' if first.status is Status.FAIL else 'could not be measured'}"
    found = next((line.strip() for line in found.splitlines() if line.strip()), first.title)
    return found if not first.subject or found.startswith(first.subject) else f"{first.subject}: {found}"


def _missed(verdict: Verdict) -> str:
    """What was measured against what was wanted."""
    if verdict.measured is None or verdict.limit is None:
        return ""
    return f"{verdict.title}: measured {_counted(verdict.measured, verdict.unit)}, wanted {verdict.limit}"


def _why_skipped(verdicts: Sequence[Verdict]) -> str:
    """The reason that most of them have, without its particulars."""
    reason, _ = Counter(v.reason for v in verdicts).most_common(1)[0]
    short = re.split(r" \(|: ", reason, maxsplit=1)[0]
    return f"everything was skipped: {short}" if short else "everything was skipped"
