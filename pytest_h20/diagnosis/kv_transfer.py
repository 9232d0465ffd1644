"""KV-transfer logs of a prefill/decode split: what carries the cache from one machine to the other, and which lines say so. Pure.

Three verdicts say something (``rdma_proven``, ``tcp``, ``mixed``), two do not (``intra_node_only``, ``undetermined``). What a log does not
show is never guessed: a backend's name, a list of allowed transports (``UCX_TLS``) and devices that were merely found prove nothing.

Line shapes, and where they were read:

* Mooncake opens one transport per engine: RDMA where it has HCAs, else TCP; ``MC_FORCE_TCP`` forces TCP (``transfer_engine_impl.cpp``).
  ``RDMA device: mlx5_1, LID: 0, GID: (GID_Index 3) …`` is written when an RDMA context is ready (``rdma_context.cpp``; kvcache-ai/Mooncake
  #936, sglang#21842), ``TcpTransport: listen on port 16050`` when TCP is (Mooncake#602).
* UCX, below NIXL: with ``UCX_PROTO_INFO=y`` a table per operation, ``inter-node cfg#2 | remote memory write by ucp_put*(multi) from
  cuda/GPU4 to cuda``, rows ``1..inf | zero-copy | rc_mlx5/mlx5_11:1``; with ``UCX_LOG_LEVEL=info`` a line ``inter-node cfg#1
  rma(rc_mlx5/mlx5_0:1) am(…) ka(tcp/eth0)``. The data path is remote memory (``rma``); active messages (``am``) are the control path and
  ``ka`` keeps connections alive (nixl#366, openucx#7950).
  UCX 1.23 (NIXL 1.5, SGLang 0.5.16 on two H200, recorded) writes the table's title in two rows, ``… inter-node cfg#2`` and ``remote memory
  write by ucp_put* from host memory to cuda/dev[1]``, and ``rma_am(tcp/xgbe1)`` where remote memory is emulated by active messages.
* NIXL: ``Backend UCX was instantiated`` says which backend, not what it uses (LMCache#1343).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_h20.lang import local

KvVerdict = Literal["rdma_proven", "tcp", "mixed", "intra_node_only", "undetermined"]
Wire = Literal["rdma", "tcp", "nvlink", "other"]

SHOWN = 8
_LINE = 4096
"""Characters of a line that are looked at: nothing of these stands further behind."""

_RDMA_DEVICE = re.compile(r"RDMA device: ([\w.-]{1,64}), LID: \d+, GID: \(GID_Index (\d+)\)")
_TCP_TRANSPORT = re.compile(r"TcpTransport: listen on port \d+|MC_FORCE_TCP is set, using TCP transport only|installTransport, type=tcp\b")
_RDMA_INSTALLED = re.compile(r"installTransport, type=rdma\b|Using RDMA transport \(RoCE/iWARP\)")
_NVLINK_INSTALLED = re.compile(r"Using (?:cross-node|Intra-Node) NVLink transport")
_MOONCAKE = re.compile(r"Transfer Engine (?:starting|RPC using|parseHostNameWithPort)|Auto-discovering topology")
_HCAS = re.compile(r"Topology discovery complete\. Found (\d+) HCAs")
_NIXL = re.compile(r"Backend (\w+) was instantiated|Initialized NIXL agent|NIXL is available")
_UCX = re.compile(r"\bUCX\s+(?:INFO|DIAG|WARN|DEBUG|TRACE)\b|UCX_\* env variables")
_RMA_LINE = re.compile(r"\b(inter|intra)-node cfg#\d+\b[^|]*?\brma(?:_bw)?\(([^)]*)\)")
_EMULATED = re.compile(r"\b(inter)-node cfg#\d+\b[^|]*?\brma_am\((tcp/[^)]*)\)")
_TABLE = re.compile(r"\|[^|]*\b(inter|intra|self)(?:-node)? cfg#\d+\s*\|(?:\s*([^|]+?)\s*\|)?")
_TITLE = re.compile(r"\|\s*((?:remote memory|active message|tagged|stream|atomic)\b[^|]*?)\s*\|\s*$")
_ROW = re.compile(r"\|\s*(\d\w*(?:\.\.(?:\w+))?)\s*\|\s*([^|]+?)\s*\|\s*([^|]+?)\s*\|")
_LANE = re.compile(
    r"\b((?:rc|dc|ud)(?:_(?:mlx5|verbs|x))?|gga_mlx5|srd|tcp|cuda_ipc|rocm_ipc|sysv|posix|cma|xpmem|knem|self)/([\w.:-]{1,64})"
)
_PREFIX = re.compile(r"\[([^\]\s]{1,80}:\d+ {0,8}:\d+)\]")
_FAILED = re.compile(
    r"Worker: Process failed for slice.{0,400}?: ([\w ]{4,60})$|Too many errors found in local RNIC|Context is not active: \S+"
    r"|Failed to register memory|Mooncake memory registration failed|NIXL_ERR_\w+|KVTransferError|Session::\w+ failed"
    r"|NotSupportedTransport|Failed to (?:install|open) (?:RDMA transport|device)"
)
_WIRES: dict[str, Wire] = {"tcp": "tcp", "cuda_ipc": "nvlink", "rocm_ipc": "nvlink", "srd": "rdma", "gga_mlx5": "rdma"}
_SHARED_MEMORY = {"sysv", "posix", "cma", "xpmem", "knem", "self"}


@dataclass(frozen=True)
class KvLine:
    """A line that decides, with its place."""

    text: str
    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} {self.text}"


@dataclass
class KvTransfer:
    """What the logs of one or more processes tell.

    Attributes:
        backends: Mooncake, NIXL, UCX: those that wrote something.
        devices: RDMA devices in use (``mlx5_1`` or ``mlx5_1:1``), gid_indexes: theirs, where told.
        deciding: the lines that the verdict rests on. failures: transfers that failed, by their own words.
    """

    verdict: KvVerdict = "undetermined"
    reason: str = ""
    advice: str = ""
    backends: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    gid_indexes: tuple[int, ...] = ()
    deciding: tuple[KvLine, ...] = ()
    failures: tuple[KvLine, ...] = ()
    lines: int = 0


@dataclass
class _Seen:
    backends: dict[str, None] = field(default_factory=dict)
    wires: dict[Wire, list[KvLine]] = field(default_factory=dict)
    devices: dict[str, None] = field(default_factory=dict)
    gids: set[int] = field(default_factory=set)
    failures: list[KvLine] = field(default_factory=list)
    intra: list[KvLine] = field(default_factory=list)
    control: list[KvLine] = field(default_factory=list)
    hcas: int | None = None
    tables: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Writer (host:pid:thread) -> its open table: (inter, intra or self; data path)."""


