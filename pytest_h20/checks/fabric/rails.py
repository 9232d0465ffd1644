"""The fabric before the engine: ports, GIDs, rails in one subnet, reachability, flow control, GPUDirect, bandwidth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import JsonValue

from pytest_h20.checks.fabric.blame import of_all_reduce, of_rail, of_third
from pytest_h20.checks.fabric.measure import RailBandwidth, Witness
from pytest_h20.checks.fabric.pairs import Pair, blamed
from pytest_h20.checks.fabric.rounds import Wired
from pytest_h20.checks.fabric.together import judge_wired, short_words
from pytest_h20.checks.fabric.wires import class_used
from pytest_h20.checks.frame import Say, Settled, builtin, cluster_check, inventory, node_check, rail_check, silence
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.engines.common import normalised
from pytest_h20.engines.layout import Layout, layout_of
from pytest_h20.probes.facts import Facts, RailView, View
from pytest_h20.probes.gid import Gid, best, describe, score
from pytest_h20.probes.model_shape import shape_of
from pytest_h20.probes.perf import AllReduce, busbw_floor, predicted_tpot_ms
from pytest_h20.probes.rdma import Port, RdmaFacts, pci_distance
from pytest_h20.probes.script import Missing

DAY_S = 86400.0
N = TypeVar("N", int, float)


def _port(rail: RailView) -> Port | Missing:
    rdma = rail.view.node.rdma
    if isinstance(rdma, Missing):
        return rdma
    port = rdma.port(rail.rail.hca, rail.rail.port)
    if port is None:
        have = ", ".join(f"{p.device}:{p.port}" for p in rdma.ports) or "none"
        return Missing(f"{rail.view.name} has no RDMA port {rail.rail.device_port}; it has {have}", "correct rails[].hca in the inventory")
    return port


def _gids(say: Say, rail: RailView) -> tuple[Gid, ...]:
    """The port's GIDs. The check ends where there is no port, and on InfiniBand."""
    port = say.need(_port(rail))
    if port.link_layer == "InfiniBand":
        raise Settled(say.skip("InfiniBand: the port has no Ethernet device, and GIDs are not chosen"))
    return say.need(rail.view.node.rdma).port_gids(rail.rail.hca, rail.rail.port)


def _most(rail: RailView, figure: Callable[[Port], N | None]) -> N | None:
    """The largest figure of any rail of the cluster."""
    ports = [_port(r) for v in rail.view.all.views for r in v.rails]
    return max((x for p in ports if isinstance(p, Port) and (x := figure(p))), default=None)


def _peer(say: Say, rail: RailView) -> RailView:
    """The rail of the same place on the next node. The check ends where there is one node only."""
    if rail.peer is None:
        raise Settled(say.skip("one node only"))
    return rail.peer


@node_check(
    "fabric.hcas",
    "Every HCA of the inventory is there",
    "rdma",
    always=True,
    action="lspci | grep Mellanox; mst status; correct the inventory",
)
def hcas(say: Say, view: View) -> Verdict:
    """Each RDMA device the inventory names (rails and others) exists on the node."""
    rdma, spec = view.node.rdma, view.spec
    wanted = [r.device_port for r in spec.rails] + [f"{h.hca}:{h.port}" for h in spec.other_hcas]
    if not wanted:
        return say.skip("the inventory names no RDMA device of this node")
    if isinstance(rdma, Missing):
        return say.missing(rdma)
    have = {f"{p.device}:{p.port}" for p in rdma.ports}
    absent: list[JsonValue] = [w for w in wanted if w not in have]
    limit = Limit(kind="max", value=0, unit="missing devices", origin=Origin(kind="inventory", detail=f"nodes[{view.name}].rails"))
    return say.judge(len(absent), limit, reason=f"missing: {absent}; there are {sorted(have)}", details={"missing": absent})


@rail_check(
    "fabric.port_active",
    "Port active",
    "rdma",
    always=True,
    action="check cable, transceiver and switch port: ibstatus, mlxlink -d {hca}; ip link set {interface} up",
)
def port_active(say: Say, rail: RailView) -> Verdict:
    """The port is ACTIVE and its physical link is up."""
    p = say.need(_port(rail))
    limit = Limit(kind="equal", value="ACTIVE", origin=builtin("only an active port carries traffic"))
    if p.phys and p.phys != "LinkUp" and p.state == "ACTIVE":
        return say.judge(p.phys, Limit(kind="equal", value="LinkUp", origin=limit.origin))
    return say.judge(
        p.state or None,
        limit,
        reason=f"state {p.state}, physical {p.phys}",
        details={"phys": p.phys, "link_layer": p.link_layer},
    )


@rail_check(
    "fabric.rate",
    "Line rate",
    "rdma",
    always=True,
    action="check cable and switch port speed, auto-negotiation: mlxlink -d {hca}",
)
def rate(say: Say, rail: RailView) -> Verdict:
    """The port runs at the expected rate; without an expectation, at the rate of the fastest rail of the cluster."""
    p = say.need(_port(rail))
    wanted = rail.rail.rate_gbps or rail.view.expect.rail_rate_gbps
    origin = inventory("rail_rate_gbps")
    if wanted is None:
        wanted, origin = _most(rail, lambda p: p.rate_gbps), builtin("the fastest rail of this cluster: one slow rail slows all")
    if wanted is None or p.rate_gbps is None:
        return say.unknown(f"the port does not tell its rate ({p.rate_text!r})")
    return say.judge(
        p.rate_gbps,
        Limit(kind="min", value=wanted, unit="Gbit/s", origin=origin),
        reason=p.rate_text,
        details={"rate": p.rate_text},
    )


