"""The RoCE class end to end on a node, ARP of several NICs in one network, and what optics tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median

from pydantic import JsonValue

from pytest_h20.checks.fabric.measure import RailBandwidth
from pytest_h20.checks.frame import Say, Settled, builtin, inventory, node_check, rail_check
from pytest_h20.config.expect import SwitchPort
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.counters import CounterDelta
from pytest_h20.probes.facts import RailView, View
from pytest_h20.probes.mlxlink import SOUND, PortTold
from pytest_h20.probes.script import Missing
from pytest_h20.probes.wire import NcclSettings, NetDevice


@dataclass(frozen=True)
class RoceClass:
    """How NCCL's packets leave a rail. ``traffic_class`` and who set it, its ``dscp``, the ``priority`` it is sent in; ``pfc`` and ``ecn``
    of that priority (None: not told), and the priorities that have PFC."""

    traffic_class: int
    source: str
    dscp: int
    priority: int
    pfc: bool | None
    ecn: bool | None
    lossless: tuple[int, ...]

    def __str__(self) -> str:
        return f"traffic class {self.traffic_class} ({self.source}) -> DSCP {self.dscp} -> priority {self.priority}"


def _flags(text: str) -> tuple[bool, ...] | None:
    """Eight switches as mlnx_qos and sysfs print them."""
    words = text.split()
    return tuple(w == "1" for w in words) if len(words) == 8 and set(words) <= {"0", "1"} else None


def roce_class_of(qos: Mapping[str, str], nccl: NcclSettings) -> RoceClass | Missing:
    """From what NCCL is told and how the NIC sorts it. A traffic class that is forced on the device wins over NCCL's."""
    forced = re.search(r"Global tclass=([0-9]{1,3})", qos.get("traffic_class", ""))
    tc, source = (int(forced[1]), "forced on the device") if forced else nccl.number("NCCL_IB_TC", 0)
    trust, pfc = qos.get("trust", ""), _flags(qos.get("pfc", ""))
    dscp = tc >> 2
    if trust == "pcp":
        priority = nccl.number("NCCL_IB_SL", 0)[0]
    elif trust == "dscp":
        # The NIC's own table; without one, what it has unless somebody changed it: eight DSCPs for each priority.
        table = {int(d): int(p) for p, many in re.findall(r"([0-7])=([0-9,]+)", qos.get("dscp2prio", "")) for d in many.split(",") if d}
        priority = table.get(dscp, dscp >> 3)
    else:
        return Missing(f"which priority a packet gets is not known (trust {trust or 'not told'})", "install mlnx-tools (mlnx_qos)")
    if not 0 <= tc < 256 or not 0 <= priority < 8:
        return Missing(f"traffic class {tc} ({source}), priority {priority}: out of range", "NCCL_IB_TC is 0 to 255, NCCL_IB_SL 0 to 7")
    parts = [_flags(qos.get(f"ecn_{part}", "")) for part in ("np", "rp")]
    ecn = None if any(p is None for p in parts) else all(p[priority] for p in parts if p is not None)
    lossless = tuple(i for i, on in enumerate(pfc or ()) if on)
    return RoceClass(tc, source, dscp, priority, None if pfc is None else pfc[priority], ecn, lossless)


