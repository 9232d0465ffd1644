"""Of the processes that a log names: which run, their ids as they see them (container namespaces), their start, what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_h20.probes.script import Probe, ProbeError, integer, pairs, rows


@dataclass(frozen=True)
class LogFile:
    """A log as it lies on the node. ``identity``: device and inode; ``written``: last change, seconds since 1970."""

    path: str
    identity: str
    written: int


@dataclass(frozen=True)
class LogOwner:
    """A process that runs and has a wanted id. ``pids``: as the node sees it first, as the process sees itself last.

    ``started``: seconds since 1970. ``seen``: its open files and its memory could be looked at. ``open``: identities of wanted files
    it holds; ``mapped``: wanted addresses in its memory.
    """

    pids: tuple[int, ...]
    started: int
    seen: bool
    open: frozenset[str] = frozenset()
    mapped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LogOwners:
    """What a node tells of the logs and of the processes they name. ``namespaces``: it tells ids inside containers."""

    files: Mapping[str, LogFile]
    owners: tuple[LogOwner, ...]
    namespaces: bool


@dataclass(frozen=True)
class Claim:
    """What a log says of who wrote it: process id as its lines have it -> addresses of the process' communicators (``0x55d0c000``)."""

    path: str
    pids: Mapping[int, tuple[str, ...]]

    def words(self) -> list[str]:
        """As arguments of the probe."""
        return [":".join([str(pid), *(a.removeprefix("0x") for a in addresses)]) for pid, addresses in self.pids.items()]


def parse_log_owners(text: str) -> LogOwners:
    """``namespaces=0|1``; ``file<TAB>DEV:INODE<TAB>MTIME<TAB>PATH``;
    ``owner<TAB>PID PID ...<TAB>START<TAB>0|1<TAB>DEV:INODE ...<TAB>ADDRESS ...``."""
    p = pairs(text)
    if p.get("end") != "1":
        raise ProbeError("it was cut off: no end= line")
    files = {}
    for identity, written, path in rows(text, "file", 3):
        files[path] = LogFile(path, identity, integer(written) or 0)
    owners = []
    for chain, started, seen, held, mapped in rows(text, "owner", 5):
        pids, start = [integer(n) for n in chain.split()], integer(started)
        if not pids or None in pids or start is None:
            raise ProbeError(f"an owner line without ids or start: {chain!r} {started!r}")
        owners.append(
            LogOwner(tuple(n for n in pids if n is not None), start, seen == "1", frozenset(held.split()), frozenset(mapped.split()))
        )
    return LogOwners(files, tuple(owners), p.get("namespaces") == "1")


# Arguments: PID:ADDRESS:ADDRESS... of each process, --, paths. The last number of NSpid is what getpid() gives the process itself.
# The address is looked for as text of 16 digits: awk on the nodes does not read hexadecimal numbers.
LOG_OWNERS = Probe(
    "log_owners",
    r"""
wanted=' '; all=
while [ $# -gt 0 ] && [ "$1" != -- ]; do wanted="$wanted${1%%:*} "; all="$all $1"; shift; done
[ $# -gt 0 ] && shift
ids=' '
for f in "$@"; do
  s=`stat -L -c '%d:%i %Y' -- "$f" 2>/dev/null` || continue
  ids="$ids${s% *} "; printf 'file\t%s\t%s\t%s\n' "${s% *}" "${s#* }" "$f"
done
hz=`getconf CLK_TCK 2>/dev/null` || hz=100
boot=0; while read -r k v rest; do [ "$k" = btime ] && boot=$v; done </proc/stat
chains=`grep -s '^NSpid:' /proc/[0-9]*/status`
if [ -n "$chains" ]; then echo namespaces=1
else echo namespaces=0; for p in $wanted; do [ -d "/proc/$p" ] && chains="$chains
/proc/$p/status:NSpid: $p"; done; fi
printf '%s\n' "$chains" | while read -r head chain; do
  last=; for n in $chain; do last=$n; done
  case "$wanted" in *" $last "*) ;; *) continue;; esac
  p=${head#/proc/}; p=${p%%/*}
  s=`cat "/proc/$p/stat" 2>/dev/null` || continue
  set -- ${s##*) }; start=$((boot + ${20} / hz))
  seen=0; ls "/proc/$p/fd" >/dev/null 2>&1 && head -c 1 "/proc/$p/maps" >/dev/null 2>&1 && seen=1
  open=
  for i in `stat -L -c '%d:%i' /proc/$p/fd/* 2>/dev/null | sort -u`; do case "$ids" in *" $i "*) open="$open $i";; esac; done
  want=; for w in $all; do case $w in "$last":*) want="$want `echo "${w#*:}" | tr : ' '`";; esac; done
  mapped=
  [ -n "$want" ] && mapped=`awk -v want="$want" 'function pad(x) { return substr("0000000000000000" x, length(x) + 1) }
    BEGIN { n = split(want, a, " ") }
    $2 ~ /^rw/ { split($1, r, "-"); for (i = 1; i <= n; i++) if (pad(r[1]) <= pad(a[i]) && pad(a[i]) < pad(r[2])) hit[a[i]] }
    END { for (i in hit) printf " %s", i }' "/proc/$p/maps" 2>/dev/null`
  printf 'owner\t%s\t%s\t%s\t%s\t%s\n' "`echo $chain`" "$start" "$seen" "$open" "$mapped"
done
echo end=1
""",
    parse_log_owners,
    seconds=60,
)


def log_owners(claims: Iterable[Claim]) -> Probe[LogOwners]:
    """The probe that asks a node about these logs."""
    claims = list(claims)
    return LOG_OWNERS.with_args(*(w for c in claims for w in c.words()), "--", *(c.path for c in claims))
