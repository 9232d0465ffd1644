"""NCCL records -> :class:`LogEvidence`. Streaming: memory grows with the distinct facts of a log, not with its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pytest_h20.nccl import failures
from pytest_h20.nccl.model import (
    Address,
    Channel,
    Device,
    Direction,
    Family,
    Kind,
    Link,
    LogEvidence,
    NcclError,
    Process,
    RankInit,
    Where,
)
from pytest_h20.nccl.records import Lines, Message, Splitter, header_rank, plain
from pytest_h20.nccl.verbs import Failure

MAX_CHANNELS = 100_000
MAX_PROCESSES = 8_192
MAX_ERRORS = 4_000
MAX_RINGS = 4_000
MAX_WRAPPED = 2_048  # a record that was wrapped is put together up to this length
MAX_PLACES = 1_000  # how many damaged places, unclear warnings and the like are kept with their line

_CHANNEL = re.compile(
    r"^(?P<word>Channel|Ring) (?P<ch>\d+)(?:/(?P<conn>\d+))? : (?P<a>\d+)(?:\[[^\]]*\])? -> (?P<b>\d+)(?:\[[^\]]*\])?"
    r"(?: \[(?P<dir>send|receive)\])? +via (?P<via>.+?)(?: comm 0x[0-9a-f.]+ n[rR]anks (?P<nranks>\d+))?$"  # the tail is RCCL's
)
_NET = re.compile(
    r"^NET/(?P<net>[^/\n]+)/(?P<dev>\d+)(?:\((?P<pxn>\d+)\))?(?P<gdr>/GDRDMA(?:\(PCI\))?)?(?P<shared>/Shared)?(?:/flush=\w+)?"
    r"(?P<behind>(?<=/GDRDMA)[\s\"',;<#|].*|(?<=/Shared)[\s\"',;<#|].*)?$"
)
_REST_OF_VIA = re.compile(rb"[\w/()=]{1,40}\s*$")
_NET_NAME = re.compile(r"^NET/(?P<net>[^/\n]+)/")
# P2P/IPC[/read], P2P/CUMEM[/read], P2P/MNNVL, P2P/direct pointer[/read], P2P/indirect/3[..]; SHM/direct/direct, SHM/CE/direct ...
_LOCAL = re.compile(
    r"^(?:P2P/(?:IPC|CUMEM|MNNVL|direct pointer|indirect)\S*(?:/read)?(?:\([^)]*\))?|P2P/\w+(?:/\w+)*|SHM/\w+(?:/\w+)*|"
    r"direct shared memory|SHM)$"
)
_COLLNET = re.compile(
    r"^CollNet (?P<ch>\d+)(?:/\d+)? : (?P<rank>\d+)(?:\[[^\]]*\])? \[(?P<dir>send|receive)\] via "
    r"COLLNET/(?P<net>[^/]+)/(?P<dev>\d+)(?P<gdr>/GDRDMA)?"
)
_RING = re.compile(r"^Channel (?P<ch>\d+)/\d+ ?:(?P<order>(?: +\d+)+)$")
# Up to 2.1 without a number: "3 -> 0 via NET/Socket/0".
_NUMBERLESS = re.compile(r"^\d+(?:\[[^\]]*\])? -> \d+(?:\[[^\]]*\])? +via (?:NET/|P2P/|SHM|direct )")
_COMM = re.compile(
    r"(?:^|[ \]])(?:ncclComm\w+ )?comm (?P<comm>0x[0-9a-f.]+) rank (?P<rank>\d+) "
    r"n[rR]anks (?P<nranks>\d+) (?P<rest>(?:cudaDev|nNodes) .*)$"
)
_NNODES = re.compile(r"^nNodes (\d+) localRanks (\d+) localRank (\d+)(?: MNNVL (\d+))?")
_CUDADEV = re.compile(r"cudaDev (\d+) ")
_BUSID = re.compile(r"busId ([0-9a-fA-F]+) ")
_COMMID = re.compile(r"commId (0x[0-9a-f]+) ")
_STATE = re.compile(r"- ?([A-Z]\w+ (?:START|COMPLETE))$")
_TIMINGS = re.compile(r"^Init timings - ncclComm\w+: rank (\d+) nranks (\d+) total ")
_OLD_RANKS = re.compile(r"^(?:comm 0x[0-9a-f]+ )?rank (\d+) nranks (\d+)$")
_TREES = re.compile(r"^Trees((?: \[\d+\] [-\d/>|]+)+)")
_TREE_RANK = re.compile(r"(?<=[ />|])\d+")
_TREE = re.compile(r"\[(\d+)\] ([-\d]+)/([-\d]+)/([-\d]+)->(\d+)->(-?\d+)(?= |$)")  # from 2.8 on: its children, the rank, its parent
# A connection of the IB transport: its queue pair (up to 2.2 "Dev"), its memory (SUBSYS ALLOC).
_QUEUE_PAIR = re.compile(r"^NET/IB\w* ?: (?:Ib)?Dev \d+ Port \d+ qpn|^transport/net_ib\.(?:cc|cu):\d+ Ib Alloc Size ")
# "NET/IB : Using"; verbs plugins have their own name there ("NET/gIB : Using [0]mlx5_0:1/RoCE").
_USING_IB = re.compile(
    r"^NET/(?:IB\w* ?: Using (?!interface)|\w+ ?: Using (?=\[0\](?:=\{\[0\] ?)?[\w.+@-]+:\d+[^ ]*/(?:IB|RoCE)))(?P<list>.*)$"
)
_USING_SOCKET = re.compile(r"^NET/(?:Socket|FastSocket) ?: Using (?=\[)(?P<list>.*)$")
# What Google's plugin says of its TCP connections, on both sides: "Connected after 12 retries.", "Accepted data socket 3", ...
_FAST_SOCKETS = re.compile(r"^NET/FastSocket ?: (?:Connected (?:after|data socket) \d|Accepted data socket \d|Async connect done)")
_SOCKET_ITEM = re.compile(r"\[\d+\]([^\s:]{1,64}):\S{0,100}?<\d+>")
_OOB = re.compile(r"; ?OOB (?P<if>[^\s:<>]+)(?:$|:(?P<rest>.*)$)")
_ITEM = re.compile(r"\[(\d+)\](?:=\{([^}]*)\}|([^\s;\[\]{},]+))(?=[\s;,]|$)")
_INNER = re.compile(r"\[\d+\] ?([^\s;,{}]+)")
_PORT = re.compile(r"^(?P<name>[\w.+@-]+):(?P<port>\d+)(?::-?\d+){0,2}/(?P<link>IB|RoCE)(?:/\w+)*$")
_OLD_DEVICE = re.compile(r"^NET/IB ?: \[\d+\] (?P<name>[\w.+@-]+):(?P<port>\d+)/(?P<link>IB|RoCE)\s*$")  # 2.3: one line per port
_UVERBS = re.compile(r"^NET/IB ?: \[(\d+)\] ([\w.+-]+):[\w.-]+:(\d+)(?::-?\d+){0,2}/(IB|RoCE) provider=")
_VIRTUAL = re.compile(r"^NET/IB ?: Made virtual device \[(\d+)\] name=(\S+) speed=\d+ ndevs=(\d+)")
_BOOTSTRAP = re.compile(r"^Bootstrap ?: Using (?:\[0\])?(?P<if>[^\s:<>]+):(?P<rest>.*)$")
_ADDRESS = re.compile(r"^\s*(?P<addr>\S.*?)?\s*<\d+>")
_IPV4_WHOLE = re.compile(r"^(\d{1,3}(?:\.\d{1,3}){3})$")
_NETWORK = re.compile(r"^Using (?:network|internal Network) (?P<net>\S(?:.*\S)?)$")
_VERSION = re.compile(r"NCCL version (\d+\.\d+(?:\.\d+)?)(\+[\w.]+)?")
_ENGINE = re.compile(rb"nccl==(\d+\.\d+(?:\.\d+)?)")
_ENV = re.compile(r"^(?P<key>[A-Z][A-Z0-9_]{3,}) set by environment to (?P<value>.*)$")
_GDR_HCA = re.compile(r"GPU Direct RDMA (?:\(\w+\) )?(?P<on>[Ee]nabled|[Dd]isabled) for HCA (?P<n>\d+) '(?P<name>[^' ]+)")
_GDR_PAIR = re.compile(r"GPU Direct RDMA (Enabled|Disabled) for GPU \S+ / HCA \S+")
_PROVIDER = re.compile(r"[Ss]elected [Pp]rovider is (?P<name>[\w;+-]+)")
_PLUGIN = re.compile(
    r"^(?:P2P plugin (?:v\d+ )?(?P<p2p>\S+)|NET/Plugin ?: Loaded (?:net )?plugin (?P<loaded>.+)"
    r"|Assigned NET plugin (?P<assigned>.+?) to comm"
    r"|(?:Successfully loaded|NET/Plugin ?: Successfully loaded) external plugin (?P<ext>\S+))"
)
_GID_USED = re.compile(r"^NET/IB ?: .*?\bGID (\d+) \(")
_GID_DEV = re.compile(r"IbDev (\d+) ")
_OPCOUNT = re.compile(r"^(?:AllReduce|AllGather|ReduceScatter|Broadcast|Reduce|Send|Recv|AlltoAll): opCount (?:.* \[nranks=(\d+)\])?")
# How many channels a communicator has, each of which visits every node: "24 coll channels, 16 nvls channels, 32 p2p channels, ...".
_CHANNEL_COUNT = re.compile(r"^(\d{1,3}) coll channels, (?:\d+ collnet channels, )?(?:(\d{1,3}) nvls channels, )?\d+ p2p channels")
_REPEAT_HINTS = ("Channel ", "Ring ", "comm ", "Using network", "NET/")
_NOTES = re.compile(
    r"^(?:NET/IB ?: No device found|Failed to open libibverbs|Failed to initialize NET plugin|Net/IB: call to devices\(\) returned"
    r"|NET/Plugin ?: (?:Plugin load|No plugin found|Could not find|dlerror|Failed to)|No network plugin found"
    r"|NCCL_(?:IB_DISABLE|NET|NET_PLUGIN|IB_HCA|NET_GDR_LEVEL|P2P_DISABLE|SHM_DISABLE|CROSS_NIC|IB_GID_INDEX|SOCKET_IFNAME|HOSTID)"
    r" set by environment|IBEXT_DISABLE set|NET/OFI )"
)


def family_of(network: str) -> Family:
    """The kind of data path a network name stands for.

    ``IB``, ``IBext*`` and Google's ``gIB`` are InfiniBand verbs, and so is HPC-X' "NCCL RDMA Plugin" as a rule (its other mode is
    UCX: see :func:`ambiguous`); libfabric plugins depend on their provider; FasTrak and UCX carry data over more than one kind of
    path, so their name alone proves nothing.
    """
    low = network.lower()
    if network == "IB" or low.startswith(("ibext", "ib_", "gib")) or ambiguous(network):
        return "ib"
    if "socket" in low or "tcp" in low:
        return "socket"
    if "libfabric" in low or "ofi" in low:
        return "ofi"
    return "other"


def ambiguous(network: str) -> bool:
    """True for HPC-X' plugin under its own name: "P2P plugin IBext*" or "P2P plugin UCX*" says which of its two ways it goes."""
    return network.lower().startswith("nccl rdma plugin")


