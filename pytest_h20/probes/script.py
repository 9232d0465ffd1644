"""Many probes in one round trip: a POSIX shell script out, framed sections back.

A probe is a name, a shell snippet and one pure parser. ``build`` puts several of them into one script for ``/bin/sh`` (dash,
bash,
busybox; no Python on the node). They run side by side, each in its own shell under its own time limit where ``timeout``
exists, so
the script takes as long as its slowest probe. ``split`` takes the framed output apart again and is not confused by banners
before
it, by output without a final newline, or by a connection cut in the middle.

Each probe leaves a comment line ``# h20-probe: NAME ARG...`` (arguments shell-quoted) in the script. ``requests`` reads them
back,
so a stand-in node can answer with ``frame`` without running anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pytest_h20.core.errors import H20Error, unforeseen

T_co = TypeVar("T_co", covariant=True)

_END = "H20_END_OF_PROBE"
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_HEAD = re.compile(
    r"^@@h20 section (?P<name>[a-z][a-z0-9_]*) rc=(?P<rc>-?[0-9]{1,9}) out=(?P<out>[0-9]{1,15}) err=(?P<err>[0-9]{1,15})\r?$", re.M
)

HINT_RIGHTS = "log in as root, or set `ssh.sudo: true` and let `python -m pytest_h20 sudoers INVENTORY` say what root must allow"
_RIGHTS = "h20-rights\t"

PRIV = r"""
priv() {
  if [ "`id -u`" = 0 ]; then "$@"; return; fi
  command -v "$1" >/dev/null || return 127
  if [ -n "$H20_SUDO" ]; then
    { h20_e=`sudo -n -- "$@" 2>&1 >&3 </dev/null`; h20_r=$?; } 3>&1
    case $h20_r:$h20_e in
      0:*) return;;
      *sudo:*|*'Sorry, user'*) ;;
      *) printf '%s\n' "$h20_e" >&2; return $h20_r;;
    esac
    h20_e=`printf '%s\n' "$h20_e" | grep -E 'sudo:|Sorry, user' | head -n 1`
  else
    h20_e='this login is not root'
  fi
  printf 'h20-rights\t%s\t%s\n' "$*" "`printf %s "$h20_e" | tr '\t' ' '`" >>"${0%.s}.d"
  "$@"
}
refused() { [ -s "${0%.s}.d" ]; }
"""
"""What a snippet of a probe with ``priv`` begins with. ``priv COMMAND``: run it as root, with ``sudo -n`` where the node was told to
(``$H20_SUDO``). Where that is refused, or the login is not root, that is written down, and the command runs as the login may: what can be
read so is read. ``refused``: something was. The commands are those of ``rights.py``."""

_PROLOGUE = """\
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/cuda/bin:/usr/mpi/gcc/openmpi/bin"
export PATH
d=`mktemp -d "${TMPDIR:-/tmp}/h20-probe.XXXXXX" 2>/dev/null || mktemp -d /dev/shm/h20-probe.XXXXXX` || exit 73
trap 'rm -rf "$d"' EXIT
trap 'exit 130' HUP INT TERM
t=
if timeout -k 1 5 true 2>/dev/null; then t='timeout -k 2'
elif timeout 5 true 2>/dev/null; then t=timeout
elif timeout -t 5 true 2>/dev/null; then t='timeout -t'
fi
h20_run() {
  if [ -n "$t" ]; then $t "$2" sh "$d/$1.s"; else sh "$d/$1.s"; fi >"$d/$1.o" 2>"$d/$1.e" </dev/null
  echo $? >"$d/$1.r"
  [ ! -s "$d/$1.d" ] || sort -u "$d/$1.d" >>"$d/$1.e"
}
h20_show() {
  for n in "$@"; do
    o=`wc -c <"$d/$n.o" | tr -d ' '` e=`wc -c <"$d/$n.e" | tr -d ' '`
    printf '@@h20 section %s rc=%s out=%s err=%s\\n' "$n" "`cat "$d/$n.r"`" "$o" "$e"
    cat "$d/$n.o"; printf '\\n@@h20 stderr %s\\n' "$n"
    cat "$d/$n.e"; printf '\\n@@h20 end %s\\n' "$n"
  done
}
"""


class ProbeError(H20Error):
    """Output of a probe that its parser does not understand. The fact is then missing, never guessed."""


@dataclass(frozen=True)
class Missing:
    """A fact that could not be measured: why, and what would make it measurable."""

    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Follows(Missing):
    """A fact that is missing because of one cause for many: ``check`` tells the cause, of ``node``, and the others only name it."""

    check: str = ""
    node: str = ""


@dataclass(frozen=True)
class Section:
    """What one probe left. ``cut``: the connection ended before the section did."""

    rc: int
    out: str
    err: str
    cut: bool = False

    @property
    def last_words(self) -> str:
        """The last line of the error output (or of the output): what a person would quote."""
        said = "\n".join(line for line in self.err.splitlines() if not line.startswith(_RIGHTS))
        lines = (said.strip() or self.out.strip()).splitlines()
        return lines[-1].strip()[:200] if lines else ""

    @property
    def without_rights(self) -> Mapping[str, str]:
        """Commands that ran without root's rights, and why."""
        told = (line.split("\t") for line in self.err.splitlines() if line.startswith(_RIGHTS))
        return {words[1][:200]: words[2][:200] for words in told if len(words) == 3}


