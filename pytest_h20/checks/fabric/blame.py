"""Which part is likeliest when a rail is slow, and which measurement speaks for it. One sentence; the first that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_h20.checks.fabric.measure import RailBandwidth, Witness
from pytest_h20.checks.fabric.rounds import Flow, Wired, floor_of
from pytest_h20.probes.facts import Facts, RailView
from pytest_h20.probes.script import Missing


def of_third(third: Sequence[Witness], least: float) -> str:
    """Which end of a slow link it is, by what each reaches with a third node; "" where there is none. ``least``: Gbit/s."""
    if not third:
        return ""
    lost = [f"{w.end} with {w.third}: {w.gbps.reason}" for w in third if isinstance(w.gbps, Missing)]
    if lost:
        return f"which end it is could not be measured ({'; '.join(lost)})"
    told = [(w, w.gbps) for w in third if not isinstance(w.gbps, Missing)]
    slow = [f"{w.end}, which reaches {gbps:.1f} Gbit/s with {w.third}" for w, gbps in told if gbps < least]
    if len(slow) == 1:
        return f"it is {slow[0]} as well; the other end is fast with it"
    if slow:
        return f"both ends are slow with a third: {'; '.join(slow)}"
    return f"each end is fast with {told[0][0].third}: it is the path between these two, a switch or its port"


def of_rail(rail: RailView, measured: RailBandwidth) -> str:
    """PCIe of an end, cable or switch, or the card: in the order in which a measurement can show it."""
    ends = [rail, *([rail.peer] if rail.peer is not None else [])]
    for end in ends:
        if narrow := pcie_below(end):
            return f"likeliest is PCIe of {end.subject}: {narrow}"
    deltas = (("source", measured.source_counters), ("target", measured.target_counters))
    risen = {f"{name} of the {side}": n for side, d in deltas if not isinstance(d, Missing) for name, n in d.errors.items()}
    if risen:
        told = ", ".join(f"{name} rose by {n}" for name, n in risen.items())
        return f"likeliest is the cable or the switch port: packets were lost or repeated ({told})"
    marked = {f"{name} of the {side}": n for side, d in deltas if not isinstance(d, Missing) for name, n in d.congestion.items()}
    if marked:
        told = ", ".join(f"{name} rose by {n}" for name, n in marked.items())
        return f"likeliest is the switch: it marked or paused the only traffic there was ({told})"
    if any(isinstance(d, Missing) for _, d in deltas):
        return "which part it is cannot be said: the counters of an end could not be read"
    return "likeliest is a card or its host: both PCIe links are whole, and no counter of the wire rose"


def of_pair(rail: RailView, flow: Flow, single: float | None, host: float | None) -> str:
    """GPU memory is slow through this rail. ``single``, ``host``: Gbit/s of host memory on it, alone and beside the others."""
    for end in (rail, *([rail.peer] if rail.peer is not None else [])):
        if narrow := pcie_below(end):
            return f"likeliest is PCIe of {end.subject}: {narrow}"
    floor = floor_of(rail) or 0.0
    whole = next((x for x in (single, host) if x is not None and x >= floor), None)
    if whole is None:
        return "whether it is the wire or the way from GPU to NIC cannot be said: host memory was not measured on it"
    ways = [
        w for end, gpu in ((rail, flow.gpu), (rail.peer, flow.peer_gpu)) if end is not None and gpu is not None and (w := _way(end, gpu))
    ]
    told = f" ({'; '.join(ways)})" if ways else ""
    likely = f"likeliest is the way from GPU to NIC: peermem, ACS or a PCIe switch{told}"
    return f"{likely}; host memory reaches {whole:.1f} Gbit/s on the same wire"


def _way(end: RailView, gpu: int) -> str:
    """What is known to be bad about the way from a GPU to its NIC."""
    node, parts = end.view.node, []
    distance = "" if isinstance(node.topology, Missing) else node.topology.get((end.rail.hca, f"GPU{gpu}"), "")
    if distance and distance not in ("PIX", "PXB"):
        parts.append(f"GPU{gpu} and {end.rail.hca} are {distance} apart")
    if not isinstance(node.pcie_hints, Missing) and node.pcie_hints.acs_enabled:
        parts.append(f"ACS redirects at {node.pcie_hints.acs_enabled} bridges")
    return f"{end.view.name}: {', '.join(parts)}" if parts else ""


def of_together(facts: Facts, flows: Sequence[Flow], wanted: Mapping[str, float], found: Wired) -> str:
    """All rails of a node at once are slower than one by one. ``wanted``: Gbit/s by HCA that each should have kept."""
    marked: dict[str, int] = {}
    for node, hcas in ((flows[0].node, [f.hca for f in flows]), (flows[0].peer, [f.peer_hca for f in flows])):
        deltas = (found.counters or {}).get(node, ())
        for delta in () if isinstance(deltas, Missing) else deltas:
            for name, count in delta.congestion.items() if delta.device in hcas else ():
                marked[f"{name} of {node}"] = marked.get(f"{name} of {node}", 0) + count
    if marked:
        told = ", ".join(f"{name} rose by {n}" for name, n in list(marked.items())[:3])
        return f"likeliest is the switch or a PFC storm: it marked or paused what it could not carry ({told})"
    host = [f.at_once for f in found.host if f.node == flows[0].node and isinstance(f.at_once, float)]
    slow = [f for f in flows if isinstance(f.at_once, float) and f.at_once < wanted[f.hca]]
    bridge = _shared(facts, flows[0].node, [f.hca for f in slow], [f.hca for f in flows if f not in slow])
    where = f": {', '.join(f.hca for f in slow)} are all below {bridge}" if bridge else ""
    if host and len(host) == len(flows) and sum(host) >= sum(wanted.values()):
        return f"likeliest is PCIe that GPUs and NICs share{where}; host memory reaches {sum(host):.0f} Gbit/s on all rails at once"
    return f"likeliest is what the rails share: a PCIe switch or root port, one card with two ports, or a switch's uplink{where}"


def _shared(facts: Facts, node: str, slow: Sequence[str], fast: Sequence[str]) -> str:
    """The lowest PCIe bridge that all slow HCAs are below and no other; "" where there is none."""
    view = facts.of(node)
    pci, rdma = view.node.pci, view.node.rdma
    if isinstance(pci, Missing) or isinstance(rdma, Missing) or len(slow) < 2:
        return ""

    def above(name: str) -> tuple[str, ...]:
        hca = rdma.hca(name)
        device = pci.get(hca.pci) if hca is not None else None
        return device.path[:-1] if device is not None else ()

    others = {bridge for name in fast for bridge in above(name)}
    common = [bridge for bridge in above(slow[0]) if all(bridge in above(name) for name in slow) and bridge not in others]
    return common[-1] if common else ""


def of_all_reduce(facts: Facts, singles: Mapping[str, float], found: Wired | None, short: Iterable[str]) -> str:
    """The all-reduce over all nodes is slow. ``short``: what was said about all rails at once, where that fell short."""
    rails = {rail.subject: rail for view in facts.views for rail in view.rails}

    def below(subject: str, value: float) -> bool:
        floor = floor_of(rails[subject]) if subject in rails else None
        return floor is not None and value < floor

    if slow := [f"{subject} reaches {value:.0f} Gbit/s" for subject, value in singles.items() if below(subject, value)]:
        return f"likeliest is a wire: {', '.join(slow[:3])} alone (fabric.ib_write_bw)"
    flows = found.flows if found is not None else ()
    subjects = {f"{f.node} {f.hca}": f.best for f in flows if f.gpu is not None and f.verb == "write"}
    if slow := [f"{subject} reaches {x:.0f} Gbit/s" for subject, x in subjects.items() if isinstance(x, float) and below(subject, x)]:
        return f"likeliest is the way from GPU to NIC: {', '.join(slow[:3])} with GPU memory (fabric.gpu_write_bw)"
    if words := [w for w in short if w]:
        return f"likeliest is what the rails share (fabric.rails_together): {words[0]}"
    if not subjects:
        return "which part it is cannot be said: no wire was measured by itself with GPU memory"
    return (
        "likeliest is how NCCL uses the wires: with GPU memory they are whole, one by one and all at once; look for GDRDMA on every "
        "channel and for all rails in its log"
    )


def pcie_below(rail: RailView) -> str:
    """How far the card's PCIe link is below what the card can; "" where it is not, or nobody tells."""
    rdma, pci = rail.view.node.rdma, rail.view.node.pci
    if isinstance(rdma, Missing) or isinstance(pci, Missing):
        return ""
    hca = rdma.hca(rail.rail.hca)
    device = pci.get(hca.pci) if hca is not None else None
    if device is None or device.speed is None or device.speed_max is None or device.width is None or device.width_max is None:
        return ""
    if (device.speed, device.width) == (device.speed_max, device.width_max):
        return ""
    return f"it runs at {device.speed:g} GT/s x{device.width}, the card can do {device.speed_max:g} GT/s x{device.width_max}"
