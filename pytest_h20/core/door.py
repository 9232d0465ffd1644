"""One door: every text that leaves a process goes through here, without secrets and without power over who shows it.

Log lines, names and answers come from machines, servers and recorded folders. On the way to a terminal, an exception's text, a
report, JUnit, a page or another process of the run they lose their secrets (:mod:`pytest_h20.core.redact`), their control characters
are shown as escapes, and a line that a CI would take for a command of its own is told apart from one.

The rules are those of the process: the built-in ones until :func:`use` gives it those of the run.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_h20.core.redact import DEFAULT, Redactor

# C0 and C1 but for tab and newline, what turns the direction of writing round, and halves of characters that no file can hold
_CONTROL = re.compile("\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KEPT = re.compile(r"(\x1b\[[0-9;]*[mK]|\r(?!\n))")
"""What pytest itself writes to a terminal: colours, and the beginning of the line."""
_COMMAND = re.compile(r"^((?:\x1b\[[0-9;]*[mK]|\s)*):(:[A-Za-z])", re.M)
"""A workflow command of GitHub: two colons at the beginning of a line. The older form, ``##[``, counts anywhere in it."""

_redactor: Redactor = DEFAULT


def use(redactor: Redactor) -> None:
    """From now on this process knows the patterns and the secrets of the run."""
    global _redactor
    _redactor = redactor


def plain(text: str) -> str:
    r"""Control characters as escapes.

    >>> print(plain("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    found = match.group()
    return "\n" if found == "\r\n" else found.encode("unicode_escape").decode()


def shown(text: str) -> str:
    """A text as it may leave the process."""
    return plain(_redactor.text(text))


def shown_argv(argv: Sequence[str]) -> list[str]:
    """A command line as it may leave the process."""
    return [plain(word) for word in _redactor.argv(argv)]


def shown_data(value: Any) -> Any:
    """JSON-like data as it may leave the process."""
    return _redactor.data(value)


def unpowered(text: str, line_begins: bool = True) -> str:
    """Without commands to a CI: ``::add-mask::x`` becomes ``: :add-mask::x``. ``line_begins``: nothing stands before the text."""
    start, rest = ("", text) if line_begins else (text[: text.find("\n") + 1 or len(text)], text[text.find("\n") + 1 or len(text) :])
    return (start + _COMMAND.sub(r"\1: \2", rest)).replace("##[", "# #[")


class Out(io.TextIOBase):
    """A terminal's stream behind the door. Colours and carriage returns stay: pytest writes them; everything else is as ``shown``."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._begins = True

    def write(self, text: str) -> int:
        """Write what may be seen of a text."""
        words = unpowered(_redactor.text(text), self._begins)
        self.raw("".join(part if _KEPT.fullmatch(part) else plain(part) for part in _KEPT.split(words)))
        return len(text)

    def raw(self, text: str) -> None:
        """Write a text of ours as it is: commands to a CI that we mean."""
        self.stream.write(text)
        if text:
            self._begins = text[-1] in "\r\n" or (self._begins and not text.strip())

    def flush(self) -> None:
        """Flush the stream itself."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether the stream itself is a terminal."""
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        """The stream's own number."""
        return int(self.stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own encoding."""
        return str(getattr(self.stream, "encoding", None) or "utf-8")


class Live(Out):
    """A standard stream that is seen as it is written (``pytest -s``): whole lines only, because a secret that comes in two pieces is
    none of a known shape in either. What is flushed goes at once, but for a private key that has not come to its end."""

    _MOST = 1 << 20

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._held = ""
        self._in_key = False

    def write(self, text: str) -> int:
        """Take a text; its whole lines are shown."""
        self._held += text
        cut = self._held.rfind("\n") + 1
        key = _KEY_BEGINS.search(self._held, 0, cut)
        cut = min(cut, key.start()) if key else cut
        if cut or len(self._held) > self._MOST:
            self._show(cut or len(self._held))
        return len(text)

    def flush(self) -> None:
        """Show what has come so far, and flush the stream itself."""
        self._show(len(self._held))
        super().flush()

    def _show(self, end: int) -> None:
        text, self._held = self._held[:end], self._held[end:]
        if self._in_key:
            ends = _KEY_ENDS.search(text)
            self._in_key, text = ends is None, text[ends.end() :] if ends else ""
        begins = _KEY_BEGINS.search(text)
        self._in_key = self._in_key or begins is not None
        if text:
            super().write(text)


_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?!.*?-----END [A-Z0-9 ]*PRIVATE KEY)", re.S)
"""The beginning of a private key whose end is not there."""
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Standard output and error of a command line behind the door."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Out(before[0]), Out(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
