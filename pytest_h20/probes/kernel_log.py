"""What the kernel said since boot that matters here: Xid, SXid, link flaps, memory errors, disk errors."""

# ruff: noqa: E501 - shell and foreign text stay on their own lines
from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from pytest_h20.probes.script import Probe, ProbeError, integer, pairs

Severity = Literal["fatal", "reset", "watch", "application", "info"]


@dataclass(frozen=True)
class XidEntry:
    """One row of our Xid table. ``severity``: fatal (service the machine), reset (GPU or node), watch, application, info."""

    code: int
    meaning: str
    severity: Severity
    action: str


@dataclass(frozen=True)
class KernelEvent:
    """One line that matters. ``when``: seconds since boot, None when the log has no such stamp. ``kind``: xid, sxid, link,
    mce, oom, io."""

    kind: str
    when: float | None
    text: str
    code: int | None = None
    device: str = ""


@dataclass(frozen=True)
class KernelLog:
    """The events, and whether the log reaches back to boot (a ring buffer forgets)."""

    source: str
    complete: bool
    events: tuple[KernelEvent, ...]

    def of(self, *kinds: str) -> tuple[KernelEvent, ...]:
        """The events of these kinds."""
        return tuple(e for e in self.events if e.kind in kinds)


_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): ([0-9]{1,9})")
_SXID = re.compile(r"SXid \((?:PCI:)?([0-9A-Fa-f:.]+)\): ([0-9]{1,9})")
_LINK = re.compile(r"(?<!\S)(\S{1,64}): (?:Link (up|down)|NIC Link is (Up|Down))", re.I)
_LONGEST = 1024  # what the kernel keeps of a line (LOG_LINE_MAX)
_STAMP = re.compile(r"^\[\s*([0-9]{1,12}\.[0-9]{1,9})\]")


def parse_kernel_log(text: str) -> KernelLog:
    """``source=dmesg|journal``, ``first=SECONDS``, then the kernel lines that matched, each after ``> ``.

    Kernel stamps ``[   12.345678]`` are seconds since boot.
    """
    p = pairs("\n".join(line for line in text.splitlines() if not line.startswith("> ")))
    if p.get("source") not in ("dmesg", "journal"):
        raise ProbeError(f"source={p.get('source')!r}")
    events = [e for line in text.splitlines() if line.startswith("> ") for e in _event(line[2 : 2 + _LONGEST])]
    first = integer(p.get("first"))
    return KernelLog(p["source"], p["source"] == "journal" or (first is not None and first < 60), tuple(events))


def _event(line: str) -> Iterable[KernelEvent]:
    stamp = _STAMP.match(line)
    when = float(stamp[1]) if stamp else None
    if m := _XID.search(line):
        yield KernelEvent("xid", when, line, int(m[2]), m[1].lower())
    elif m := _SXID.search(line):
        yield KernelEvent("sxid", when, line, int(m[2]), m[1].lower())
    elif re.search(r"mce: .*(Hardware Error|machine check)|EDAC .*(UE|uncorrect)|Uncorrected hardware memory error", line, re.I):
        yield KernelEvent("mce", when, line)
    elif "Out of memory" in line or "oom-kill" in line:
        yield KernelEvent("oom", when, line)
    elif re.search(r"I/O error|EXT4-fs error|XFS \(\S+\):.*(corrupt|error)|nvme\S*:.*(timeout|reset)", line, re.I):
        yield KernelEvent("io", when, line)
    elif m := _LINK.search(line):
        yield KernelEvent("link", when, line, 1 if (m[2] or m[3]).lower() == "up" else 0, m[1].rstrip(":"))


def new_events(before: KernelLog, after: KernelLog) -> tuple[KernelEvent, ...]:
    """What came between two readings of the same machine ("during the run")."""
    old = {(e.when, e.text) for e in before.events}
    return tuple(e for e in after.events if (e.when, e.text) not in old)


KERNEL_LOG = Probe(
    "kernel_log",
    r"""
s=dmesg; l=`dmesg 2>/dev/null`
if [ -z "$l" ] && command -v journalctl >/dev/null; then s=journal; l=`journalctl -k -b -o short-monotonic --no-pager -q 2>/dev/null`; fi
[ -n "$l" ] || { echo "the kernel log cannot be read (dmesg: `dmesg 2>&1 | head -n 1`)" >&2; exit 126; }
echo "source=$s"
f=`printf '%s\n' "$l" | sed -n 's/^\[ *\([0-9]*\)\..*/\1/p' | head -n 1`; echo "first=$f"
printf '%s\n' "$l" | grep -E 'NVRM: Xid|SXid|[Ll]ink (is )?([Uu]p|[Dd]own)|mce: |EDAC .*UE|Out of memory|oom-kill|I/O error|EXT4-fs error|XFS \(.*(orrupt|error)|nvme.*(timeout|reset)|Uncorrected hardware' |
  sed 's/^/> /' | tail -n 2000
true
""",
    parse_kernel_log,
    hint="log in as root, or allow it: sysctl kernel.dmesg_restrict=0",
)


@lru_cache(maxsize=1)
def xid_table() -> dict[int, XidEntry]:
    """Our table of Xid codes (``data/xid.json``, origin in the file)."""
    raw = json.loads(resources.files("pytest_h20.probes").joinpath("data/xid.json").read_text(encoding="utf-8"))
    return {int(code): XidEntry(int(code), **entry) for code, entry in raw["xid"].items()}


def explain_xid(code: int) -> XidEntry:
    """The table's row; a code that is not in it is ``watch``: unknown is not harmless."""
    known = xid_table().get(code)
    return known or XidEntry(code, "not in our table", "watch", "look it up in NVIDIA's Xid catalog; run nvidia-bug-report.sh")