def read_kv(logs: Iterable[tuple[str, str]]) -> KvTransfer:
    """(source, text) of every log of one deployment -> what carried its KV cache."""
    seen, count = _Seen(), 0
    for source, text in logs:
        seen.tables.clear()
        for number, line in enumerate(text.splitlines(), 1):
            count += 1
            _take(seen, KvLine(line[:_LINE].strip(), source, number))
    found = _judged(seen)
    found.lines = count
    return found


def _take(seen: _Seen, at: KvLine) -> None:
    text = at.text
    if _FAILED.search(text):
        seen.failures.append(at)
    if (device := _RDMA_DEVICE.search(text)) is not None:
        seen.backends["Mooncake"] = None
        seen.devices[device[1]] = None
        seen.gids.add(int(device[2]))
        seen.wires.setdefault("rdma", []).append(at)
    elif _TCP_TRANSPORT.search(text):
        seen.backends["Mooncake"] = None
        seen.wires.setdefault("tcp", []).append(at)
    elif _NVLINK_INSTALLED.search(text):
        seen.backends["Mooncake"] = None
        seen.wires.setdefault("nvlink", []).append(at)
    elif _MOONCAKE.search(text) or _RDMA_INSTALLED.search(text):
        seen.backends["Mooncake"] = None
    if (hcas := _HCAS.search(text)) is not None:
        seen.backends["Mooncake"] = None
        seen.hcas = max(seen.hcas or 0, int(hcas[1]))
    if (nixl := _NIXL.search(text)) is not None:
        seen.backends["NIXL"] = None
        if nixl[1]:
            seen.backends[f"NIXL/{nixl[1]}"] = None
    if _UCX.search(text):
        seen.backends["UCX"] = None
    _ucx(seen, at)


def _ucx(seen: _Seen, at: KvLine) -> None:
    if (lanes := _RMA_LINE.search(at.text) or _EMULATED.search(at.text)) is not None:
        seen.backends["UCX"] = None
        _lanes(seen, at, lanes[2], between=lanes[1] == "inter")
        return
    writer = _PREFIX.search(at.text)
    who = writer[1] if writer is not None else ""
    if (table := _TABLE.search(at.text)) is not None:
        seen.backends["UCX"] = None
        seen.tables[who] = (table[1], False)
        title = table[2] or ""
    else:
        below = _TITLE.search(at.text) if who in seen.tables else None
        title = below[1] if below is not None else ""
    if title:
        where, data = seen.tables[who][0], title.startswith("remote memory")
        seen.tables[who] = (where, data)
        if not data and where == "inter":
            seen.control.append(at)
        return
    row = _ROW.search(at.text)
    if row is not None and who in seen.tables and _LANE.search(row[3]):
        where, data = seen.tables[who]
        if data and where != "self" and row[1].endswith("inf"):  # the KV cache moves in the largest range
            _lanes(seen, at, row[3], between=where == "inter")


