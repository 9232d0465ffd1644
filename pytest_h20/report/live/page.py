"""A run at a moment as a page that fetches the next one. Script and style are files of the server's own: the page forbids all others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pytest_h20 import lang
from pytest_h20.core.verdict import Status
from pytest_h20.lang import labelled
from pytest_h20.report.html.tags import Html, join, tag
from pytest_h20.report.html.words import chip, duration, number
from pytest_h20.report.live.lines import cell_words, held_to, holds_words, left, state_words, who
from pytest_h20.report.live.progress import CellStand, GateStand, Progress, Sparkline, StartStand

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of every answer."""


BY_SCRIPT = (
    ("fresh", "Up to date."),
    ("over", "The run is over: this page stays as it is."),
    ("gone", "Nobody answers any more: the run, and this page with it, has ended. What stands here is what was seen last."),
)


@cache
def style() -> str:
    """The report's own, and a little more."""
    here = Path(__file__).parent
    return (here.parent / "html" / "style.css").read_text(encoding="utf-8") + (here / "page.css").read_text(encoding="utf-8")


@cache
def program() -> str:
    """What fetches the next moment."""
    return Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def shell(inside: Html) -> str:
    """A whole document with a moment in it. Without a script it loads itself again."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "pytest-h20"),
        tag("link", rel="stylesheet", href="page.css"),
        tag("noscript", tag("meta", http_equiv="refresh", content="2")),
        tag("script", src="page.js", defer=True),
    )
    main = tag("main", tag("div", inside, id="now", class_="h20"), tag("p", "", id="state", role="status"))
    said = [tag("span", text, id=name, hidden=True) for name, text in BY_SCRIPT]
    return "<!DOCTYPE html>\n" + str(tag("html", head, tag("body", main, said), lang=lang.tag())) + "\n"


def moment(p: Progress) -> Html:
    """The run as it is now."""
    return join(
        tag("h1", labelled(who(p), state_words(p)), data_over=p.state.over or None),
        tag("p", labelled(p.run, p.mode)),
        tag("p", f"time runs {p.scale:g} times as fast as in reality; figures are in model time") if p.scale != 1.0 else None,
        tag("p", tag("strong", p.answer), f" · {p.reason}" if p.reason else "") if p.answer else None,
        tag("ul", [tag("li", f"not read: {text}") for text in p.damage[:10]]) if p.damage else None,
        _cell(p.cell) if p.cell is not None else None,
        [_bring_up(b) for b in p.bringups if b.roles or not p.cell],
        _section("Gates", _gates(p.gates)),
        _section("GPU power", _courses(p.gpus)) if p.gpus else None,
        _section("Rails, sent", _courses(p.rails)) if p.rails else None,
        _section("Kernel log", tag("p", p.kernel)) if p.kernel else None,
    )


def _section(heading: str, *children: object) -> Html:
    return tag("section", tag("h2", heading), *children)  # type: ignore[arg-type]


def _known(status: Status, words: str) -> bool:
    """Red is known at once, green only when the gate is through: no tick for one that still runs."""
    return status.blocks or not words.startswith("runs")


def _gates(gates: Sequence[GateStand]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", g.title, " ", tag("code", g.name), scope="row"),
            tag("td", f"{g.done} / {g.total}" if g.total else "", class_="h20-nowrap"),
            tag(
                "td",
                chip(g.status, g.words) if g.status is not None and _known(g.status, g.words) else g.words,
                f" {g.reason}" if g.reason else "",
            ),
        )
        for g in gates
    ]
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in ("gate", "tests", "how it stands")]))
    return tag("table", head, tag("tbody", rows), class_="live-gates")


def _bar(done: int | None, total: int | None, unit: str) -> Html | None:
    if done is None or not total:
        return None
    words = f"{done} / {total} {unit}".rstrip()
    return join(tag("progress", value=min(done, total), max=total, aria_label=words), " ", tag("span", words, class_="h20-nowrap"))


def _bring_up(b: StartStand) -> Html:
    of = f" (at most {duration(b.limit_s)})" if b.limit_s is not None else ""
    time = f", {duration(b.elapsed_s)}{of}" if b.elapsed_s is not None else f" {b.note}" if b.note else ""
    roles = [
        tag(
            "tr",
            tag("th", " ".join(filter(None, (r.node, r.role))), scope="row"),
            tag("td", r.stage),
            tag("td", _bar(r.done, r.total, r.unit) or r.detail, left(r.left_s)),
        )
        for r in b.roles
    ]
    return _section(f"Bring-up of {b.engine}: {b.state}{time}", tag("table", tag("tbody", roles)) if roles else None)


def _cell(c: CellStand) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", f.title, scope="row"),
            tag("td", f"{number(f.value)} {f.unit}"),
            tag("td", "no limit" if f.limit is None else held_to(f.limit)),
            tag("td", holds_words(f, c.over)),
        )
        for f in c.figures
    ]
    bar = None if c.over else tag("p", _bar(c.done, c.total, c.unit))
    told = tag("p", cell_words(c, drawn=False), " ", chip(c.status) if c.status is not None else None)
    return _section("Load", told, bar, tag("table", rows, class_="live-cell"))


def _courses(courses: Sequence[Sparkline]) -> Html:
    """One small line each, from 0 to the largest value of its kind."""
    top = max((v for c in courses for v in c.values), default=0.0)
    return tag("ul", [_course(c, top) for c in courses], class_="live-courses")


def _course(c: Sparkline, top: float) -> Html:
    last = max(1, len(c.values) - 1)
    points = " ".join(f"{100 * i / last:.1f},{26 - 24 * v / top if top > 0 else 26:.1f}" for i, v in enumerate(c.values))
    line = tag("svg", tag("polyline", points=points), viewBox="0 0 100 28", preserveAspectRatio="none", aria_hidden="true")
    return tag("li", f"{c.node} {c.name}: {c.words}", line, class_="live-odd" if c.odd else None)
