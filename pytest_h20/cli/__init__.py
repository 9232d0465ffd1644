"""``python -m pytest_h20 COMMAND``, a module per command."""

from __future__ import annotations

import argparse

from pytest_h20.lang.arguments import Parser


def command_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of one command, described by its module's docstring, without the ticks that are for the page of the code."""
    return Parser(prog=f"python -m pytest_h20 {name}", description=(doc or "").replace("``", ""))


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
