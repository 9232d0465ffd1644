"""What the kernel said that matters here, since boot and within a stretch of time: Xid, SXid, NVLink, PCIe, NICs, memory, disks, hangs.

Stamps are seconds since boot: a wall clock that is set, on the node or here, moves nothing. What the ring buffer forgot between two
readings is said (`Stretch.unseen`), never taken for silence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Literal

from pytest_h20.probes.script import HINT_RIGHTS, Probe, ProbeError, integer, number, pairs

Severity = Literal["fatal", "reset", "watch", "application", "info"]


@dataclass(frozen=True)
class XidEntry:
    """One row of our Xid table. ``severity``: fatal (service the machine), reset (GPU or node), watch, application, info.
    ``bucket``: NVIDIA's own class of the code (``RESTART_APP``, ``RESET_GPU`` ...), empty where its catalog names none."""

    code: int
    meaning: str
    severity: Severity
    action: str
    bucket: str = ""


@dataclass(frozen=True)
class LineEntry:
    """One row of our table of kernel lines. ``pattern``: a POSIX extended expression, case does not matter."""

    kind: str
    severity: Severity
    pattern: str
    meaning: str
    action: str
    source: str


@dataclass(frozen=True)
class KernelEvent:
    """One line that matters. ``when``: seconds since boot, None when the log has no such stamp. ``kind``: xid, sxid, link,
    or one of the table of lines."""

    kind: str
    when: float | None
    text: str
    code: int | None = None
    device: str = ""