@rail_check(
    "fabric.roce_class",
    "PFC and ECN are on for the class that NCCL uses",
    "qos",
    action="NCCL_IB_TC=106 (DSCP 26) in the profile's env, or the class that the switch has; mlnx_qos --trust dscp --pfc 0,0,0,1,0,0,0,0",
)
def roce_class(say: Say, rail: RailView) -> Verdict:
    """NCCL_IB_TC (environment, nccl.conf, default 0; or what the device forces) -> DSCP -> priority: PFC or ECN is on for *that* priority
    of the rail, and PFC is not on for another one instead. ``expect.lossless``: true asks for both, false for neither."""
    wanted, settings, node = rail.view.expect.lossless, rail.view.node.nccl_settings, rail.view.node
    if _infiniband(rail):
        return say.skip("InfiniBand: its fabric loses nothing")
    if isinstance(node.qos, Missing):
        return say.missing(node.qos, wanted=wanted is True)
    if isinstance(settings, Missing):
        return say.missing(settings, wanted=wanted is True)
    qos = node.qos.get(rail.rail.interface)
    found = roce_class_of(dict(qos.settings) if qos else {}, settings)
    if isinstance(found, Missing):
        unread = rail.view.unread("qos", f"mlnx_qos -i {rail.rail.interface}") if wanted is not False else None
        return say.missing(unread or found, wanted=wanted is True or unread is not None)
    sl, timeout = settings.number("NCCL_IB_SL", 0), settings.number("NCCL_IB_TIMEOUT", 0)
    details: dict[str, JsonValue] = {
        "traffic_class": found.traffic_class,
        "set_by": found.source,
        "dscp": found.dscp,
        "priority": found.priority,
        "pfc": found.pfc,
        "ecn": found.ecn,
        "pfc_priorities": [*found.lossless],
        "nccl_ib_sl": f"{sl[0]} ({sl[1]})",
        "nccl_ib_timeout": f"{timeout[0]} ({timeout[1]})" if timeout[1] != "NCCL's default" else timeout[1],
    }
    if wanted is False:
        return say.skip("expect.lossless is false: the rails may drop", str(found), details)
    if found.pfc is None:
        unread = rail.view.unread("qos", f"mlnx_qos -i {rail.rail.interface}")
        missing = unread or Missing("PFC of the rail could not be read", "install mlnx-tools (mlnx_qos)")
        return say.missing(missing, wanted=wanted is True or unread is not None)
    both = Limit(kind="equal", value="PFC and ECN", origin=inventory("lossless"))
    some = Limit(
        kind="one_of", value=["PFC and ECN", "PFC", "ECN"], origin=builtin("RoCE that is dropped starts again from the lost packet")
    )
    measured = " and ".join(name for name, on in (("PFC", found.pfc), ("ECN", found.ecn)) if on) or "neither PFC nor ECN"
    if wanted and found.pfc and found.ecn is None:
        return say.unknown("ECN of the rail could not be read (/sys/class/net/IFACE/ecn)", "load mlx5_core of the OFED", details)
    if wanted:
        return say.judge(measured, both, reason=f"{found}: {measured}", details=details)
    if not found.pfc and found.lossless:
        limit = Limit(
            kind="one_of", value=[*found.lossless], origin=Origin(kind="derived", detail="the priorities of this NIC that have PFC")
        )
        reason = f"{found}; PFC is on for priority {', '.join(map(str, found.lossless))} only"
        return say.judge(found.priority, limit, reason=reason, details=details)
    if measured in ("PFC and ECN", "neither PFC nor ECN") or (found.ecn is None and found.pfc):
        return say.judge(measured, some, reason=f"{found}: {measured}", details=details)
    return say.warn(measured, f"{found}: {measured} alone; expect.lossless says whether that is meant", details=details)


@rail_check(
    "fabric.switch_class",
    "The switch port has PFC and ECN on for the class that NCCL uses",
    "wires",
    "qos",
    action="PFC and ECN of the switch port on the priority of NCCL's class, and its trust on DSCP; NIC and port must agree",
)
def switch_class(say: Say, rail: RailView) -> Verdict:
    """What the rail's NIC does for NCCL's priority, the port at the other end of its cable does too. PFC of the port as it says itself
    (LLDP, the PFC TLV of IEEE 802.1Qaz), else as ``expect.switch_ports`` says; ECN as the latter says."""
    wires, node, e = rail.view.node.wires, rail.view.node, rail.view.expect
    if e.lossless is False:
        return say.skip("expect.lossless is false: the rails may drop")
    if _infiniband(rail):
        return say.skip("InfiniBand: its fabric loses nothing")
    wire = None if isinstance(wires, Missing) else wires.get(rail.rail.interface)
    neighbour = wire.neighbour if wire else ""
    names = (neighbour, rail.subject)
    given = next((port for key, port in e.switch_ports.items() if any(name and fnmatchcase(name, key) for name in names)), SwitchPort())
    pfc = wire.switch_pfc if wire and wire.switch_pfc is not None else given.pfc
    if pfc is None and given.ecn is None:
        return say.skip("neither LLDP nor expect.switch_ports tells what the switch port has", neighbour or None)
    qos = say.need(node.qos).get(rail.rail.interface)
    found = say.need(roce_class_of(dict(qos.settings) if qos else {}, say.need(node.nccl_settings)))
    here = neighbour or "the switch port"
    wrong, compared = [], 0
    for name, ours, theirs in (("PFC", found.pfc, pfc), ("ECN", found.ecn, given.ecn)):
        if theirs is None or not (ours or e.lossless):
            continue
        compared += 1
        if found.priority not in theirs:
            wrong.append(f"{here} has {name} on for priority {', '.join(map(str, theirs)) or 'none'}, not for {found.priority}")
    details: dict[str, JsonValue] = {"class": str(found), "neighbour": neighbour, "pfc": [*(pfc or ())], "ecn": [*(given.ecn or ())]}
    if not compared:
        return say.skip("the NIC uses for this priority neither of what the port is known to have", str(found), details)
    origin = Origin(kind="derived", detail="the NIC's own PFC and ECN for this priority")
    limit = Limit(kind="max", value=0, unit="differences", origin=origin)
    return say.judge(len(wrong), limit, reason=f"{found}; {'; '.join(wrong)}", details=details, of=compared)


