"""Logs that somebody names on a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pytest_h20.core.errors import UsageError


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A log by its path, or standard input by ``-``.

    Raises:
        UsageError: it cannot be read, from the opening to the last byte.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as log:
            yield log
    except OSError as error:
        raise UsageError(
            f"cannot read {name!r}: {error.strerror or error}; accepted are readable text files, or - for standard input"
        ) from error


def once(command: str, names: list[str]) -> None:
    """Standard input can be read once. Raises :class:`UsageError` where it is named twice."""
    if names.count("-") > 1:
        raise UsageError(f"{command}: - (standard input) can be given once")
