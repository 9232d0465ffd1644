"""Physical lines -> NCCL records, block by block.

A log is read as blocks of whole lines. Lines that were seen before cost one set lookup, lines without NCCL one substring
search; only the rest is split into records. That is what makes gigabytes cheap: a job prints few *different* NCCL lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK = 1 << 20
# NCCL caps one record at 1024 bytes (NCCL source, debug.cc); a record this long may have lost its end.
CAP = 1000
# No message is longer, joined ones neither: what a hostile line holds beyond it is not searched again and again.
MAX_MESSAGE = 4096
MAX_HOSTS = 4096
MAX_LINE = 1 << 16
MIN_WIDTH = 60  # no terminal and no web page wraps logs at less
# Memory of the repeat filter: when this many bytes of distinct NCCL lines are remembered, it starts afresh.
SEEN_BYTES = 24 << 20

ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
_MARK = re.compile(rb"NCCL (INFO|WARN|TRACE|CALL|ABORT)(?: |(?=[\r\n\\]|$))")
# Where a WARN was raised: "transport/net_ib.cc:100", from 2.30 with "(function)" behind it, or the function of a plugin.
_PLACE = rb"(?:[\w./+-]+:\d+ (?:\([\w:~]+\) )?)?"
_FILE = re.compile(rb"(?:^|[\s\]])([\w./+-]+\.\w+):\d+ (?:\([\w:~]+\) )?$")
# Posters mask pids ("XXXXXX"); such a process has pid 0.
_HEAD = re.compile(rb"([^\s:]*):(\d{1,10}|[Xx*]{2,10}):(\d{1,10}|[Xx*]{2,10}) ?(?:\[(-?\d{1,3})\] ?)?" + _PLACE + rb"$")
# A C++ plugin gives its whole signature as the place: "int f(type*, fid_cq*):46 NCCL WARN" (aws-ofi-nccl).
_PLUGIN_HEAD = re.compile(rb"([^\s:]*):(\d{1,10}):(\d{1,10}) \[(-?\d{1,3})\] [\w :*&<>,~]+\([^()]{0,200}\)[\w ]*:\d+ $")
_CUT_HEAD = re.compile(rb"(?:^|(?<=\D))(?:(\d{1,10}):)?(\d{1,10}) \[(\d{1,3})\] " + _PLACE + rb"$")
_MASKED_HEAD = re.compile(rb"(?:^|(?<=\s))([^\s:\[\]()]+):[Xx*]{2,10} \[(\d{1,3})\] " + _PLACE + rb"$")
# The beginning of a head up to a line's end, and a head at a line's start.
_HEAD_BEGUN = re.compile(
    rb"(?<![^\s:])[^\s:]+:\d{1,10}(?::\d{0,10}(?: (?:\[\d{0,3}(?:\](?: [^\s\[\]]{0,80})?(?: N?C?C?L?(?: [A-Z]{0,4})?)?)?)?)?)?$"
)
_HEAD_START = re.compile(rb"[^\s:]+:\d{1,10}:\d{1,10} ")
_TAG = re.compile(rb"(?:^|[\s\]])\[(?:\d+,)?(\d+)\](?:<std\w+>)?:? ?$")
_REPEATED = re.compile(rb" ?\[repeated (\d+)x.*$", re.S)
_BARE = re.compile(
    rb"^(?:Channel \d+(?:/\d+)? : \d+(?:\[[^\]]*\])? -> |Ring \d+ : \d+(?:\[[^\]]*\])? -> |NET/(?:IB|Socket) : Using |"
    rb"Using network |Bootstrap ?: Using )"
)
# A channel line whose head was cut, or that somebody quoted; and what is left of one that lost its beginning as well.
_BARE_CHANNEL = re.compile(
    rb"\b(?:Channel|Ring) \d+(?:/\d+)? : \d+(?:\[[^\]]*\])? -> \d+(?:\[[^\]]*\])? (?:\[(?:send|receive)\] )?via (?:NET|P2P|SHM|direct)\b"
)
_BARE_REST = re.compile(rb"-> \d+(?:\[[^\]]*\])? \[(?:send|receive)\] via NET/")
# What a WARN says where its head was not copied, or where PyTorch repeats it ("Last error:", then the text).
_BARE_WARN = re.compile(
    rb"(?:^|(?<=[\s:\]|>\"'`]))"
    rb"(?:NET/IB\w* ?: ?Got completion |Call to ibv_\w+ failed |socket\w+: Connect to |ncclSocketInit: connecting to |"
    rb"Cuda failure (?:\d+ )?')"
)
# NCCL up to 2.2 wrote the level without its name: "host:pid:tid [0] INFO ...", "host:pid:tid [0] include/socket.h:360 WARN ...".
_OLD_LEVEL = re.compile(
    rb"((?::\d{1,10}:\d{1,10} \[\d{1,3}\] |(?:^|\[\d{1,3}\] )(?=[\w./+-]{1,80}\.(?:h|cu|cc):\d+ WARN ))"
    rb"(?:[\w./+-]{1,80}\.(?:h|cu|cc):\d+ )?)(?=(?:INFO|WARN) )"
)
_TESTS = re.compile(rb"^#\s+Rank\s+(\d{1,9})\s+(?:Group\s+\d+\s+)?Pid\s+(\d{1,10})\s+on\s+(\S+)\s+device\s+(\d+)")
_HEADISH = re.compile(rb"(?<![^\s:])[^\s:]*:\d+:\d+ ")  # begins where a word does: else every byte of a long one is a start
_FRAME = re.compile(rb"(?:^|(?<=\s))\xe2\x94\x82(?=\s|$)")  # the border of a terminal interface; one that touches text has cut it
_LINK = re.compile(rb"\[([^\[\]]*)\]\((?:https?|mailto):[^)\s]{0,2000}\)")
_JUNK_LEFT = b"\"'`|*,;([{\\="
_JUNK_RIGHT = b" \t\r\n\"'`|*\\,"


@dataclass(frozen=True)
class Message:
    """One NCCL message. ``whole`` is false when something other than a line end follows it directly (a splice)."""

    host: str
    pid: int
    tid: int
    cuda_dev: int | None
    level: str
    message: str
    line: int
    whole: bool
    joined: bool
    capped: bool
    repeated: int
    tag: int | None
    headless: bool
    file: str = ""
    """The source file that raised a WARN (``ras/client_support.cc``), where the line names it."""


@dataclass(frozen=True)
class HeaderRank:
    """A rank line of nccl-tests' header (``#  Rank  0 Group  0 Pid 1 on host device 0``)."""

    rank: int
    host: str
    pid: int
    line: int


