"""What is there and what is not: the inventory names only what answered when it was written, so every run looks beyond it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, cluster_check, inventory, node_check
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.discover import rails_for
from pytest_h20.probes.facts import Facts, View
from pytest_h20.probes.rdma import Hca, PciDevice, Port, RdmaFacts
from pytest_h20.probes.script import Missing

_NAME_IT = "mend it and add it to nodes[].rails; if it is not meant to carry collectives, name it in nodes[].other_hcas"


def _kind(hca: Hca, pci: Mapping[str, PciDevice]) -> str:
    """What a device is, so that it can be counted with its like: PCI vendor and device, else what the driver calls it."""
    card = pci.get(hca.pci)
    return f"{card.vendor[2:]}:{card.device[2:]}" if card else hca.board or hca.type or "software"


def _pci(view: View) -> Mapping[str, PciDevice]:
    return {} if isinstance(view.node.pci, Missing) else view.node.pci


def _rail_kinds(view: View, rdma: RdmaFacts) -> set[str]:
    found = (rdma.hca(r.rail.hca) for r in view.rails)
    return {_kind(hca, _pci(view)) for hca in found if hca is not None}


def _slot(address: str) -> str:
    """A card without the number of its function: the second port of a bonded pair has no RDMA device of its own."""
    return address.rpartition(".")[0]


def _port_words(view: View, rdma: RdmaFacts, port: Port) -> str:
    netdev = next((g.netdev for g in rdma.port_gids(port.device, port.port) if g.netdev), "")
    words = port.state if port.state == "ACTIVE" or not port.phys else f"{port.state}, {port.phys}"
    network = view.node.network
    interface = None if isinstance(network, Missing) or not netdev else network.interface(netdev)
    if interface is not None and not interface.ipv4:
        words += ", no IPv4 address"
    return f"{port.device}:{port.port} ({', '.join(filter(None, (netdev, words)))})"


@node_check(
    "fabric.presence",
    "Nothing is missing, and nothing is left unnamed",
    "rdma",
    "pci",
    "gpus",
    always=True,
    action=_NAME_IT,
)
def presence(say: Say, view: View) -> Iterable[Verdict]:
    """Every RDMA port and card of the rails' kind is named by the inventory, there are as many rails as GPUs need, and every
    GPU on the PCI bus is one that nvidia-smi lists."""
    rdma, pci = view.node.rdma, view.node.pci
    if not view.spec.rails and not isinstance(rdma, RdmaFacts):
        return [say.skip("the inventory names no rail of this node, and it has no RDMA device"), _gpus(say, view)]
    if isinstance(rdma, Missing):
        return [say.missing(rdma), _gpus(say, view)]
    if isinstance(pci, Missing):
        return [say.missing(pci)]
    told = [_unnamed(say, view, rdma), _rails(say, view, rdma), _gpus(say, view)]
    named = {(h.hca, h.port) for h in view.spec.other_hcas}
    down = [_port_words(view, rdma, p) for p in rdma.ports if (p.device, p.port) in named and p.state != "ACTIVE"]
    if down:
        told.append(
            say.about(f"{view.name} other HCAs").warn(len(down), f"not active: {', '.join(down)}", action="check cable and switch port")
        )
    rates = {
        r.rail.hca: p.rate_gbps for r in view.rails if (p := rdma.port(r.rail.hca, r.rail.port)) and p.state == "ACTIVE" and p.rate_gbps
    }
    if len(set(rates.values())) > 1:
        shown = ", ".join(f"{hca} {rate:g}" for hca, rate in rates.items())
        told.append(say.about(f"{view.name} rates").warn(len(set(rates.values())), f"rails at different rates, Gbit/s: {shown}"))
    return told


def _unnamed(say: Say, view: View, rdma: RdmaFacts) -> Verdict:
    """Ports and cards that the inventory does not name. Of the rails' kind: red. Of another kind, or where no rail is named: told."""
    here = say.about(f"{view.name} HCAs")
    named = {(r.hca, r.port) for r in view.spec.rails} | {(h.hca, h.port) for h in view.spec.other_hcas}
    kinds = _rail_kinds(view, rdma)
    strange = [p for p in rdma.ports if (p.device, p.port) not in named and p.device not in rdma.virtual]
    alike = [p for p in strange if (hca := rdma.hca(p.device)) is not None and _kind(hca, _pci(view)) in kinds]
    seen = {_slot(h.pci) for h in rdma.hcas if h.pci}
    # A function that was given to a virtual machine is not the node's any more.
    cards = [
        c
        for c in _pci(view).values()
        if c.cls.startswith("0x02")
        and f"{c.vendor[2:]}:{c.device[2:]}" in kinds
        and _slot(c.address) not in seen
        and c.driver != "vfio-pci"
    ]
    wrong = [_port_words(view, rdma, p) for p in alike]
    wrong += [f"card {c.address} (no RDMA device, driver {c.driver or 'none'})" for c in cards]
    others: list[JsonValue] = [_port_words(view, rdma, p) for p in strange if p not in alike]
    details: dict[str, JsonValue] = {"unnamed": [*wrong], "other_kinds": others, "virtual": len(rdma.virtual)}
    if not wrong and others:
        return here.warn(len(others), f"not named by the inventory: {', '.join(map(str, others))}", action=_NAME_IT, details=details)
    limit = Limit(kind="max", value=0, unit="unnamed", origin=builtin("a rail that nobody names is missed by nobody"))
    reason = f"not named by the inventory: {', '.join(wrong)}"
    return here.judge(len(wrong), limit, reason=reason, details=details, of=len(rdma.ports) + len(cards))