@dataclass(frozen=True)
class Probe(Generic[T_co]):
    """One command and its parser.

    ``snippet`` finds its ``args`` in ``$1 $2 ...``; it ends with 127 when its tool is not there. ``parse`` gets standard
    output and
    raises ``ProbeError`` for anything it does not understand. ``hint`` says what to install or allow. ``seconds`` is its own
    limit.
    """

    name: str
    snippet: str
    parse: Callable[[str], T_co]
    args: tuple[str, ...] = ()
    seconds: int = 20
    hint: str = ""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"probe name {self.name!r}: lower-case letters, digits and _ only")

    def with_args(self, *args: object) -> Probe[T_co]:
        """The same probe with arguments."""
        return Probe(self.name, self.snippet, self.parse, tuple(str(a) for a in args), self.seconds, self.hint)

    def read(self, sections: Mapping[str, Section]) -> T_co | Missing:
        """Parse this probe's section, or say why there is nothing to parse."""
        section = sections.get(self.name)
        if section is None:
            return Missing(f"the node sent no section {self.name!r} (connection cut or shell too old)", self.hint)
        if section.cut:
            return Missing(f"the output of probe {self.name!r} was cut", "run again; check the connection to the node")
        if section.rc == 127:
            return Missing(section.last_words or f"a tool that probe {self.name!r} needs is not installed", self.hint)
        if section.rc in (124, 137, 143):
            return Missing(f"probe {self.name!r} did not finish within {self.seconds} s", self.hint)
        if section.rc != 0:
            why = f"probe {self.name!r} ended with {section.rc}: {section.last_words or 'no output'}"
            if lacking := in_words(section.without_rights):
                return Missing(f"{why}; {lacking}", self.hint if HINT_RIGHTS in self.hint else HINT_RIGHTS)
            return Missing(why, self.hint)
        try:
            return self.parse(section.out)
        except ProbeError as error:
            return Missing(f"output of probe {self.name!r} not understood: {error}", self.hint)
        except Exception as error:  # nothing that a node prints may end a run: what no parser foresaw is not understood either
            return Missing(f"output of probe {self.name!r} not understood: {unforeseen(error)}", self.hint)


def in_words(without_rights: Mapping[str, str]) -> str:
    """Which commands lacked root's rights, for a reason; "" when none did."""
    by_reason: dict[str, list[str]] = {}
    for command, why in without_rights.items():
        by_reason.setdefault(why, []).append(f"`{command}`")
    return "; ".join(f"{', '.join(commands[:3])} {'need' if commands[1:] else 'needs'} root: {why}" for why, commands in by_reason.items())


def build(probes: Sequence[Probe[object]]) -> str:
    """The script for these probes."""
    names = [p.name for p in probes]
    if len(set(names)) != len(names):
        raise ValueError(f"a probe is in the script twice: {sorted(n for n in names if names.count(n) > 1)}")
    parts = [_PROLOGUE]
    for probe in probes:
        quoted = " ".join(shlex.quote(a) for a in probe.args)
        if any("\n" in a for a in probe.args) or _END in probe.snippet:
            raise ValueError(f"probe {probe.name}: arguments cannot hold newlines")
        parts.append(f"# h20-probe: {probe.name}{' ' + quoted if quoted else ''}\n")
        parts.append(f"cat >\"$d/{probe.name}.s\" <<'{_END}'\n")
        parts.append(f"set -- {quoted}\n" if quoted else "")
        parts.append(PRIV.lstrip("\n") if "priv " in probe.snippet else "")
        parts.append(probe.snippet.strip("\n") + f"\n{_END}\n")
        parts.append(f"h20_run {probe.name} {probe.seconds} &\n")
    parts.append("wait\nh20_show " + " ".join(names) + "\necho '@@h20 complete'\n")
    return "".join(parts)


