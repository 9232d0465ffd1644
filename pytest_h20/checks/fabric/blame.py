"""Which part is likeliest when a rail is slow, and which measurement speaks for it. One sentence; the first that fits."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.checks.fabric.measure import RailBandwidth, Witness
from pytest_h20.probes.facts import RailView
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