CLASS_SHARE = 0.95
"""The part of all bytes that must be in the priority of NCCL's class while a rail is loaded. The rest is the host's own traffic."""


def class_used(rail: RailView, measured: RailBandwidth) -> Verdict:
    """``fabric.class_used``: while ``ib_write_bw`` ran in NCCL's class, the bytes of that priority rose at both ends, and those of the
    others did not. Bytes per priority are mlx5's (``tx_prio3_bytes`` of ethtool -S); of a card without them nothing can be said."""
    target = rail.peer.subject if rail.peer is not None else ""
    say = Say(
        "fabric.class_used",
        "Packets are sent and arrive in the priority of NCCL's class",
        f"{rail.subject} -> {target}",
        measured.evidence,
        "mlnx_qos -i IFACE on both ends: trust, dscp2prio; the switch must trust DSCP, too, and leave it as it is",
        rail.view.expect.unmeasured_ok,
    )
    node, wanted = rail.view.node, rail.view.expect.lossless is True
    if rail.view.expect.lossless is False:
        return say.skip("expect.lossless is false: the rails may drop")
    if _infiniband(rail):
        return say.skip("InfiniBand: its fabric loses nothing")
    try:
        qos = say.need(node.qos, wanted=wanted).get(rail.rail.interface)
        chosen = roce_class_of(dict(qos.settings) if qos else {}, say.need(node.nccl_settings, wanted=wanted))
        chosen = say.need(chosen, wanted=wanted)
        second = say.need(measured.best, wanted=wanted).average_gbps * 1e9 / 8
        sent = say.need(_by_priority("tx", measured.source_counters, second), wanted=wanted)
        received = say.need(_by_priority("rx", measured.target_counters, second), wanted=wanted)
    except Settled as settled:
        return settled.verdict
    ends = (("sent", rail.subject, sent), ("received", target, received))
    shares = {word: counts.get(chosen.priority, 0) / sum(counts.values()) for word, _, counts in ends}
    word, end, counts = next((e for e in ends if shares[e[0]] < CLASS_SHARE), ends[1])
    likely = "the NIC sorts it elsewhere" if word == "sent" else "the switch rewrites DSCP, or this NIC sorts it elsewhere"
    limit = Limit(kind="min", value=CLASS_SHARE, unit="of all bytes", origin=builtin("the rest is what the host itself sends"))
    return say.judge(
        round(shares[word], 3),
        limit,
        reason=f"{chosen}, but {end} {word} most in priority {max(counts, key=lambda i: counts[i])}: {likely}",
        details={"class": str(chosen), "sent": _named(sent), "received": _named(received)},
        of=2,
        what="end of the rail",
    )


def _by_priority(way: str, moved: CounterDelta | Missing, least: float) -> dict[int, int] | Missing:
    """Priority to bytes. ``least``: bytes that a second of the run moved; counters that saw less do not see RDMA."""
    if isinstance(moved, Missing):
        return moved
    found = {i: n for i in range(8) if (n := moved.values.get(f"{way}_prio{i}_bytes")) is not None}
    if not found:
        return Missing("ethtool -S of the rail tells no bytes per priority", "mlx5 does: tx_prio3_bytes")
    if sum(found.values()) < least:
        return Missing(
            f"{way} bytes per priority rose by {sum(found.values()) / 1e9:.2f} GB, less than a second of the run: they miss RDMA"
        )
    return found


def _named(counts: Mapping[int, int]) -> dict[str, JsonValue]:
    return {f"priority {i}": n for i, n in counts.items() if n}


def _infiniband(rail: RailView) -> bool:
    rdma = rail.view.node.rdma
    port = None if isinstance(rdma, Missing) else rdma.port(rail.rail.hca, rail.rail.port)
    return port is not None and port.link_layer == "InfiniBand"


