"""The frame of a check: registry, policy for what could not be measured, and short ways to say each kind of verdict.

Policy. A fact that is missing is ``UNKNOWN`` with the hint what would make it measurable: when the check needs no expectation
(``always``) or when the inventory expects something of it. It is ``SKIP`` with the reason when the check only holds a fact
against an expectation and none is given, or when ``expect.unmeasured_ok`` names the check. It is never a pass.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pydantic import JsonValue

from pytest_h20.core.errors import H20Error, unforeseen
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.probes.facts import Facts, RailView, View
from pytest_h20.probes.script import Follows, Missing

S = TypeVar("S")
T = TypeVar("T")
Told = Verdict | Iterable[Verdict]
Details = Mapping[str, JsonValue] | None


def inventory(field: str) -> Origin:
    """A limit out of the inventory's ``expect`` section."""
    return Origin(kind="inventory", detail=f"expect.{field}")


def builtin(detail: str) -> Origin:
    """A limit of ours, with its reason."""
    return Origin(kind="builtin", detail=detail)


OURS = Origin(kind="builtin")


BECAUSE = "because"
"""Of a verdict's details: check and node of the verdict that tells its cause."""
SEE_THERE = "mend what is named there"


class Settled(Exception):
    """Ends a check at once with this verdict. For what many checks begin with: the fact is there, the node has a peer."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@dataclass(frozen=True)
class Say:
    """Makes the verdicts of one check about one subject.

    Attributes:
        evidence: files that every verdict names.
        action: the next step where a verdict has none of its own.
        optional: ``expect.unmeasured_ok``: checks (patterns) that may stay unmeasured.
        limits: of somebody's file or inventory, by check: they take the place of those written in the check.
        origin: of the limit of :meth:`problems`.
        what: one of the things looked at, in a word; "" = a thing.

    All verdicts: details come as a mapping, where its keys are data, or by name.
    """

    check: str
    title: str
    subject: str = ""
    evidence: tuple[str, ...] = ()
    action: str = ""
    optional: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    origin: Origin = OURS
    what: str = ""

    def about(self, subject: str, evidence: tuple[str, ...] = ()) -> Say:
        """The same check about something more precise."""
        return replace(self, subject=subject, evidence=evidence or self.evidence)

    def judge(
        self,
        measured: JsonValue,
        limit: Limit,
        *,
        of: int | None = None,
        what: str = "",
        reason: str = "",
        action: str = "",
        details: Details = None,
        **more: JsonValue,
    ) -> Verdict:
        """Hold a measurement against a limit. ``of``: how many of ``what`` it counts or summarises; of none it is ``UNKNOWN``."""
        what = what or self.what
        if of == 0:
            none = f"no {what} came that could be looked at" if what else "nothing was looked at"
            reason = f"{none} ({reason})" if reason else none
        return judge(
            self.check,
            self.title,
            measured,
            self.limits.get(self.check, limit),
            subject=self.subject,
            reason=reason,
            action=action or self.action,
            evidence=self.evidence,
            details={**(details or {}), **more},
            looked_at=of,
        )

    def problems(self, found: Sequence[str], *, of: int, what: str = "", **more: JsonValue) -> Verdict:
        """PASS when something was looked at and nothing was wrong. The measurement is the number of problems, the reason names them.

        ``of``: how many of ``what`` were held against what they must be; of nothing it is ``UNKNOWN``, whatever else went well.
        """
        shown = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
        return self.judge(
            len(found),
            Limit(kind="equal", value=0, unit="problems", origin=self.origin),
            of=max(of, len(found)),
            what=what,
            reason=shown,
            details={**more, **({"problems": list(found[:50])} if found else {})},
        )

    def plain(
        self,
        status: Status,
        reason: str = "",
        *,
        action: str = "",
        measured: JsonValue = None,
        unit: str = "",
        limit: Limit | None = None,
        of: int | None = None,
        details: Details = None,
    ) -> Verdict:
        """What was decided elsewhere than by one figure against one limit. What blocks names the check's next step if it has no own."""
        return Verdict(
            check=self.check,
            title=self.title,
            status=status,
            subject=self.subject,
            measured=measured,
            unit=unit,
            limit=limit,
            reason=reason,
            action=action or (self.action if status.blocks or status is Status.WARN else ""),
            evidence=self.evidence,
            details=dict(details or {}),
            looked_at=of,
        )

    def fail(self, reason: str, *, action: str = "", measured: JsonValue = None) -> Verdict:
        """Broken in a way that is not a figure."""
        return self.plain(Status.FAIL, reason, action=action, measured=measured)

    def warn(self, measured: JsonValue, reason: str, *, action: str = "", details: Details = None) -> Verdict:
        """Worth knowing, does not stop the gate."""
        return self.plain(Status.WARN, reason, action=action, measured=measured, details=details)

    def skip(self, reason: str, measured: JsonValue = None, details: Details = None) -> Verdict:
        """Does not apply here, or nothing is expected."""
        return self.plain(Status.SKIP, reason, measured=measured, details=details)

    def unknown(self, reason: str, action: str = "", details: Details = None, **more: JsonValue) -> Verdict:
        """Could not be measured, and it had to be."""
        if self._optional(self.check):
            return self.skip(f"{reason} (expect.unmeasured_ok allows that)", details={**(details or {}), **more})
        return self.plain(Status.UNKNOWN, reason, action=action, details={**(details or {}), **more})

    def _optional(self, check: str) -> bool:
        return any(fnmatch.fnmatchcase(check, pattern) for pattern in self.optional)

    def missing(self, fact: Missing, *, wanted: bool = True) -> Verdict:
        """The fact is not there: ``UNKNOWN`` if it is wanted, else skipped with the reason.

        Where another check tells the cause, that one is named and nothing of it repeated. In its gate that is a skip: the gate is red
        by it. Any other gate could not be measured, and says so.
        """
        if not wanted:
            return self.skip(f"nothing is expected, and it could not be measured: {fact}")
        if isinstance(fact, Follows) and fact.check != self.check and not self._optional(fact.check):
            why = f"because of {fact.check} [{fact.node}], told there"
            because: dict[str, JsonValue] = {BECAUSE: [fact.check, fact.node]}
            same_gate = fact.check.split(".", 1)[0] == self.check.split(".", 1)[0]
            return self.skip(why, details=because) if same_gate else self.plain(Status.UNKNOWN, why, action=SEE_THERE, details=because)
        return self.unknown(str(fact), fact.hint)

    def need(self, fact: T | Missing, *, wanted: bool = True) -> T:
        """The fact. Where it is not there, the check ends with :meth:`missing`."""
        if isinstance(fact, Missing):
            raise Settled(self.missing(fact, wanted=wanted))
        return fact

    def unexpected(self, name: str, measured: JsonValue, details: Details = None) -> Verdict:
        """Recorded; the inventory expects nothing."""
        return self.skip(f"recorded only: expect.{name} is not given", measured, details)

    def begins(self, name: str, expected: str | None, measured: str) -> Verdict:
        """A text that must begin with what the inventory expects. The whole text is in the details."""
        whole: dict[str, JsonValue] = {"measured": measured}
        if expected is None:
            return self.unexpected(name, measured)
        shown = expected if measured.startswith(expected) else measured
        limit = Limit(kind="equal", value=expected, origin=inventory(name))
        return self.judge(shown or None, limit, reason=f"it is {measured!r}" if measured else "it says nothing", details=whole)