@rail_check("fabric.width", "Lanes of the port", "rdma", action="reseat the cable: a lane is dead (mlxlink -d {hca})")
def width(say: Say, rail: RailView) -> Verdict:
    """The port uses the expected number of lanes; without an expectation, as many as the widest rail of the cluster."""
    expected = rail.view.expect.rail_width
    p = say.need(_port(rail), wanted=expected is not None)
    wanted, origin = expected, inventory("rail_width")
    if expected is None:
        wanted, origin = _most(rail, lambda p: p.width), builtin("the widest rail of this cluster")
    if wanted is None or p.width is None:
        return say.missing(Missing(f"the port does not tell its lanes ({p.rate_text!r})"), wanted=expected is not None)
    return say.judge(p.width, Limit(kind="min", value=wanted, unit="lanes", origin=origin), reason=p.rate_text)


@rail_check("fabric.firmware", "Firmware of the HCA", "rdma", action="mlxfwmanager -u; reboot")
def firmware(say: Say, rail: RailView) -> Verdict:
    """The HCA's firmware is the expected one; without an expectation, that of all HCAs of its kind (board id) in the
    cluster."""
    rdma, wanted = rail.view.node.rdma, rail.view.expect.firmware
    rdma = say.need(rdma, wanted=wanted is not None)
    hca = rdma.hca(rail.rail.hca)
    if hca is None or not hca.firmware or hca.firmware == "0.0.0":
        return say.missing(Missing("the device tells no firmware version"), wanted=wanted is not None)
    if wanted is not None:
        return say.begins("firmware", wanted, hca.firmware)
    alike = [
        h.firmware
        for v in rail.view.all.views
        if isinstance(v.node.rdma, RdmaFacts)
        for r in v.rails
        if (h := v.node.rdma.hca(r.rail.hca)) and h.board == hca.board and h.firmware
    ]
    common = max(sorted(set(alike)), key=alike.count)
    limit = Limit(kind="equal", value=common, origin=builtin(f"what most of the {len(alike)} HCAs of board {hca.board or 'unknown'} have"))
    return say.judge(hca.firmware, limit, details={"board": hca.board, "seen": [*sorted(set(alike))]})


@rail_check(
    "fabric.netdev",
    "Net device of the HCA",
    "rdma",
    "ibdev2netdev",
    always=True,
    action="correct rails[].interface in the inventory",
)
def netdev(say: Say, rail: RailView) -> Verdict:
    """The HCA's GIDs belong to the net device the inventory names, and ibdev2netdev (where it exists) says the same."""
    r = rail.rail
    names = {g.netdev for g in _gids(say, rail)} - {""}
    if not names:
        return say.unknown("no GID of it names a net device")
    tool = rail.view.node.ibdev2netdev
    said = None if isinstance(tool, Missing) else tool.get((r.hca, r.port))
    details: dict[str, JsonValue] = {"sysfs": [*sorted(names)], "ibdev2netdev": said[0] if said else ""}
    limit = Limit(
        kind="equal",
        value=r.interface,
        origin=Origin(kind="inventory", detail=f"nodes[{rail.view.name}].rails[{rail.index}].interface"),
    )
    if said and said[0] not in names:
        return say.judge(said[0], limit, reason=f"ibdev2netdev says {said[0]}, /sys/class/infiniband says {sorted(names)}", details=details)
    measured = r.interface if r.interface in names else sorted(names)[0]
    return say.judge(measured, limit, reason=f"{r.hca} is {measured}", details=details)


def _same(a: Gid, b: Gid) -> bool:
    return (a.gid, a.version, a.netdev or b.netdev) == (b.gid, b.version, b.netdev or a.netdev)


@rail_check(
    "fabric.gid_table",
    "GID table",
    "rdma",
    "show_gids",
    always=True,
    action="ip addr add ADDRESS/PREFIX dev {interface}: without an address there is no routable GID",
)
def gid_table(say: Say, rail: RailView) -> Verdict:
    """The port has GIDs, among them a routable RoCE v2 one; show_gids (where it exists) lists the same."""
    r, gids = rail.rail, _gids(say, rail)
    table: list[JsonValue] = [f"{g.index}: {describe(g)}" for g in gids]
    tool = rail.view.node.show_gids
    if not isinstance(tool, Missing):
        listed = {g.index: g for g in tool if (g.device, g.port) == (r.hca, r.port)}
        other: list[JsonValue] = [g.index for g in gids if g.index not in listed or not _same(g, listed[g.index])]
        if other:
            limit = Limit(kind="max", value=0, unit="differing slots", origin=builtin("sysfs and show_gids read the same table"))
            return say.judge(len(other), limit, reason=f"slots {other} differ from show_gids", details={"gids": table})
    routable = sum(g.version == "v2" and not g.link_local for g in gids)
    limit = Limit(kind="min", value=1, unit="routable RoCE v2 GIDs", origin=builtin("link-local GIDs do not leave the segment (F29)"))
    return say.judge(routable, limit, reason=f"only: {table}" if table else "the table is empty", details={"gids": table})