def _lanes(seen: _Seen, at: KvLine, text: str, between: bool) -> None:
    for name, device in _LANE.findall(text):
        if not between or name in _SHARED_MEMORY:
            seen.intra.append(at)
            continue
        wire: Wire = _WIRES.get(name, "rdma")
        seen.wires.setdefault(wire, []).append(at)
        if wire == "rdma":
            seen.devices[device.split("/", 1)[0]] = None


def _judged(seen: _Seen) -> KvTransfer:
    wires = {wire: lines for wire, lines in seen.wires.items() if lines}
    deciding = _first(line for lines in wires.values() for line in lines[: SHOWN // 2])
    found = KvTransfer(
        backends=tuple(seen.backends),
        devices=tuple(seen.devices),
        gid_indexes=tuple(sorted(seen.gids)),
        deciding=deciding,
        failures=tuple(seen.failures[:SHOWN]),
    )
    by = ", ".join(seen.backends) or "no KV-transfer engine"
    if "tcp" in wires and len(wires) > 1:
        found.verdict, found.reason = "mixed", f"{by}: TCP and {' and '.join(w for w in wires if w != 'tcp')} side by side"
        found.advice = _TCP_ADVICE
    elif "tcp" in wires:
        found.verdict, found.reason, found.advice = "tcp", f"{by}: the KV cache goes over TCP", _TCP_ADVICE
    elif "rdma" in wires and seen.failures:
        found.reason = f"{by}: RDMA was opened on {', '.join(seen.devices)}, and transfers failed: {seen.failures[0].text[:160]}"
        found.advice = "mend the failure first: what did not arrive proves nothing"
    elif "rdma" in wires:
        found.verdict = "rdma_proven"
        found.reason = f"{by}: every data path between nodes is RDMA, on {', '.join(seen.devices)}"
    elif "nvlink" in wires:
        found.reason = f"{by}: NVLink between processes; nothing here tells whether they are on one machine"
        found.advice = "give the logs of both sides"
    elif seen.intra:
        found.verdict, found.deciding = "intra_node_only", _first(seen.intra)
        found.reason = f"{by}: nothing here crosses nodes"
    elif not seen.backends:
        found.reason = "no line of Mooncake, NIXL or UCX is in it"
        found.advice = "give the logs of the prefill and decode servers, not the router's"
    else:
        found.reason = f"{by}: no line tells what carried the data" + _half_told(seen)
        found.advice = "UCX: set UCX_PROTO_INFO=y or UCX_LOG_LEVEL=info for the servers; Mooncake: keep its INFO lines (GLOG_minloglevel=0)"
    return found


def _half_told(seen: _Seen) -> str:
    if seen.control:
        return ": active messages are the control path, and the table of remote memory is missing"
    if seen.hcas is not None:
        return f": {seen.hcas} HCAs were found, which is not that one was opened"
    return ""


_TCP_ADVICE = (
    "Mooncake takes TCP where it finds no HCA or MC_FORCE_TCP is set: give the container /dev/infiniband and --disaggregation-ib-device; "
    "UCX: a UCX with RDMA (ucx_info -d must list rc_mlx5) and UCX_NET_DEVICES"
)


def _first(lines: Iterable[KvLine]) -> tuple[KvLine, ...]:
    return tuple(dict.fromkeys(lines))[:SHOWN]


def explain(found: KvTransfer, titles: dict[KvVerdict, str]) -> Sequence[str]:
    """What a person reads, a line each. Lines of a log stay as they are."""
    told = [local(titles[found.verdict]), f"  {local(found.reason)}"]
    told += ["  " + local(f"devices: {', '.join(found.devices)}")] if found.devices else []
    told += [f"  GID index: {', '.join(map(str, found.gid_indexes))}"] if found.gid_indexes else []
    told += [f"  {local('decided by:')} {line}" for line in found.deciding]
    told += [f"  {local('a failure:')} {line}" for line in found.failures]
    told += ["  " + local(f"next: {found.advice}")] if found.advice else []
    return told