def requests(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The probes a script asks for, with their arguments: for stand-in nodes."""
    found = []
    for line in text.splitlines():
        if line.startswith("# h20-probe: "):
            name, *args = shlex.split(line.removeprefix("# h20-probe: "))
            found.append((name, tuple(args)))
    return found


def frame(sections: Mapping[str, Section]) -> str:
    """The output of a script whose probes left these sections: what ``split`` undoes."""
    parts = []
    for name, s in sections.items():
        parts.append(f"@@h20 section {name} rc={s.rc} out={len(s.out.encode())} err={len(s.err.encode())}\n")
        parts.append(f"{s.out}\n@@h20 stderr {name}\n{s.err}\n@@h20 end {name}\n")
    parts.append("@@h20 complete\n")
    return "".join(parts)


def split(stdout: str) -> dict[str, Section]:
    """Take the output of a script apart. Sections that never came are not in the result; cut ones say so."""
    found: dict[str, Section] = {}
    position = 0
    while head := _HEAD.search(stdout, position):
        name, rc = head["name"], int(head["rc"])
        start = head.end() + 1
        between, end = f"\n@@h20 stderr {name}\n", f"\n@@h20 end {name}\n"
        middle = _after(stdout, start, int(head["out"]), between)
        if middle < 0:
            found[name] = Section(rc, stdout[start:], "", cut=True)
            break
        err_start = middle + len(between)
        stop = _after(stdout, err_start, int(head["err"]), end)
        if stop < 0:
            found[name] = Section(rc, stdout[start:middle], stdout[err_start:], cut=True)
            break
        found[name] = Section(rc, stdout[start:middle], stdout[err_start:stop])
        position = stop + len(end) - 1
    return found


def _after(text: str, start: int, size: int, marker: str) -> int:
    """Where ``marker`` ends a run of ``size`` bytes. The count decides (output may contain marker lines); bytes that were not
    UTF-8
    make the count wrong, and then the first marker decides."""
    if text[start : start + size].isascii():
        guess = start + size
    else:
        guess = start + len(text[start : start + size].encode("utf-8", "replace")[:size].decode("utf-8", "ignore"))
    return guess if text.startswith(marker, guess) else text.find(marker, start)


def pairs(text: str) -> dict[str, str]:
    """``key=value`` lines; a later line wins; other lines are not ours (profile scripts talk) and are left out."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and re.match(r"^[a-z][a-z0-9_.]*$", key):
            found[key] = value.strip()
    return found


def rows(text: str, kind: str, columns: int) -> Iterable[list[str]]:
    """Tab-separated lines whose first field is ``kind``, without that field. Raises ``ProbeError`` on a wrong number of
    fields."""
    for line in text.splitlines():
        fields = line.split("\t")
        if fields[0] != kind:
            continue
        if len(fields) - 1 != columns:
            raise ProbeError(f"a {kind!r} line has {len(fields) - 1} fields, not {columns}: {line!r}")
        yield [f.strip() for f in fields[1:]]


def integer(text: str | None) -> int | None:
    """A whole number, or None for anything else (``N/A``, empty, missing, other digits than ours, more than 64 bits hold)."""
    match = re.match(r"^\s*(-?[0-9]{1,20})\b", text or "")
    return int(match[1]) if match else None


def number(text: str | None) -> float | None:
    """The finite number a text begins with (``71.59 W`` -> 71.59), or None."""
    match = re.match(r"^\s*(-?[0-9]{1,20}(?:\.[0-9]+)?)(?![0-9])", text or "")
    return float(match[1]) if match else None


def whole(text: str, what: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """A number that must be there: plain digits from ``low`` to ``high``. Raises ``ProbeError``."""
    value = int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None
    if value is None or not low <= value <= high:
        raise ProbeError(f"{what} is {text[:40]!r}, not a number from {low} to {high}")
    return value