@dataclass
class _Proc:
    host: str
    pid: int
    version: str | None = None
    devices: tuple[Device, ...] = ()
    devices_complete: bool = True
    devices_where: Where | None = None
    virtual: dict[int, Device] = field(default_factory=dict)
    sockets: tuple[str, ...] = ()
    oob: Address | None = None
    bootstrap: Address | None = None
    networks: dict[str, None] = field(default_factory=dict)
    network_where: Where | None = None
    plugins: dict[str, None] = field(default_factory=dict)
    providers: dict[str, None] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    gdr: dict[str, bool] = field(default_factory=dict)
    gids: dict[str, set[int]] = field(default_factory=dict)
    local_gids: set[str] = field(default_factory=set)
    notes: dict[str, Where] = field(default_factory=dict)
    connected: set[str] = field(default_factory=set)
    collective: Where | None = None
    tag: int | None = None
    tids: set[int] = field(default_factory=set)


@dataclass
class _Rank:
    comm: str
    rank: int
    nranks: int
    where: Where
    comm_id: str | None = None
    nnodes: int | None = None
    local_rank: int | None = None
    local_ranks: int | None = None
    cuda_dev: int | None = None
    bus_id: str | None = None
    started: bool = False
    completed: bool = False
    mnnvl: bool = False
    channels: tuple[int, ...] = ()
    trees: tuple[tuple[int, int], ...] = ()
    tids: dict[int, None] = field(default_factory=dict)