@node_check(
    "fabric.arp",
    "Each rail answers for its own address",
    "wires",
    "network",
    action="sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.all.rp_filter=2 (and in /etc/sysctl.d)",
)
def arp(say: Say, view: View) -> Verdict:
    """Where several rails of a node are in one IPv4 network, the kernel answers ARP for any of them on each, unless arp_ignore and
    arp_announce forbid it: packets then arrive at the wrong NIC. A strict rp_filter is a warning: it drops what comes in elsewhere."""
    n, w = view.node.network, view.node.wires
    if isinstance(n, Missing):
        return say.missing(n, wanted=False)
    together: dict[str, list[str]] = {}
    for rail in view.rails:
        interface = n.interface(rail.rail.interface)
        for address in interface.ipv4[:1] if interface else ():
            together.setdefault(str(address.network), []).append(rail.rail.interface)
    shared = {network: names for network, names in together.items() if len(names) > 1}
    if not shared:
        return say.skip("each rail is in a network of its own" if together else "no rail has an IPv4 address")
    if isinstance(w, Missing):
        return say.missing(w)
    names = [name for many in shared.values() for name in many]
    known = {name: w[name].sysctls for name in names if name in w and "arp_ignore" in w[name].sysctls and "arp_announce" in w[name].sysctls}
    details: dict[str, JsonValue] = {"networks": {k: [*v] for k, v in shared.items()}, "settings": {k: {**v} for k, v in known.items()}}
    if len(known) < len(names):
        return say.unknown(f"/proc/sys/net/ipv4/conf was not read for {', '.join(x for x in names if x not in known)}", details=details)
    wrong = [f"{k}: arp_ignore {v['arp_ignore']}, arp_announce {v['arp_announce']}" for k, v in known.items() if not _own_arp(v)]
    limit = Limit(kind="max", value=0, unit="interfaces", origin=Origin(kind="vendor", detail="kernel ip-sysctl; IBM, ARP flux"))
    strict = [name for name, v in known.items() if v.get("rp_filter") == 1]
    if not wrong and strict:
        return say.warn(
            len(strict), f"rp_filter is strict on {', '.join(strict)}: what arrives at another rail is dropped", details=details
        )
    return say.judge(len(wrong), limit, reason=f"in one network with others: {'; '.join(wrong)}", details=details, of=len(names))


def _own_arp(settings: Mapping[str, int]) -> bool:
    return settings["arp_ignore"] in (1, 2, 8) and settings["arp_announce"] == 2


@rail_check(
    "fabric.optics",
    "Optics, FEC and bit errors",
    "wires",
    action="clean and reseat the transceiver, replace cable or transceiver; mlxlink -d {hca} -m -c",
)
def optics(say: Say, rail: RailView) -> Verdict:
    """The rail's transceiver raises no alarm, no figure of it is beyond its own alarm thresholds, FEC leaves no more bit errors than
    Ethernet may have, and mlxlink finds its signal sound. Warned of: warnings, errors that were counted, less light or more bit errors
    than the other rails of the node have, another FEC. The switch port is recorded as LLDP tells it. One of ``ethtool -m`` and mlxlink
    (mstlink of mstflint) is enough."""
    w = rail.view.node.wires
    if isinstance(w, Missing):
        return say.missing(w, wanted=False)
    wire = w.get(rail.rail.interface)
    told = (wire.told if wire else None) or PortTold()
    if not (wire and (wire.module or told.looked_at)) and (unread := rail.view.unread("wires", f"ethtool -m {rail.rail.interface}")):
        return say.missing(unread)
    if wire is None or not (wire.module or wire.fec or wire.counters or wire.alarms or wire.warnings or told.looked_at):
        where = f" (LLDP: {wire.neighbour})" if wire and wire.neighbour else ""
        return say.skip(f"neither ethtool nor mlxlink tells anything about it{where}", wire.neighbour if wire else None)
    lost = [str(x) for tool in MLXLINK if (x := rail.view.unread("wires", f"{tool} -d {rail.rail.hca} "))]
    details: dict[str, JsonValue] = {
        "module": wire.module or told.module,
        "rx_dbm": [*_light(wire)],
        "fec": wire.fec or told.fec,
        "counters": {**wire.counters, **dict(told.counts)},
        "raw_ber": told.raw_ber,
        "effective_ber": told.effective_ber,
        "mlxlink": told.recommendation or told.refused or (lost[0] if lost else "not told"),
        "neighbour": wire.neighbour,
    }
    siblings = [other for r in rail.view.rails if (other := w.get(r.rail.interface)) is not None]
    alarms = [*wire.alarms, *_beyond(told)]
    limit = Limit(kind="max", value=0, unit="alarms", origin=Origin(kind="vendor", detail="thresholds in the transceiver itself"))
    if alarms:
        return say.judge(len(alarms), limit, reason=", ".join(alarms), details=details)
    warned = [*wire.warnings, *told.flags, *_counted(wire, told), *_unlike(wire, told, siblings)]
    if told.recommendation not in ("", SOUND):
        warned.append(f"mlxlink: {told.recommendation}")
    if warned:
        return say.warn(len(warned), ", ".join(warned), details=details)
    return say.judge(0, limit, details=details, of=bool(wire.module) + bool(wire.fec) + len(wire.counters) + told.looked_at)


