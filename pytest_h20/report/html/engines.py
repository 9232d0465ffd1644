"""Several engines of one run beside each other: one sentence, gates and figures with a column for each, and what differs."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.core.verdict import GATE_TITLES, Status
from pytest_h20.report.compare import Comparison, of_figure, spread_words
from pytest_h20.report.engines import comparisons, gates_by_engine, network, sentence
from pytest_h20.report.html.comparison import differences, direction
from pytest_h20.report.html.tags import Child, Html, join, table, tag
from pytest_h20.report.html.words import chip, number
from pytest_h20.report.model import METRICS, RunView

BESIDE = "h20-stack h20-beside"


def engines(view: RunView) -> Html:
    """The part of a run of several engines; nothing for a run of one."""
    pairs = comparisons(view)
    if not pairs:
        return join()
    first = [pair for pair in pairs if pair.old.label == view.header.engines[0]]
    tables = [_figures(first, metric) for metric in METRICS]
    noise = f"Held against {first[0].old.label}. Intervals are 95 % for all cells together; {spread_words(first[0])}."
    return join(
        [tag("p", tag("strong", sentence(pair), ".")) for pair in pairs],
        [tag("p", said, ".") for pair in pairs if (said := network(view, pair))],
        tag("p", noise, class_="h20-muted"),
        _gates(view),
        tables[0],
        tag("details", tag("summary", "Times of every cell"), tables[1:]),
        [
            tag("details", tag("summary", f"What differs between {pair.old.label} and {pair.new.label}"), differences(pair, _names(pair)))
            for pair in pairs
        ],
    )


def _names(pair: Comparison) -> tuple[str, str]:
    return pair.old.label, pair.new.label


def _gates(view: RunView) -> Html:
    labels = view.header.engines
    rows = [
        tag(
            "tr",
            tag("th", GATE_TITLES[gate], scope="row"),
            *(tag("td", chip(found[e].status) if e in found else "not run", data_label=e) for e in labels),
        )
        for gate, found in gates_by_engine(view).items()
    ]
    return table("Gates of each engine", ("Gate", *labels), rows, BESIDE)


def _figures(pairs: Sequence[Comparison], metric: str) -> Html:
    """One figure of every cell, a column per engine; those after the first with their change against it."""
    title, unit = METRICS[metric]
    one = pairs[0].old
    names = list(dict.fromkeys([*one.cells, *(name for pair in pairs for name in pair.new.cells)]))
    rows = []
    for name in names:
        base = tag("td", _figure(one.cells[name].figure(metric), unit) if name in one.cells else "–", data_label=one.label)
        others = [tag("td", _against(pair, name, metric), data_label=pair.new.label) for pair in pairs]
        rows.append(tag("tr", tag("th", name, scope="row"), base, others))
    return table(f"{title} ({unit})", ("Cell", one.label, *(pair.new.label for pair in pairs)), rows, BESIDE)


def _against(pair: Comparison, name: str, metric: str) -> Child:
    if name not in pair.new.cells:
        return "–"
    shown = _figure(pair.new.cells[name].figure(metric), METRICS[metric][1])
    row = next((r for r in pair.cells if r.cell == name and r.metric == metric), None)
    if row is None or row.change is None:
        return shown
    if Status.UNKNOWN in (pair.old.cells[name].status, pair.new.cells[name].status):
        return join(shown, " ", chip(Status.UNKNOWN))
    return join(shown, " ", direction(row.change), f" {of_figure(row.change, metric)[0]:+.1f} %")


def _figure(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{number(value)} {unit}"