_ChannelKey = tuple[str, int, int | None, str, int, int, int, int, str, str, int | None, bool | None, int | None, bool, bool]


class Reader:
    """Collects the evidence of one log."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.procs: dict[tuple[str, int], _Proc] = {}
        self.ranks: dict[tuple[str, int, str, str | None, int, int], _Rank] = {}
        self.latest: dict[tuple[str, int, str, int, int], _Rank] = {}  # the same, whatever its commId
        self.current: dict[tuple[str, int, int], str] = {}  # thread -> communicator it is initialising
        self.pending: dict[tuple[str, int, int], list[_ChannelKey]] = {}  # channels printed before their comm line (<= 2.18.2)
        self.counts: dict[tuple[str, int, int], tuple[int, ...]] = {}  # channel counts, likewise, and trees
        self.trees: dict[tuple[str, int, int], tuple[tuple[int, int], ...]] = {}
        self.channels: dict[_ChannelKey, tuple[Where, int]] = {}
        self.channel_comm: dict[_ChannelKey, str] = {}
        self.errors: dict[tuple[str, str, str, int], NcclError] = {}
        self.first_devices: tuple[Device, ...] = ()
        self.links: set[str] = set()
        self.first_oob: Address | None = None
        self.first_network: str | None = None
        self.network_lines: dict[tuple[str, str], Where] = {}
        self.gdr: dict[str, bool] = {}
        self.gdr_pairs: set[bool] = set()
        self.bare_versions: dict[str, None] = {}
        self.engine_versions: dict[str, None] = {}
        self.tests: dict[int, str] = {}
        self.ring: set[int] = set()
        self.rings: dict[tuple[int, tuple[int, ...]], None] = {}
        self.nranks: set[int] = set()
        self.nnodes: set[int] = set()
        self.damaged: dict[int, None] = {}
        self.damaged_channels: dict[int, None] = {}
        self.ray: dict[int, None] = {}
        self.unclear: dict[str, Where] = {}
        self.highest_rank = -1
        self.queue_pairs = False
        self.overflow = False
        self._wrapped: tuple[bytes, int] = (b"", 0)  # a record put together from several lines so far, and its first line ...
        self._wrapped_end = b""  # ... and the last of these lines
        self._splitter = Splitter()
        self._lines = Lines()
        self._handlers: tuple[tuple[str, Callable[[Message, _Proc], bool]], ...] = (
            ("Channel ", self._channel),
            ("Ring ", self._channel),
            ("CollNet ", self._collnet),
            ("Using network", self._network),
            ("Using internal Network", self._network),
            ("NET/", self._net_line),
            ("Net/IB", self._note),
            ("Bootstrap", self._bootstrap),
            ("Connected ", self._connected),
            ("Failed to ", self._note),
            ("No network plugin", self._note),
            ("P2P plugin", self._plugin),
            ("Assigned NET", self._plugin),
            ("Successfully loaded", self._plugin),
            ("GPU Direct", self._gdr),
            ("NCCL version", self._version),
            ("Init timings", self._timings),
            ("rank ", self._timings),
            ("Trees ", self._trees),
            ("transport/net_ib", self._connection),
        )

    # -- input ---------------------------------------------------------------------------------------------------------------

    def read(self, chunks: Iterable[bytes]) -> None:
        """Take in a whole log."""
        for number, line, previous, ended in self._lines.interesting(chunks):
            if previous and self._lines.full(previous) and self._splitter.head_cut(previous, line):
                self._line(number - 1, previous + line, ended, True)
                self._follow(previous + line, number - 1, line, self._splitter.records(previous + line, number - 1, ended, True))
                continue
            if not (previous and self._continuation(number, line, previous, ended)) or b"NCCL" in line:
                self._line(number, line, ended)

    def _line(self, number: int, line: bytes, ended: bool, joined: bool = False) -> None:
        raw, line = line, plain(line)
        if b"NCCL version" in line and b"NCCL INFO" not in line:
            found = _VERSION.search(line.decode("utf-8", "replace"))
            if found:
                self.bare_versions.setdefault(found[1] + (found[2] or ""))
        if b"nccl==" in line:
            engine = _ENGINE.search(line)
            if engine:
                self.engine_versions.setdefault(engine[1].decode())
        if b"Rank" in line:
            test = header_rank(line, number)
            if test:
                self.tests[test.rank] = test.host
                return
        records = self._splitter.records(line, number, ended, joined)
        understood = [self._record(record) for record in records]
        if joined:
            return
        last = records[-1] if records else None
        if last is None:
            goes_on = self._lines.full(raw)  # wrapped inside its head
        elif self._lines.full(raw):
            goes_on = not understood[-1] or last.level == "WARN" or " via " in last.message or self._wants_more(last)
        else:
            goes_on = self._wants_more(last)
        if goes_on:
            self._lines.open.add(raw)

    def _continuation(self, number: int, line: bytes, previous: bytes, ended: bool) -> bool:
        """What stands before the head of a line (or all of it) right behind a record that was not finished: was it the rest of that?

        The record may itself be put together already.
        """
        fragment = self._splitter.fragment(line)
        if not fragment.strip():
            return False
        start, first = self._wrapped if self._wrapped[0] and self._wrapped_end == previous else (previous, number - 1)
        full = self._lines.full(previous) and fragment == line
        begun = self._splitter.records(plain(start), first, True, True)
        if not begun or (not self._wants_more(begun[-1]) and not (full and _may_go_on(begun[-1], fragment))):
            return False
        by_hand = fragment[:1].isspace() and (b"NCCL WARN" in start or b"Using" in start)
        if full and not (by_hand and fragment[1:2].isspace()):  # a terminal breaks anywhere, and leaves out nothing
            text = plain(start).rstrip(b"\r\n") + plain(fragment)
        else:  # an author who wraps a line by hand indents its rest
            gap = b" " if by_hand or start.rstrip().endswith((b"NCCL INFO", b"NCCL WARN")) else b""
            text = plain(start).rstrip(b"\r\n \t") + gap + plain(fragment).lstrip()
        joined = self._splitter.records(text, first, ended, True)
        known = (first in self.damaged, first in self.damaged_channels)
        understood = bool(joined) and self._record(joined[-1])
        # What follows need not belong to it: then the line stays what it was.
        for places, was in zip((self.damaged, self.damaged_channels), known, strict=True):
            if understood or not was:
                places.pop(first, None)
        if b"NCCL" not in line:
            self._follow(text, first, line, joined)
        return understood

    def _follow(self, text: bytes, first: int, line: bytes, records: Sequence[Message]) -> None:
        """Let the next line go on with ``text``, which was put together from lines ``first`` to ``line``."""
        if records and len(text) < MAX_WRAPPED and (self._lines.full(line) or self._wants_more(records[-1])):
            self._wrapped, self._wrapped_end = (text, first), line
            self._lines.open.add(line)

    @staticmethod
    def _wants_more(record: Message) -> bool:
        message = record.message
        if not message:
            return True
        if message.startswith(("Channel ", "Ring ")):
            return "via" not in message or _incomplete_via(message)
        if message.startswith("NET/IB"):
            if "Using" in message:
                return "OOB" not in message
            return "Got completion" in message and not failures.classify(message, warn=True)
        if "comm 0x" in message:
            found = _COMM.search(message)
            return found is None or not (_STATE.search(found["rest"]) or _NNODES.match(found["rest"]))
        return message in ("Using", "Using network") or (message.startswith("Using net") and " " not in message[6:])

    # -- one record ----------------------------------------------------------------------------------------------------------

    def _record(self, record: Message) -> bool:
        message = record.message
        if not message:
            return False
        proc = self._proc(record)
        if record.repeated and message.startswith(_REPEAT_HINTS):
            _keep(self.ray, record.line)
        if record.level == "WARN":
            self._warn(record, proc)
            return True
        for start, handler in self._handlers:
            if message.startswith(start):
                return handler(record, proc)
        moved = _OPCOUNT.match(message) if "opCount" in message else None
        if moved:
            proc.collective = proc.collective or self._where(record)
            if moved[1]:
                self.nranks.add(int(moved[1]))
            return True
        if "comm 0x" in message:
            return self._comm(record)
        if " via " in message and _NUMBERLESS.match(message):
            return self._channel(replace(record, message=f"Ring 00 : {message}"), proc)
        if " coll channels" in message:
            return self._channel_count(record)
        if " set by environment to " in message:
            return self._env(record, proc)
        if "GPU Direct RDMA" in message:
            return self._gdr(record, proc)
        if "retr" in message or "Got completion" in message or "Call to connect" in message:
            failure = failures.classify(message, warn=False)
            if failure:
                self._failure(failure, record, proc)
                return True
        if "elected" in message:
            return self._net_line(record, proc)
        return False

    def _where(self, record: Message) -> Where:
        return Where(self.source, record.line)

    def _proc(self, record: Message) -> _Proc:
        key = (record.host, record.pid)
        proc = self.procs.get(key)
        if proc is None:
            proc = _Proc(*key)
            if len(self.procs) >= MAX_PROCESSES:
                self.overflow = True
            else:
                self.procs[key] = proc
        if record.tag is not None and proc.tag is None:
            proc.tag = record.tag
        if len(proc.tids) < MAX_PLACES:
            proc.tids.add(record.tid)
        return proc

    def _damage(self, record: Message, channel: bool = False) -> None:
        _keep(self.damaged_channels if channel else self.damaged, record.line)

    # -- handlers: True when the record was understood -----------------------------------------------------------------------

    def _channel(self, record: Message, proc: _Proc) -> bool:
        message = record.message
        found = _CHANNEL.match(message)
        if not found:
            ring = _RING.match(message)
            if ring:
                if record.whole:
                    order = tuple(int(r) for r in ring["order"].split())
                    self.ring.update(order)
                    if len(self.rings) < MAX_RINGS:
                        self.rings.setdefault((int(ring["ch"]), order))
                return True
            if "->" not in message and ("[" not in message or " : " not in message):
                if " : " not in message and not re.match(r"^(?:Channel|Ring) \d", message):
                    return False  # an application's "Channel ..." or another NCCL line
                if re.match(r"^(?:Channel|Ring) \d+(?:/\d+)? ?:", message) is None or not record.whole:
                    self._damage(record, channel=not _RING.match(message + "0"))
                return False
            if message.startswith("Ring ") and message.count("->") == 2:  # "Ring 00 : 1 -> 0 -> 1": order, SUBSYS GRAPH
                return True
            self._damage(record, channel=True)
            return False
        src, dst, via = int(found["a"]), int(found["b"]), found["via"]
        direction = found["dir"] or ""
        conn, channel = int(found["conn"] or 0), int(found["ch"])
        if found["nranks"] and record.whole:
            self.nranks.add(int(found["nranks"]))
        net = _NET.match(via)
        if net:
            behind = net["behind"] or ""
            if behind.lstrip().startswith("comm"):  # RCCL's tail, cut
                self._damage(record, channel=True)
            intact = record.whole or bool(net["gdr"])
            gdr: bool | None = bool(net["gdr"]) if intact else None
            if not direction:  # NET lines always say which half they are
                intact = False
            self._add_channel(
                record,
                (
                    src,
                    dst,
                    channel,
                    conn,
                    direction,
                    "net:" + net["net"],
                    int(net["dev"]) if intact else None,
                    gdr,
                    int(net["pxn"]) if net["pxn"] else None,
                    bool(net["shared"]),
                ),
                intact and not record.joined,
            )
            if not intact:
                self._damage(record, channel=True)
            return True
        name = _NET_NAME.match(via)
        if name:
            self._add_channel(record, (src, dst, channel, conn, direction, "net:" + name["net"], None, None, None, False), False)
            self._damage(record, channel=True)
            return False
        if _LOCAL.match(via):
            self._add_channel(record, (src, dst, channel, conn, direction, via, None, None, None, False), not record.joined)
            return True
        self._damage(record, channel=True)
        return False

    def _add_channel(
        self, record: Message, link: tuple[int, int, int, int, str, str, int | None, bool | None, int | None, bool], intact: bool
    ) -> None:
        thread = (record.host, record.pid, record.tid)
        comm = self.current.get(thread, "")
        key: _ChannelKey = (
            record.host,
            record.pid,
            record.cuda_dev,
            comm,
            link[0],
            link[1],
            link[2],
            link[3],
            link[4],
            link[5],
            link[6],
            link[7],
            link[8],
            link[9],
            intact,
        )
        if key in self.channels:
            return
        if len(self.channels) >= MAX_CHANNELS:
            self.overflow = True
            return
        self.channels[key] = (self._where(record), record.tid)
        if not comm and record.pid:
            self.pending.setdefault(thread, []).append(key)

    def _collnet(self, record: Message, proc: _Proc) -> bool:
        found = _COLLNET.match(record.message)
        if found:
            rank, gdr = int(found["rank"]), bool(found["gdr"])
            link = (rank, rank, int(found["ch"]), 0, found["dir"], "collnet:" + found["net"], int(found["dev"]), gdr, None, False)
            self._add_channel(record, link, record.whole and not record.joined)
        return found is not None

    def _comm(self, record: Message) -> bool:
        found = _COMM.search(record.message)
        if not found:
            if self._timings(record, self._proc(record)):
                return True
            if "Destroy" not in record.message and "opCount" not in record.message:
                self._damage(record)
            return False
        rest = found["rest"]
        state = _STATE.search(rest)
        nodes = _NNODES.match(rest)
        rank, nranks = int(found["rank"]), int(found["nranks"])
        if rank >= nranks:
            self._damage(record)
            return False
        if not state and not nodes:
            self.nranks.add(nranks)  # cut behind the number
            self._damage(record)
            return False
        if state and not state[1].startswith("Init"):
            self.nranks.add(nranks)
            return True
        comm_id = _COMMID.search(rest)
        entry = self._rank(record, found["comm"], comm_id[1] if comm_id else None, rank, nranks)
        if entry is None:
            return False
        if nodes:
            entry.nnodes, entry.local_ranks, entry.local_rank = int(nodes[1]), int(nodes[2]), int(nodes[3])
            entry.mnnvl = nodes[4] not in (None, "0")
            self.nnodes.add(entry.nnodes)
        cuda, bus = _CUDADEV.search(rest), _BUSID.search(rest)
        if cuda:
            entry.cuda_dev = int(cuda[1])
        if bus:
            entry.bus_id = bus[1]
        thread = (record.host, record.pid, record.tid)
        entry.tids.setdefault(record.tid)
        if state and state[1] == "Init COMPLETE":
            entry.completed = True
            entry.channels = entry.channels or self.counts.pop(thread, ())
            entry.trees = entry.trees or self.trees.pop(thread, ())
            for key in self.pending.pop(thread, ()):
                self.channel_comm.setdefault(key, entry.comm)
            self.current.pop(thread, None)
        else:
            entry.started = entry.started or state is not None
            self.current[thread] = entry.comm
        return True

    def _channel_count(self, record: Message) -> bool:
        found = _CHANNEL_COUNT.match(record.message)
        if found:
            self.counts[(record.host, record.pid, record.tid)] = tuple(int(n) for n in found.groups() if n and n != "0")
        return found is not None

    def _rank(self, record: Message, comm: str, comm_id: str | None, rank: int, nranks: int) -> _Rank | None:
        self.nranks.add(nranks)
        base = (record.host, record.pid, comm)
        for known_id in (comm_id, None):
            entry = self.ranks.get((*base, known_id, rank, nranks))
            if entry:
                break
        if entry is None and comm_id is None:  # "comm … nNodes" carries no commId: it belongs to the START line of that comm
            entry = self.latest.get((*base, rank, nranks))
        if entry is None:
            if len(self.ranks) >= MAX_PROCESSES:
                self.overflow = True
                return None
            entry = _Rank(comm, rank, nranks, self._where(record), comm_id)
            named, unnamed = (*base, comm_id, rank, nranks), (*base, rank, nranks)
            self.ranks[named] = self.latest[unnamed] = entry
        if comm_id and entry.comm_id is None:
            entry.comm_id = comm_id
        return entry

    def _timings(self, record: Message, proc: _Proc) -> bool:
        found = _TIMINGS.match(record.message) or (_OLD_RANKS.match(record.message) if record.whole else None)
        if found:
            self.nranks.add(int(found[2]))
        return found is not None

    def _trees(self, record: Message, proc: _Proc) -> bool:
        found = _TREES.match(record.message) if record.whole else None
        if found:
            self.highest_rank = max([self.highest_rank, *(int(rank) for rank in _TREE_RANK.findall(found[1]))])
            near = [(int(ch), int(rank)) for ch, *ranks in _TREE.findall(found[1]) for rank in (*ranks[:3], ranks[4]) if rank != "-1"]
            self.trees[(record.host, record.pid, record.tid)] = tuple(near) if not record.capped else ()
        return found is not None

    def _connection(self, record: Message, proc: _Proc) -> bool:
        found = _QUEUE_PAIR.match(record.message) is not None
        self.queue_pairs = self.queue_pairs or found
        return found

    def _network(self, record: Message, proc: _Proc) -> bool:
        found = _NETWORK.match(record.message)
        if not found or (not record.whole and found["net"] not in ("Socket", "IB", "AWS Libfabric")):
            self._damage(record)
            return False
        self._uses(found["net"], record, proc)
        return True

    def _uses(self, name: str, record: Message, proc: _Proc) -> None:
        proc.networks.setdefault(name)
        proc.network_where = proc.network_where or self._where(record)
        self.first_network = self.first_network or name
        _keep_where(self.network_lines, (record.host, name), self._where(record))

    def _net_line(self, record: Message, proc: _Proc) -> bool:
        message = record.message
        if "Using" in message:
            found = _USING_IB.match(message)
            if found:
                self._devices(found["list"], record, proc)
                return True
            sockets = _USING_SOCKET.match(message)
            if sockets:
                proc.sockets = proc.sockets or tuple(_SOCKET_ITEM.findall(sockets["list"]))
                return True
        if _FAST_SOCKETS.match(message):
            self._uses("FastSocket", record, proc)
            return True
        if "GPU Direct RDMA" in message:
            return self._gdr(record, proc)
        self._connection(record, proc)
        virtual = _VIRTUAL.match(message)
        if virtual:
            members = tuple(m for m in virtual[2].split("+") if m)
            index = int(virtual[1])
            proc.virtual[index] = Device(index, virtual[2], None, "", members if len(members) > 1 else ())
            return True
        old = _OLD_DEVICE.match(message)
        if old:
            device = Device(len(proc.devices), old["name"], int(old["port"]), _link(old["link"]))
            if len(proc.devices) < 64 and device.name not in {d.name for d in proc.devices if d.port == device.port}:
                if self.first_devices == proc.devices:
                    self.first_devices = (*proc.devices, device)
                proc.devices = (*proc.devices, device)
            self.links.add(old["link"])
            return True
        uverbs = _UVERBS.match(message)
        if uverbs:
            self.links.add(uverbs[4])
            return True
        provider = _PROVIDER.search(message)
        if provider:
            proc.providers.setdefault(provider["name"].lower())
        gid = _GID_USED.match(message)
        if gid:
            dev = _GID_DEV.search(message)
            proc.gids.setdefault(dev[1] if dev else "", set()).add(int(gid[1]))
            return True
        if "retr" in message or "Got completion" in message:
            failure = failures.classify(message, warn=False)
            if failure:
                self._failure(failure, record, proc)
                return True
        return self._plugin(record, proc) or self._note(record, proc)

    def _devices(self, text: str, record: Message, proc: _Proc) -> None:
        body, _, _ = text.partition("OOB")
        listed, _, relaxed = body.partition("[RO]")
        has_end = "OOB" in text or bool(relaxed) or "[RO]" in body
        devices = []
        for item in _ITEM.finditer(listed):
            index = int(item[1])
            if item[2] is not None:
                inner = [_PORT.match(t) for t in _INNER.findall(item[2])]
                ports = [p for p in inner if p]
                if ports and len(ports) == len(inner):
                    names = tuple(f"{p['name']}:{p['port']}" for p in ports)
                    link = ports[0]["link"] if len({p["link"] for p in ports}) == 1 else ""
                    devices.append(Device(index, "+".join(p["name"] for p in ports), int(ports[0]["port"]), _link(link), names))
                    self.links.update(p["link"] for p in ports)
                continue
            # The list may be cut in the middle of its last word (1024-byte cap, splice): "mlx5_1:1/Ro" is not a port.
            port = _PORT.match(item[3])
            if port:
                devices.append(Device(index, port["name"], int(port["port"]), _link(port["link"])))
                self.links.add(port["link"])
        found = tuple(devices)
        if found and not self.first_devices:
            self.first_devices = found
        longer = record.joined and found[: len(proc.devices)] == proc.devices  # the same list with the rest of a wrapped line
        if not proc.devices or longer:
            if longer and self.first_devices == proc.devices:
                self.first_devices = found
            proc.devices, proc.devices_complete = found, has_end and not record.capped
            proc.devices_where = self._where(record)
        oob = _OOB.search(text)
        if oob and (oob["rest"] is not None or (record.whole and not record.capped)):
            address = self._address(oob["if"], oob["rest"] or "", record)
            if address:
                proc.oob = proc.oob or address
                self.first_oob = self.first_oob or address

    def _address(self, interface: str, rest: str, record: Message) -> Address | None:
        found = _ADDRESS.match(rest)
        if found:
            return Address(interface, found["addr"] or None, self._where(record))
        if record.capped or not record.whole:
            return Address(interface, None, self._where(record))
        whole = rest.strip()
        # Without "<port>" behind it an address may be cut; a mask such as "xxx" or a lone IPv4 at a line's end is taken as written.
        if _IPV4_WHOLE.match(whole) or (whole and not re.search(r"[\d:]", whole)):
            return Address(interface, whole, self._where(record))
        return Address(interface, None, self._where(record))

    def _bootstrap(self, record: Message, proc: _Proc) -> bool:
        found = _BOOTSTRAP.match(record.message)
        if found:
            proc.bootstrap = proc.bootstrap or self._address(found["if"], found["rest"].split(" [1]")[0], record)
            return True
        return False

    def _connected(self, record: Message, proc: _Proc) -> bool:
        for what in ("all rings", "all trees", "NVLS tree"):
            if record.message.startswith("Connected " + what):
                proc.connected.add(what)
                return True
        return False

    def _gdr(self, record: Message, proc: _Proc) -> bool:
        hca = _GDR_HCA.search(record.message)
        if hca:
            on = hca["on"].lower() == "enabled"
            name = hca["name"]
            # Several lines may speak of one HCA (peermem, DMABUF): enabled by any of them is enabled.
            proc.gdr[name] = proc.gdr.get(name, False) or on
            self.gdr[name] = self.gdr.get(name, False) or on
            return True
        pair = _GDR_PAIR.search(record.message)
        if pair:
            self.gdr_pairs.add(pair[1] == "Enabled")
        return pair is not None

    def _plugin(self, record: Message, proc: _Proc) -> bool:
        found = _PLUGIN.match(record.message)
        if not found:
            return False
        name = next(g for g in found.groups() if g)
        if len(proc.plugins) < 20:
            proc.plugins.setdefault(name.strip())
        return True

    def _version(self, record: Message, proc: _Proc) -> bool:
        found = _VERSION.match(record.message)
        if found and (record.whole or found[2]):
            proc.version = proc.version or found[1] + (found[2] or "")
        return found is not None

    def _env(self, record: Message, proc: _Proc) -> bool:
        found = _ENV.match(record.message)
        if not found:
            return False
        value = found["value"].strip()
        if value.endswith("."):
            value = value[:-1]
        if len(proc.env) < 500:
            proc.env.setdefault(found["key"], value)
        self._note(record, proc)
        return True

    def _note(self, record: Message, proc: _Proc) -> bool:
        found = _NOTES.match(record.message)
        if found and len(proc.notes) < 40:
            proc.notes.setdefault(record.message[:200], self._where(record))
        return found is not None

    def _warn(self, record: Message, proc: _Proc) -> None:
        if failures.harmless_place(record.file):
            return
        failure = failures.classify(record.message, warn=True)
        if failure:
            self._failure(failure, record, proc)
            return
        self._note(record, proc)
        if failures.unclear(record.message, record.whole) and len(self.unclear) < MAX_PLACES:
            self.unclear.setdefault(record.message[:200], self._where(record))

    def _failure(self, failure: Failure, record: Message, proc: _Proc) -> None:
        if "local_gid" in failure.details and len(proc.local_gids) < 64:
            proc.local_gids.add(failure.details["local_gid"])
        if "gid_index" in failure.details:
            proc.gids.setdefault(failure.details.get("hca", ""), set()).add(int(failure.details["gid_index"]))
        key = (failure.label or failure.meaning, failure.severity, record.host, record.pid)
        known = self.errors.get(key)
        if known is None and len(self.errors) >= MAX_ERRORS:
            return
        self.errors[key] = (
            NcclError(
                failure.label,
                failure.severity,
                failure.primary,
                failure.meaning,
                failure.action,
                record.message[:400],
                record.host,
                record.pid,
                1,
                self._where(record),
                failure.details,
            )
            if known is None
            else NcclError(**{**known.__dict__, "count": known.count + 1})
        )

    # -- result --------------------------------------------------------------------------------------------------------------

    def evidence(self) -> LogEvidence:
        """Everything collected, frozen."""
        alias = self._aliases()

        def real(host: str) -> str:
            return alias.get(host, host)

        procs: dict[tuple[str, int], _Proc] = {}
        for (host, pid), proc in self.procs.items():
            known = procs.get((real(host), pid))
            procs[(real(host), pid)] = _merge(known, proc) if known else proc
        channels = []
        for key, (where, tid) in self.channels.items():
            comm = key[3] or self.channel_comm.get(key, "")
            channels.append(_freeze_channel(key, comm, real(key[0]), tid, where))
        ranks = tuple(
            RankInit(
                real(host),
                pid,
                comm,
                r.comm_id,
                rank,
                nranks,
                r.nnodes,
                r.local_rank,
                r.local_ranks,
                r.cuda_dev,
                r.bus_id,
                r.started,
                r.completed,
                tuple(r.tids),
                r.where,
                r.mnnvl,
                r.channels,
                r.trees,
            )
            for (host, pid, comm, _id, rank, nranks), r in self.ranks.items()
        )

        def places(lines: dict[int, None]) -> tuple[Where, ...]:
            return tuple(Where(self.source, n) for n in lines)

        return LogEvidence(
            source=self.source,
            lines=self._lines.count,
            bytes=self._lines.size,
            processes=tuple(_freeze(p, host, self.source) for (host, _), p in procs.items()),
            ranks=ranks,
            channels=tuple(channels),
            errors=tuple(NcclError(**{**e.__dict__, "host": real(e.host)}) for e in self.errors.values()),
            devices=self.first_devices,
            links=frozenset(self.links),
            first_oob=self.first_oob,
            first_network=self.first_network,
            network_lines=tuple((real(h), n, w) for (h, n), w in self.network_lines.items()),
            gdr_hcas=dict(self.gdr),
            gdr_pairs=frozenset(self.gdr_pairs),
            bare_versions=tuple(self.bare_versions),
            engine_versions=tuple(self.engine_versions),
            test_ranks=dict(self.tests),
            ring_ranks=frozenset(self.ring),
            rings=tuple(self.rings),
            nranks_seen=frozenset(self.nranks),
            nnodes_seen=frozenset(self.nnodes),
            damaged=places(self.damaged),
            damaged_channels=places(self.damaged_channels),
            ray_dedup=places(self.ray),
            unclear_warnings=tuple(self.unclear.items()),
            overflow=self.overflow,
            highest_rank=self.highest_rank,
            queue_pairs=self.queue_pairs,
        )

    def _aliases(self) -> dict[str, str]:
        """Host names that are a splice of something and a real host name, or what a splice left of one (same pids)."""
        pids: dict[str, set[int]] = {}
        threads: dict[str, set[tuple[int, int]]] = {}
        introduced = set()  # a host that really takes part names its interface or adapters
        addresses: dict[str, set[str]] = {}
        for (host, pid), proc in self.procs.items():
            pids.setdefault(host, set()).add(pid)
            threads.setdefault(host, set()).update((pid, tid) for tid in proc.tids)
            addresses.setdefault(host, set()).update(a.address for a in (proc.oob, proc.bootstrap) if a and a.address)
            if proc.devices or proc.sockets or proc.bootstrap or proc.networks:
                introduced.add(host)
        alias = {}
        for host, mine in pids.items():
            for other, theirs in pids.items():
                if host == other or not other or not host:
                    continue
                if addresses[host] and addresses[other] and not addresses[host] & addresses[other]:
                    continue  # each has its own: two hosts, however alike their names
                rest = other.endswith(host) and host not in introduced and threads[host] <= threads[other]
                if rest or (_spliced(host, other) and mine <= theirs):
                    alias[host] = other
        return alias


def _may_go_on(record: Message, fragment: bytes) -> bool:
    """Could ``fragment`` be the rest of a record that is complete without it, of a line that was wrapped?"""
    if record.message.startswith(("Channel ", "Ring ")):
        return _REST_OF_VIA.match(fragment) is not None
    return record.level != "WARN" or failures.classify(record.message, warn=True) is None


def _spliced(host: str, other: str) -> bool:
    """``2worker-1`` and ``ad-uad-llm-1`` end in another host's name that has the same pids."""
    return len(host) > len(other) and (host.endswith(other) or (host[:2] == other[:2] and host.endswith(other[2:])))


