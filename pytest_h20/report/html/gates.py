"""All gates, worst first, each with every check it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pytest_h20.core.verdict import GATE_TITLES, GateResult, Status
from pytest_h20.report.engines import engine_of
from pytest_h20.report.html.first_screen import anchor, measured
from pytest_h20.report.html.tags import Html, join, tag
from pytest_h20.report.html.words import RECORDED, chip, count_words, subject, term
from pytest_h20.report.model import CheckRow, RunView
from pytest_h20.report.terminal import tally, worst_first


def gates(view: RunView) -> Html:
    """One fold per gate; those that do not hold are open."""
    return join(
        tag("p", "Worst first. A ", term("gate"), " that could not be measured does not hold."),
        [_gate(gate, _named(view, gate), count_words(tally(view, gate))) for gate in worst_first(view)],
    )


def _named(view: RunView, gate: GateResult) -> list[CheckRow]:
    """The checks of a gate; in a run of several engines each subject says of which it is."""
    engines = view.header.engines
    found = [check for check in view.checks if check.gate is gate.name]
    if len(engines) < 2:
        return found
    named = []
    for check in found:
        engine = engine_of(check, engines)
        told = not engine or check.subject.startswith(engine)
        named.append(check if told else check.model_copy(update={"subject": f"{engine} {check.subject}".strip()}))
    return named


def _gate(gate: GateResult, checks: Sequence[CheckRow], counts: str) -> Html:
    """What does not hold, and what is worth knowing, then the rest behind a fold: so it is on paper, too."""
    required = "" if gate.required else " (not required)"
    head = (
        tag("span", GATE_TITLES[gate.name] + required, class_="h20-gate-title"),
        chip(gate.status),
        tag("span", counts or gate.reason or "no check ran", class_="h20-muted"),
    )
    css = f"h20-gate h20-{gate.status.value}"
    if not checks:
        return tag("div", *head, class_=f"{css} h20-bare", id=anchor(gate.name))
    told = [c for c in checks if c.status.blocks or c.status is Status.WARN]
    if gate.status.blocks and not told:
        # nothing in it is worth unfolding: why stands in its head
        return tag("details", tag("summary", *head, tag("span", gate.reason)), _groups(checks), class_=css, id=anchor(gate.name))
    rest = [c for c in checks if c not in told]
    others = _groups(rest) if rest else None
    if rest and told:
        others = tag("details", tag("summary", f"{len(rest)} more that do not keep the gate from holding"), others)
    return tag(
        "details", tag("summary", *head), _groups(told) if told else None, others, class_=css, id=anchor(gate.name), open=gate.status.blocks
    )


def _groups(checks: Sequence[CheckRow]) -> Html:
    """Checks of one kind together: what to do is said once, each subject has its line."""
    found: defaultdict[tuple[str, str, str], list[CheckRow]] = defaultdict(list)
    for check in sorted(checks, key=lambda c: -c.status.rank):
        found[(check.check, check.title, check.action)].append(check)
    return tag("ul", [_group(title, action, members) for (_, title, action), members in found.items()], class_="h20-checks")


def _group(title: str, action: str, members: Sequence[CheckRow]) -> Html:
    names = {c.test_id.split("[", 1)[0] for c in members if c.test_id}
    return tag(
        "li",
        tag("div", tag("strong", title), " ", tag("code", members[0].check, class_="h20-muted")),
        [_subject(alike) for alike in _alike(members)],
        tag("div", tag("b", "Do this: "), action) if action else None,
        tag("div", ", ".join(sorted(names)), class_="h20-muted h20-small") if names else None,
    )


def _alike(members: Sequence[CheckRow]) -> list[list[CheckRow]]:
    """Those of which the same is said together: one slow GPU in nine cells is one line."""
    found: defaultdict[str, list[CheckRow]] = defaultdict(list)
    for check in members:
        found[repr((check.status, check.recorded, check.measured, check.limit, check.reason))].append(check)
    return list(found.values())


def _subject(alike: Sequence[CheckRow]) -> Html:
    check = alike[0]
    subjects = [c.subject for c in alike if c.subject]
    told = measured(check) if check.measured is not None or check.limit else None
    evidence = [join(tag("code", path), " ") for path in dict.fromkeys(path for c in alike for path in c.evidence)]
    return tag(
        "div",
        chip(Status.SKIP, RECORDED) if check.recorded else chip(check.status),
        " ",
        tag("b", ", ".join(map(subject, subjects)), " ") if subjects else None,
        told,
        f" – {check.reason}" if check.reason and told else check.reason,
        tag("span", " evidence: ", evidence, class_="h20-muted h20-small") if evidence else None,
        class_="h20-subject",
    )
