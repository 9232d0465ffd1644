"""The failures NCCL prints, as data: pattern, short label, meaning, what to do, and whether it can be the first cause.

Wordings: NCCL sources 2.4-2.30 and public threads (nccl #426, #769, #1698, #1814, #1905, nccl-tests #185, #206, #227).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fatal", "retry", "note"]

# ibv_wc_status values, libibverbs verbs.h; the third field says whether the status can be a first cause.
COMPLETIONS: dict[int, tuple[str, str, bool]] = {
    1: ("length error", "a message did not fit the posted buffer: the two sides disagree, often different NCCL versions", True),
    2: ("QP operation error", "the local queue pair was used wrongly", True),
    4: ("protection", "local protection error: memory registration, GPUDirect, ACS or IOMMU", True),
    5: ("flush", "flushed: follows another failure of the same queue pair", False),
    9: ("remote invalid request", "the remote side refused the request", True),
    10: ("remote access", "remote access error: the remote memory registration is not valid, GPUDirect, ACS or IOMMU", True),
    11: ("remote operation", "the remote side could not carry out the operation", True),
    12: ("timeout", "transport retry exceeded: packets do not reach the peer (cable, switch, GID index, MTU, firewall, PFC)", True),
    13: ("RNR", "receiver not ready, retries exceeded: the peer has stalled or died", True),
    21: ("fatal", "fatal error of the adapter", True),
}
COMPLETION_ACTIONS: dict[int, str] = {
    4: "check nvidia_peermem or DMA-BUF, ACS off and iommu=pt; compare with NCCL_NET_GDR_LEVEL=LOC",
    5: "look for the first failure that is not status 5, on the other node too",
    10: "check nvidia_peermem or DMA-BUF, ACS off and iommu=pt; compare with NCCL_NET_GDR_LEVEL=LOC",
    12: "run ib_write_bw between the two HCAs with the same GID index; check link, MTU, routes, firewall and PFC of that rail",
    13: "look at the peer's log: it stopped first",
}
COMPLETION_NAMES = {
    "LOC_LEN_ERR": 1, "LOC_QP_OP_ERR": 2, "LOC_PROT_ERR": 4, "WR_FLUSH_ERR": 5, "REM_INV_REQ_ERR": 9, "REM_ACCESS_ERR": 10,
    "REM_OP_ERR": 11, "RETRY_EXC_ERR": 12, "RNR_RETRY_EXC_ERR": 13, "FATAL_ERR": 21,
}  # fmt: skip

_COMPLETION = re.compile(
    r"Got completion (?:from peer (?P<peer>\S+) )?with "
    r"(?:error (?P<error>\d+)|status=(?:IBV_WC_(?P<name>\w+)\((?P<named>\d+)\)|(?P<status>\d+)))(?=[,\s])"
)
_VENDOR = re.compile(r"vendor[ _]err(?:or)?[ =](\d+)")
_LOCAL_GID = re.compile(r"localGid ?([0-9a-fA-F:.]+)")
_REMOTE_GID = re.compile(r"remoteGids? ?([0-9a-fA-F:.]+)")
_HCA = re.compile(r"\bhca ([\w.+-]+)")


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
    _rule(r"Call to (?P<call>ibv_modify_qp) failed with (?:error )?(?:\d+ )?(?P<why>[A-Z][\w ]*[\w)])",
          "{call} failed: {why}", "fatal", True,
          "the queue pairs of the two nodes cannot reach each other",
          "check that the GID index names a RoCE v2 IPv4 GID on both nodes, the VLAN, the routes of that rail; NCCL_CROSS_NIC=0 "
          "when the rails are separate networks"),
    _rule(r"Call to (?P<call>ibv_(?:reg_mr\w*|create_(?:qp|cq)\w*|alloc_pd|reg_dmabuf_mr)) failed with (?:error )?(?:\d+ )?"
          r"(?P<why>[A-Z][\w ]*[\w)])", "{call} failed: {why}", "fatal", True,
          "the adapter gave no resource: usually the memlock limit of the container",
          "start the container with --ulimit memlock=-1 and --cap-add IPC_LOCK; `ulimit -l` inside must say unlimited"),
    _rule(r"Call to (?P<call>\w*ibv_\w+|mlx5dv_\w+) failed with (?:error )?(?:\d+ )?(?P<why>[A-Z][\w ]*[\w)])",
          "{call} failed: {why}", "fatal", True, "an InfiniBand verbs call failed",
          "look in the kernel log for the adapter's driver"),
    _rule(r"Call to (?P<call>ibv_(?:reg_mr\w*|create_(?:qp|cq)\w*|alloc_pd)) failed", "{call} failed", "fatal", True,
          "the adapter gave no resource: usually the memlock limit of the container",
          "start the container with --ulimit memlock=-1 and --cap-add IPC_LOCK; `ulimit -l` inside must say unlimited"),
    _rule(r"Call to (?P<call>\w*ibv_\w+|mlx5dv_\w+) failed", "{call} failed", "fatal", True, "an InfiniBand verbs call failed",
          "look in the kernel log for the adapter's driver"),
    _rule(r"communicator encountered a fatal error \(detected in (?P<where>\w+)\)", "communicator fatal error ({where})",
          "fatal", False, "NCCL saw the failure of a queue pair or device; the cause is in another line", ""),
    _rule(r"async fatal event(?: on \w+(?: \([^)]*\))?)? ?: (?P<what>[\w -]+?)(?: work queue error)?\s*$",
          "async fatal event: {what}", "fatal", True, "the adapter reported a fatal event on a queue pair or on itself",
          "look in the kernel log of that node; check GPUDirect, ACS and IOMMU for access violations"),
    _rule(r"Got (?:non-fatal )?async event ?: (?P<what>(?:client re-?register\w*|port active|GID (?:table )?change|LID change|"
          r"P_Key change|pkey change|SM change|SM lid change)[\w ]*)", "async event: {what}", "note", False,
          "the port reported a change that does not end the job"),
    _rule(r"Got async event ?: (?P<what>(?:local catastrophic|device fatal|port error|QP|CQ|SRQ)[\w -]*)",
          "async event: {what}", "fatal", True, "the adapter or port reported a failure",
          "look in the kernel log of that node and at the port's link"),
    _rule(r"Got async event ?: (?P<what>[\w -]+)", "async event: {what}", "retry", True, "the port or device reported an event",
          "look in the kernel log of that node"),
    _rule(r"Connection closed by remote peer", "connection closed by remote peer", "fatal", False,
          "another rank ended first; its log holds the cause", "look at the other ranks' logs, first failure in time"),
    _rule(r"(?:[Cc]onnect to|Call to connect|connect|bind)\b.*\bretrying", "", "retry", False, "a connect was tried again",
          "the peer was late or its port filtered: see whether it succeeded"),
    _rule(r"[Rr]etry(?:ing)? (?:\d+|attempt|connect|after|count)|\bretrying\b|\(\d+ retr(?:y|ies)\)", "", "retry", False,
          "NCCL tried again", ""),
    _rule(r"(?:Connect to|Call to connect|connect)\b.*(?:\b113\b|No route to host)", "no route to host", "fatal", True,
          "the bootstrap (OOB) path between the nodes is filtered or has no route",
          "set NCCL_SOCKET_IFNAME to the control interface on every node; check the firewall between the nodes"),
    _rule(r"(?:Connect to|Call to connect|connect)\b.*Connection refused", "connection refused", "fatal", True,
          "the peer does not listen: it ended, or the address belongs to another interface",
          "look at the peer's log; set NCCL_SOCKET_IFNAME to the control interface on every node"),
    _rule(r"(?:Connect to|Call to connect|connect)\b.*(?:Connection timed out|\b110\b|timed out)", "connection timed out",
          "fatal", True, "the bootstrap (OOB) path between the nodes is filtered",
          "set NCCL_SOCKET_IFNAME to the control interface on every node; check the firewall between the nodes"),
    _rule(r"(?:Connect to|Call to connect|connect)\b.*(?:Network is unreachable|\b101\b)", "network is unreachable", "fatal",
          True, "there is no route to the peer's address", "set NCCL_SOCKET_IFNAME to the control interface on every node"),
    _rule(r"(?:Connection reset by peer|\b104\(Connection reset)", "connection reset by peer", "fatal", False,
          "another rank ended first; its log holds the cause", "look at the other ranks' logs, first failure in time"),
    _rule(r"Bootstrap Root ?: (?:mismatch|rank .*(?:already checked in|mismatch))|rank \d+ of \d+ ranks has already checked in",
          "rank already checked in", "fatal", True,
          "two processes claim one rank, or an old process still runs", "end what a former run left; check the rank arguments"),
    _rule(r"Error ?: network (?P<net>.*\S) not found", "network {net} not found", "fatal", True,
          "NCCL_NET names a network that is not there", "correct NCCL_NET, or give the container /dev/infiniband and the plugin"),
    _rule(r"Failed to initialize any NET plugin", "failed to initialize any NET plugin", "fatal", True,
          "neither InfiniBand nor sockets could be used", "check NCCL_NET, NCCL_IB_HCA and NCCL_SOCKET_IFNAME"),
    _rule(r"Bootstrap ?: no socket interface found|no socket interface found", "no socket interface found", "fatal", True,
          "NCCL_SOCKET_IFNAME matches no interface", "name an interface that exists on this node"),
    _rule(r"Duplicate GPU detected", "duplicate GPU detected", "fatal", True, "two ranks use one GPU",
          "check CUDA_VISIBLE_DEVICES and the rank arguments"),
    _rule(r"(?:Cuda|CUDA|HIP) failure(?: \d+)? '?(?P<what>[^'\n]+?)'?$", "cuda failure: {what}", "fatal", True,
          "a CUDA call failed", "see the CUDA error; look for Xid lines in the kernel log"),
    _rule(r"[Mm]essage truncated", "message truncated", "fatal", True,
          "the two sides send and expect different sizes: different NCCL versions or a program error",
          "use one NCCL version on all nodes"),
    _rule(r"Mismatched collective detected|NCCL version mismatch|[Vv]ersion mismatch", "version mismatch", "fatal", True,
          "the ranks do not run the same NCCL or collective", "use one image on all nodes"),
    _rule(r"Error while (?:creating|attaching to) shared memory segment|posix_fallocate failed|No space left on device",
          "shared memory segment failed", "fatal", True, "/dev/shm is too small or not shared",
          "start the container with --ipc=host or a larger --shm-size"),
    _rule(r"(?:heartbeat|[Ww]atchdog|[Tt]imed? ?out (?:waiting|while))", "timeout", "fatal", False, "a rank waited in vain",
          "look at the other ranks' logs"),
    _rule(r"\[(?:Service thread|Proxy Service[^\]]*)\]|\[Proxy [^\]]*\]|Failed to execute operation|closing connection|"
          r"Error encountered progressing", "", "fatal", False, "the proxy thread gave up after another failure", ""),
)  # fmt: skip

# Harmless WARN and INFO wordings (research note, section 3.6, and NCCL sources).
HARMLESS = re.compile(
    r"Could not find real path of|libcuda\.so not found|Failed to (?:open|find) lib|Failed to find CUDA library|cuDriver|"
    r"[Mm]issing \"?iommu=pt|NUMA auto balancing|NCCL_\w+ (?:is )?(?:deprecated|ignored)|NVLS|Could not (?:read|get) .*speed|"
    r"Failed to open libibverbs|Plugin load|[Pp]lugin .*(?:not found|Could not find)|No plugin found|TUNER|PROFILER|"
    r"NET/IB ?: (?:No device found|Unable to (?:open|query)|Made virtual)|GIN|RAS|Attribute|[Tt]opology|cpuset|affinity|"
    r"user buffer|symmetric|[Ff]abric (?:UUID|info|handle)|MNNVL|cuMem|CUMEM|nvidia-smi|real ?path|gdrcopy|GDRCOPY|HINT"
)
# A WARN that matches none of the rules but speaks of these, or is too short to be whole, may be the rest of a fatal one.
UNCLEAR = re.compile(
    r"NET|[Nn]et_|ibv|[Ss]ocket|[Cc]onnect|[Pp]roxy|[Bb]ootstrap|[Ee]rror|[Ff]ail|[Ff]atal|[Aa]bort|completion|peer|async|HCA|timeout|"
    r"[Cc]losed|[Rr]efused|[Uu]nreachable|GID|QP|qp"
)
RETRY_INFO = re.compile(r"\bretrying\b|, retry|[Rr]etry(?:ing)? (?:connect|after)|Call to connect returned")


@dataclass(frozen=True)
class Failure:
    """A classified message."""

    label: str
    severity: Severity
    primary: bool
    meaning: str
    action: str
    details: dict[str, str]


def classify(message: str, warn: bool) -> Failure | None:
    """The failure that a message tells, or None. INFO messages are only retries and the two fatal INFO forms."""
    match = _COMPLETION.search(message)
    if match:
        return _completion(message, match)
    if not warn:
        if RETRY_INFO.search(message) and "NCCL_" not in message:
            return Failure("", "retry", False, "a connect was tried again",
                           "the peer was late or its port filtered: see whether it succeeded", {})  # fmt: skip
        return None
    for rule in RULES:
        found = rule.pattern.search(message)
        if found:
            groups = {k: v.strip() for k, v in found.groupdict().items() if v}
            details = {}
            gid = re.search(r"local GID index (\d+)", message)
            if gid:
                details["gid_index"] = gid[1]
            dev = re.search(r"on dev ([\w.+-]+):(\d+)", message)
            if dev:
                details["hca"] = dev[1]
            return Failure(rule.label.format(**groups), rule.severity, rule.primary, rule.meaning, rule.action, details)
    return None


def unclear(message: str) -> bool:
    """True for a WARN that no rule knows and that may be what is left of a fatal one."""
    if len(message.strip()) < 16:
        return True
    return not HARMLESS.search(message) and UNCLEAR.search(message) is not None


def _completion(message: str, match: re.Match[str]) -> Failure:
    old = match["error"] is not None
    status = int(match["error"] or match["named"] or match["status"])
    if match["name"]:
        status = COMPLETION_NAMES.get(match["name"], status)
    name, meaning, primary = COMPLETIONS.get(status, ("", f"the adapter ended a request with status {status}", True))
    vendor = _VENDOR.search(message)
    word = f"completion {'error' if old else 'status'} {status}"
    # The corpus names the well-known statuses by meaning and the rest by the vendor's code.
    if status in (5, 12, 13):
        label = f"{word} ({name})"
    else:
        label = f"{word} vendor err {vendor[1]}" if vendor else f"{word} ({name})" if name else word
    details = {"status": str(status)}
    for key, pattern in (("local_gid", _LOCAL_GID), ("remote_gid", _REMOTE_GID), ("hca", _HCA)):
        found = pattern.search(message)
        if found:
            details[key] = found[1]
    if match["peer"]:
        details["peer"] = match["peer"]
    return Failure(label, "fatal", primary, meaning, COMPLETION_ACTIONS.get(status, "look in the kernel log of that node"), details)