REACHABLE = "environment.reachable"
"""The one check that tells of a node that does not answer; everything else about that node is skipped with its reason."""


def silence(views: Iterable[View]) -> str:
    """Why nothing can be said where these nodes take part: one of them does not answer. Empty when all do."""
    told = [f"{view.name} does not answer (told once by {REACHABLE})" for view in views if view.silence]
    return "; ".join(told)


@dataclass(frozen=True)
class Check(Generic[S]):
    """One registered check. ``always``: needs no expectation. ``probes``: whose recorded sections are its evidence."""

    id: str
    title: str
    always: bool
    probes: tuple[str, ...]
    action: str
    function: Callable[[Say, S], Told]

    @property
    def name(self) -> str:
        """The id without its gate, for test ids."""
        return self.id.split(".", 1)[1]

    @property
    def description(self) -> str:
        """What it does, in one sentence."""
        return (self.function.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")

    def verdicts(self, say: Say, subject: S) -> list[Verdict]:
        """What it says, by this voice, whatever happens in it."""
        found: list[Verdict] = []
        try:
            told = self.function(say, subject)
            found.extend([told] if isinstance(told, Verdict) else told)
        except Settled as end:
            found.append(end.verdict)
        except H20Error:
            raise
        except Exception as error:  # facts that this check did not foresee end no run in a traceback
            return [say.unknown(f"what the node says cannot be judged: {unforeseen(error)}", "look at the evidence: is the node sound?")]
        if not found:
            raise AssertionError(f"check {self.id} said nothing about {say.subject}: a check must always say something")
        return found


class NodeCheck(Check[View]):
    """A check of one node."""

    def __call__(self, view: View) -> list[Verdict]:
        """The verdicts about this node."""
        say = Say(self.id, self.title, view.name, view.evidence(*self.probes), self.action, view.expect.unmeasured_ok)
        if self.id != REACHABLE and (why := silence([view])):
            return [say.skip(why)]
        return self.verdicts(say, view)


class RailCheck(Check[RailView]):
    """A check of one rail of one node. Its action may name ``{hca}`` and ``{interface}``."""

    def __call__(self, rail: RailView) -> list[Verdict]:
        """The verdicts about this rail."""
        view = rail.view
        evidence = view.evidence(*self.probes) + tuple(p for n in self.probes if (p := view.all.evidence.get(f"{view.name}/{n}")))
        action = self.action.format(hca=rail.rail.hca, interface=rail.rail.interface)
        say = Say(self.id, self.title, rail.subject, evidence, action, view.expect.unmeasured_ok)
        if why := silence(rail.ends):
            return [say.skip(why)]
        return self.verdicts(say, rail)


class ClusterCheck(Check[Facts]):
    """A check of all nodes together."""

    def __call__(self, facts: Facts) -> list[Verdict]:
        """The verdicts about the cluster."""
        evidence = tuple(p for v in facts.views for p in v.evidence(*self.probes))
        say = Say(self.id, self.title, "cluster", evidence, self.action, facts.inventory.expect.unmeasured_ok)
        if why := silence(facts.views):
            return [say.skip(why)]
        return self.verdicts(say, facts)


NODE_CHECKS: dict[str, NodeCheck] = {}
RAIL_CHECKS: dict[str, RailCheck] = {}
CLUSTER_CHECKS: dict[str, ClusterCheck] = {}


C = TypeVar("C", NodeCheck, RailCheck, ClusterCheck)


def of_gate(gate: str, checks: Mapping[str, C]) -> list[C]:
    """The registered checks of one gate, in the order in which they were registered: each becomes a test."""
    return [check for check in checks.values() if check.id.split(".", 1)[0] == gate]


def node_check(
    id_: str, title: str, *probes: str, always: bool = False, action: str = ""
) -> Callable[[Callable[[Say, View], Told]], NodeCheck]:
    """Register a check of one node."""

    def register(function: Callable[[Say, View], Told]) -> NodeCheck:
        NODE_CHECKS[id_] = NodeCheck(id_, title, always, probes, action, function)
        return NODE_CHECKS[id_]

    return register


def rail_check(
    id_: str, title: str, *probes: str, always: bool = False, action: str = ""
) -> Callable[[Callable[[Say, RailView], Told]], RailCheck]:
    """Register a check of one rail."""

    def register(function: Callable[[Say, RailView], Told]) -> RailCheck:
        RAIL_CHECKS[id_] = RailCheck(id_, title, always, probes, action, function)
        return RAIL_CHECKS[id_]

    return register


def cluster_check(
    id_: str, title: str, *probes: str, always: bool = False, action: str = ""
) -> Callable[[Callable[[Say, Facts], Told]], ClusterCheck]:
    """Register a check of all nodes."""

    def register(function: Callable[[Say, Facts], Told]) -> ClusterCheck:
        CLUSTER_CHECKS[id_] = ClusterCheck(id_, title, always, probes, action, function)
        return CLUSTER_CHECKS[id_]

    return register


def all_verdicts(facts: Facts) -> list[Verdict]:
    """Every registered check of every node, rail and the cluster."""
    found = [v for check in NODE_CHECKS.values() for view in facts.views for v in check(view)]
    found += [v for check in RAIL_CHECKS.values() for view in facts.views for rail in view.rails for v in check(rail)]
    return found + [v for check in CLUSTER_CHECKS.values() for v in check(facts)]


def version_key(text: str) -> tuple[int, ...]:
    """``535.216.03`` -> (535, 216, 3), for comparing versions."""
    return tuple(int(n) for n in re.findall("[0-9]{1,9}", text)[:4])


def at_least(say: Say, field: str, minimum: str, measured: str) -> Verdict:
    """A version that must not be older than ``minimum``."""
    key = version_key(measured)
    good = bool(key) and key >= version_key(minimum)
    limit = Limit(kind="equal", value=True, origin=inventory(f"{field} = {minimum}"))
    return say.judge(
        good if key else None,
        limit,
        reason=f"it is {measured!r}, older than {minimum}",
        details={"measured": measured, "minimum": minimum},
    )