@rail_check("fabric.gid_index", "Configured GID index", "rdma", always=True)
def gid_index(say: Say, rail: RailView) -> Verdict:
    """The configured index holds the best GID of this rail (RoCE v2, IPv4-mapped, of its address); the right index is named
    if not."""
    gids, index = _gids(say, rail), rail.view.spec.rail_gid_index(rail.rail)
    right = best(gids, rail.rail.interface, rail.address or None)
    if right is None:
        return say.unknown("the port has no RoCE v2 GID at all", "give the interface an address; check that the driver offers RoCE v2")
    if index is None:
        return say.unknown(f"no GID index is configured; {right.index} is right here ({describe(right)})", f"gid_index: {right.index}")
    used = next((g for g in gids if g.index == index), None)
    details: dict[str, JsonValue] = {"configured": describe(used), "right_index": right.index, "right": describe(right)}
    details["scores"] = {str(g.index): score(g) for g in gids}
    origin = Origin(kind="derived", detail="GID score: RoCE v2, then IPv4-mapped, then global IPv6, then link-local; lowest index")
    if used is not None and used.gid == right.gid and used.version == right.version:
        return say.judge(index, Limit(kind="equal", value=index, origin=origin), details=details)
    return say.judge(
        index,
        Limit(kind="equal", value=right.index, origin=origin),
        reason=f"index {index} is {describe(used)}; {right.index} is {describe(right)}",
        action=f"gid_index: {right.index} for {rail.subject} (NCCL_IB_GID_INDEX={right.index} on that node)",
        details=details,
    )


@rail_check(
    "fabric.gid_address",
    "GID of the inventory",
    "rdma",
    "network",
    action="correct rails[].address or rails[].gid; readdress the interface",
)
def gid_address(say: Say, rail: RailView) -> Verdict:
    """The interface has the address the inventory gives, and the GID at the configured index is made of it (or is
    ``rails[].gid``)."""
    r, n, rdma = rail.rail, rail.view.node.network, rail.view.node.rdma
    wanted = bool(r.address or r.gid)
    if not wanted:
        return say.skip("recorded only: the inventory gives neither address nor gid of this rail", rail.address)
    if isinstance(rdma, Missing):
        return say.missing(rdma)
    if isinstance(n, Missing):
        return say.missing(n)
    interface = n.interface(r.interface)
    here = [str(i.ip) for i in interface.ipv4] if interface else []
    origin = Origin(kind="inventory", detail=f"nodes[{rail.view.name}].rails[{rail.index}]")
    if r.address and r.address not in here:
        limit = Limit(kind="equal", value=r.address, origin=origin)
        return say.judge(here[0] if here else "none", limit, reason=f"{r.interface} has {', '.join(here) or 'no IPv4 address'}")
    index = rail.view.spec.rail_gid_index(r)
    used = next((g for g in rdma.port_gids(r.hca, r.port) if g.index == index), None)
    if used is None:
        say.need(_port(rail))  # a port that is not there has no table
        return say.unknown(f"slot {index} of the GID table is empty")
    if r.gid:
        return say.judge(used.gid, Limit(kind="equal", value=r.gid, origin=origin))
    return say.judge(used.ipv4 or used.gid, Limit(kind="equal", value=r.address, origin=origin))


@rail_check("fabric.mtu", "MTU of the rail", "network", always=True, action="ip link set {interface} mtu N on both ends and on the switch")
def mtu(say: Say, rail: RailView) -> Verdict:
    """The rail's net device has the expected MTU; without an expectation, that of its peer rail (F38)."""
    n, wanted = say.need(rail.view.node.network), rail.view.expect.rail_mtu
    i = n.interface(rail.rail.interface)
    if i is None:
        return say.unknown(f"there is no interface {rail.rail.interface}", "correct rails[].interface")
    origin = inventory("rail_mtu")
    if wanted is None:
        peer = rail.peer
        if peer is None:
            return say.skip("one node only, and expect.rail_mtu is not given", i.mtu)
        other = peer.view.node.network
        theirs = None if isinstance(other, Missing) else other.interface(peer.rail.interface)
        if theirs is None or theirs.mtu is None:
            return say.unknown(f"the MTU of {peer.subject} is not known")
        wanted, origin = theirs.mtu, builtin(f"the MTU of its peer {peer.subject}")
    return say.judge(i.mtu, Limit(kind="equal", value=wanted, unit="bytes", origin=origin))


@rail_check(
    "fabric.subnet",
    "Rail and peer in one subnet",
    "network",
    always=True,
    action="readdress the rails, or swap rails[] so that the same place is the same rail on every node",
)
def subnet(say: Say, rail: RailView) -> Verdict:
    """The rail and the rail of the same place on the next node are in one IPv4 network: rail-optimised fabrics route nothing
    else (F29, F30)."""
    peer = _peer(say, rail)
    networks = []
    for end in (rail, peer):
        i = say.need(end.view.node.network).interface(end.rail.interface)
        here = i.ipv4 if i else ()
        own = next((x for x in here if str(x.ip) == end.rail.address), here[0] if here else None)
        if own is None:
            return say.unknown(f"{end.rail.interface} of {end.view.name} has no IPv4 address", "give the interface an address")
        networks.append(own.network)
    limit = Limit(kind="equal", value=str(networks[1]), origin=builtin(f"the network of its peer {peer.subject}"))
    return say.judge(str(networks[0]), limit, reason=f"{rail.subject} is in {networks[0]}, {peer.subject} in {networks[1]}")


