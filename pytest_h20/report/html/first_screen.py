"""The first screen: accepted or not, why not, on what, since when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pytest_h20.core.verdict import GATE_TITLES, GateName, GateResult, Status
from pytest_h20.lang import labelled
from pytest_h20.report.html.tags import Child, Html, join, tag
from pytest_h20.report.html.words import ICONS, chip, duration, limit_words, measure, moment, subject, unit_of
from pytest_h20.report.model import CheckRow, RunView, SetupError
from pytest_h20.report.signature import in_words
from pytest_h20.report.terminal import blocking

SHOWN = 5
"""Reasons on the first screen; the gates below have all of them."""

FEW_NODES = 4
"""So many are named on the first screen; more are folded, or they would be all of it."""


def first_screen(view: RunView) -> Html:
    """Banner, reasons, and what was looked at."""
    return tag(
        "section",
        _stand_in(view),
        _banner(view),
        _setup_errors(view),
        _reasons(view),
        _warnings(view),
        tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in _facts(view)], class_="h20-facts"),
        aria_label="Result",
    )


def outcome(view: RunView) -> tuple[Status, str]:
    """The colour and the words of the banner."""
    if not view.complete or view.header.unfinished:
        return Status.FAIL, "Not finished"
    if view.decision.accepted:
        return Status.PASS, "Accepted under conditions" if view.header.conditions else "Accepted"
    if view.decision.green:
        return Status.WARN, "Every gate holds, but this is not an acceptance"
    return Status.FAIL, "Not accepted"


def _banner(view: RunView) -> Html:
    status, words = outcome(view)
    if not view.complete:
        why: Child = "The run was ended before it could decide. What it had recorded until then is below."
    elif view.header.unfinished:
        why = f"{view.header.unfinished}. What it had recorded until then is below."
    elif view.decision.green:
        why = _all_hold(view) if view.decision.accepted or _is_stand_in(view) else "; ".join(view.header.obstacles)
    else:
        why = _how_many(view.decision.gates) or view.decision.reason
    return tag(
        "div",
        tag("p", tag("span", ICONS[status], aria_hidden="true", class_="h20-mark"), " ", words, class_="h20-verdict"),
        tag("p", why),
        tag("p", tag("b", "Do this: "), _after_a_kill(view)) if not view.complete else None,
        tag("p", _in_short(view), class_="h20-small"),
        class_=f"h20-banner h20-{status.value}",
        role="status",
    )


def _after_a_kill(view: RunView) -> str:
    """A run that could not write its end could not clean up either."""
    if _is_stand_in(view):
        return "run it again, to its end"
    return f"if it does not go on any more: python -m pytest_h20 reap --nodes {view.header.inventory or 'INVENTORY'}, then run it again"


def _how_many(gates: Sequence[GateResult]) -> str:
    """How many gates do not hold, and how many of these could only not be measured: one cause can keep many from being so."""
    red = [gate for gate in gates if gate.status.blocks]
    if not red:
        return ""
    silent = sum(gate.status is Status.UNKNOWN for gate in red)
    if 0 < silent < len(red):
        return f"{len(red)} of {len(gates)} gates do not hold: {len(red) - silent} fail, {silent} could not be measured."
    return f"{len(red)} of {len(gates)} gates do{'es' if len(red) == 1 else ''} not hold."


def _all_hold(view: RunView) -> str:
    """Of how many gates, and whether there is something to read although they hold."""
    required = [gate for gate in view.decision.gates if gate.required]
    warned = [gate for gate in required if gate.status is Status.WARN]
    told = f"All {len(required)} required gates hold" if len(required) > 1 else "Every required gate holds"
    return f"{told}, {len(warned)} of them with warnings to read." if warned else f"{told}."


def _in_short(view: RunView) -> str:
    """On what, since when, and whether signed, in one line, so that it is on the first screen of a phone too."""
    h = view.header
    names = [n.name for n in h.nodes]
    nodes = ", ".join(names) if len(names) <= FEW_NODES else f"{names[0]} … {names[-1]} ({len(names)})"
    driver = f"driver {h.driver}" if h.driver else ""
    since = moment(h.started) if h.started else ""
    engines = ", ".join(f"{_engine(view, e)} ({h.images[e]})" if e in h.images else _engine(view, e) for e in h.engines)
    signed = in_words(view.path) if view.complete else ""
    return " · ".join(part for part in (nodes, engines, driver, since, signed) if part)


def _engine(view: RunView, label: str, more: bool = False) -> str:
    """The engine with the version that really ran; ``more``: and its profile and NCCL."""
    known = view.fingerprint.engines.get(label, {}) if view.fingerprint else {}
    version = known.get("engine", "")
    text = f"{label} {version}".strip()
    if more:
        profile = f"profile {known['profile']}" if known.get("profile") else ""
        text += "".join(f", {part}" for part in (profile, f"NCCL {known['nccl']}" if known.get("nccl") else "") if part)
    return text


def _stand_in(view: RunView) -> Html | None:
    """A stand-in must be impossible to miss, also on a printed page or a cropped screenshot."""
    if not _is_stand_in(view):
        return None
    return tag("p", f"{'; '.join(view.header.obstacles)}. ", tag("strong", "Never an acceptance."), class_="h20-standin")


def _is_stand_in(view: RunView) -> bool:
    h = view.header
    return not h.mode.can_accept or bool(h.stood_in) or h.time_scale != 1.0


def _setup_errors(view: RunView) -> list[Html]:
    return [setup_error(error) for error in _unexplained(view)]


def _unexplained(view: RunView) -> list[SetupError]:
    """Those that no check explains: an engine not brought up for a rail that is down comes after that rail, as one of the reasons."""
    causes = blocking(view)
    return [e for e in view.setup_errors if not any(c.title != e.title and c.check in e.cause for c in causes)][:SHOWN]


def setup_error(error: SetupError) -> Html:
    """A set-up that broke, with cause and fix."""
    return tag(
        "div",
        tag("p", chip(Status.FAIL), " ", tag("strong", error.title), f" {error.test_id}" if error.words == "test failed" else None),
        tag("p", tag("b", "Cause: "), error.cause) if error.cause else None,
        tag("p", tag("b", "Do this: "), error.fix) if error.fix else None,
        tag("details", tag("summary", "The error in full"), tag("pre", error.text)) if error.text else None,
        class_="h20-reason",
    )


def _reasons(view: RunView) -> Html | None:
    told = {(error.title, error.cause) for error in _unexplained(view)}  # stands above already, in the same words
    found = grouped([check for check in blocking(view) if (check.title, check.reason) not in told])
    if not found:
        return None
    more = sum(len(group) for group in found[SHOWN:])
    return tag(
        "div",
        tag("h2", "Why not"),
        tag("ol", [tag("li", reason(group)) for group in found[:SHOWN]], class_="h20-reasons"),
        tag("p", f"and {more} more below", class_="h20-muted") if more else None,
    )


def grouped(checks: Sequence[CheckRow]) -> list[list[CheckRow]]:
    """Checks of one kind together (eight rails that fail alike are one reason), in the order given."""
    found: defaultdict[tuple[str, str], list[CheckRow]] = defaultdict(list)
    for check in checks:
        found[(check.check, check.title)].append(check)
    return list(found.values())


def reason(group: Sequence[CheckRow]) -> Html:
    """One kind of failure in plain words: what, measured against what, why that limit, what to do."""
    first = group[0]
    subjects = [c.subject for c in group if c.subject]
    named = ", ".join(map(subject, subjects[:3])) + (f", and {len(subjects) - 3} more" if len(subjects) > 3 else "")
    example = labelled(first.subject, "") if len(group) > 1 and first.subject else ""
    return join(
        tag(
            "p",
            *(chip(first.status), " ", tag("strong", first.title + (f" ({named})" if named else "")), " "),
            tag("a", GATE_TITLES[first.gate], href="#" + anchor(first.gate), class_="h20-small"),
        ),
        tag("p", example, measured(first)) if first.measured is not None or first.limit else None,
        tag("p", first.reason) if first.reason else None,
        tag("p", tag("b", "Do this: "), first.action) if first.action else None,
    )


def anchor(gate: GateName) -> str:
    """Where a gate stands on the page."""
    return "-".join(("gate", gate.value))


def measured(check: CheckRow) -> Html:
    """Measured … wanted … (origin)."""
    wanted: Child = None
    if check.limit is not None:
        wanted = join(", wanted ", tag("b", limit_words(check.limit)), f" ({check.limit.origin})")
    return join("measured ", tag("b", measure(check.measured, unit_of(check))), wanted)


def _warnings(view: RunView) -> Html | None:
    found = [*view.warnings, *view.damage]
    if not found:
        return None
    return tag("ul", [tag("li", "! ", text) for text in found], class_="h20-warnings", aria_label="Warnings")


def _facts(view: RunView) -> Iterator[tuple[str, Child]]:
    h = view.header
    yield "Engine", [tag("div", _engine(view, e, more=True)) for e in h.engines] or "none"
    for engine, image in h.images.items():
        yield f"Image ({engine})" if len(h.images) > 1 else "Image", tag("code", image)
    if h.nodes:
        each = [tag("div", n.name, f" {n.address}" if n.address else "", f" · {n.gpus}" if n.gpus else "") for n in h.nodes]
        yield "Nodes", each if len(each) <= FEW_NODES else tag("details", tag("summary", f"{len(each)} nodes"), each)
    if h.driver:
        yield "Driver", h.driver
    if h.model:
        yield "Model", tag("code", h.model)
    took = f", took {duration((h.ended - h.started).total_seconds())}" if h.started and h.ended else ""
    yield "Since", f"{moment(h.started)}{took}"
    yield "Kind of run", h.mode.words
    if h.conditions:
        yield "Conditions", [tag("div", text) for text in h.conditions]
    if h.limits:
        yield "Limits", h.limits
    if h.inventory:
        yield "Inventory", h.inventory
    if h.replay_of:
        yield "Replay of", h.replay_of
    yield "Records", tag("code", view.path.name)