MLXLINK = ("mlxlink", "mstlink")
SYMBOL_ERRORS = ("rx_symbol_err_phy", "rx_pcs_symbol_err_phy", "rx_crc_errors_phy")
"""Counters of ``ethtool -S`` that stay 0 on a sound link: what FEC could not correct."""
BER_MAX = 1e-12
"""Bit errors that FEC may leave on Ethernet (IEEE 802.3: a bit error ratio of 1e-12 or better). A sound link tells 15E-255: none."""
BAD_SIGNAL = re.compile(r"signal integrity|physical errors|high ber", re.I)
"""mlxlink's own opinion of a link that is up and bad."""
WEAKER_DB = 3.0
"""Half the light of the siblings: between modules of one kind it is dirt or a bent fibre, not the length of the cable (0.4 dB/km)."""
BER_APART, BER_SMALL = 100.0, 1e-7
"""A rail's bit errors before FEC stand apart by this factor over the median of its siblings, and above this; 2E-9 is a sound 400G link's
(scitix/sichek#125)."""


def _beyond(told: PortTold) -> list[str]:
    """What mlxlink tells that is an alarm."""
    found = [
        f"{name} {', '.join(f'{x:g}' for x in outside)}, its own limits are {reading.low:g} to {reading.high:g}"
        for name, reading in told.readings
        if (outside := reading.outside)
    ]
    if told.effective_ber is not None and told.effective_ber > BER_MAX:
        found.append(f"bit error ratio after FEC {told.effective_ber:.1e}, at most {BER_MAX:.0e}")
    if BAD_SIGNAL.search(told.recommendation):
        found.append(f"mlxlink: {told.recommendation}")
    return found


def _counted(wire: NetDevice, told: PortTold) -> list[str]:
    """Errors that FEC could not correct. Each end of mlxlink's and ethtool's counters has its own beginning."""
    since = "" if told.minutes is None else f" in {told.minutes:.0f} minutes"
    counts = [f"{name} {n}{since}" for name in ("Symbol Errors", "Effective Physical Errors") if (n := told.count(name))]
    return [f"{name} {n}" for name in SYMBOL_ERRORS if (n := wire.counters.get(name, 0))] + counts


def _unlike(wire: NetDevice, told: PortTold, siblings: Sequence[NetDevice]) -> list[str]:
    """How it differs from the rails of its node. Words of one tool are compared with each other only."""
    found = []
    for fec, others in (
        (wire.fec, [x.fec for x in siblings if x.fec]),
        ("" if wire.fec else told.fec, [x.told.fec for x in siblings if x.told and x.told.fec]),
    ):
        usual = max(sorted(set(others)), key=others.count, default="")
        if fec and usual and fec != usual:
            found.append(f"FEC {fec}, most rails {usual}")
    mine, kind = _light(wire), wire.module or told.module
    alike = [x for s in siblings if (s.module or (s.told.module if s.told else "")) == kind and s is not wire for x in _light(s)]
    if mine and alike and min(mine) < (usual_dbm := median(alike)) - WEAKER_DB:
        found.append(f"a lane receives {min(mine):g} dBm, those of the other rails {usual_dbm:g}")
    bers = [s.told.raw_ber for s in siblings if s.told and s.told.raw_ber is not None and s is not wire]
    if told.raw_ber is not None and bers and told.raw_ber > max(BER_APART * median(bers), BER_SMALL):
        found.append(f"bit error ratio before FEC {told.raw_ber:.0e}, median of the other rails {median(bers):.0e}")
    return found


def _light(wire: NetDevice) -> tuple[float, ...]:
    """Received power in dBm per lane, of the tool that tells it."""
    reading = wire.told.reading("Rx Power Current [dBm]") if wire.told else None
    return wire.rx_dbm or (reading.values if reading else ())