@dataclass(frozen=True)
class KernelLog:
    """The events, and whether the log reaches back to boot (a ring buffer forgets). ``since``: stamp of the oldest line it still
    has, None when no line has a stamp. ``now``: uptime at which it was read, None from a reading that did not tell it. ``written``: second
    since boot to how many lines of any kind it holds of it, the last `MOST_SECONDS` in which something was written."""

    source: str
    complete: bool
    events: tuple[KernelEvent, ...]
    since: float | None = None
    now: float | None = None
    written: Mapping[int, int] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Lines of any kind that were looked at, as far as they have stamps; one at the least, for an empty log is none."""
        return max(1, sum(self.written.values()), len(self.events))

    def of(self, *kinds: str) -> tuple[KernelEvent, ...]:
        """The events of these kinds."""
        return tuple(e for e in self.events if e.kind in kinds)


_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): ([0-9]{1,9})")
_SXID = re.compile(r"SXid \((?:PCI:)?([0-9A-Fa-f:.]+)\): ([0-9]{1,9})")
_LINK = re.compile(r"(?<!\S)([^\s:]{1,64}):? (?:Link (up|down)|NIC Link is (Up|Down))", re.I)
_LONGEST = 1024  # what the kernel keeps of a line (LOG_LINE_MAX)
_STAMP = re.compile(r"^\[\s*([0-9]{1,12}\.[0-9]{1,9})\]")


def parse_kernel_log(text: str) -> KernelLog:
    """``source=dmesg|journal``, ``first=SECONDS``, ``now=UPTIME``, ``written=SECOND:LINES ...``, ``matched=LINES``, then the last
    `MOST_LINES` kernel lines that matched, each after ``> ``. Kernel stamps ``[   12.345678]`` are seconds since boot.
    """
    p = pairs("\n".join(line for line in text.splitlines() if not line.startswith("> ")))
    if p.get("source") not in ("dmesg", "journal"):
        raise ProbeError(f"source={p.get('source')!r}")
    lines = [line[2 : 2 + _LONGEST] for line in text.splitlines() if line.startswith("> ")]
    events = [e for line in lines for e in _event(line)]
    first = number(p.get("first"))
    complete = p["source"] == "journal" or (first is not None and first < 60)
    since = 0.0 if complete else first
    if (integer(p.get("matched")) or 0) > len(lines):  # more than the probe sends: seen from the first line that came
        stamps = [float(m[1]) for m in map(_STAMP.match, lines) if m]
        complete, since = False, stamps[0] if stamps else None
    written = {int(m[1]): int(m[2]) for m in re.finditer(r"(?<!\S)([0-9]{1,12}):([0-9]{1,9})(?!\S)", p.get("written", ""))}
    return KernelLog(p["source"], complete, tuple(events), since, number(p.get("now")), written)


def _event(line: str) -> Iterable[KernelEvent]:
    stamp = _STAMP.match(line)
    when = float(stamp[1]) if stamp else None
    if m := _XID.search(line):
        yield KernelEvent("xid", when, line, int(m[2]), m[1].lower())
    elif m := _SXID.search(line):
        yield KernelEvent("sxid", when, line, int(m[2]), m[1].lower())
    elif row := _row(line):
        yield KernelEvent(row.kind, when, line, None, _device(line))
    elif m := _LINK.search(line):
        yield KernelEvent("link", when, line, 1 if (m[2] or m[3]).lower() == "up" else 0, m[1].rstrip(":"))


_PCI = re.compile(r"(?<![0-9a-f:])[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?![0-9a-f])", re.I)


def _device(line: str) -> str:
    found = _PCI.search(line)
    return found[0].lower() if found else ""


def _row(line: str) -> LineEntry | None:
    return next((row for row, pattern in _patterns() if pattern.search(line)), None)


@lru_cache(maxsize=1)
def line_table() -> tuple[LineEntry, ...]:
    """Our table of kernel lines (``data/kernel_lines.json``, origin in the file): the first row that matches names a line."""
    raw = json.loads(resources.files("pytest_h20.probes").joinpath("data/kernel_lines.json").read_text(encoding="utf-8"))
    return tuple(LineEntry(**row) for row in raw["lines"])


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[LineEntry, re.Pattern[str]], ...]:
    return tuple((row, re.compile(row.pattern, re.I)) for row in line_table())


MOST_LINES, MOST_SECONDS = 2000, 1000

_WANTED = "|".join(("NVRM: Xid", "SXid", r"link (is )?(up|down)", *(row.pattern for row in line_table())))
_SCRIPT = r"""
read -r now x </proc/uptime
s=dmesg; l=`priv dmesg 2>/dev/null`
if [ -z "$l" ] && command -v journalctl >/dev/null; then s=journal; l=`journalctl -k -b -o short-monotonic --no-pager -q 2>/dev/null`; fi
[ -n "$l" ] || { echo "the kernel log cannot be read (dmesg: `dmesg 2>&1 | head -n 1`)" >&2; exit 126; }
f=`printf '%s\n' "$l" | sed -n 's/^\[ *\([0-9]*\.[0-9]*\)\].*/\1/p' | head -n 1`
w=`printf '%s\n' "$l" | sed -n 's/^\[ *\([0-9]*\)\.[0-9]*\].*/\1/p' | uniq -c | sed 's/^ *\([0-9]*\) \([0-9]*\)$/\2:\1/' | tail -n SECONDS`
m=`printf '%s\n' "$l" | grep -aiE 'WANTED'`
echo "source=$s"; echo "first=$f"; echo "now=$now"; echo written=$w
[ -z "$m" ] || { printf 'matched=%s\n' `printf '%s\n' "$m" | wc -l`; printf '%s\n' "$m" | sed 's/^/> /' | tail -n MOST; }
true
"""

KERNEL_LOG = Probe(
    "kernel_log",
    _SCRIPT.replace("WANTED", _WANTED.replace("'", ".")).replace("MOST", str(MOST_LINES)).replace("SECONDS", str(MOST_SECONDS)),
    parse_kernel_log,
    hint=f"{HINT_RIGHTS}; or allow it to everybody: sysctl kernel.dmesg_restrict=0",
)


@lru_cache(maxsize=1)
def xid_table() -> dict[int, XidEntry]:
    """Our table of Xid codes (``data/xid.json``, origin in the file)."""
    raw = json.loads(resources.files("pytest_h20.probes").joinpath("data/xid.json").read_text(encoding="utf-8"))
    return {int(code): XidEntry(int(code), **entry) for code, entry in raw["xid"].items()}


_RECOVERY = re.compile(r"recovery action changed from 0x[0-9a-f]{1,8} \([^)]{0,64}\) to 0x([0-9a-f]{1,8}) \(([^)]{1,64})\)", re.I)


def explain_xid(code: int, text: str = "") -> XidEntry:
    """The table's row; a code that is not in it is ``watch``: unknown is not harmless.

    ``text``: the line. Xid 154 says in it what the driver wants done, in words that differ by driver ("Node Reboot Required", "OS Reboot",
    "GPU Reset Required", "Drain and Reset" ...); 0x0 takes an earlier one back.
    """
    known = xid_table().get(code)
    if known and code == 154 and (wanted := _RECOVERY.search(text)):
        if int(wanted[1], 16) == 0:
            return replace(known, meaning="the driver wants nothing done any more", action="")
        return replace(known, severity="reset", meaning=f"the driver asks for: {wanted[2]}", action="do that before the GPU is used again")
    return known or XidEntry(code, "not in our table", "watch", "look it up in NVIDIA's Xid catalog; run nvidia-bug-report.sh")


def explain(event: KernelEvent) -> LineEntry:
    """Meaning, severity and next step of an event, whichever table has it."""
    if event.kind == "xid":
        x = explain_xid(event.code or 0, event.text)
        bucket = f" (NVIDIA: {x.bucket})" if x.bucket else ""
        return LineEntry("xid", x.severity, "", f"Xid {x.code} on {event.device}: {x.meaning}{bucket}", x.action, "NVIDIA's Xid catalog")
    if event.kind == "sxid":
        mild = "non-fatal" in event.text.lower()
        action = "see the Fabric Manager user guide for the code"
        if not mild:
            action = "reset all GPUs and NVSwitches of the board, restart nvidia-fabricmanager"
        meaning = f"SXid {event.code}: an NVSwitch reports {'an error that is not fatal' if mild else 'a fatal error'}"
        return LineEntry("sxid", "watch" if mild else "reset", "", meaning, action, "NVIDIA's Fabric Manager user guide")
    if event.kind == "link":
        if event.code:
            return LineEntry("link", "info", "", f"the link of {event.device} came up", "", "")
        return LineEntry("link", "reset", "", f"the link of {event.device} went down", "check cable, transceiver and switch port", "F39")
    row = next((r for r in line_table() if r.kind == event.kind and re.search(r.pattern, event.text, re.I)), None)
    return row or LineEntry(event.kind, "watch", "", "not in our table", "read the line", "")


# ---------------------------------------------------------------------------------------------------------- within a stretch of time
@dataclass(frozen=True)
class Reading:
    """The log as it was read once. ``at``: a clock of ours that only runs forward, s."""

    at: float
    log: KernelLog

    @property
    def ahead(self) -> float | None:
        """The node's uptime less our clock."""
        return None if self.log.now is None else self.log.now - self.at


