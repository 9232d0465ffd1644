"""What a drill shows: did the fault happen, what did clients see of it, did ``/health`` tell the truth, does the engine come back. Pure.

All moments are seconds after the fault, in model time; what ended before it is not in here. Nothing is judged of a fault that nothing
shows to have happened.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin
from pytest_h20.core.verdict import Limit, Origin, Verdict

TITLES = {
    "drill.happened": "The fault of this drill happened",
    "drill.clients_told": "No client waits without knowing",
    "drill.no_false_answer": "No client got a wrong or a silently cut answer",
    "drill.health_true": "/health does not say 200 while nothing is served",
    "drill.settles": "The engine is well again, or down, in time",
    "drill.comes_back": "The engine serves again without hands",
    "drill.right_after": "After it the answers are right",
    "drill.leaves_nothing": "The engine that went down left nothing behind",
    "drill.taken_back": "The fault was taken back",
}
"""Check to title, in the order in which a drill shows them."""

HEALTH_S = 30.0
_PROBES = Origin(
    kind="protocol", detail="Kubernetes takes a server out after failureThreshold 3 x periodSeconds 10; until then its /health is believed"
)
Ending = Literal["answered", "wrong", "cut", "error", "hang"]
"""Of a request: a whole answer (right, or not known to be wrong); a whole one that is wrong; one that ended early as if it were whole;
an error that the client saw; nothing at all until the watch ended."""
FAILED: tuple[Ending, ...] = ("error", "hang")


@dataclass(frozen=True)
class Attempt:
    """One request of one client. ``ended``: for a ``hang`` the end of the watch."""

    began: float
    ended: float
    how: Ending
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """What ``/health`` answered; 0: no connection or no answer."""

    at: float
    status: int


@dataclass(frozen=True)
class Restart:
    """A start that the suite made after the engine had gone down. ``why``: of one that failed."""

    ok: bool
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class AskedAfter:
    """Questions asked after everything. ``right`` of ``of``; ``example``: a wrong answer."""

    right: int
    of: int
    example: str = ""


@dataclass(frozen=True)
class Seen:
    """Everything one drill showed.

    ``proof``: that the fault happened; ``nothing``: why not (then nothing else counts). ``settled``: how the engine came to rest, after
    ``settled_s``. ``left``: what a tear-down found afterwards, None when the engine was not taken down. ``stuck``: why the fault could
    not be taken back.
    """

    told_s: float
    why: str
    survives: bool = False
    proof: str = ""
    nothing: str = ""
    attempts: Sequence[Attempt] = ()
    health: Sequence[Health] = ()
    settled: Literal["well", "down", ""] = ""
    settled_s: float = 0.0
    restart: Restart | None = None
    after: AskedAfter = field(default_factory=lambda: AskedAfter(0, 0))
    no_answers: str = ""
    left: Sequence[str] | None = None
    stuck: str = ""


def judged(seen: Seen, subject: str, evidence: Sequence[str] = ()) -> list[Verdict]:
    """Every verdict about one drill."""

    def say(check: str) -> Say:
        return Say(check, TITLES[check], subject, tuple(evidence), "", ())

    first = _happened(say("drill.happened"), seen)
    back = _taken_back(say("drill.taken_back"), seen)
    if seen.nothing:
        rest = [say(check).skip("the drill did nothing: see drill.happened") for check in list(TITLES)[1:-1]]
        return [first, *rest, back]
    return [first, *(judge(say(check), seen) for check, judge in _REST.items()), back]


def _happened(voice: Say, seen: Seen) -> Verdict:
    if seen.nothing or not seen.proof:
        why = f"the drill did nothing: {seen.nothing or 'nothing was seen of it'}"
        return voice.unknown(why, "see that the log-in user may do this on the node (root, or CAP_NET_ADMIN and CAP_KILL), and drill again")
    return voice.judge(True, Limit(kind="equal", value=True, origin=builtin("proved on the node")), details={"proof": seen.proof}, of=1)


def _after(seen: Seen) -> list[Attempt]:
    return [a for a in seen.attempts if a.ended >= 0]


def _clients_told(voice: Say, seen: Seen) -> Verdict:
    """From the fault, or from its own beginning, until each request had an end."""
    waits = {max(0.0, a.ended - max(0.0, a.began)): a for a in _after(seen)}
    longest = max(waits, default=None)
    limit = Limit(kind="max", value=seen.told_s, unit="s", origin=builtin(seen.why))
    if longest is None:
        return voice.unknown("no client asked anything after the fault")
    hang = next((a for a in _after(seen) if a.how == "hang"), None)
    counts = {how: sum(a.how == how for a in _after(seen)) for how in ("answered", "wrong", "cut", "error", "hang")}
    told = ", ".join(f"{n} {how}" for how, n in counts.items() if n)
    if hang is not None:  # it was given up here: however long that was, the client was never told
        longest = max(longest, seen.told_s + 1.0)
    reason = f"{told}" + ("; a request that hangs was never told anything: it was given up when the watch ended" if hang else "")
    action = "give every client a deadline of its own, and the engine a watchdog (SGLang --watchdog-timeout)"
    return voice.judge(round(longest, 1), limit, reason=reason, action=action, details=dict(counts), of=len(waits))


def _no_false_answer(voice: Say, seen: Seen) -> Verdict:
    whole = [a for a in seen.attempts if a.how in ("answered", "wrong", "cut")]
    false = [a for a in whole if a.how != "answered"]
    if seen.no_answers:
        return voice.unknown(seen.no_answers)
    if not whole:
        return voice.unknown("no client got an answer, neither before the fault nor after it")
    limit = Limit(kind="max", value=0, unit="answers", origin=builtin("a fault may cost an answer, it may not make one up"))
    reason = "; ".join(f"{a.how} at {a.ended:.1f} s: {a.detail}" for a in false[:3])
    action = "a client cannot tell such an answer from a right one: do not serve with this version until it is understood"
    return voice.judge(len(false), limit, reason=reason, action=action, of=len(whole))


def untrue_s(attempts: Sequence[Attempt], health: Sequence[Health]) -> float:
    """The longest stretch in which ``/health`` said 200 without a break while requests failed, and none was served in between. A
    request that is only slow does not fail."""
    served = sorted(a.ended for a in attempts if a.how not in FAILED and a.ended >= 0)
    failed = [(max(0.0, a.began), a.ended) for a in attempts if a.how in FAILED and a.ended >= 0]
    last = max([h.at for h in health] + [a.ended for a in attempts], default=0.0)
    edges = [0.0, *served, max(last, 0.0)]
    longest = 0.0
    for start, stop in itertools.pairwise(edges):
        inside = [(b, e) for b, e in failed if b < stop and e > start]
        if not inside:
            continue
        begin, stop = max(start, min(b for b, _ in inside)), min(stop, max(e for _, e in inside))
        run: float | None = None
        for sample in (h for h in sorted(health, key=lambda h: h.at) if begin <= h.at <= stop):
            run = (sample.at if run is None else run) if sample.status == 200 else None
            longest = max(longest, sample.at - run if run is not None else 0.0)
    return longest


def _health_true(voice: Say, seen: Seen) -> Verdict:
    after = [h for h in seen.health if h.at >= 0]
    limit = Limit(kind="max", value=HEALTH_S, unit="s", origin=_PROBES)
    untrue = untrue_s(seen.attempts, after)
    reason = f"/health said 200 for {untrue:.0f} s on end while no request was served" if untrue else ""
    action = "ask for a token instead of /health (SGLang: /health_generate): what is behind it does not know that its ranks are gone"
    return voice.judge(round(untrue, 1), limit, reason=reason, action=action, of=len(after))


def _settles(voice: Say, seen: Seen) -> Verdict:
    limit = Limit(kind="max", value=seen.told_s, unit="s", origin=builtin(seen.why))
    details = {"settled": seen.settled}
    if not seen.settled:
        worse = max(seen.settled_s, seen.told_s + 1.0)
        reason = f"after {seen.settled_s:.0f} s it was neither well nor down: processes are there, and nothing is served"
        return voice.judge(
            round(worse, 1), limit, reason=reason, action="stop it by hand: it will not end by itself", details=details, of=1
        )
    if seen.survives and seen.settled == "down":
        limit = Limit(kind="equal", value="well", origin=builtin("an engine is to live through this fault"))
        return voice.judge("down", limit, reason=f"it went down after {seen.settled_s:.0f} s", details=details, of=1)
    return voice.judge(round(seen.settled_s, 1), limit, reason=f"it is {seen.settled}", details=details, of=1)


def _comes_back(voice: Say, seen: Seen) -> Verdict:
    limit = Limit(kind="equal", value=True, origin=builtin("a start by the suite, as at the beginning of the run"))
    if seen.restart is None:
        if seen.settled == "well":
            return voice.judge(True, limit, details={"restart": "not needed"}, of=1)
        return voice.unknown("it was not started again")
    details: dict[str, JsonValue] = {"restart": "made", "restart_s": round(seen.restart.seconds, 1)}
    return voice.judge(
        seen.restart.ok, limit, reason=seen.restart.why, action="see drill.leaves_nothing, then the logs", details=details, of=1
    )


def _right_after(voice: Say, seen: Seen) -> Verdict:
    wrong = seen.after.of - seen.after.right
    limit = Limit(kind="max", value=0, unit="answers", origin=builtin("what was answered rightly before the fault"))
    if seen.no_answers:
        return voice.unknown(seen.no_answers)
    if not seen.after.of:
        return voice.unknown("nothing could be asked afterwards: the engine does not serve")
    action = "take the engine down and start it again by hand; keep its logs: a recovered engine that is wrong is worse than none"
    return voice.judge(wrong, limit, reason=seen.after.example, action=action, of=seen.after.of)


def _leaves_nothing(voice: Say, seen: Seen) -> Verdict:
    if seen.left is None:
        return voice.skip("the engine was not taken down: what it uses is its own")
    limit = Limit(kind="max", value=0, unit="things", origin=builtin("as before the engine was started"))
    action = "what holds GPU memory or a port keeps the next start from working: end it by hand" + (
        "; a file in /dev/shm is memory until it is removed (`rm`): with `container: {ipc: private}` it ends with its container"
        if any("/dev/shm/" in what for what in seen.left)
        else ""
    )
    return voice.judge(len(seen.left), limit, reason="; ".join(seen.left), action=action, of=1)


def _taken_back(voice: Say, seen: Seen) -> Verdict:
    limit = Limit(kind="equal", value=True, origin=builtin("looked at on the node afterwards"))
    return voice.judge(not seen.stuck, limit, reason=seen.stuck, action="type that, or: python -m pytest_h20 reap --nodes INVENTORY", of=1)


_REST: Mapping[str, Callable[[Say, Seen], Verdict]] = {
    "drill.clients_told": _clients_told,
    "drill.no_false_answer": _no_false_answer,
    "drill.health_true": _health_true,
    "drill.settles": _settles,
    "drill.comes_back": _comes_back,
    "drill.right_after": _right_after,
    "drill.leaves_nothing": _leaves_nothing,
}