class Lines:
    """Splits chunks into physical lines and yields each interesting one once, with its number and the line before it."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.longest = 0  # where a log was wrapped at a fixed width, exactly the lines of this length go on in the next one
        self.open: set[bytes] = set()  # lines whose last record wants a continuation; filled by the reader
        self._seen: set[bytes] = set()
        self._seen_size = 0

    def interesting(self, chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes, bool]]:
        """``(line number, line, previous line or b"", ends with a newline)``."""
        tail = b""
        previous = b""
        for chunk in chunks:
            self.size += len(chunk)
            start = 0
            while start < len(chunk):
                part = chunk[start : start + BLOCK]
                start += BLOCK
                end = part.rfind(b"\n")
                if end < 0:
                    tail += part
                    if len(tail) > MAX_LINE:  # no newline for ever (binary, progress bar): keep memory flat
                        tail = tail[:512] + b" " + tail[-MAX_LINE // 2 :]
                    continue
                block = tail + part[:end]
                tail = part[end + 1 :]
                lines = self._split(block)
                yield from self._fresh(lines, previous, True)
                previous = lines[-1]
                self.count += len(lines)
        if tail:
            lines = self._split(tail)
            yield from self._fresh(lines, previous, False)
            self.count += len(lines)

    @staticmethod
    def _split(block: bytes) -> list[bytes]:
        if b"\x1b" in block:
            block = ANSI.sub(b"", block)
        return block.split(b"\n")

    def _fresh(self, lines: list[bytes], before: bytes, ended: bool) -> Iterator[tuple[int, bytes, bytes, bool]]:
        seen, wants_more = self._seen, self.open
        last = len(lines) - 1
        # This comprehension is the hot loop: everything after it sees only new lines.
        fresh = [(i, line) for i, line in enumerate(lines) if line not in seen]
        for i, line in fresh:
            if len(line) > self.longest:
                self.longest = len(line)
            if b"] INFO " in line or b" WARN " in line:
                line = _OLD_LEVEL.sub(rb"\1NCCL ", line, count=1)
            if b"NCCL" in line:
                # A collector's time stamp makes every line new: what counts is the part from "host:pid:tid" on.
                mark = line.find(b"] NCCL INFO ")
                colon = line.rfind(b":", 0, mark) if mark >= 0 else -1
                body = line[line.rfind(b" ", 0, colon) + 1 :] if colon >= 0 else _body(line)
                if body in seen:
                    continue
                self._remember(body)
                previous = before if i == 0 else lines[i - 1]
                yield self.count + i + 1, line, previous if previous in wants_more else b"", ended or i < last
            elif (before if i == 0 else lines[i - 1]) in wants_more:
                previous = before if i == 0 else lines[i - 1]
                if line.strip():
                    yield self.count + i + 1, line, previous, ended or i < last
            elif (
                (b"Rank " in line and b"#" in line)
                or b" via " in line
                or b"Using " in line
                or b"nccl==" in line
                or b"Got completion " in line
                or b"Call to ibv_" in line
                or b"Cuda failure " in line
                or b": Connect to " in line
                or b"connecting to address" in line
                or (self.full(line) and _HEAD_BEGUN.search(line[-160:]))
            ):
                body = line[line.find(b"#") :] if b"Rank " in line else line
                if body in seen:
                    continue
                self._remember(body)
                yield self.count + i + 1, line, b"", ended or i < last

    def full(self, line: bytes) -> bool:
        """True for a line that may have been wrapped: none was longer."""
        return len(line) == self.longest and len(line) >= MIN_WIDTH

    def _remember(self, line: bytes) -> None:
        self._seen_size += len(line) + 100
        if self._seen_size > SEEN_BYTES:
            self._seen.clear()
            self.open.clear()
            self._seen_size = 0
        self._seen.add(line)


def _body(line: bytes) -> bytes:
    """The part of a WARN, version or headless line that does not change with a collector's prefix."""
    head = _HEADISH.search(line)
    return line[head.start() if head else max(line.find(b"NCCL "), 0) :]