@rail_check(
    "fabric.reachable",
    "Rail to rail, unfragmented at the MTU",
    "ping",
    always=True,
    action="check switch, VLAN, routes and MTU of the path: ping -M do -s SIZE -I {interface} PEER (F30, F38)",
)
def reachable(say: Say, rail: RailView) -> Verdict:
    """The peer rail answers pings as large as the MTU that may not be fragmented, sent from this rail's interface."""
    _peer(say, rail)
    p = rail.view.all.ping(rail.view.name, rail.rail.hca)
    if p is None:
        return say.unknown("interface, MTU or the peer's IPv4 address is not known")
    x = say.need(p.result)
    if x.sent == 0:
        return say.unknown(f"ping said: {x.message or 'nothing'}", "see that iputils' ping is installed and may be used")
    limit = Limit(kind="min", value=x.sent, unit="replies", origin=builtin("a healthy rail loses no ping"))
    details: dict[str, JsonValue] = {"size": x.size, "rtt_ms": x.rtt_ms, "peer": x.peer, "route": x.route_device}
    return say.judge(x.received, limit, reason=f"{x.received} of {x.sent} replies at {x.size} bytes {x.message}".strip(), details=details)


@rail_check(
    "fabric.route",
    "The peer rail is reached through this rail",
    "ping",
    action="ip route; several rails in one subnet need policy routes, or arp_ignore/arp_announce",
)
def route(say: Say, rail: RailView) -> Verdict:
    """The kernel's route to the peer rail leaves by this rail's interface; another device is a warning (RoCE uses the GID's
    device)."""
    p = rail.view.all.ping(rail.view.name, rail.rail.hca)
    if p is None or isinstance(p.result, Missing) or not p.result.route_device:
        return say.skip("the route is not known")
    if p.result.route_device != rail.rail.interface:
        return say.warn(p.result.route_device, f"the route to {p.result.peer} leaves by {p.result.route_device}, not {rail.rail.interface}")
    return say.judge(p.result.route_device, Limit(kind="equal", value=rail.rail.interface, origin=builtin("a rail's traffic stays on it")))


@rail_check(
    "fabric.link_flaps",
    "Link stability",
    "kernel_log",
    "network",
    action="replace cable or transceiver; look at the switch port's counters",
)
def link_flaps(say: Say, rail: RailView) -> Verdict:
    """The link went down at most ``expect.link_down_max_per_day`` times in the last 24 hours (kernel log)."""
    log, n, s = rail.view.node.kernel_log, rail.view.node.network, rail.view.node.system
    most = rail.view.expect.link_down_max_per_day
    i = None if isinstance(n, Missing) else n.interface(rail.rail.interface)
    changes = i.carrier_changes if i else None
    uptime = None if isinstance(s, Missing) else s.uptime_s
    details: dict[str, JsonValue] = {"carrier_changes": changes}
    if i is None and not isinstance(n, Missing):
        return say.skip(f"there is no interface {rail.rail.interface}: fabric.netdev judges that")
    if isinstance(log, Missing):
        # Without the log the counter still proves that there was no flap: two changes are coming up after boot.
        if changes is not None and changes <= 2:
            return say.judge(
                0, Limit(kind="max", value=most, unit="link downs", origin=inventory("link_down_max_per_day")), details=details
            )
        return say.missing(log)
    since = None if uptime is None else uptime - DAY_S
    downs = [
        e
        for e in log.of("link")
        if e.device == rail.rail.interface and e.code == 0 and (since is None or e.when is None or e.when >= since)
    ]
    # The link goes down once while the driver starts: within two minutes of boot it is no flap.
    downs = [e for e in downs if e.when is None or e.when > 120]
    limit = Limit(kind="max", value=most, unit="link downs in 24 h", origin=inventory("link_down_max_per_day"))
    return say.judge(len(downs), limit, reason=downs[-1].text[:160] if downs else "", details=details)


@rail_check(
    "fabric.pcie",
    "PCIe link of the HCA",
    "pci",
    "rdma",
    action="reseat the card; check slot and riser: lspci -vv shows LnkSta (downgraded)",
)
def pcie(say: Say, rail: RailView) -> Verdict:
    """The HCA's PCIe link runs at its full speed and width (a NIC does not lower it when idle)."""
    rdma, pci = say.need(rail.view.node.rdma, wanted=False), rail.view.node.pci
    hca = rdma.hca(rail.rail.hca)
    if hca is None or not hca.pci:
        return say.skip("the device is not on PCIe (software RDMA), or does not say where")
    if isinstance(pci, Missing):
        return say.missing(pci)
    d = pci.get(hca.pci)
    if d is None or None in (d.speed, d.speed_max, d.width, d.width_max):
        return say.unknown(f"the PCIe link of {hca.pci} is not known")
    full = f"{d.speed_max:g} GT/s x{d.width_max}"
    limit = Limit(kind="equal", value=full, origin=builtin("what the card is capable of"))
    return say.judge(f"{d.speed:g} GT/s x{d.width}", limit, details={"address": d.address})


