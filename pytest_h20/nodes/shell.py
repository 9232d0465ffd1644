"""How one shell command travels: a small ``sh`` wrapper that frames the output and says which process to kill.

Pure: scripts out, bytes in. The wrapper needs only ``/bin/sh`` (dash, bash, busybox), ``tr`` and ``/proc``; no python there.

* The log-in shell, whichever it is (csh and fish too), sees one line of plain words: the few characters that such shells treat
  in their own way inside single quotes travel as control characters and are put back by ``tr`` on the node.
* The command waits for a line on standard input before it begins: until the last byte of that is sent it has surely not begun,
  and may be tried again on another connection.
* Both streams carry a random mark before and after the command's own output: what ``.bashrc`` prints is no part of it, and the
  result is complete when both end marks are there, even if a child that was left in the background keeps the streams open.
* A command that is watched ends with its connection: standard input stays open while the caller lives, and a process beside the
  command (in a session of its own, where ``setsid`` exists) kills it with all its children when that ends early. Without it an hour
  of hashing went on after a SIGKILL of the caller.
* The start mark carries the wrapper's pid and start time: whoever kills it later knows that the pid is still the same process.
"""

from __future__ import annotations

import codecs
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from pytest_h20.core.errors import H20Error

LONGEST_COMMAND = 120_000
"""Bytes. Linux limits one argument to 128 KiB (MAX_ARG_STRLEN, execve(2)), and the command is one argument of ``sh -c``."""

MAX_OUTPUT = 256 * 2**20
"""Bytes of output of one command that are kept in memory; a command that prints more is stopped with an error."""


def too_much(node: str, command: str) -> H20Error:
    """The error about a command that printed more than ``MAX_OUTPUT``."""
    return H20Error(
        f"{node}: `{command}` printed more than {MAX_OUTPUT >> 20} MiB: redirect it to a file on the node and read that with Node.get"
    )


_WRAPPER = (
    "IFS= read -r h20_go || exit 96; "
    'h20_k=; eval "$h20_go"; '
    "h20_s=-; h20_b=0; "
    "if read -r h20_l 2>/dev/null </proc/$$/stat; then set -- ${{h20_l##*) }}; h20_s=$4; h20_b=${{20}}; fi; set --; "
    'h20_w=; [ -z "$h20_k" ] || h20_w=$(setsid /bin/sh -c "$h20_k" h20 $$ $h20_b <&3 >/dev/null 2>&1 & echo $!); '
    "h20_r=; case $h20_s in $$|-) ;; *) if command -v setsid >/dev/null 2>&1; then h20_r=setsid; fi;; esac; "
    'echo; echo "{token}:start $$ $h20_b"; echo >&2; echo {token}:start >&2; '
    '$h20_r /bin/sh -c "$h20_c" 3<&-; '
    'h20_rc=$?; [ -z "$h20_w" ] || kill $h20_w 2>/dev/null; echo "{token}:end $h20_rc"; echo {token}:end >&2; exit $h20_rc'
)
_ODD = "\n!\\'"  # what csh (newline, !), fish (backslash) and every shell (quote) treat specially inside single quotes

_KILL = """\
P={pid}; B={started}; K=
list() {{
  cat /proc/[0-9]*/stat 2>/dev/null | awk -v P=$P -v B=$B -v K="$K" '
    {{ p = $1; sub(/^.*\\) /, ""); if (p == P && B != 0 && $20 != B) other = 1
      if ($1 != "Z") {{ n++; pid[n] = p; par[n] = $2; grp[n] = $3; ses[n] = $4 }} }}
    END {{ if (other) exit
      t[P] = 1; m = split(K, k, " "); for (i = 1; i <= m; i++) t[k[i]] = 1
      do {{ more = 0
        for (i = 1; i <= n; i++)
          if (!(pid[i] in t) && ((par[i] in t) || (grp[i] in t) || (ses[i] in t))) {{ t[pid[i]] = 1; more = 1 }}
      }} while (more)
      for (i = 1; i <= n; i++) if (pid[i] in t) printf "%s ", pid[i] }}'
}}
nap() {{ sleep 0.2 2>/dev/null || sleep 1; }}
K=$(list)
[ -n "$K" ] && kill -TERM $K 2>/dev/null
i=0
while left=$(list); [ -n "$left" ] && [ $i -lt 15 ]; do
  K="$K $left"
  [ $i -ge 3 ] && kill -KILL $left 2>/dev/null
  i=$((i + 1)); nap
done
for p in $left; do read -r l 2>/dev/null </proc/$p/stat && echo "$l" | cut -d' ' -f1-3; done
:"""


_LOCAL = (
    "exec 3<&0 </dev/null; h20_w=; "
    "if command -v setsid >/dev/null 2>&1 && read -r h20_l </proc/$$/stat; then "
    'h20_c=$1; h20_k=$2; set -- ${h20_l##*) }; h20_b=${20}; set -- "$h20_c"; '
    'h20_w=$(setsid /bin/sh -c "$h20_k" h20 $$ $h20_b <&3 >/dev/null 2>&1 & echo $!); fi; '
    '/bin/sh -c "$1" 3<&-; h20_rc=$?; [ -z "$h20_w" ] || kill $h20_w 2>/dev/null; exit $h20_rc'
)


def local_argv(command: str) -> list[str]:
    """The argument vector of a command on this machine that ends when its standard input does: when its caller is gone."""
    return ["/bin/sh", "-c", _LOCAL, "h20", command, watch_command()]


@dataclass(frozen=True)
class NodeProcess:
    """The wrapper's process on the node. ``started``: clock ticks after boot (field 22 of /proc/PID/stat), 0 = not known."""

    pid: int
    started: int = 0


