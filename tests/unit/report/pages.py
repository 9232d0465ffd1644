"""A page as a browser reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from pytest_h20.report.html.page import run_page
from pytest_h20.report.model import RunView

VOID = {"meta", "br", "hr", "line", "rect", "circle", "path", "polyline", "polygon"}


class Page(HTMLParser):
    """Checks nesting and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{name}> is never closed" for name in self.stack]

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id" and value]
        if name not in VOID:
            self.stack.append(name)

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))

    def handle_endtag(self, name: str) -> None:
        if not self.stack or self.stack.pop() != name:
            self.problems.append(f"</{name}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


PAPER = re.compile('<section class="h20-paper".*?</section>', re.S)


def read(view: RunView) -> Page:
    """What the screen shows: the page to sign is for paper only."""
    return Page(PAPER.sub("", run_page(view)))