@rail_check(
    "fabric.distance",
    "Distance to the nearest GPU",
    "pci",
    "topology",
    action="put the HCA in a slot below the GPU's PCIe switch; check NCCL_IB_HCA's order",
)
def distance(say: Say, rail: RailView) -> Verdict:
    """The rail is as near to a GPU as expected; without an expectation, not across sockets (SYS): NCCL uses GPUDirect up to PXB only. What
    is between (PHB, NODE) is judged by NCCL's own log, and a virtual machine does not show where its devices are: a warning there."""
    wanted, node, hca_name = rail.view.expect.rail_distance, rail.view.node, rail.rail.hca
    order = ("PIX", "PXB", "PHB", "NODE", "SYS")
    found: list[str] = []
    if not isinstance(node.topology, Missing):
        found = [v for (a, b), v in node.topology.items() if a == hca_name and b.startswith("GPU") and v in order]
    if not found and not isinstance(node.pci, Missing) and not isinstance(node.rdma, Missing):
        hca = node.rdma.hca(hca_name)
        mine = node.pci.get(hca.pci) if hca and hca.pci else None
        if mine:
            found = [x for g in node.pci.values() if g.gpu and (x := pci_distance(mine, g)) in order]
    if not found:
        why = Missing("neither nvidia-smi topo nor sysfs shows this HCA beside a GPU")
        return say.missing(why, wanted=wanted is not None)
    nearest = min(found, key=order.index)
    if wanted is not None:
        return say.judge(nearest, Limit(kind="one_of", value=list(wanted), origin=inventory("rail_distance")))
    hints = node.pcie_hints
    if nearest == "SYS" and not isinstance(hints, Missing) and hints.virtual:
        return say.warn(nearest, "every GPU is on the other socket, as far as this virtual machine shows")
    origin = Origin(kind="vendor", detail="NCCL's default NCCL_NET_GDR_LEVEL: GPUDirect up to PXB (src/graph/paths.cc)")
    limit = Limit(kind="one_of", value=list(order[:4]), origin=origin)
    return say.judge(
        nearest, limit, reason="every GPU is on the other socket: NCCL sends through host memory, or GPUDirect crosses the sockets"
    )


@node_check(
    "fabric.gpudirect",
    "GPUDirect RDMA",
    "driver",
    action="modprobe nvidia_peermem (and put it in /etc/modules-load.d); the OFED must be installed before the driver",
)
def gpudirect(say: Say, view: View) -> Verdict:
    """nvidia_peermem (or nv_peer_mem) is loaded, or driver and kernel can do dma-buf (F31). NCCL <= 2.22.3 and peermem: see
    the note."""
    d, wanted = view.node.driver, view.expect.gpudirect
    if not view.spec.rails and wanted is None:
        return say.skip("the inventory names no rail of this node")
    if isinstance(d, Missing):
        return say.missing(d, wanted=wanted is not False)
    dmabuf = d.open_kernel and d.dmabuf_kernel
    way = d.peermem or ("dma-buf" if dmabuf else "none")
    details: dict[str, JsonValue] = {"peermem": d.peermem, "dmabuf": dmabuf, "open_kernel": d.open_kernel}
    v = view.node.image_versions
    if not isinstance(v, Missing) and v.nccl:
        details["nccl"] = v.nccl
    if wanted is False:
        return say.skip("expect.gpudirect is false", way, details)
    origin = inventory("gpudirect") if wanted else builtin("without it every byte goes through host memory")
    return say.judge(
        way,
        Limit(kind="one_of", value=["nvidia_peermem", "nv_peer_mem", "dma-buf"], origin=origin),
        reason="neither nvidia_peermem nor dma-buf",
        details=details,
    )


@node_check(
    "fabric.acs",
    "ACS and IOMMU",
    "pcie_hints",
    "pci",
    action="switch ACS off (setpci on the bridges, or firmware) and boot with iommu=pt or intel_iommu=off",
)
def acs(say: Say, view: View) -> Verdict:
    """No PCIe bridge above a GPU and a rail redirects peer traffic to the root complex: NCCL's guide has it cost bandwidth or hang.
    Elsewhere, in a virtual machine (which needs ACS), or with ``expect.acs_off: false``, it is a warning; true: no bridge at all may."""
    h, wanted = view.node.pcie_hints, view.expect.acs_off
    h = say.need(h, wanted=wanted is True)
    between = _redirecting(view, h.acs_at)
    details: dict[str, JsonValue] = {
        "bridges": h.acs_bridges,
        "redirecting": h.acs_enabled,
        "above_gpu_and_rail": [*between],
        "iommu_groups": h.iommu_groups,
        "iommu_pt": h.passthrough,
        "virtual_machine": h.virtual,
    }
    if h.acs_bridges is None:
        if wanted is not False and (unread := view.unread("pcie_hints", "lspci")):
            return say.missing(unread)
        if wanted:
            return say.unknown("ACS control is not readable", "install pciutils and log in as root", details)
        return say.skip("ACS control is not readable, and nothing is expected", details=details)
    if wanted:
        limit = Limit(kind="max", value=0, unit="redirecting bridges", origin=inventory("acs_off"))
        return say.judge(h.acs_enabled, limit, reason=f"{h.acs_enabled} of {h.acs_bridges} bridges", details=details)
    limit = Limit(
        kind="max", value=0, unit="redirecting bridges", origin=Origin(kind="vendor", detail="NCCL user guide, troubleshooting, ACS")
    )
    if between and wanted is None and not h.virtual:
        reason = f"requests between GPU and rail are sent up to the processor by {', '.join(between[:4])} (ACS)"
        return say.judge(len(between), limit, reason=reason, details=details, of=h.acs_bridges)
    if h.acs_enabled:
        return say.warn(h.acs_enabled, f"{h.acs_enabled} of {h.acs_bridges} bridges redirect or check peer traffic (ACS)", details=details)
    if h.iommu_groups and not h.passthrough:
        return say.warn(h.iommu_groups, "the IOMMU is on without iommu=pt: GPUDirect may be slow", details=details)
    return say.judge(0, limit, details=details, of=h.acs_bridges)


