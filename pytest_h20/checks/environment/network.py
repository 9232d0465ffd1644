"""Addresses, names, reachability, proxies, firewall."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, inventory, node_check, silence
from pytest_h20.core.verdict import Limit, Verdict
from pytest_h20.probes.facts import View
from pytest_h20.probes.image import address_rule
from pytest_h20.probes.script import Missing


@node_check(
    "environment.engine_ip",
    "The address the engine will use",
    "network",
    "image/engine_address",
    always=True,
    action="set host_ip of the node to an address of its control interface; VLLM_HOST_IP / SGLANG_HOST_IP per node",
)
def engine_ip(say: Say, view: View) -> Iterable[Verdict]:
    """The configured address belongs to the control interface, and the engine's own rule gives it inside the container (F03,
    F06, F13).

    Where the rule would give another address without the variables, that is told: the variables are then not optional.
    """
    n, wanted = view.node.network, view.spec.engine_ip
    here = builtin("other ranks connect to it")
    try:
        literal = str(ipaddress.ip_address(wanted))
    except ValueError:
        limit = Limit(kind="equal", value=True, origin=builtin("0.4.x and Ray want a number, not a name (F04)"))
        return [say.judge(False, limit, reason=f"{wanted!r} is a name; give host_ip as a number")]
    told: list[Verdict] = []
    if isinstance(n, Missing):
        told.append(say.missing(n))
    else:
        owner = n.owner(literal)
        limit = Limit(kind="equal", value=view.spec.control_interface, origin=here)
        reason = f"no interface of {view.name} has {literal}" if owner is None else f"{literal} is on {owner.name}"
        told.append(say.judge(owner.name if owner else "none", limit, reason=reason, details={"address": literal}))
    a, inside = view.node.engine_addresses, say.about(f"{view.name} container")
    if view.all.profile is None:
        return told
    if isinstance(a, Missing):
        return [*told, inside.missing(a)]
    versions = view.node.image_versions
    version = "" if isinstance(versions, Missing) else versions.package(view.all.engine)
    rule = address_rule(view.all.engine, version)
    computed = next((x for x in a if x.rule == rule and x.with_env), None)
    bare = next((x for x in a if x.rule == rule and not x.with_env), None)
    if computed is None:
        return [*told, inside.unknown(f"the rule {rule} gave nothing")]
    details: dict[str, JsonValue] = {
        "rule": rule,
        "decided_by": computed.how,
        "without_variables": bare.address if bare else "",
    }
    told.append(
        inside.judge(computed.address, Limit(kind="equal", value=literal, origin=here), reason=f"{rule}: {computed.how}", details=details)
    )
    if bare and bare.address != literal:
        told.append(
            say.about(f"{view.name} without variables").warn(
                bare.address,
                f"without VLLM_HOST_IP/SGLANG_HOST_IP the engine would take {bare.address} ({bare.how})",
                action="keep the variables set on this node in every launch",
            )
        )
    return told


@node_check(
    "environment.reach",
    "The engine's address is reached from the other nodes",
    "network",
    always=True,
    action="open the firewall between the nodes for all ports (torch, NCCL and Ray use random high ports: F14)",
)
def reach(say: Say, view: View) -> Iterable[Verdict]:
    """TCP from each other node to this node's engine address: on an ephemeral port, and on the ports the engine will use."""
    mine = [r for r in view.all.reach if r.target == view.name]
    if len(view.all.views) < 2:
        return [say.skip("one node only")]
    if not mine:
        return [say.unknown("no other node could try it")]
    told = []
    for r in mine:
        port = "an ephemeral port" if r.asked == 0 else f"port {r.asked}"
        evidence = tuple(p for k in (f"{r.source}/connect", f"{r.target}/listen") if (p := view.all.evidence.get(k)))
        here = say.about(f"{r.source} -> {view.name} {port}", evidence)
        if why := silence([view.all.of(r.source)]):
            told.append(here.skip(why))
            continue
        if isinstance(r.result, Missing):
            busy = "could not be listened on" in r.result.reason
            told.append(here.skip(f"{r.result} (see environment.ports)") if busy and r.asked else here.missing(r.result))
            continue
        limit = Limit(kind="equal", value="ok", origin=builtin("every rank connects to every other"))
        reason = f"{r.result.address}:{r.result.port}: {r.result.outcome}"
        told.append(here.judge(r.result.outcome, limit, reason=reason, details={"ms": r.result.ms}))
    return told


@node_check(
    "environment.hostname",
    "The host name resolves",
    "names",
    "image/names",
    action="put 'ADDRESS HOSTNAME' of every node in /etc/hosts of every node (F02)",
)
def hostname(say: Say, view: View) -> Verdict:
    """The node's own name resolves, and not to a loopback address: Gloo and Ray fall back to loopback then."""
    inside = view.node.image_names
    n = inside if not isinstance(inside, Missing) else view.node.names
    wanted = view.expect.hostname_resolves
    n = say.need(n, wanted=wanted is True)
    details: dict[str, JsonValue] = {"hostname": n.hostname, "resolved": list(n.resolved)}
    if wanted:
        fits = view.spec.engine_ip in n.resolved
        limit = Limit(kind="equal", value=True, origin=inventory("hostname_resolves"))
        return say.judge(fits, limit, reason=f"{n.hostname} resolves to {', '.join(n.resolved) or 'nothing'}", details=details)
    if wanted is False:
        return say.skip("expect.hostname_resolves is false", n.hostname, details)
    usable = [a for a in n.resolved if not a.startswith("127.") and a != "::1"]
    if not usable:
        told = ", ".join(n.resolved) or "nothing"
        return say.warn(
            n.hostname, f"{n.hostname} resolves to {told}: only GLOO_SOCKET_IFNAME keeps Gloo off the loopback", details=details
        )
    return say.judge(True, Limit(kind="equal", value=True, origin=builtin("Gloo and Ray resolve their own name")), details=details)


