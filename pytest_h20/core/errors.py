"""The errors users see. Each text says what, where, which value, what is accepted and what to do next."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import PurePath


class H20Error(Exception):
    """Base of every error this package raises on purpose. Its text is complete: it is shown without a traceback."""


class UsageError(H20Error):
    """The user's input (option, inventory, limits file, log path) cannot be used. Exit status 4 in pytest, 2 in the CLI."""


class TransportError(H20Error):
    """A node could not be reached or the connection broke. Never a check failure: the verdict is "could not measure"."""


class NoAnswer(TransportError):
    """A server that was reached did not answer within the deadline."""


class ServerEnded(TransportError):
    """A server is known to have ended while its answer was waited for."""


class CommandTimeout(TransportError):
    """A remote command outlived its deadline and was killed."""


class BringUpError(H20Error):
    """The cluster did not become ready. Carries the cause, the log tails and the fix in its text.

    ``check``: the check of the bring-up gate that it answers with "no".
    """

    def __init__(self, text: str, check: str = "bringup.ready") -> None:
        super().__init__(text)
        self.check = check


class StorageError(H20Error, OSError):
    """The run's own folder cannot be written (a full disk): the record is not whole, and nothing can be decided by it."""


class MeasurementError(H20Error):
    """A figure could not be measured (not: a figure is too low)."""


def instead(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What an error about an unknown name goes on with: the one it is likeliest meant to be, and all there are.

    ``prefix``: what stands before the name where it is typed.
    """
    import difflib  # only an error needs it

    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return (f" (did you mean {prefix}{near[0]}?)" if near else "") + f"; there are {', '.join(names)}"


def unforeseen(error: BaseException) -> str:
    """What broke and where in this package, in a line: for a verdict about input that nobody foresaw, in place of a traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "pytest_h20" in frame.filename]
    where = f" (at {PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]}{where}"