def _incomplete_via(message: str) -> bool:
    via = message.rsplit("via", 1)[1].strip()
    return not (_NET.match(via) or _LOCAL.match(via))


def _link(text: str) -> Link:
    return "IB" if text == "IB" else "RoCE" if text == "RoCE" else ""


def _keep(places: dict[int, None], line: int) -> None:
    if len(places) < MAX_PLACES:
        places.setdefault(line)


def _keep_where(places: dict[tuple[str, str], Where], key: tuple[str, str], where: Where) -> None:
    if len(places) < MAX_PLACES:
        places.setdefault(key, where)


def _freeze_channel(key: _ChannelKey, comm: str, host: str, tid: int, where: Where) -> Channel:
    (_, pid, cuda_dev, _, src, dst, number, conn, direction, via, dev, gdr, pxn, shared, intact) = key
    kind: Kind
    if via.startswith("net:"):
        network, kind, family = via[4:], "net", family_of(via[4:])
    elif via.startswith("collnet:"):
        network, kind, family = via[8:], "collnet", "ib" if via[8:] == "SHARP" else "other"  # SHARP lives in InfiniBand switches
    else:
        network, family = via, "local"
        kind = "shm" if via.startswith(("SHM", "direct shared")) else "p2p"
    side: Direction = "send" if direction == "send" else "receive" if direction == "receive" else ""
    return Channel(
        src=src,
        dst=dst,
        channel=number,
        conn=conn,
        direction=side,
        kind=kind,
        network=network,
        family=family,
        dev=dev,
        gdr=gdr,
        pxn=pxn,
        shared=shared,
        host=host,
        pid=pid,
        tid=tid,
        cuda_dev=cuda_dev,
        intact=intact,
        where=where,
        comm=comm,
    )


