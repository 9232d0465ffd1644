"""What InfiniBand verbs report through NCCL: completions, failed calls and asynchronous events, as pure functions of a message.

NCCL words these by rule (macros in ibvwrap.cc, verbs' own names of events), so they are read by rule too: any call, any error
text, any status number. Wordings: NCCL sources 2.4-2.30; nccl #426, #1710, #1814, #1819, #1905, #2013, nccl-tests #185, #206.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fatal", "retry", "note"]


@dataclass(frozen=True)
class Failure:
    """A classified message."""

    label: str
    severity: Severity
    primary: bool
    meaning: str
    action: str
    details: dict[str, str]


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
    5: "look for the first failure that is not status 5, on the other nodes too",
    10: "check nvidia_peermem or DMA-BUF, ACS off and iommu=pt; compare with NCCL_NET_GDR_LEVEL=LOC",
    12: "run ib_write_bw between the two HCAs with the same GID index; check link, MTU, routes, firewall and PFC of that rail",
    13: "look at the peer's log: it stopped first",
}
COMPLETION_NAMES = {
    "LOC_LEN_ERR": 1,
    "LOC_QP_OP_ERR": 2,
    "LOC_PROT_ERR": 4,
    "WR_FLUSH_ERR": 5,
    "REM_INV_REQ_ERR": 9,
    "REM_ACCESS_ERR": 10,
    "REM_OP_ERR": 11,
    "RETRY_EXC_ERR": 12,
    "RNR_RETRY_EXC_ERR": 13,
    "FATAL_ERR": 21,
}
LOOK = "look in the kernel log of that node"

_COMPLETION = re.compile(
    r"(?:Got completion (?:from peer (?P<peer>\S+) )?(?:with )?|Unsupported completion )"
    r"(?:error (?P<error>\d+)|status[= ](?:IBV_WC_(?P<name>\w+) ?\((?P<named>\d+)\)|(?P<status>\d+)))(?=[,.\s]|$)"
)
_VENDOR = re.compile(r"vendor[ _]err(?:or)?[ =](\d+)")
_LOCAL_GID = re.compile(r"localGid ?([0-9a-fA-F:.]+)")
_REMOTE_GID = re.compile(r"remoteGids? ?([0-9a-fA-F:.]+)")
_HCA = re.compile(r"\bhca ([\w.+-]+)")

# "failed", "failed : TEXT", "failed with error TEXT[ errno N]", "failed with N TEXT, on dev ..."
_CALL = re.compile(
    r"(?:Call to )?\b(?P<call>(?:ibv|mlx5dv)_\w+)(?:\(\))? (?:failed|returned -?\d)"
    r"(?:(?: ?:| with)(?: error)?(?: -?\d+)? (?P<why>[A-Z][^,;:\n]{1,200}))?"
)
_ERRNO = re.compile(r"(?: errno -?\d+| \(-?\d+\))\s*$")
_GID_INDEX = re.compile(r"local GID index (\d+)")
_DEV = re.compile(r"on dev ([\w.+-]+):(\d+)")
# Calls whose failure NCCL itself passes over (sources: init guesses the speed; ibv_fork_init is not checked).
_OPTIONAL_CALLS = frozenset({"ibv_query_port_speed", "ibv_fork_init"})
_RESOURCES = re.compile(r"ibv_(?:reg_|create_|alloc_)")

_FATAL_EVENT = re.compile(r"async fatal event\b(?:[^:]*(?:\(0x|\(nil)[^:]*)?[^:]*: (?P<what>[\w -]+)")
_EVENT = re.compile(r"Got (?P<soft>non-fatal |)async (?P<error>error |)event ?:(?P<what>[\w -]*)")
# 18 is IBV_EVENT_GID_CHANGE, which NCCL 2.22-2.27 does not know by name (nccl #1819).
_GID_EVENT = re.compile(r"GID table changed|unknown event type \(18\)")
# Names of ibv_event_type_str that end nothing. A name that is not here may be a cut one, and counts as a failure.
_MILD_EVENT = re.compile(
    r"client re-?regist|port active|GID|LID change|P_?Key change|pkey change|SM (?:lid )?change|communication established|"
    r"path migrat(?:ed|ion succeeded)|(?:send queue|SQ) drained|last WQE|SRQ limit"
)


def completion(message: str) -> Failure | None:
    """A completion with an error, in the wordings of all versions."""
    match = _COMPLETION.search(message)
    if not match:
        return None
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
    return Failure(label, "fatal", primary, meaning, COMPLETION_ACTIONS.get(status, LOOK), details)


def call(message: str) -> Failure | None:
    """A verbs call that failed, whichever it is."""
    match = _CALL.search(message)
    if not match:
        return None
    name, why = match["call"], _ERRNO.sub("", match["why"] or "").strip(" '.")
    label = f"{name} failed: {why}" if why else f"{name} failed"
    details = {}
    gid, dev = _GID_INDEX.search(message), _DEV.search(message)
    if gid:
        details["gid_index"] = gid[1]
    if dev:
        details["hca"] = dev[1]
    if name in _OPTIONAL_CALLS:
        return Failure(label, "note", False, "an optional verbs call failed: NCCL goes on without it", "", details)
    if name == "ibv_modify_qp":
        meaning = "the queue pairs of the two nodes cannot reach each other"
        action = (
            "check that the GID index names a RoCE v2 IPv4 GID on all nodes, the VLAN, the routes of that rail; NCCL_CROSS_NIC=0 "
            "when the rails are separate networks"
        )
    elif _RESOURCES.match(name):
        meaning = "the adapter gave no resource: usually the memlock limit of the container"
        action = "start the container with --ulimit memlock=-1 and --cap-add IPC_LOCK; `ulimit -l` inside must say unlimited"
    else:
        meaning, action = "an InfiniBand verbs call failed", "look in the kernel log for the adapter's driver"
    return Failure(label, "fatal", True, meaning, action, details)


def event(message: str) -> Failure | None:
    """An asynchronous event of a queue pair, port or device.

    Up to 2.21 all are "Got async event"; from 2.22 the fatal ones are told apart and "Got async error event" (2.28: "non-fatal")
    are the others, a port that went down among them.
    """
    fatal = _FATAL_EVENT.search(message)
    if fatal:
        return Failure(
            f"async fatal event: {_short(fatal['what'])}",
            "fatal",
            True,
            "the adapter reported a fatal event on a queue pair or on itself",
            f"{LOOK}; check GPUDirect, ACS and IOMMU for access violations",
            {},
        )
    match = _EVENT.search(message)
    if match:
        what = _short(match["what"])
        label = f"async event: {what}" if what else "async event"
        if _MILD_EVENT.match(what):
            return Failure(label, "note", False, "the port reported a change that does not end the job", "", {})
        if match["soft"] or match["error"]:
            return Failure(label, "retry", True, "a port went down or a path was lost; NCCL waits for it", f"{LOOK} and at the link", {})
        return Failure(label, "fatal", True, "the adapter or port reported a failure", f"{LOOK} and at the port's link", {})
    if _GID_EVENT.search(message):
        return Failure("async event: GID table change", "note", False, "an address of the port changed", "", {})
    return None


def _short(what: str) -> str:
    """``local access violation work queue error`` is known as ``local access violation``."""
    return re.sub(r" work queue error$", "", what.strip())
