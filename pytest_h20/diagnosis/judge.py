"""Reads an engine's log and says: ready, waiting, failed or undetermined; and when failed, the primary cause.

The rules, each learnt from recorded or labelled logs:

* The loudest line is a consequence. Causes are ranked (:mod:`.signatures`); symptoms never name a cause. What is only
  mentioned ("nvcc not found, using pre-built kernels") loses against every error; an unknown exception stays unknown.
* A log may hold several servers, one after the other: each start marker (banner, ``server_args=``) opens a new one, and
  the last decides. Two writers at once (the clock jumps back, one failed and one became ready) decide nothing.
* "Ready" needs the engine's own line. It is void when the port could not be bound, and over when the server died
  afterwards. Errors after it that the server survives are its clients' business; an ordered stop leaves it "ready",
  unless it tore the engine away from a request: then the signal ended it.
* Words decide less than whose they are: a traceback below uvicorn is of a request, and its server serves; an error that the engine's own
  files report, a native stack, a traceback cut anywhere is the end, unless the start went on behind it.
* An exception that no row knows is judged by what it is about and by where the engine raised it (:mod:`.families`). A traceback that is
  cut off and shows no engine is any program's.
* Who carried a log, and where its lines were broken, is taken off first (:mod:`.carrier`).
* What is quoted is no evidence: argument dumps, usage texts, requests, source lines of tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from textwrap import dedent

from pytest_h20.diagnosis import lines
from pytest_h20.diagnosis.carrier import unfold
from pytest_h20.diagnosis.result import Diagnosis, Outcome
from pytest_h20.diagnosis.server import Match, Server
from pytest_h20.engines.stages import strip_ansi

__all__ = ["Diagnosis", "LogReader", "Outcome", "diagnose", "primary"]


class LogReader:
    """Feeds lines to one server after the other. Used for whole logs and for logs that still grow."""

    def __init__(self) -> None:
        self._server = Server()

    @property
    def server(self) -> Server:
        """The newest server in this log."""
        return self._server

    def feed(self, line: str) -> list[Match]:
        """Take one line."""
        line = lines.clip(line)
        text = strip_ansi(line)
        if lines.is_start(text) and (self._server.marked or self._over()):
            self._server = Server()
        return self._server.add(line)

    def _over(self) -> bool:
        """An unmarked part before the first banner is a server of its own only if it came to an end."""
        server = self._server
        return server.ready() is not None or any(m.fatal for m in server.matches)


def diagnose(log: str | Iterable[str]) -> Diagnosis:
    """Judge a whole log.

    Args:
        log: its text, or its lines in order (with or without newline), or pieces of it that end at line ends.
    """
    reader = LogReader()
    if isinstance(log, str) and log.startswith("    "):
        log = dedent(log)  # pasted as an indented block
    for line in unfold(log.split("\n") if isinstance(log, str) else _lines(log)):
        for piece in lines.split_lines(line):
            reader.feed(piece)
    return reader.server.judge()


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Lines of a log given line by line, or in pieces that end at line ends."""
    for piece in pieces:
        yield from piece.removesuffix("\n").split("\n")


_ENDED = frozenset({"worker_died", "killed", "scheduler_killed_oom", "aborted", "ray_actor_died", "child_process_crashed"})
"""A process ended, and its log has no earlier reason for that."""
_LOST = frozenset(
    {"peer_node_gone", "peer_failed_to_load", "nccl_error", "nccl_unhandled_system_error", "gloo_recv_timeout", "collective_timeout"}
)
"""What the others say of that, when they say so: within one log they are the reason, beside it they follow from it."""


def primary(diagnoses: Mapping[str, Diagnosis]) -> tuple[str, Diagnosis] | None:
    """Among the logs of several nodes the one whose cause is most primary: (node, diagnosis), or None if none failed.

    A rank that only lost its peer, or waited for it in vain, is never chosen while another log holds the reason.
    """
    failed = [(node, d) for node, d in diagnoses.items() if d.outcome == "failed"]
    ended = any(d.cause in _ENDED for _, d in failed)
    return min(failed, key=lambda item: (ended and item[1].cause in _LOST, item[1].rank)) if failed else None
