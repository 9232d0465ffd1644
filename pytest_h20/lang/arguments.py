"""A command line in the reader's language: argparse's own words, and ours that it shows."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn
from unicodedata import east_asian_width

from pytest_h20.lang import labelled, local

_PIECE = re.compile(r"[\x21-\x7e]+ *| +|[^\x00-\x7f]")
"""What stays on one line: a word with the blanks after it, or one Chinese character."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that answers in the language that is spoken (:func:`pytest_h20.lang.use`)."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": Formatter, **keywords})

    def error(self, message: str) -> NoReturn:
        """What is wrong, and the status of wrong use."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {labelled('error', message)}\n")


class Formatter(argparse.HelpFormatter):
    """Its words come from the catalogue, by the same texts as in English."""

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None = None) -> None:
        """The usage, after its heading."""
        super().add_usage(usage, actions, groups, local("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        """A group of arguments."""
        super().start_section(local(heading) if heading else heading)

    def add_text(self, text: str | None) -> None:
        """The description, or what stands last."""
        super().add_text(local(" ".join(text.split())) if text else text)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return local(action.help) if action.help else action.help

    def _split_lines(self, text: str, width: int) -> list[str]:
        return list(wrapped(text, width)) if not text.isascii() else super()._split_lines(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.isascii():
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in wrapped(text, width - len(indent)))


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of a text in which a Chinese character takes two columns."""
    line = ""
    for piece in _PIECE.findall(text):
        if line and _columns(line + piece.rstrip()) > width and piece not in "，。；：、）”":
            yield line.rstrip()
            line = ""
        line += piece
    yield line.rstrip()


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)