@dataclass(frozen=True)
class Stretch:
    """What the kernel said between two moments. ``events``: each with its moment on our clock (None: the log has no stamps, and it
    came between two readings). ``unseen``: why parts of it could not be seen; empty when all was. ``written``: lines of any kind, to a
    second. ``readings``: of the log, those that reach into it."""

    events: tuple[tuple[float | None, KernelEvent], ...]
    unseen: tuple[str, ...]
    written: int = 0
    readings: int = 0


SLACK_S = 2.0
"""A reading takes a moment, and stamps are made before lines are written."""

REBOOT_S = 60.0
"""An uptime that fell back by so much against our clock began anew. Suspend and drift take less."""


def stretch(readings: Sequence[Reading], start: float, end: float) -> Stretch:
    """Events from ``start`` to ``end`` (our clock), from every reading of one node, oldest first.

    A reading sees what its buffer still holds; together they must reach over the whole stretch. A node that booted in between (its
    uptime ran backwards) was not seen from the reading before to its boot.
    """
    known = sorted((r for r in readings if r.ahead is not None), key=lambda r: r.at)
    if not known:
        return Stretch((), ("the kernel log was never read with its uptime",))
    found: dict[tuple[float | None, str, int], tuple[float | None, KernelEvent]] = {}
    for index, (before, reading) in enumerate(zip([None, *known], known, strict=False)):
        ahead = reading.ahead or 0.0
        old = Counter(e.text for e in before.log.events) if before is not None else Counter[str]()
        for event in reading.log.events:
            if event.when is not None:
                at = event.when - ahead
                if start - SLACK_S <= at <= end + SLACK_S:
                    found.setdefault((event.when, event.text, 0), (at, event))
            elif old[event.text] > 0:
                old[event.text] -= 1
            elif before is not None and reading.at > start and before.at < end:  # no stamp: it is new since the reading before
                found.setdefault((None, event.text, index), (None, event))
    events = sorted(found.values(), key=lambda pair: (pair[0] is None, pair[0] or 0.0))
    return Stretch(tuple(events), tuple(_holes(known, start, end)), _written(known, start, end), sum(r.at > start for r in known))


def _written(known: Sequence[Reading], start: float, end: float) -> int:
    """Lines of any kind in the stretch. A second that several readings saw counts once; one of another boot is another second."""
    seconds: dict[tuple[int, int], int] = {}
    boot, last = 0, known[0].ahead or 0.0
    for reading in known:
        ahead = reading.ahead or 0.0
        boot, last = boot + (ahead < last - REBOOT_S), ahead
        for second, lines in reading.log.written.items():
            if second + 1 > start + ahead and second <= end + ahead:
                seconds[boot, second] = max(lines, seconds.get((boot, second), 0))
    return sum(seconds.values())


def _holes(known: Sequence[Reading], start: float, end: float) -> Iterator[str]:
    """Parts of the stretch that no reading reaches."""
    seen_to = start  # on our clock
    last = known[0]
    for reading in known:
        ahead, since = reading.ahead or 0.0, reading.log.since
        booted = ahead < (last.ahead or 0.0) - REBOOT_S
        earlier, last = last, reading
        if reading.at <= start or seen_to >= end:
            continue
        if booted:
            yield f"the node booted at {_clock(-ahead, start)}: what it said before that could not be seen"
        elif since is None:
            if earlier.at > start:
                yield f"could not see up to {_clock(reading.at, start)}: the log has no time stamps, and was not read before"
        elif since - ahead > seen_to + SLACK_S:
            upto = _clock(min(since - ahead, end), start)
            yield f"could not see between {_clock(seen_to, start)} and {upto}: the ring buffer had forgotten it by the next reading"
        seen_to = max(seen_to, reading.at)
    if not any(reading.at >= end for reading in known):
        yield f"could not see between {_clock(seen_to, start)} and {_clock(end, start)}: the log was not read after that"


def _clock(at: float, start: float) -> str:
    """Seconds from the start of the stretch, as people say it."""
    seconds = round(at - start)
    return f"{seconds // 60}:{seconds % 60:02d} min" if seconds >= 0 else f"{-seconds} s before it"
