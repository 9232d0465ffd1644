"""What to call: the summary for pytest-html, whole pages, and the stylesheet.

Everything is self-contained, works offline and needs no JavaScript to be read. All data goes through
:func:`pytest_h20.report.html.tags.tag`, which escapes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_h20 import lang
from pytest_h20.core.verdict import GateName, Status
from pytest_h20.lang import labelled, listed
from pytest_h20.report.compare import Comparison
from pytest_h20.report.html import charts, rails, tables, timeline
from pytest_h20.report.html.answers import answers
from pytest_h20.report.html.calibration import calibration
from pytest_h20.report.html.comparison import comparison
from pytest_h20.report.html.engines import engines
from pytest_h20.report.html.first_screen import first_screen, outcome
from pytest_h20.report.html.gates import gates
from pytest_h20.report.html.machines import machines
from pytest_h20.report.html.paper import first_page, gpus_of
from pytest_h20.report.html.recovery import recovery
from pytest_h20.report.html.soak import soaks
from pytest_h20.report.html.tags import Child, Html, join, script, stylesheet, tag
from pytest_h20.report.model import Mode, RunView

VIEWPORT = tag("meta", name="viewport", content="width=device-width, initial-scale=1")


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def summary_html(view: RunView) -> str:
    """The whole report of a run, to be put into ``prefix`` of ``pytest_html_results_summary``.

    Brings its stylesheet along, which also mends pytest-html's own page for phones, dark screens and print, and a small
    script, after the part that it reads the language from, that gives that page what screen readers need. Nothing is shown by it.
    """
    return str(join(VIEWPORT, stylesheet(_file("style.css")), _ours(run_parts(view)), script(_file("guest.js"))))


def title(view: RunView) -> str:
    """A title for ``pytest_html_report_title``: the answer, then on what."""
    return labelled(outcome(view)[1], ", ".join((view.header.name, *view.header.engines)))


def run_page(view: RunView) -> str:
    """A run as a page of its own, without pytest-html (``report.html`` in the run folder, replay, tests)."""
    return page(title(view), run_parts(view))


def comparison_page(result: Comparison) -> str:
    """Two runs held against each other as a page of its own."""
    return page("Comparison of two runs", tag("section", comparison(result)))


def page(heading: str, *body: Child) -> str:
    """A complete HTML document."""
    head = tag("head", tag("meta", charset="utf-8"), VIEWPORT, tag("title", heading), stylesheet(_file("style.css")))
    main = tag("main", tag("h1", heading), tag("div", *body, class_="h20"))
    return "<!DOCTYPE html>\n" + str(tag("html", head, tag("body", main), lang=lang.tag())) + "\n"


GUEST_WORDS = (
    *("Result", "Test", "Duration", "Links", "Summary", "Environment", "Failed", "Passed", "Skipped", "Error", "Errors", "Reruns"),
    *("XFailed", "XPassed", "Expected failures", "Unexpected passes", "Show all details", "Hide all details", "tests took", "test took"),
    *("Report generated on", " at ", " by ", "tests done.", "test done.", "There are still tests running.", "log", "show"),
    *("No log output captured.", "No results found. Check the filters.", "Reload this page to get the latest results!"),
    "(Un)check the boxes to filter the results.",
)
"""What pytest-html writes itself, and our script into its page."""


def _ours(*body: Child) -> Html:
    """Our part in pytest-html's page; it carries the language, and the words of that page in it, to the script."""
    words = {word: said for word in GUEST_WORDS if (said := lang.local(word)) != word}
    return tag("div", *body, class_="h20", lang=lang.tag(), data_words=json.dumps(words, ensure_ascii=False) if words else None)


def run_parts(view: RunView) -> Html:
    """All sections of a run, most important first. Sections without anything to show are left out."""
    gpus = {engine: gpus_of(view, engine) for engine in view.header.engines}
    failed_start = bool(view.setup_errors) or any(t.change.state == "broken" for t in view.timeline)
    log_part = _Part("Ends of the logs", tables.logs(view.logs, opened=failed_start)) if view.logs else None
    settings = view.header.settings or view.header.command_line
    parts = [
        log_part if failed_start else None,
        _Part("Gates", gates(view), on_paper=True) if view.decision.gates else None,
        _Part("Engine against engine", engines(view), on_paper=True),
        _Part("Calibration", calibration(view.cells), on_paper=True),
        _Part("Throughput and latency", join(charts.figures(view.cells, gpus), answers(view.cells)), on_paper=True) if view.cells else None,
        _Part("Machines under load", machines(view.loads, view.kernel)) if view.loads or view.kernel else None,
        _Part("Soak", soaks(view.soaks, view.kernel), on_paper=True) if view.soaks else None,
        _Part("Recovery", recovery(view.drills), on_paper=True) if view.drills else None,
        _Part("Proof of RDMA", rails.rail_map(view.rails, _no_proof(view), view.pairs), on_paper=True) if view.rails else None,
        _Part("GPUs and their NICs", rails.pair_table(view.pairs)) if view.pairs else None,
        _Part("Bring-up", timeline.timeline_part(view.timeline, view.header.ended, view.header.time_scale)) if view.timeline else None,
        _Part("The nodes against each other", tables.environment(view.facts)) if view.facts else None,
        _Part("Not measured", tables.not_measured(view.not_measured)) if view.not_measured else None,
        _Part("Commands used", tables.commands(view.commands)) if view.commands else None,
        None if failed_start else log_part,
        _Part("Settings", tables.settings(view.header.settings, view.header.command_line)) if settings else None,
        _Part("Fingerprint", _folded(tables.fingerprint(view.fingerprint))) if view.fingerprint else None,
    ]
    shown = [part for part in parts if part is not None and part.body]
    return join(first_page(view), first_screen(view), _off_paper(view, shown), [part.html() for part in shown])


@dataclass(frozen=True)
class _Part:
    """A section of a run. On paper stand the decision, what is red, and the figures; the rest would be fifty pages."""

    heading: str
    body: Html | None
    on_paper: bool = False

    def html(self) -> Html:
        return tag("section", tag("h2", self.heading), self.body, class_=None if self.on_paper else "h20-screen")


def _off_paper(view: RunView, parts: Sequence[_Part]) -> Html:
    """A line on paper: what was left out, and where it stands."""
    left = listed(["each check that holds", *(part.heading for part in parts if not part.on_paper)])
    told = f"Not printed: {left}. They stand in the HTML page, and in the records: "
    return tag("p", told, tag("code", view.path.name), class_="h20-off-paper")


def _no_proof(view: RunView) -> str:
    """Why green lines of the map would prove nothing; empty when they are evidence."""
    h = view.header
    if h.mode is Mode.REHEARSAL or any("rdma" in what.lower() for what in h.stood_in):
        return "RDMA was stood in"
    judged = [c for c in view.checks if c.gate is GateName.RDMA and c.status is not Status.SKIP]
    return "" if judged else "RDMA was not judged in this run"


def _folded(*children: Child) -> Html:
    return tag("details", tag("summary", "Everything that may explain a different figure"), *children)