class Splitter:
    """Cuts one physical line into records; learns host names so that a head glued to the record before it is found."""

    def __init__(self) -> None:
        self.hosts: set[bytes] = set()

    def records(self, line: bytes, number: int, ended: bool, joined: bool) -> list[Message]:
        """All records of one line, in order."""
        marks = list(_MARK.finditer(line))
        if not marks:
            return self._bare(line, number, ended, joined)
        heads = []
        floor = 0
        for mark in marks:
            heads.append(self._head(line, floor, mark))
            floor = mark.end()
        out = []
        for i, mark in enumerate(marks):
            start, host, pid, tid, dev, tag, headless = heads[i]
            stop = heads[i + 1][0] if i + 1 < len(heads) else len(line)
            raw = line[mark.end() : stop]
            # Glued to the next head means: the writer was interrupted here. Padding (terminal copies) means it was whole.
            whole = raw[-1:].isspace() or raw == b"" if i + 1 < len(heads) else ended
            capped = stop - start >= CAP
            message, repeated, cut = clean(raw)
            place = _FILE.search(line[max(0, mark.start() - 200) : mark.start()])
            out.append(
                Message(
                    host.decode("utf-8", "replace"),
                    pid,
                    tid,
                    dev,
                    mark[1].decode(),
                    message,
                    number,
                    whole and not cut,
                    joined,
                    capped,
                    repeated,
                    tag,
                    headless,
                    place[1].decode("utf-8", "replace") if place else "",
                )
            )
        return out

    def head_cut(self, start: bytes, line: bytes) -> bool:
        """True where a wrap went through a record's head or the mark behind it: neither line has the whole of it."""
        return bool(_HEAD_BEGUN.search(start[-160:]) and not _HEAD_START.match(line) and _MARK.search(start[-160:] + line[:160]))

    def fragment(self, line: bytes) -> bytes:
        """What stands before the first record of a line: a collector's prefix, or the rest of the record above."""
        mark = _MARK.search(line)
        return line[: self._head(line, 0, mark)[0]] if mark else line

    def _head(self, line: bytes, floor: int, mark: re.Match[bytes]) -> tuple[int, bytes, int, int, int | None, int | None, bool]:
        window = max(floor, mark.start() - 400)
        before = line[window : mark.start()]
        found = _HEAD.search(before) or (_PLUGIN_HEAD.search(before) if before.endswith(b" ") and b")" in before else None)
        if not found:
            masked = _MASKED_HEAD.search(before)
            if masked:
                return window + masked.start(), masked[1], 0, 0, int(masked[2]), None, True
            cut = _CUT_HEAD.search(before)
            if cut:
                return window + cut.start(), b"", int(cut[1] or 0), int(cut[2]), int(cut[3]), None, True
            return mark.start(), b"", 0, 0, None, None, True
        raw = found[1]
        start = found.start(1)
        glued = floor > 0 and start == 0 and window == floor  # no space between this head and the record before it
        host = self._host(raw, mid_line=floor > 0)
        start += len(raw) - len(host) if raw.endswith(host) else 0
        clear = start == 0 or before[start - 1 : start] in b" \t:\"'`|>*=,(["
        if host and not (floor > 0 and glued) and clear and len(self.hosts) < MAX_HOSTS:
            self.hosts.add(host)
        tag = _TAG.search(before[:start])
        dev = int(found[4]) if found[4] is not None else None
        pid, tid = (int(n) if n.isdigit() else 0 for n in (found[2], found[3]))
        return window + start, host, pid, tid, dev, int(tag[1]) if tag else None, False

    def _host(self, raw: bytes, mid_line: bool) -> bytes:
        host = raw.lstrip(_JUNK_LEFT)
        if host.startswith(b"->"):
            host = host[2:]
        if b">" in host and not (host.startswith(b"<") and host.endswith(b">")):
            host = host[host.rfind(b">") + 1 :] or host
        if b"]" in host:
            host = host[host.rfind(b"]") + 1 :]
        if b"|" in host:
            host = host[host.rfind(b"|") + 1 :]
        if mid_line and host not in self.hosts:
            known = [h for h in self.hosts if host.endswith(h) and h]
            if known:
                host = max(known, key=len)
        return host

    def _bare(self, line: bytes, number: int, ended: bool, joined: bool) -> list[Message]:
        """A pasted line without any head or marker; only unmistakable NCCL wordings count."""
        text = line.strip()
        warn = _BARE_WARN.search(text)
        quoted = None if warn or b" via " not in text else _BARE_CHANNEL.search(text)
        unmistakable = warn or quoted
        if unmistakable:
            text = text[unmistakable.start() :]
        elif b"NCCL version" in text or not _BARE.match(text):
            rest = _BARE_REST.search(text)
            if not rest:
                return []
            text = b"Channel " + text[rest.start() :]
        message, repeated, cut = clean(text)
        capped = len(text) >= CAP
        level = "WARN" if warn else "INFO"
        return [Message("", 0, 0, None, level, message, number, ended and not cut, joined, capped, repeated, None, True)]