def _gpu_count(view: View) -> int:
    """GPUs this node must have, by whatever tells most; 0 when it shows none."""
    listed = 0 if isinstance(view.node.gpus, Missing) else len(view.node.gpus.gpus)
    seen = max(listed, sum(c.gpu for c in _pci(view).values()))
    return max(seen, view.expect.gpu_count or 0) if seen else 0


def _rails(say: Say, view: View, rdma: RdmaFacts) -> Verdict:
    here, rails, gpus, wanted = say.about(f"{view.name} rails"), len(view.spec.rails), _gpu_count(view), view.expect.rails
    details: dict[str, JsonValue] = {"rails": rails, "gpus": gpus}
    if wanted is not None:
        limit = Limit(kind="equal", value=wanted, unit="rails", origin=inventory("rails"))
        return here.judge(rails if rdma.ports else None, limit, reason=f"the inventory names {rails} rails", details=details)
    if not rails:
        return here.skip("the inventory names no rail of this node", details=details)
    if not gpus:
        return here.skip("how many GPUs this node has is not known", details=details)
    why = rails_for(rails, gpus)
    if not why and rails < gpus:
        return here.warn(rails, f"{rails} rails for {gpus} GPUs: say so with expect.rails if the board has no more", details=details)
    limit = Limit(kind="min", value=gpus, unit="rails", origin=builtin("one rail per GPU, or per equal group of GPUs"))
    return here.judge(rails, limit, reason=why, details=details)


def _gpus(say: Say, view: View) -> Verdict:
    """GPUs on the bus that nvidia-smi does not list: it leaves one out that fell off, or that the driver could not start."""
    here, gpus, pci = say.about(f"{view.name} GPUs"), view.node.gpus, view.node.pci
    if isinstance(gpus, Missing):
        return here.skip(f"what nvidia-smi lists is not known: environment.gpu_* tell that ({gpus.reason})")
    if gpus.source == "csv":
        return here.skip("this nvidia-smi has no -q -x: where its GPUs are is not known")
    if isinstance(pci, Missing):
        return here.missing(pci)
    listed = {g.pci_address for g in gpus.gpus}
    lost = [
        f"{c.address} (driver {c.driver or 'none'})" for c in pci.values() if c.gpu and c.address not in listed and c.driver != "vfio-pci"
    ]
    details: dict[str, JsonValue] = {"listed": [*sorted(listed)], "lost": [*lost]}
    given = None if isinstance(view.node.driver, Missing) else view.node.driver.devices
    if lost and given is not None and given == len(listed):
        # /dev/nvidia* of these alone: we are in a container that was given some of the machine's GPUs.
        return here.warn(len(lost), f"{len(lost)} GPUs of this machine were not given to us: /dev has {given} of them", details=details)
    limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("what is on the bus must work"))
    reason = f"on the PCI bus, and not listed by nvidia-smi: {', '.join(lost)}"
    action = "dmesg | grep -i -e xid -e NVRM; power-cycle the node; reseat the GPU"
    return here.judge(len(lost), limit, reason=reason, action=action, details=details, of=len(listed) + len(lost))


def _counted(view: View, kinds: set[str]) -> Counter[str]:
    """How many of each thing a node has. ``kinds``: those of the rails, whose cards are counted too."""
    rdma, pci = view.node.rdma, _pci(view)
    found = Counter({"GPUs on the PCI bus": sum(c.gpu for c in pci.values())})
    if isinstance(rdma, RdmaFacts):
        found.update(f"RDMA devices {_kind(h, pci)}" for h in rdma.hcas if h.name not in rdma.virtual)
    models = (f"{c.vendor[2:]}:{c.device[2:]}" for c in pci.values() if c.cls.startswith("0x02"))
    found.update(f"cards {model}" for model in models if model in kinds)
    return found


@cluster_check(
    "fabric.presence_alike",
    "The nodes have as many of everything",
    "rdma",
    "pci",
    action="find the part that one node lacks: lspci, ibstat",
)
def presence_alike(say: Say, facts: Facts) -> Iterable[Verdict]:
    """Each node has as many GPUs on its bus and as many RDMA devices and cards of each kind as the others; a kind that carries no rail is
    a warning."""
    if len(facts.views) < 2:
        return [say.skip("one node only")]
    for view in facts.views:
        if isinstance(view.node.pci, Missing):
            return [say.missing(view.node.pci)]
        if isinstance(view.node.rdma, Missing) and view.spec.rails:
            return [say.missing(view.node.rdma)]
    kinds = {kind for v in facts.views if isinstance(v.node.rdma, RdmaFacts) for kind in _rail_kinds(v, v.node.rdma)}
    counts = {view.name: _counted(view, kinds) for view in facts.views}
    things = sorted({thing for found in counts.values() for thing, n in found.items() if n})
    unlike = {t: {name: found[t] for name, found in counts.items()} for t in things if len({found[t] for found in counts.values()}) > 1}
    told = []
    for thing, values in unlike.items():
        here = say.about(f"cluster {thing}")
        details: dict[str, JsonValue] = {"counts": dict(values)}
        reason = f"{thing}: " + ", ".join(f"{name} {n}" for name, n in values.items())
        if not thing.endswith(tuple(kinds)) and not thing.startswith("GPUs"):
            told.append(here.warn(reason, "a kind of device that carries no rail", details=details))
            continue
        limit = Limit(kind="min", value=max(values.values()), unit="of them", origin=Origin(kind="derived", detail="what another node has"))
        told.append(here.judge(min(values.values()), limit, reason=reason, details=details))
    limit = Limit(kind="min", value=1, unit="kinds in equal number", origin=builtin("something must have been compared"))
    equal = len(things) - len(unlike)
    if not equal and told:
        return told
    if not things:
        return [say.skip("neither GPU nor RDMA device on any node")]
    return [*told, say.judge(equal, limit, of=len(things))]