def _redirecting(view: View, bridges: tuple[str, ...]) -> list[str]:
    """Those of these bridges that are in one tree, below one root port, with a GPU and a rail, and above one of them."""
    pci, rdma = view.node.pci, view.node.rdma
    if isinstance(pci, Missing) or isinstance(rdma, Missing):
        return []
    rails = [d.path for r in view.rails if (h := rdma.hca(r.rail.hca)) and (d := pci.get(h.pci))]
    found = set()
    for gpu in (d.path for d in pci.values() if d.gpu):
        for rail in rails:
            if len(gpu) > 1 and len(rail) > 1 and gpu[0] == rail[0]:
                found |= {*gpu[:-1], *rail[:-1]} & set(bridges)
    return sorted(found)


@node_check(
    "fabric.peermem_and_nccl",
    "NCCL of the image recognises the GPUDirect module",
    "driver",
    "image/image_versions",
    action="use an image with NCCL >= 2.23, or load nv_peer_mem; then prove GDRDMA in the NCCL log",
)
def peermem_and_nccl(say: Say, view: View) -> Verdict:
    """NCCL up to 2.22.3 does not recognise nvidia_peermem (F31): vLLM <= 0.8.5 and SGLang <= 0.4.6 ship 2.21.5. A warning;
    the log decides."""
    d, v = view.node.driver, view.node.image_versions
    if isinstance(d, Missing) or isinstance(v, Missing) or not v.nccl or not view.spec.rails:
        return say.skip("driver modules or the image's NCCL are not known, or there are no rails")
    if not d.peermem:
        return say.skip("no GPUDirect module is loaded: fabric.gpudirect judges that", v.nccl)
    numbers = tuple(int(x) for x in v.nccl.split(".")[:3] if re.fullmatch("[0-9]{1,9}", x))
    recognised = d.peermem != "nvidia_peermem" or numbers > (2, 22, 3)
    if not recognised:
        return say.warn(v.nccl, f"NCCL {v.nccl} may not recognise nvidia_peermem: GPUDirect can be off although the module is loaded")
    limit = Limit(kind="equal", value=True, origin=builtin("NCCL >= 2.23, or another GPUDirect module"))
    return say.judge(recognised, limit, details={"nccl": v.nccl, "module": d.peermem})


@node_check(
    "fabric.qos",
    "Flow control of the rails",
    "qos",
    action="mlnx_qos -i IFACE --trust dscp --pfc 0,0,0,1,0,0,0,0 on every rail of every node; the switch must match",
)
def qos(say: Say, view: View) -> Iterable[Verdict]:
    """Trust state, PFC, ECN, TOS and pause settings are the same on all rails, and what is expected (F41). Unreadable ones
    are told."""
    q, e = view.node.qos, view.expect
    wanted = e.qos_trust is not None or e.pfc is not None
    if not view.spec.rails:
        return [say.skip("the inventory names no rail of this node")]
    if isinstance(q, Missing):
        return [say.missing(q, wanted=wanted)]
    # A rail of which nothing could be read (its device is gone) is told by other checks, not as a difference here.
    rails = {r.rail.interface: dict(q[r.rail.interface].settings) for r in view.rails if r.rail.interface in q}
    keys = sorted({k for s in rails.values() for k in s})
    unread = view.unread("qos", "mlnx_qos")
    if not keys:
        nothing = unread or Missing("no setting could be read", "install mlnx-tools (mlnx_qos) or iproute2's dcb")
        return [say.missing(nothing, wanted=wanted)]
    told = []
    for key in keys:
        values = {i: s.get(key, "") for i, s in rails.items()}
        kinds = set(values.values())
        limit = Limit(kind="equal", value=1, unit="different values", origin=builtin("rails with different flow control share one switch"))
        told.append(say.about(f"{view.name} {key}").judge(len(kinds), limit, reason=f"{values}", details={"values": dict(values)}))
    for field, key, value in (("qos_trust", "trust", e.qos_trust), ("pfc", "pfc", e.pfc)):
        if value is not None:
            for i, s in rails.items():
                here = say.about(f"{view.name} {i} {key}")
                if key not in s:
                    told.append(here.missing(unread or Missing(f"{key} of {i} could not be read", "install mlnx-tools (mlnx_qos)")))
                else:
                    told.append(here.judge(s[key], Limit(kind="equal", value=value, origin=inventory(field))))
    return told