@dataclass(frozen=True)
class Script:
    """A wrapped command: ``login`` is what the log-in shell gets, ``body`` the line on standard input that lets it begin."""

    token: str
    login: str
    body: bytes


def wrap(command: str, watched: bool = False) -> Script:
    """Wrap one shell command. Raises ``H20Error`` when it cannot be passed on (too long, holds a NUL character).

    ``watched``: it gets no standard input, and ends when ours does.
    """
    if "\0" in command:
        raise H20Error(f"a shell command cannot hold a NUL character: {command!r}")
    if len(command.encode()) > LONGEST_COMMAND:
        raise H20Error(
            f"the shell command is {len(command.encode())} bytes long; one argument may have {LONGEST_COMMAND}: "
            f"put it into a file on the node (`Node.put`) or pass the data as stdin. It begins: {command[:80]!r}"
        )
    token = "h20-" + secrets.token_hex(12)
    argument, go = _disguise(command)
    if watched:
        watch = shlex.quote(watch_command().replace("\n", "\1"))
        go += f"; exec 3<&0 </dev/null; command -v setsid >/dev/null 2>&1 && h20_k=$(printf %s {watch} | tr '\\001' '\\n')"
    login = f"exec /bin/sh -c '{_WRAPPER.format(token=token)}' h20 '{argument}'"
    return Script(token, login, f"{go}\n".encode())


def _disguise(command: str) -> tuple[str, str]:
    """The command without the odd characters, and the line of shell that puts them back into ``$h20_c``."""
    odd = [c for c in _ODD if c in command]
    if not odd:
        return command, "h20_c=$1"
    free = [chr(n) for n in (*range(1, 9), *range(14, 32)) if chr(n) not in command]
    if len(free) < len(odd):
        raise H20Error(f"the shell command holds nearly every control character; put it into a file: {command[:80]!r}")
    masks = free[: len(odd)]
    for char, mask in zip(odd, masks, strict=True):
        command = command.replace(char, mask)
    here, there = ("".join(f"\\{ord(c):03o}" for c in chars) for chars in (masks, odd))
    return command, f"h20_c=$(printf %s \"$1\" | tr '{here}' '{there}')"


def kill_command(process: NodeProcess) -> str:
    """A shell command that ends the process with all its descendants, their sessions and process groups.

    SIGTERM first, SIGKILL after 0.6 s; prints what still lives after 3 s as ``pid (name) state`` lines (a ``D`` state cannot be
    killed: a hung driver). Does nothing when the pid has become another process.
    """
    return _KILL.format(pid=process.pid, started=process.started)


def watch_command() -> str:
    """A script that waits until its standard input ends and then kills the process ``$1`` (started at ``$2``) with its descendants."""
    return "cat >/dev/null; " + _KILL.format(pid='"$1"', started='"$2"')


class FramedStream:
    """One output stream of a wrapped command, cut out of whatever surrounds it."""

    def __init__(self, token: str) -> None:
        self._start = f"\n{token}:start".encode()
        self._end = f"{token}:end".encode()
        self._buffer = b""
        self.started: str | None = None
        """What follows the start mark ("pid started" on stdout), once it was seen."""
        self.ended: str | None = None
        """What follows the end mark (the exit status on stdout), once it was seen."""

    @property
    def noise(self) -> bytes:
        """What came before the start mark, while there is none: the node's own words when nothing else came."""
        return self._buffer if self.started is None else b""

    def feed(self, data: bytes) -> bytes:
        """Take more of the stream; returns the command's own output that is certain by now."""
        if self.ended is not None:
            return b""
        self._buffer += data
        if self.started is None:
            _, mark, rest = self._buffer.partition(self._start)
            line, newline, body = rest.partition(b"\n")
            if not mark or not newline:
                self._buffer = self._buffer[-65536:]
                return b""
            self.started = line.decode("ascii", "replace").strip()
            self._buffer = body
        output, mark, rest = self._buffer.partition(self._end)
        if mark:
            line, newline, _ = rest.partition(b"\n")
            if newline:
                self.ended = line.decode("ascii", "replace").strip()
                self._buffer = b""
                return output
            self._buffer = mark + rest
            return output
        keep = _overlap(output, self._end)
        self._buffer = output[len(output) - keep :] if keep else b""
        return output[: len(output) - keep]

    def flush(self) -> bytes:
        """The rest, when the stream ended without its end mark."""
        rest, self._buffer = (self._buffer, b"") if self.started is not None else (b"", self._buffer)
        return rest


def _overlap(data: bytes, mark: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of ``mark``."""
    for size in range(min(len(data), len(mark) - 1), 0, -1):
        if data.endswith(mark[:size]):
            return size
    return 0


class LineCutter:
    """Cuts a byte stream into text lines as it comes."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest: list[str] = []  # the unfinished line in pieces: joined once, when it ends
        self._on_line = on_line

    def feed(self, data: bytes, final: bool = False) -> None:
        """Hand over every finished line; with ``final`` the unfinished last one too."""
        first, *more = self._decoder.decode(data, final).split("\n")
        self._rest.append(first)
        for piece in more:
            line, self._rest = "".join(self._rest), [piece]
            self._on_line(line.rstrip("\r"))
        if final and (rest := "".join(self._rest)):
            self._rest = []
            self._on_line(rest.rstrip("\r"))


def tail(data: bytes, lines: int = 5) -> str:
    """The last lines of some output on one line, for an error text."""
    return " / ".join(data[-65536:].decode("utf-8", "replace").strip().splitlines()[-lines:])[-600:]