def _merge(first: _Proc, second: _Proc) -> _Proc:
    for name in ("version", "devices_where", "oob", "bootstrap", "network_where", "collective", "tag"):
        if getattr(first, name) is None:
            setattr(first, name, getattr(second, name))
    if not first.devices:
        first.devices, first.devices_complete = second.devices, second.devices_complete
    first.sockets = first.sockets or second.sockets
    for name in ("virtual", "networks", "plugins", "providers", "env", "gdr", "notes"):
        setattr(first, name, {**getattr(second, name), **getattr(first, name)})
    first.connected |= second.connected
    first.local_gids |= second.local_gids
    return first


def _freeze(p: _Proc, host: str, source: str) -> Process:
    return Process(
        host=host,
        pid=p.pid,
        source=source,
        nccl_version=p.version,
        devices=p.devices,
        virtual_devices=tuple(p.virtual[i] for i in sorted(p.virtual)),
        devices_complete=p.devices_complete,
        devices_where=p.devices_where,
        socket_interfaces=p.sockets,
        oob=p.oob,
        bootstrap=p.bootstrap,
        networks=tuple(p.networks),
        network_where=p.network_where,
        plugins=tuple(p.plugins),
        providers=tuple(p.providers),
        env=dict(p.env),
        gdr_hcas=dict(p.gdr),
        gid_indexes={k: frozenset(v) for k, v in p.gids.items()},
        local_gids=frozenset(p.local_gids),
        notes=tuple(p.notes.items()),
        connected=frozenset(p.connected),
        collective=p.collective,
        mpi_rank=p.tag,
    )


def parse_log(chunks: Iterable[bytes] | bytes | str, source: str = "") -> LogEvidence:
    """Read one log: bytes, text, or an iterable of chunks of any size (a file opened in binary mode will do).

    Never raises on content: what cannot be understood is counted in ``damaged`` and can only weaken a verdict.
    """
    if isinstance(chunks, str):
        chunks = chunks.encode("utf-8", "surrogateescape")
    if isinstance(chunks, bytes):
        chunks = (chunks,)
    reader = Reader(source)
    reader.read(chunks)
    return reader.evidence()