@cluster_check("fabric.qos_equal", "Flow control alike on all nodes", "qos", action="the same mlnx_qos settings on every node")
def qos_equal(say: Say, facts: Facts) -> Verdict:
    """Trust, PFC, ECN, TOS and pause settings of each rail equal those of the same rail on the other nodes, where readable."""
    if len(facts.views) < 2:
        return say.skip("one node only")
    table: dict[str, list[dict[str, str]]] = {}
    unread: Missing | None = None
    for v in facts.views:
        if isinstance(v.node.qos, Missing):
            return say.missing(v.node.qos, wanted=False)
        q = v.node.qos
        lacking = any("trust" not in dict(q[r.rail.interface].settings) for r in v.rails if r.rail.interface in q)
        unread = unread or (v.unread("qos", "mlnx_qos") if lacking else None)
        table[v.name] = [dict(q[r.rail.interface].settings) if r.rail.interface in q else {} for r in v.rails]
    if not any(s for rails in table.values() for s in rails):
        return say.skip("no setting could be read on any node (mlnx_qos, dcb and ethtool are missing)")
    first = facts.views[0].name
    other: list[JsonValue] = [
        f"{name} rail {i} {key}: {mine.get(key, 'unread')!r}, {first}: {theirs.get(key, 'unread')!r}"
        for name, rails in table.items()
        for i, (mine, theirs) in enumerate(zip(rails, table[first], strict=False))
        if mine and theirs
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key) and not (unread and not (key in mine and key in theirs))
    ]
    if unread and not other:
        return say.missing(unread)
    limit = Limit(kind="max", value=0, unit="differences", origin=builtin("both ends of a lossless path must agree (F41)"))
    return say.judge(len(other), limit, reason="; ".join(map(str, other[:4])), details={"differences": other})


def _bandwidth_wanted(rail: RailView) -> bool:
    return rail.view.expect.ib_write_bw is True


def judge_write_bandwidth(rail: RailView, measured: RailBandwidth | Missing, third: Sequence[Witness] = ()) -> list[Verdict]:
    """``fabric.ib_write_bw`` of one rail towards its peer, and what the counters of both ends did meanwhile: ``fabric.ib_errors``,
    ``fabric.class_used``. ``third``: each end of a slow link measured with a third node."""
    action = "ib_write_bw by hand with the same options; check PCIe width, MTU, PFC and the GID index"
    e = rail.view.expect
    say = Say("fabric.ib_write_bw", "ib_write_bw to the peer rail", rail.subject, (), action, e.unmeasured_ok)
    if e.ib_write_bw is False:
        return [say.skip("expect.ib_write_bw is false: not run")]
    if rail.peer is None:
        return [say.skip("one node only")]
    if why := silence(rail.ends):
        return [say.skip(why)]
    if isinstance(measured, Missing):
        return [say.missing(measured, wanted=_bandwidth_wanted(rail))]
    say = say.about(f"{rail.subject} -> {rail.peer.subject}", measured.evidence)
    if isinstance(measured.best, Missing):
        return [say.missing(measured.best, wanted=_bandwidth_wanted(rail) or "is not installed" not in measured.best.reason)]
    line = rail.rate_gbps
    details: dict[str, JsonValue] = {
        "size": measured.best.size,
        "peak_gbps": measured.best.peak_gbps,
        "rounds": measured.rounds,
        "line_rate_gbps": line,
    }
    if line is None:
        told = say.unknown("the line rate is not known", "give rails[].rate_gbps", details)
    else:
        limit = Limit(
            kind="min",
            value=round(line * e.ib_write_bw_min, 3),
            unit="Gbit/s",
            origin=Origin(kind="derived", detail=f"{e.ib_write_bw_min:g} x line rate {line:g} Gbit/s (expect.ib_write_bw_min)"),
        )
        least = line * e.ib_write_bw_min
        details["third"] = {f"{w.end} with {w.third}": str(w.gbps) if isinstance(w.gbps, Missing) else w.gbps for w in third}
        reason = "; ".join(filter(None, (of_third(third, least), of_rail(rail, measured))))
        told = say.judge(measured.best.average_gbps, limit, details=details, reason=reason)
    errors = Say(
        "fabric.ib_errors",
        "Error counters while ib_write_bw ran",
        say.subject,
        measured.evidence,
        "check cable, PFC and buffer settings on the path",
        e.unmeasured_ok,
    )
    verdicts = [told]
    for side, d in (("source", measured.source_counters), ("target", measured.target_counters)):
        here = errors.about(f"{say.subject} {side}")
        if isinstance(d, Missing):
            verdicts.append(here.missing(d, wanted=_bandwidth_wanted(rail)))
            continue
        risen: dict[str, JsonValue] = {**d.errors}
        counters: dict[str, JsonValue] = {"errors": risen, "congestion": {**d.congestion}, "seconds": round(d.seconds, 1)}
        limit = Limit(kind="max", value=0, unit="counters", origin=builtin("a healthy rail loses and repeats nothing"))
        verdicts.append(here.judge(len(risen), limit, reason=f"risen: {risen}", details=counters))
    return [*verdicts, class_used(rail, measured)]