def _covered(no_proxy: str, address: str) -> bool:
    """Whether ``no_proxy`` names an address: exactly, by suffix, by network, or ``*``."""
    for entry in (e.strip() for e in no_proxy.split(",")):
        if entry in ("*", address) or (entry.startswith(".") and address.endswith(entry)):
            return True
        try:
            if "/" in entry and ipaddress.ip_address(address) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


@node_check(
    "environment.proxy",
    "No proxy between the nodes",
    "proxies",
    "image/proxies",
    always=True,
    action="unset the variables for the container, or list every node in no_proxy (F15); see ~/.docker/config.json too",
)
def proxy(say: Say, view: View) -> Verdict:
    """The container has no proxy variable that would catch requests between the nodes. On the host alone it is a warning."""
    outside, inside = view.node.proxies, view.node.image_proxies
    if view.expect.proxy:
        return say.skip("expect.proxy says that proxies are intended", "" if isinstance(inside, Missing) else dict(inside.active))
    known = inside if not isinstance(inside, Missing) else outside
    if view.all.profile is not None and isinstance(inside, Missing):
        return say.missing(inside)
    if isinstance(known, Missing):
        return say.missing(known)
    addresses = [v.spec.engine_ip for v in view.all.views]
    open_ = [a for a in addresses if not _covered(known.get("no_proxy"), a)]
    details: dict[str, JsonValue] = {"proxies": dict(known.active), "no_proxy": known.get("no_proxy"), "not_covered": [*open_]}
    if known.active and open_:
        limit = Limit(
            kind="max",
            value=0,
            unit="nodes behind a proxy",
            origin=builtin("requests between the nodes must go straight (F15)"),
        )
        return say.judge(
            len(open_),
            limit,
            reason=f"{', '.join(known.active)} set, no_proxy does not cover {', '.join(open_)}",
            details=details,
        )
    if not isinstance(outside, Missing) and outside.active:
        return say.warn(
            len(outside.active),
            "the node itself has proxy variables; the container does not use them for the nodes",
            details=details,
        )
    return say.judge(
        0,
        Limit(kind="max", value=0, unit="nodes behind a proxy", origin=builtin("requests between the nodes must go straight")),
        details=details,
    )


@node_check("environment.firewall", "Firewall", "firewall", action="systemctl stop firewalld, or allow all traffic between the nodes")
def firewall(say: Say, view: View) -> Verdict:
    """No firewall service and no dropping rule; only told as a warning unless ``expect.firewall`` is false: the connections
    decide."""
    f, wanted = view.node.firewall, view.expect.firewall
    f = say.need(f, wanted=wanted is False)
    active = bool(f.services) or f.input_policy in ("DROP", "REJECT") or f.input_drops > 0 or bool(f.nft_drops)
    details: dict[str, JsonValue] = {
        "services": list(f.services),
        "policy": f.input_policy,
        "drops": f.input_drops,
        "nft_drops": f.nft_drops,
    }
    told = f"services {', '.join(f.services) or 'none'}, INPUT policy {f.input_policy or '?'}, {f.input_drops} dropping rules"
    if wanted is False:
        return say.judge(active, Limit(kind="equal", value=False, origin=inventory("firewall")), reason=told, details=details)
    if active and wanted is None:
        return say.warn(True, told, details=details)
    return say.judge(
        True if wanted else not active,
        Limit(kind="equal", value=True, origin=builtin("nothing that could drop connections")),
        details=details,
    )


@node_check(
    "environment.control_interface",
    "The control interface",
    "network",
    always=True,
    action="ip link set IFACE up; correct control_interface of the node",
)
def control_interface(say: Say, view: View) -> Iterable[Verdict]:
    """The interface of the control network exists, is up, and has the expected MTU (NCCL's and Gloo's bootstrap use it)."""
    n, name = say.need(view.node.network), view.spec.control_interface
    i = n.interface(name)
    up = i is not None and (i.carrier is True or i.state in ("up", "unknown"))
    have = ", ".join(x.name for x in n.interfaces)
    reason = f"there is no interface {name}; there are {have}" if i is None else f"{name} is {i.state}"
    told = [
        say.judge(
            up,
            Limit(kind="equal", value=True, origin=builtin("NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name it")),
            reason=reason,
        )
    ]
    if view.expect.mtu is not None:
        limit = Limit(kind="equal", value=view.expect.mtu, unit="bytes", origin=inventory("mtu"))
        told.append(say.about(f"{view.name} MTU").judge(i.mtu if i else None, limit))
    return told