def clean(raw: bytes) -> tuple[str, int, bool]:
    """The message without what log collectors add behind it: ``(message, ray's repeat count, cut short by it)``."""
    repeated, cut = 0, False
    if b"[repeated " in raw:
        found = _REPEATED.search(raw)
        if found:
            repeated = int(found[1])
            raw = raw[: found.start()]
    if b"\\n" in raw:  # JSON log lines
        raw = raw[: raw.index(b"\\n")]
    if b"\r" in raw.strip():
        raw = raw.strip().split(b"\r", 1)[0]
    raw = raw.strip(_JUNK_RIGHT)
    return raw[:MAX_MESSAGE].decode("utf-8", "replace"), repeated, cut or len(raw) > MAX_MESSAGE


def plain(line: bytes) -> bytes:
    """A line as it was printed, where a screen framed it or a web page escaped it or turned names into Markdown links."""
    if b"\xe2\x94\x82" in line:
        line = _FRAME.sub(b" ", line)
    if b"](" in line:
        line = _LINK.sub(rb"\1", line)
    if b"&" in line:
        line = line.replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&#39;", b"'").replace(b"&amp;", b"&")
    return line


def header_rank(line: bytes, number: int) -> HeaderRank | None:
    """The rank line of nccl-tests' header, wherever a prefix puts it."""
    at = line.find(b"#")
    found = _TESTS.match(line[at:]) if at >= 0 else None
    if not found:
        return None
    return HeaderRank(int(found[1]), found[3].decode("utf-8", "replace"), int(found[2]), number)
