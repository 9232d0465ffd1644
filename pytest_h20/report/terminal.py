"""The last lines a person sees in the terminal: one per gate, worst first, then the decision, then where the report is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_h20.core.verdict import GATE_TITLES, GateResult, Status, headline
from pytest_h20.lang import labelled, listed, local
from pytest_h20.report.engines import comparisons, gates_by_engine, network, sentence
from pytest_h20.report.model import WORDS, CheckRow, RunView

MARKUP: dict[Status, dict[str, bool]] = {
    Status.PASS: {"green": True},
    Status.SKIP: {"yellow": True},
    Status.WARN: {"yellow": True},
    Status.UNKNOWN: {"red": True},
    Status.FAIL: {"red": True, "bold": True},
}


@dataclass(frozen=True)
class Line:
    """A line and pytest's markup for it (``terminalreporter.write_line(line.text, **line.markup)``)."""

    text: str
    markup: dict[str, bool]


def worst_first(view: RunView) -> list[GateResult]:
    """Gates by how bad they are; equal ones in the order in which they are worth knowing."""
    return sorted(view.decision.gates, key=lambda gate: -gate.status.rank)


RECORDED = "recorded"


def tally(view: RunView, gate: GateResult) -> dict[str, int]:
    """How many checks of a gate came out how, by the word of the status; those that were only recorded are apart from skipped ones
    and from those that hold a limit."""
    found = dict(gate.counts)
    for check in view.checks:
        if check.gate is gate.name and check.recorded and found.get(check.status.value):
            found[check.status.value] -= 1
            found[RECORDED] = found.get(RECORDED, 0) + 1
    return {word: count for word, count in found.items() if count}


def verdict_words(view: RunView) -> str:
    """The answer in a few words: ACCEPTED, NOT ACCEPTED, or what else it is."""
    if not view.complete or view.header.unfinished:
        return "NOT FINISHED"
    if not view.header.asked:
        red = not view.decision.green and (view.decision.gates or view.setup_errors)  # where nothing was measured, nothing is red
        return "NO ACCEPTANCE WAS ASKED FOR, AND NOT EVERYTHING HOLDS" if red else "NO ACCEPTANCE WAS ASKED FOR"
    if view.decision.accepted:
        return "ACCEPTED UNDER CONDITIONS" if view.header.conditions else "ACCEPTED"
    if view.decision.green:
        return (
            f"EVERY GATE HOLDS, BUT THIS IS A {view.header.mode.value.upper()} RUN: NOT AN ACCEPTANCE"
            if (not view.header.mode.can_accept)
            else "EVERY GATE HOLDS, BUT THIS RUN CANNOT BE AN ACCEPTANCE"
        )
    return "NOT ACCEPTED"


def because_of(view: RunView) -> str:
    """Why it is so: what is red, else what keeps it from being an acceptance, or its conditions."""
    return view.decision.reason if not view.decision.green else "; ".join(view.header.obstacles or view.header.conditions)


def blocking(view: RunView) -> list[CheckRow]:
    """Checks that keep a gate from passing, by gate (an early red one explains the later ones), worst first inside."""
    order = [g.name for g in view.decision.gates]
    found = [c for c in view.checks if c.status.blocks]
    return sorted(found, key=lambda c: (order.index(c.gate) if c.gate in order else len(order), -c.status.rank))


def terminal_lines(view: RunView, report: str = "") -> list[Line]:
    """Lines for ``pytest_terminal_summary``, in the reader's language. ``report``: path of the HTML report, if any; printed last."""
    gates = worst_first(view)
    by_engine = gates_by_engine(view)
    width = max((len(gate.name.value) for gate in gates), default=0)
    lines = []
    for gate in gates:
        counts = listed(f"{count} {status}" for status, count in tally(view, gate).items()) or local("no check ran")
        each = _each(by_engine.get(gate.name, {}))
        optional = "" if gate.required else " (not required)"
        words = f"{WORDS[gate.status]}{optional}{each}"
        warned = [c for c in view.checks if c.gate is gate.name and c.status is Status.WARN] if gate.status is Status.WARN else []
        reason = headline(warned) if warned else gate.reason
        outcome = labelled(words, reason) if reason else local(words)
        lines.append(Line(f"{gate.name.value:<{width}}  {outcome}  [{counts}]", MARKUP[gate.status]))
    said = [e for e in view.setup_errors if e.cause and any(e.cause in gate.reason for gate in gates)]  # by their gates, above
    lines += [
        Line(local(f"{error.words}: {error.title}: {error.cause or error.test_id}"), {"red": True})
        for error in view.setup_errors
        if error not in said
    ]
    lines += [Line(local(f"warning: {text}"), {"yellow": True}) for text in (*view.warnings, *view.damage)]
    lines += [Line(local(told), {}) for pair in comparisons(view) for told in (sentence(pair), network(view, pair)) if told]
    colour = MARKUP[Status.PASS] if view.decision.accepted else MARKUP[Status.WARN if view.decision.green else Status.FAIL]
    because = "" if view.decision.green else because_of(view)
    told = labelled(verdict_words(view), because) if because else local(verdict_words(view))
    lines.append(Line(told, {**colour, "bold": True}))
    if view.decision.green:
        lines += [Line("  " + local(text), {}) for text in view.header.obstacles or view.header.conditions]
    if step := next((check.action for check in blocking(view)), ""):
        lines.append(Line(local(f"next: {step}"), {"bold": True}))
    lines.append(Line(local(f"run folder: {view.path}"), {}))
    if report:
        lines.append(Line(local(f"report: {report}"), {}))
    return lines


def _each(found: Mapping[str, GateResult]) -> str:
    """How a gate came out for each engine; in few words when it is the same for all."""
    if len({gate.status for gate in found.values()}) == 1:
        return f" (all {len(found)} engines)"
    return f" ({', '.join(f'{engine} {WORDS[gate.status]}' for engine, gate in found.items())})" if found else ""


def gate_title(gate: GateResult) -> str:
    """What the gate asks, in words."""
    return GATE_TITLES[gate.name]
