"""Logs that somebody names on a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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


def in_runs(names: Sequence[str], *patterns: str) -> list[str]:
    """The logs that are named; for the folder of a run, those in it.

    Raises:
        UsageError: a folder holds none.
    """
    found = []
    for name in names:
        if name == "-" or not Path(name).is_dir():
            found.append(name)
            continue
        inside = sorted(str(path) for pattern in patterns for path in Path(name).glob(pattern))
        if not inside:
            raise UsageError(f"{name}: a folder without {' or '.join(patterns)}; accepted are logs, and folders of runs below h20-runs/")
        found += inside
    return found


def once(command: str, names: list[str]) -> None:
    """Standard input can be read once. Raises :class:`UsageError` where it is named twice."""
    if names.count("-") > 1:
        raise UsageError(f"{command}: - (standard input) can be given once")
