"""The same judgement while the log still grows."""

from __future__ import annotations

from copy import deepcopy

from pytest_h20.diagnosis import lines
from pytest_h20.diagnosis.carrier import Growing
from pytest_h20.diagnosis.judge import LogReader
from pytest_h20.diagnosis.result import Diagnosis
from pytest_h20.diagnosis.server import DEATHS, Match
from pytest_h20.diagnosis.signatures import BY_ID, Signature


class FatalWatch:
    """Watches a growing log and says, within the line that proves it, that this start is over.

    >>> watch = FatalWatch()
    >>> watch.feed("launch_server.py: error: unrecognized arguments: --enable-reasoning").id
    'unrecognized_arguments'

    A symptom ("Scheduler hit an exception") is held back until its cause appears, ``patience`` lines went by, or
    :meth:`settle` is called because nothing more comes (two quiet seconds, or the process ended). What stands before every line,
    or broke them (:mod:`.carrier`), is taken off as soon as it shows.
    """

    def __init__(self, patience: int = 400) -> None:
        self._log = Growing()
        self._reader = LogReader()
        self._patience = patience
        self._pending: Match | None = None
        self._waited = 0
        self.fatal: Signature | None = None
        """The signature that ended it, once certain."""

    def feed(self, line: str) -> Signature | None:
        """Take one line (it may hold overwritten progress bars). Returns the signature once, when it becomes certain."""
        return self._take(*self._log.push(line.rstrip("\n")))

    def _take(self, anew: bool, texts: list[str]) -> Signature | None:
        """Read lines; ``anew``: all that came so far, which were read otherwise before."""
        told = self.fatal
        if anew:
            self._reader = LogReader()
            self._pending, self.fatal, self._waited = None, None, 0
        result: Signature | None = None
        for text in texts:
            for piece in lines.split_lines(text):
                result = self._feed(piece) or result
        if anew and told is not None:  # it was said, and is said once
            self.fatal = self.fatal or told
            return None
        return result

    def _feed(self, line: str) -> Signature | None:
        before = self._reader.server
        matches = self._reader.feed(line)
        server = self._reader.server
        if server is not before:  # the engine was started again in the same log
            self._pending, self.fatal, self._waited = None, None, 0
        if self.fatal is not None:
            return None
        ready = server.ready() is not None
        ends = [m for m in matches if m.fatal and server.holds(m) and (not ready or m.signature.id in DEATHS)]
        if self._pending is None and ends:
            self._pending, self._waited = ends[0], 0
        if self._pending is None:
            return None
        self._waited += 1
        if server.judge().cause is not None or self._waited > self._patience:
            return self._decide()
        return None

    def settle(self) -> Signature | None:
        """Nothing more comes for now: decide with what is there. Returns the signature if that is news."""
        return self._take(*self._log.rest()) or self._decide()

    def _decide(self) -> Signature | None:
        if self.fatal is not None or self._pending is None:
            return None
        diagnosis = self._reader.server.judge()
        if diagnosis.outcome != "failed":
            self._pending = None
            return None
        self.fatal = BY_ID[diagnosis.cause] if diagnosis.cause else self._pending.signature
        return self.fatal

    def diagnosis(self) -> Diagnosis:
        """The judgement of everything seen so far."""
        seen = deepcopy(self)
        seen._take(*seen._log.rest())
        return seen._reader.server.judge()