def _layout(facts: Facts) -> Layout | None:
    """How the profile cuts the model, where one was chosen."""
    profile = facts.profile
    if profile is None:
        return None
    return layout_of(facts.engine, profile.tensor_parallel, normalised(profile.flags), len(facts.inventory.nodes_of(profile)))


def judge_all_reduce(
    facts: Facts,
    measured: AllReduce | Missing,
    pairs: Callable[[], Sequence[Pair]] = tuple,
    found: Wired | None = None,
    singles: Mapping[str, float] | None = None,
) -> list[Verdict]:
    """``fabric.all_reduce`` (bus bandwidth at the largest size), ``fabric.all_reduce_correct`` and ``fabric.tpot_cost``
    (recorded). ``pairs`` is called when it fails, and of more than two nodes measures them two at a time. ``found``, ``singles``: what was
    measured of the wires before, to say where it is lost."""
    e = facts.inventory.expect
    say = Say(
        "fabric.all_reduce",
        "All-reduce bus bandwidth over all nodes",
        "cluster",
        (),
        "prove GDRDMA in the NCCL log, then ib_write_bw rail by rail; NCCL_DEBUG=INFO",
        e.unmeasured_ok,
    )
    if e.all_reduce is False:
        return [say.skip("expect.all_reduce is false: not run")]
    if len(facts.views) < 2:
        return [say.skip("one node only")]
    if why := silence(facts.views):
        return [say.skip(why)]
    if isinstance(measured, Missing):
        absent = any(words in measured.reason for words in ("No module named", "not found", "no image to run it in"))
        if len(facts.views) > 2 and not absent:
            blame = blamed(pairs(), None)
            measured, say = replace(measured, reason=f"{measured.reason}; {blame.reason}"), replace(say, action=blame.action or say.action)
        return [say.missing(measured, wanted=e.all_reduce is True or not absent)]
    point = measured.largest
    if point is None:
        return [say.unknown("no size was measured")]
    rates = [r.rate_gbps for r in facts.views[0].rails]
    known = [r for r in rates if r]
    details: dict[str, JsonValue] = {
        "tool": measured.tool,
        "ranks": measured.ranks,
        "nccl": measured.nccl,
        "size": point.size,
        "points": [{"size": p.size, "time_us": round(p.time_us, 2), "busbw": round(p.busbw, 3)} for p in measured.points],
    }
    short = short_words(judge_wired(facts, found, singles or {})) if found is not None else []
    likely = of_all_reduce(facts, singles or {}, found, short)
    if e.all_reduce_busbw_min is not None:
        limit = Limit(kind="min", value=e.all_reduce_busbw_min, unit="GB/s", origin=inventory("all_reduce_busbw_min"))
        told = say.judge(round(point.busbw, 3), limit, reason=likely, details=details)
    elif not known or len(known) != len(rates):
        told = say.unknown("the rates of the rails are not known, so no floor can be derived", "give rails[].rate_gbps", details)
    else:
        floor, derivation = busbw_floor(known)
        # The derived figure is what a tuned fabric reaches; 80 % of it is the floor, a recorded baseline should replace it.
        limit = Limit(kind="min", value=round(0.8 * floor, 2), unit="GB/s", origin=Origin(kind="derived", detail=f"0.8 x {derivation}"))
        told = say.judge(round(point.busbw, 3), limit, reason=likely, details=details)
    if told.status is Status.FAIL and len(facts.views) > 2:
        met = pairs()
        blame = blamed(met, float(str(told.limit.value)) if told.limit is not None else None)
        details = {**told.details, "pairs": [str(pair) for pair in met]}
        told = told.model_copy(update={"reason": f"{blame.reason}; {likely}", "action": blame.action or told.action, "details": details})
    wrong = [p.wrong for p in measured.points if p.wrong is not None]
    correct = Say(
        "fabric.all_reduce_correct",
        "All-reduce results are right",
        "cluster",
        (),
        "test each rail alone; suspect memory or NIC",
        e.unmeasured_ok,
    )
    limit = Limit(kind="max", value=0, unit="wrong values", origin=builtin("sums are exact"))
    verdicts = [told, correct.judge(sum(wrong) if wrong else None, limit)]
    folder = facts.views[0].node.model_folder if facts.views else Missing("no node was probed")
    shape = shape_of(folder if isinstance(folder, Missing) else folder.config)
    cost = Say("fabric.tpot_cost", "Predicted communication time per token", "batch 1")
    if isinstance(shape, Missing):
        return [*verdicts, cost.skip(str(shape))]
    layout = _layout(facts)
    if layout is not None and layout.nodes_per_stage == 1:
        return [*verdicts, cost.skip(f"{layout}: no all-reduce leaves a node")]
    by_batch: dict[str, JsonValue] = {
        str(b): round(t, 3) for b in (1, 8, 32, 64, 128, 256) if (t := predicted_tpot_ms(measured, b, shape)) is not None
    }
    origin = Origin(kind="derived", detail=f"{shape.all_reduces} all-reduces per step of batch x {shape.token_bytes} bytes ({shape})")
    limit = Limit(kind="info", unit="ms", origin=origin)
    return [*verdicts, cost.judge(by_batch.get("1"), limit, details={"by_batch_ms": by_batch})]
