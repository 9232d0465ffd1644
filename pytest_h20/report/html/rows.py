"""Our columns in pytest-html's own table, and what a failed set-up shows there."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.core.verdict import Verdict
from pytest_h20.report.html.first_screen import setup_error
from pytest_h20.report.html.tables import logs
from pytest_h20.report.html.tags import Html, join, tag
from pytest_h20.report.html.words import limit_words, measure, unit_of
from pytest_h20.report.model import LogTail, SetupError

COLUMN_AT = 2
"""Where our cells go: after Result and Test. ``cells[COLUMN_AT:COLUMN_AT] = row_cells(verdicts)``, the same for the header."""

COLUMNS = ("Measured", "Wanted", "Limit from")


def header_cells() -> list[str]:
    """Headers for ``pytest_html_results_table_header``."""
    return [str(tag("th", name, class_="h20-col")) for name in COLUMNS]


def row_cells(verdicts: Sequence[Verdict]) -> list[str]:
    """Cells for ``pytest_html_results_table_row``: what the test measured, the limit, and where the limit comes from.

    Several verdicts of one test stand one below the other, worst first, three at most. No verdict gives empty cells.
    """
    shown = sorted(verdicts, key=lambda v: -v.status.rank)[:3]
    more = len(verdicts) - len(shown)
    columns = (
        [_measured(v) for v in shown] + ([f"and {more} more"] if more else []),
        [limit_words(v.limit) if v.limit else "–" for v in shown],
        [str(v.limit.origin) if v.limit else "–" for v in shown],
    )
    return [
        str(tag("td", [tag("div", line) for line in lines], class_="h20-col", data_label=name))
        for name, lines in zip(COLUMNS, columns, strict=True)
    ]


def setup_failure_html(error: SetupError, tails: Sequence[LogTail] = ()) -> Html:
    """Cause, fix and log ends of a set-up that failed, for the row's details."""
    return tag("div", setup_error(error), logs(tails, opened=True), class_="h20")


def setup_failure_extras(error: SetupError, tails: Sequence[LogTail] = ()) -> list[dict[str, str | None]]:
    """The same as pytest-html extras, for ``report.extras`` of the set-up report (pytest-html's own fixture is lost there).

    JSON-safe, so they travel from xdist workers. Inline HTML rather than links: browsers refuse to open ``data:`` links.
    """
    content = str(join(setup_failure_html(error, tails)))
    return [{"name": "set-up", "format_type": "html", "content": content, "mime_type": None, "extension": None}]


def _measured(verdict: Verdict) -> str:
    if verdict.measured is None and verdict.limit is None:
        return "–"
    text = measure(verdict.measured, unit_of(verdict))
    return text if len(text) <= 60 else text[:57] + "…"
