"""The failures NCCL prints: short label, severity, meaning, what to do, and whether it can be the first cause.

Verbs are in :mod:`verbs`; here are sockets (by the system's error text, whichever it is) and a table for the rest.
Wordings: NCCL sources 2.4-2.30 and public threads (nccl #563, #769, #975, #1267, #1515, #1597, nccl-tests #166, #188).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_h20.nccl import verbs
from pytest_h20.nccl.verbs import Failure, Severity

OTHERS = "look at the other ranks' logs, first failure in time"
IFNAME = "set NCCL_SOCKET_IFNAME to the control interface on every node; check the firewall between the nodes"
DEVICES = (
    "give the container /dev/infiniband, IPC_LOCK and memlock=-1 (or --privileged); check that NCCL_IB_HCA names existing HCAs "
    "(ibv_devinfo inside the container)"
)

# -- sockets: bootstrap, OOB, proxies and NET/Socket -------------------------------------------------------------------------

_SOCKET = re.compile(r"[Ss]ocket|[Cc]onnect\b|Net : |Call to (?:recv|send|accept|connect)|\bbind\b|\b[Aa]ccept\b")
# "failed : TEXT", "failed with error TEXT", "returned TEXT, exceeded ...", "returned 113(TEXT) errno ...": the first text counts.
_SYSTEM_ERROR = re.compile(r"(?:failed ?:|failed with error|returned|Accept failed)(?: -?\d+)? ?\(?(?P<why>[A-Z][A-Za-z' /-]{4,60})")
_NUMBER = re.compile(r"\breturned (\d{1,3})\b|\berrno (\d{1,3})\b|\b(113|111|110|101)\b")
_NUMBERS = {
    32: "broken pipe",
    101: "network is unreachable",
    103: "software caused connection abort",
    104: "connection reset by peer",
    110: "connection timed out",
    111: "connection refused",
    113: "no route to host",
}
_EXCEEDED = re.compile(r"exceeded (?:error )?(?:retr(?:y|ies)|timeouts)")
# error text -> (first cause?, meaning, action); every other text is a first cause too.
_SOCKET_ERRORS: dict[str, tuple[bool, str, str]] = {
    "connection refused": (
        True,
        "the peer does not listen: it ended, or the address belongs to another interface",
        "look at the peer's log; set NCCL_SOCKET_IFNAME to the control interface on every node",
    ),
    "no route to host": (True, "the bootstrap (OOB) path between the nodes is filtered or has no route", IFNAME),
    "connection timed out": (True, "the bootstrap (OOB) path between the nodes is filtered", IFNAME),
    "network is unreachable": (True, "there is no route to the peer's address", IFNAME),
    "software caused connection abort": (
        True,
        "a connect was refused or timed out and tried again (NCCL before 2.24 hides the first error behind this one)",
        IFNAME,
    ),
    "cannot assign requested address": (True, "the address is not of this node's interfaces, or its ports are used up", IFNAME),
    "connection reset by peer": (False, "another rank ended first; its log holds the cause", OTHERS),
    "broken pipe": (False, "another rank ended first; its log holds the cause", OTHERS),
}

# -- libfabric plugin (aws-ofi-nccl) -----------------------------------------------------------------------------------------

_OFI_RUN = re.compile(
    r"NET/OFI (?P<what>(?:Request|Operation)\b.*?completed with error|(?:Unable|Could not|Couldn't|Failed) (?:to )?"
    r"(?:register|open|create|post|bind|enable|allocate|initiate|insert)[\w ]*|Creating [\w ]*failed|Error (?:initiating|posting|reading)"
    r"[\w ]*)"
)
_OFI_WHY = re.compile(r"(?i:error|failed): ?(?:-?\d+ ?\(?)?(?P<why>[A-Z][A-Za-z ]{4,60})")


@dataclass(frozen=True)
class Rule:
    """One kind of failure."""

    pattern: re.Pattern[str]
    label: str
    severity: Severity
    primary: bool
    meaning: str
    action: str


def _rule(pattern: str, label: str, severity: Severity, primary: bool, meaning: str, action: str = "") -> Rule:
    return Rule(re.compile(pattern), label, severity, primary, meaning, action)


# Order matters: the first match wins. ``{name}`` in a label is filled from the pattern's groups.
RULES: tuple[Rule, ...] = (
    _rule(
        r"communicator encountered a fatal error \(detected in (?P<where>\w+)\)",
        "communicator fatal error ({where})",
        "fatal",
        False,
        "NCCL saw the failure of a queue pair or device; the cause is in another line",
    ),
    _rule(
        r"Connection closed by remote peer",
        "connection closed by remote peer",
        "fatal",
        False,
        "another rank ended first; its log holds the cause",
        OTHERS,
    ),
    _rule(
        r"wrong type \d+ != \d+",
        "wrong socket type",
        "fatal",
        True,
        "a connection meant for something else reached this socket: two runs share ports, or ranks got each other's addresses",
        "end what a former run left; check the rank arguments",
    ),
    _rule(r"wrong magic|valid magic", "", "note", False, "something that is not NCCL connected (a port scanner); NCCL ignores it"),
    _rule(
        r"is neither AF_INET|unsupported IP family|Unsupported address family",
        "invalid socket address",
        "fatal",
        True,
        "a peer has no usable address: NCCL_SOCKET_IFNAME matches no interface on one of the nodes",
        IFNAME,
    ),
    _rule(
        r"No interface found in the same subnet",
        "no interface in the subnet of the peer",
        "fatal",
        True,
        "no interface of this node is in the network of NCCL_COMM_ID's address",
        IFNAME,
    ),
    _rule(
        r"Bootstrap Root ?: (?:mismatch|rank .*(?:already checked in|mismatch))|rank \d+ of \d+ ranks has already checked in",
        "rank already checked in",
        "fatal",
        True,
        "two processes claim one rank, or an old process still runs",
        "end what a former run left; check the rank arguments",
    ),
    _rule(
        r"Error ?: network (?P<net>.*?\S) not found",
        "network {net} not found",
        "fatal",
        True,
        "NCCL_NET names a network that is not there",
        "correct NCCL_NET, or give the container /dev/infiniband and the plugin",
    ),
    _rule(
        r"Failed to initialize any NET plugin",
        "failed to initialize any NET plugin",
        "fatal",
        True,
        "neither InfiniBand nor sockets could be used",
        "check NCCL_NET, NCCL_IB_HCA and NCCL_SOCKET_IFNAME; " + DEVICES,
    ),
    _rule(
        r"[Nn]o (?:socket |IP |usable listening )?interface found",
        "no socket interface found",
        "fatal",
        True,
        "NCCL_SOCKET_IFNAME matches no interface",
        "name an interface that exists where NCCL runs: compare with ip -br addr in the container; --network host",
    ),
    _rule(
        r"different link_layer|incompatible (?:with the local|devices)",
        "incompatible link layers",
        "fatal",
        True,
        "InfiniBand and RoCE ports, or merged devices of different kinds, were paired",
        "set NCCL_IB_HCA to ports of one link type, the same on all nodes",
    ),
    _rule(
        r"mixed local \w+ device counts",
        "mixed net device counts",
        "fatal",
        True,
        "the nodes see different numbers of network devices",
        "make NCCL_IB_HCA and /dev/infiniband the same on all nodes",
    ),
    _rule(r"Got CQE with error", "", "fatal", False, "a request failed: the line behind it names the status"),
    _rule(
        r"NET/IB ?: .*(?:marked as failed|The error is fatal|Detected \d+ failed devices)",
        "network device failed",
        "fatal",
        True,
        "a port failed during the run; NCCL moves to another one only where failover is on",
        "look at that port's link",
    ),
    _rule(
        r"Duplicate GPU detected|Multiple Ranks are using the same GPU",
        "duplicate GPU detected",
        "fatal",
        True,
        "two ranks use one GPU",
        "check CUDA_VISIBLE_DEVICES and the rank arguments",
    ),
    _rule(
        r"Failed to bind NVLink SHARP.*CUDA error \d+ '(?P<what>[^'\n]+)'",
        "nvls bind failed: {what}",
        "fatal",
        True,
        "NVLink multicast could not be set up: Fabric Manager or NVSwitch",
        "check nvidia-fabricmanager on that node; compare with NCCL_NVLS_ENABLE=0",
    ),
    _rule(
        r"failed to open CUDA IPC handle ?: \d+ (?P<what>\S.*)$",
        "cuda failure: {what}",
        "fatal",
        True,
        "a GPU's memory could not be opened in another process",
        "P2P between the GPUs: nvidia-smi topo -p2p r; ACS, IOMMU, --ipc=host",
    ),
    _rule(
        r"(?:Cuda|CUDA|HIP) failure(?: \d+)? '?(?P<what>[^'\n]+?)'?$",
        "cuda failure: {what}",
        "fatal",
        True,
        "a CUDA call failed",
        "see the CUDA error; look for Xid lines in the kernel log",
    ),
    _rule(r"Failed to (?:CUDA )?(?:host )?[mc]?alloc|Failed to CUDA", "", "fatal", False, "memory could not be had"),
    _rule(
        r": invalid (?:root|type|reduction operation) \d|is not a valid pointer|argument is NULL",
        "invalid argument",
        "fatal",
        True,
        "the program called NCCL wrongly: nothing about the network",
    ),
    _rule(
        r"[Mm]essage truncated",
        "message truncated",
        "fatal",
        True,
        "the two sides send and expect different sizes: different NCCL versions or a program error",
        "use one NCCL version on all nodes",
    ),
    _rule(
        r"[Mm]ismatched (?:collective|NCCL version) detected|NCCL version mismatch|[Vv]ersion mismatch|collective mismatch error|"
        r"NCCL library (?:version )?is (?:too old|not backwards)",
        "version mismatch",
        "fatal",
        True,
        "the ranks do not run the same NCCL or collective",
        "use one image on all nodes",
    ),
    _rule(
        r"attaching to shared memory segment",
        "shared memory segment failed",
        "fatal",
        True,
        "the ranks of a node do not share /dev/shm, or somebody cleaned it",
        "start the container with --ipc=host; RemoveIPC=no on the host",
    ),
    _rule(
        r"shared memory (?:segment|file|mapping) |failed to extend |posix_fallocate failed|No space left on device|Could not map ",
        "shared memory segment failed",
        "fatal",
        True,
        "/dev/shm is too small or not shared",
        "start the container with --ipc=host or a larger --shm-size",
    ),
    _rule(
        r"\[(?:Service thread|Proxy Service[^\]]*)\]|\[Proxy [^\]]*\]|Failed to execute operation|closing connection|"
        r"Error encountered progressing|Proxy Call to rank \d+ failed|recv failed while polling|\[Rem Allocator\]|"
        r"Proxy response for|ncclProxy\w+ call to",
        "",
        "fatal",
        False,
        "the proxy thread gave up after another failure",
    ),
    _rule(
        r"(?:heartbeat|[Ww]atchdog|[Tt]imed? ?out (?:waiting|while))",
        "timeout",
        "fatal",
        False,
        "a rank waited in vain",
        "look at the other ranks' logs",
    ),
    _rule(
        r"P2P is disabled between NVLINK connected",
        "",
        "note",
        False,
        "GPUs with NVLink between them cannot use it: slow inside the node, nothing about the network",
        "check ACS, IOMMU, MIG",
    ),
)
_RETRY = re.compile(r"\bretrying\b|[Rr]etry(?:ing)? (?:\d+|attempt|connect|after|count)|\(\d+ retr(?:y|ies)\)")

# Harmless WARN and INFO wordings (research note, section 3.6, and NCCL sources).
HARMLESS = re.compile(
    r"Could not find real path of|libcuda\.so not found|Failed to (?:open|find) lib|Failed to find CUDA library|cuDriver|"
    r"[Mm]issing \"?iommu=pt|NUMA auto balancing|NCCL_\w+ (?:is )?(?:deprecated|ignored)|NVLS|Could not (?:read|get) .*speed|"
    r"Failed to open libibverbs|Plugin load|[Pp]lugin .*(?:not found|Could not find)|No plugin found|TUNER|PROFILER|"
    r"NET/IB ?: (?:No device found|Unable to (?:open|query)|Made virtual)|GIN|RAS|Attribute|[Tt]opology|cpuset|affinity|"
    r"user buffer|symmetric|[Ff]abric (?:UUID|info|handle)|MNNVL|cuMem|CUMEM|nvidia-smi|real ?path|gdrcopy|GDRCOPY|HINT|"
    # SHARP that cannot be had: the channels, which are there as well, do without it.
    r"SHARP coll init error|Cannot initialize CollNet|"
    # aws-ofi-nccl that finds nothing to run on: NCCL goes on with another network, and the channels say which.
    r"NET/OFI (?:Only EFA provider|aws-ofi-nccl initiali[sz]ation failed|Failed to initiali[sz]e|Could not find ncclGetVersion|"
    r"Disabling shared memory|No eligible|Error opening file|pciPath)"
)
# A WARN that matches none of the rules but speaks of these, or is too short to be whole, may be the rest of a fatal one.
UNCLEAR = re.compile(
    r"NET|[Nn]et_|ibv|[Ss]ocket|[Cc]onnect|[Pp]roxy|[Bb]ootstrap|[Ee]rror|[Ff]ail|[Ff]atal|[Aa]bort|completion|peer|async|HCA|timeout|"
    r"[Cc]losed|[Rr]efused|[Uu]nreachable|GID|QP|qp|[Mm]ismatch|[Tt]runcated|[Dd]uplicate|[Ss]hared memory|transport|[Uu]nable"
)
RETRY_INFO = re.compile(r"\bretrying\b|, retry|[Rr]etry(?:ing)? (?:connect|after)|Call to connect returned")


def harmless_place(file: str) -> bool:
    """True for the RAS service: one process a host gets its port, and what it cannot do harms no collective."""
    return file.startswith("ras/") or "/ras/" in file


def classify(message: str, warn: bool) -> Failure | None:
    """The failure that a message tells, or None. INFO messages are only retries and the two fatal INFO forms."""
    completion = verbs.completion(message)
    if completion:
        return completion
    if not warn:
        if RETRY_INFO.search(message) and "NCCL_" not in message:
            return Failure(
                "", "retry", False, "a connect was tried again", "the peer was late or its port filtered: see whether it succeeded", {}
            )
        return None
    if _RETRY.search(message) and not _EXCEEDED.search(message):
        return Failure("", "retry", False, "NCCL tried again", "the peer was late or its port filtered: see whether it succeeded", {})
    failure = verbs.call(message) or verbs.event(message)
    if failure:
        return failure
    for rule in RULES:
        found = rule.pattern.search(message)
        if found:
            groups = {k: v.strip() for k, v in found.groupdict().items() if v}
            return Failure(rule.label.format(**groups), rule.severity, rule.primary, rule.meaning, rule.action, {})
    return _socket(message) or _ofi(message)


def unclear(message: str, whole: bool = True) -> bool:
    """True for a WARN that no rule knows and that may be what is left of a fatal one."""
    if len(message.strip()) < 16:
        return True
    return not HARMLESS.search(message) and (not whole or UNCLEAR.search(message) is not None)


def _socket(message: str) -> Failure | None:
    if not _SOCKET.search(message):
        return None
    if message.startswith(("UDS:", "IPC:")):
        return Failure(
            "local socket failed",
            "fatal",
            True,
            "two processes of one node could not talk over a local socket",
            "look at the other process; check that both share /tmp and the network namespace",
            {},
        )
    found = _SYSTEM_ERROR.search(message)
    number = _NUMBER.search(message)
    if found:
        why = found["why"].strip().lower()
    elif number and int(next(n for n in number.groups() if n)) in _NUMBERS:
        why = _NUMBERS[int(next(n for n in number.groups() if n))]
    elif _EXCEEDED.search(message):
        why = "connection timed out" if "timeout" in message else "connection refused"
    else:
        return None
    primary, meaning, action = _SOCKET_ERRORS.get(why, (True, "a socket of bootstrap, OOB or NET/Socket failed", IFNAME))
    return Failure(why, "fatal", primary, meaning, action, {})


def _ofi(message: str) -> Failure | None:
    found = _OFI_RUN.search(message)
    if not found or HARMLESS.search(message):
        return None
    what = re.sub(r" 0x[0-9a-f]+", "", found["what"]).strip()
    why = _OFI_WHY.search(message, found.start())
    text = what[0].lower() + what[1:] + (f": {why['why'].strip()}" if why else "")
    return Failure(
        f"NET/OFI {text}",
        "fatal",
        True,
        "the libfabric plugin failed: adapter, memory registration or peer",
        "look at the plugin's lines before this one; check memlock and the EFA or verbs provider",
        {},
    )
