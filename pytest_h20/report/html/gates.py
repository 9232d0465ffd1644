"""All gates, worst first, each with every check it holds."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.report.html.first_screen import measured
from pytest_h20.report.html.tags import Html, join, tag
from pytest_h20.report.html.words import STATUS_WORDS, chip, term
from pytest_h20.report.model import Check, RunView
from pytest_h20.report.terminal import worst_first
from pytest_h20.verdicts import GATE_TITLES, GateResult, Status


def gates(view: RunView) -> Html:
    """One fold per gate; those that do not hold are open."""
    return join(
        tag("p", "Worst first. A ", term("gate"), " that could not be measured does not hold."),
        [_gate(gate, [c for c in view.checks if c.gate is gate.name]) for gate in worst_first(view)],
    )


def _gate(gate: GateResult, checks: Sequence[Check]) -> Html:
    counts = ", ".join(f"{gate.counts[s.value]} {STATUS_WORDS[s]}" for s in Status if s.value in gate.counts)
    required = "" if gate.required else " (not required)"
    ordered = sorted(checks, key=lambda c: -c.status.rank)
    return tag(
        "details",
        tag(
            "summary",
            tag("span", GATE_TITLES[gate.name] + required, class_="h20-gate-title"),
            chip(gate.status),
            tag("span", counts or gate.reason or "no check ran", class_="h20-muted"),
        ),
        tag("p", gate.reason) if gate.reason and gate.status.blocks else None,
        tag("ul", [_check(c) for c in ordered], class_="h20-checks") if ordered else None,
        class_=f"h20-gate h20-{gate.status.value}",
        open=gate.status.blocks,
    )


def _check(check: Check) -> Html:
    return tag(
        "li",
        tag("div", chip(check.status), " ", tag("strong", check.title), f" {check.subject}" if check.subject else ""),
        tag("div", measured(check)) if check.measured is not None or check.limit else None,
        tag("div", check.reason) if check.reason else None,
        tag("div", tag("b", "Do this: "), check.action) if check.action else None,
        tag(
            "div",
            tag("code", check.check),
            [join(" · ", tag("code", e)) for e in check.evidence],
            f" · {check.test_id}" if check.test_id else "",
            class_="h20-muted h20-small",
        ),
    )
