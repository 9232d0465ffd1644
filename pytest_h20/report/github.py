"""GitHub Actions: the step summary and ``::error`` lines, for set-up errors too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_h20.core.door import shown
from pytest_h20.core.verdict import Status
from pytest_h20.report.engines import comparisons, network, sentence
from pytest_h20.report.model import METRICS, WORDS, RunView
from pytest_h20.report.terminal import gate_title, tally, verdict_words, worst_first

_ICONS = {Status.PASS: "✅", Status.SKIP: "⏭️", Status.WARN: "⚠️", Status.UNKNOWN: "❓", Status.FAIL: "❌"}
MAX_ANNOTATIONS = 10
"""GitHub shows ten errors of a step and drops the rest without a word."""


def error_commands(view: RunView) -> list[str]:
    """``::error``/``::warning`` workflow commands: set-up errors first (they are the cause), then what blocks, worst first."""
    found = [_command("error", e.title, _setup_text(e.cause, e.fix, e.test_id)) for e in view.setup_errors]
    blocking = sorted((c for c in view.checks if c.status.blocks), key=lambda c: -c.status.rank)
    found += [_command("error", f"{check.check} {check.subject}".strip(), check.bare().text()) for check in blocking]
    if not found and not view.decision.green:
        found.append(_command("error", "pytest-h20", f"{verdict_words(view)}: {view.decision.reason}"))
    left_out = len(found) - MAX_ANNOTATIONS
    if left_out > 0:
        found = found[: MAX_ANNOTATIONS - 1]
        found.append(_command("error", "pytest-h20", f"{left_out + 1} more failures: see the run folder {view.path.name}"))
    found += [_command("warning", "pytest-h20", text) for text in view.warnings]
    return found


def step_summary(view: RunView) -> str:
    """Markdown for ``$GITHUB_STEP_SUMMARY``."""
    return "\n".join(_summary(view)) + "\n"


def write_step_summary(view: RunView, environ: Mapping[str, str] = os.environ) -> bool:
    """Append the summary where GitHub wants it. False when this is no GitHub step. Raises ``OSError`` as the system does."""
    target = environ.get("GITHUB_STEP_SUMMARY", "")
    if not target:
        return False
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(shown(step_summary(view)))
    return True


def _summary(view: RunView) -> Iterator[str]:
    h = view.header
    yield f"## {'✅' if view.decision.accepted else '⚠️' if view.decision.green else '❌'} {_md(verdict_words(view))}"
    yield ""
    yield f"{_md(view.decision.reason)}. {_md(h.mode.words)}."
    yield ""
    on = ", ".join(f"{n.name} ({n.gpus})" if n.gpus else n.name for n in h.nodes) or "unknown nodes"
    yield (
        f"{_md(', '.join(h.engines))} on {_md(on)}, driver {_md(h.driver or 'unknown')}, since {h.started:%Y-%m-%d %H:%M} UTC"
        if (h.started)
        else f"{_md(', '.join(h.engines))} on {_md(on)}"
    )
    yield ""
    yield "| gate | result | why |"
    yield "|---|---|---|"
    for gate in worst_first(view):
        counts = ", ".join(f"{n} {s}" for s, n in tally(view, gate).items())
        yield f"| {_md(gate_title(gate))} | {_ICONS[gate.status]} {WORDS[gate.status]} | {_md(gate.reason or counts)} |"
    for pair in comparisons(view):
        yield ""
        yield f"{_md(sentence(pair))}."
        if said := network(view, pair):
            yield f"{_md(said)}."
    for error in view.setup_errors:
        yield ""
        fix = f" Next: {_md(error.fix)}" if error.fix else ""
        yield f"**{_md(error.words.capitalize())}: {_md(error.title)}** {_md(error.cause)}{fix}"
    blocking = [c for c in view.checks if c.status.blocks]
    if blocking:
        yield ""
        yield "| failed check | subject | measured | wanted | next |"
        yield "|---|---|---|---|---|"
        for check in blocking[:30]:
            wanted = f"{check.limit} ({check.limit.origin})" if check.limit else ""
            figure = f"{check.measured:.6g}" if isinstance(check.measured, float) else check.measured
            measured = "" if figure is None else f"{figure} {check.unit}".rstrip()
            cells = (check.subject, measured, wanted, check.action or check.reason)
            yield f"| `{check.check}` | " + " | ".join(map(_md, cells)) + " |"
        if len(blocking) > 30:
            yield f"| … | {len(blocking) - 30} more in the run folder | | | |"
    if view.cells:
        yield ""
        yield "<details><summary>Throughput cells</summary>"
        yield ""
        yield "| engine | cell | " + " | ".join(f"{title} ({unit})" for title, unit in METRICS.values()) + " | |"
        yield "|---|---|" + "---:|" * len(METRICS) + "---|"
        for cell in view.cells:
            figures = (cell.figure(metric) for metric in METRICS)
            row = " | ".join("" if f is None else f"{f:.1f}" for f in figures)
            yield f"| {_md(cell.engine)} | {cell.name} | {row} | {_ICONS[cell.status]} |"
        yield ""
        yield "</details>"


def _setup_text(cause: str, fix: str, test_id: str) -> str:
    return "\n".join(part for part in (cause, f"next: {fix}" if fix else "", test_id) if part)


def _command(level: str, title: str, message: str) -> str:
    return f"::{level} title={_property(title)}::{_message(message)}"


def _message(text: str) -> str:
    return shown(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _md(text: str) -> str:
    """Text inside a Markdown table cell: no new column, no new line, no HTML."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "").replace("\n", "<br>")
