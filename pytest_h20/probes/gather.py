"""Gather the facts of all nodes: side by side, so that the time is that of the slowest node, not their sum.

Per node: one round trip for all host probes, three short ones for the clock, one container for everything inside the image;
then,
when all addresses are known, one to listen, one to connect and ping, one to end our listener.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar, cast

from pytest_h20.config.inventory import Inventory, NodeSpec, Profile
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes.base import Node
from pytest_h20.probes import gpu, host, image, kernel_log, net, rdma, wire
from pytest_h20.probes.clock import measure
from pytest_h20.probes.facts import Facts, NodeFacts, RailPing, Reach, View
from pytest_h20.probes.script import Follows, Missing, Probe, Section, build, split

T = TypeVar("T")
Record = Callable[[str, str], str]

# More nodes than this are not connected each with each: every node then tries the head and its two neighbours.
FULL_MESH = 8


def host_probes(inventory: Inventory) -> tuple[Probe[object], ...]:
    """The probes of the first round trip, with their arguments."""
    folders = [inventory.model.on_host, inventory.run_dir_on_node, "/var/lib/docker", "/tmp"]
    return (
        host.SYSTEM,
        host.TUNING,
        host.LIMITS,
        host.NCCL_SHM,
        host.NAMES,
        host.PROXIES,
        host.DISKS.with_args(*dict.fromkeys(folders)),
        host.TOOLS,
        gpu.GPUS,
        gpu.NVLINKS,
        gpu.GPU_OWNERS,
        gpu.DRIVER,
        gpu.FABRIC_MANAGER,
        gpu.TOPOLOGY,
        kernel_log.KERNEL_LOG,
        rdma.RDMA,
        rdma.IBDEV2NETDEV,
        rdma.SHOW_GIDS,
        rdma.QOS,
        rdma.PCIE_HINTS,
        rdma.PCI,
        wire.WIRES,
        net.NETWORK,
        net.FIREWALL,
        net.LISTENERS,
    )


def image_probes(inventory: Inventory) -> tuple[Probe[object], ...]:
    """The probes that run in a container of the engine's image."""
    return (
        image.VERSIONS,
        image.DEVICES,
        host.LIMITS,
        host.NAMES,
        host.PROXIES,
        image.MODEL_FOLDER.with_args(inventory.model.path),
        image.ENGINE_ADDRESS,
        wire.NCCL_SETTINGS,
    )


def launch_env(node: NodeSpec) -> dict[str, str]:
    """The address variables the engines are started with on a node; for a launcher that sets others, pass its own to
    ``gather``."""
    return {"VLLM_HOST_IP": node.engine_ip, "SGLANG_HOST_IP": node.engine_ip, "HOST_IP": node.engine_ip}


def engine_ports(profile: Profile | None, engine: str, head: bool) -> tuple[int, ...]:
    """The fixed ports a node must have free: HTTP on every node (SGLang's dummy server on rank >= 1 too), the rendezvous on
    the head."""
    if profile is None:
        return ()
    ports = [profile.http_port]
    if head:
        ports += [profile.dist_port] if profile.dist_port else []
        if engine == "vllm" and profile.mode != "native":
            ports.append(profile.ray_port)
    return tuple(dict.fromkeys(ports))


def gather(
    nodes: Mapping[str, Node],
    inventory: Inventory,
    *,
    engine: str = "",
    profile: Profile | None = None,
    env: Mapping[str, Mapping[str, str]] | None = None,
    record: Record | None = None,
    in_image: bool = True,
) -> Facts:
    """All facts of ``nodes``.

    ``engine``/``profile``: what will be started (``Inventory.engine_profile``); without a profile nothing about the image is
    asked.
    ``env``: per node, the environment the engine's container gets. ``record(name, text)`` stores a section and returns its
    path.
    A node that cannot be reached has only ``Missing`` facts; nothing is raised for it.
    """
    specs = [n for n in inventory.nodes if n.name in nodes]
    keep = record or (lambda name, text: name)

    def one(spec: NodeSpec) -> NodeFacts:
        return _node_facts(
            nodes[spec.name],
            spec,
            inventory,
            profile if in_image else None,
            dict((env or {}).get(spec.name, launch_env(spec))),
            keep,
        )

    with ThreadPoolExecutor(max_workers=max(1, len(specs)), thread_name_prefix="h20-probe") as pool:
        found = dict(zip([s.name for s in specs], pool.map(one, specs), strict=True))
        facts = Facts(inventory, engine, profile, found)
        if len(specs) < 2:
            return facts
        evidence: dict[str, str] = {}
        reach, pings = _cross(nodes, facts, pool, keep, evidence)
    return replace(facts, reach=reach, pings=pings, evidence=evidence)


def ask(
    node: Node, probes: Sequence[Probe[object]], keep: Record, prefix: str, timeout: float = 120.0
) -> tuple[dict[str, object], dict[str, str]]:
    """One round trip: facts by probe name, and where each section was recorded. A broken connection makes every fact
    ``Missing``."""
    try:
        stdout = node.run(build(probes), timeout=timeout).stdout
    except TransportError as error:
        told = str(error)
        lost = Missing(told if told.startswith(node.name) else f"{node.name}: {told}", "see that `ssh` to it works with the same settings")
        return {p.name: lost for p in probes}, {}
    return _read(stdout, probes, keep, prefix)


def _read(stdout: str, probes: Sequence[Probe[object]], keep: Record, prefix: str) -> tuple[dict[str, object], dict[str, str]]:
    sections = split(stdout)
    evidence = {name: keep(f"{prefix}/{name}.txt", section_text(name, s)) for name, s in sections.items()}
    facts: dict[str, object] = {p.name: p.read(sections) for p in probes}
    lacking = {name: lost for name, section in sections.items() if (lost := section.without_rights)}
    return {**facts, **({"without_rights": lacking} if lacking else {})}, evidence


def section_text(name: str, section: Section) -> str:
    """A section as it is stored for people: output first, then errors and exit status."""
    tail = f"\n--- standard error ---\n{section.err}" if section.err.strip() else ""
    cut = "\n--- cut: the connection ended here ---" if section.cut else ""
    return f"{section.out}{tail}{cut}\n--- probe {name}, exit status {section.rc} ---\n"


def _try(what: str, call: Callable[[], T], hint: str = "") -> T | Missing:
    try:
        return call()
    except H20Error as error:
        return Missing(f"{what}: {error}", hint)


def _node_facts(node: Node, spec: NodeSpec, inventory: Inventory, profile: Profile | None, env: dict[str, str], keep: Record) -> NodeFacts:
    start = time.monotonic()
    f, evidence = ask(node, host_probes(inventory), keep, f"probes/{spec.name}")
    clock = _try("clock", lambda: measure(node))
    daemon = _try("docker", lambda: node.containers.daemon(), "install docker, start its daemon, and let this user reach its socket")
    inside: dict[str, object]
    no_image: object
    if profile is None:
        no_image = Missing("no engine profile was given")
        inside = {p.name: no_image for p in image_probes(inventory)}
    else:
        name = profile.image
        if isinstance(daemon, Missing):
            no_image = Follows(daemon.reason, daemon.hint, "environment.docker", spec.name)
        else:
            asked = _try("image", lambda: node.containers.image(name))
            lost = Missing(f"image {name} is not on node {spec.name}", f"docker pull {name}") if asked is None else asked
            no_image = Follows(lost.reason, lost.hint, "environment.image", spec.name) if isinstance(lost, Missing) else lost
        if isinstance(no_image, Missing):
            inside = {p.name: no_image for p in image_probes(inventory)}
        else:
            inside, more = _ask_image(node, spec, inventory, profile, env, keep)
            evidence.update(more)
    disks, gpus = f["disks"], f["gpus"]
    if isinstance(gpus, Missing) and inventory.expect_of(spec).gpu_count is not None:
        f["gpus"] = Follows(gpus.reason, gpus.hint, "environment.gpu_count", spec.name)
    values = {
        "name": spec.name,
        **{k: f[k] for k in NodeFacts.__dataclass_fields__ if k in f},
        "clock": clock,
        "daemon": daemon,
        "image": no_image,
        "image_versions": inside["image_versions"],
        "image_devices": inside["image_devices"],
        "image_limits": inside["limits"],
        "image_names": inside["names"],
        "image_proxies": inside["proxies"],
        "model_folder": inside["model_folder"],
        "engine_addresses": inside["engine_address"],
        "nccl_settings": inside["nccl_settings"],
        "host_model": disks
        if isinstance(disks, Missing)
        else cast("Mapping[str, host.Disk]", disks).get(
            inventory.model.on_host, Missing(f"the node said nothing about {inventory.model.on_host}")
        ),
        "evidence": evidence,
        "seconds": time.monotonic() - start,
    }
    return NodeFacts(**values)  # type: ignore[arg-type]


def _ask_image(
    node: Node, spec: NodeSpec, inventory: Inventory, profile: Profile, env: dict[str, str], keep: Record
) -> tuple[dict[str, object], dict[str, str]]:
    probes = image_probes(inventory)
    run = uuid.uuid4().hex[:12]
    container = image.container_spec(inventory, spec, profile, ["sh", "-c", build(probes)], env, f"h20-probe-{spec.name}-{run}", run)
    try:
        result = node.containers.run(container, timeout=180.0)
    except H20Error as error:
        lost = Missing(f"no container of {profile.image} could be run on {spec.name}: {error}", "see `docker run` on the node")
        return {p.name: lost for p in probes}, {}
    facts, evidence = _read(result.stdout, probes, keep, f"probes/{spec.name}/image")
    return facts, {f"image/{k}": v for k, v in evidence.items()}


def _targets(views: Sequence[View], at: int) -> list[int]:
    if len(views) <= FULL_MESH:
        return [i for i in range(len(views)) if i != at]
    return sorted({0, (at + 1) % len(views), (at - 1) % len(views)} - {at})


def _cross(
    nodes: Mapping[str, Node], facts: Facts, pool: ThreadPoolExecutor, keep: Record, evidence: dict[str, str]
) -> tuple[tuple[Reach, ...], tuple[RailPing, ...]]:
    """Listen everywhere, connect and ping from everywhere, end our listeners."""
    views = facts.views
    seconds = 60

    def listen(v: View) -> object:
        ports = (0, *engine_ports(facts.profile, facts.engine, v.head))
        probe = net.LISTEN.with_args(seconds, *ports)
        answer, where = ask(nodes[v.name], [probe], keep, f"probes/{v.name}")
        evidence.update({f"{v.name}/{k}": p for k, p in where.items()})
        return answer["listen"]

    listening = list(pool.map(listen, views))
    try:
        asked = list(pool.map(lambda i: _connect_and_ping(nodes, views, i, listening, keep, evidence), range(len(views))))
    finally:
        list(pool.map(lambda pair: _stop(nodes[pair[0].name], pair[1]), zip(views, listening, strict=True)))
    return tuple(r for reach, _ in asked for r in reach), tuple(p for _, pings in asked for p in pings)


STOP_LISTEN = Probe("stop_listen", 'kill "$1" 2>/dev/null; echo "stopped=$1"', lambda text: text.strip())


def _stop(node: Node, listening: object) -> None:
    if isinstance(listening, net.Listening):
        try:
            node.run(build([STOP_LISTEN.with_args(listening.pid)]))
        except TransportError:
            return  # it ends by itself


def _connect_and_ping(
    nodes: Mapping[str, Node],
    views: Sequence[View],
    at: int,
    listening: Sequence[object],
    keep: Record,
    evidence: dict[str, str],
) -> tuple[list[Reach], list[RailPing]]:
    view = views[at]
    wanted: list[tuple[str, int, str, int]] = []
    reach: list[Reach] = []
    for i in _targets(views, at):
        target, there = views[i], listening[i]
        if isinstance(there, net.Listening):
            wanted += [(target.name, asked, target.spec.engine_ip, port) for asked, port in there.bound]
            reach += [
                Reach(view.name, target.name, asked, Missing(f"port {asked} on {target.name} could not be listened on: {words}"))
                for asked, words in there.errors
            ]
        else:
            reach.append(Reach(view.name, target.name, 0, there if isinstance(there, Missing) else Missing("no listener")))
    triples, rails = _ping_args(view)
    probes: list[Probe[object]] = []
    if wanted:
        probes.append(net.CONNECT.with_args(*(x for w in wanted for x in (w[2], w[3]))))
    if triples:
        probes.append(net.PING.with_args(*triples))
    answer: dict[str, object] = {}
    if probes:
        answer, where = ask(nodes[view.name], probes, keep, f"probes/{view.name}")
        evidence.update({f"{view.name}/{k}": p for k, p in where.items()})
    reach += _reach(view.name, wanted, answer.get("connect"))
    return reach, _pings(view, rails, answer.get("ping"))


def _reach(source: str, wanted: Iterable[tuple[str, int, str, int]], answer: object) -> list[Reach]:
    by_target = {(c.address, c.port): c for c in cast("tuple[net.Connect, ...]", answer)} if isinstance(answer, tuple) else {}
    lost = answer if isinstance(answer, Missing) else Missing("the probe gave no answer for it")
    return [Reach(source, name, asked, by_target.get((ip, port), lost)) for name, asked, ip, port in wanted]


def _ping_args(view: View) -> tuple[list[object], list[tuple[str, str, str]]]:
    """Arguments of the ping probe, and per triple (hca, peer node, peer address). Only rails whose interface, MTU and peer
    are known."""
    arguments: list[object] = []
    rails: list[tuple[str, str, str]] = []
    network = view.node.network
    for r in view.rails:
        peer = r.peer
        interface = None if isinstance(network, Missing) else network.interface(r.rail.interface)
        if peer is None or not re.match(r"^\d+\.\d+\.\d+\.\d+$", peer.address) or interface is None or not interface.mtu:
            continue
        arguments += [r.rail.interface, peer.address, max(interface.mtu - 28, 56)]
        rails.append((r.rail.hca, peer.view.name, peer.address))
    return arguments, rails


def _pings(view: View, rails: Sequence[tuple[str, str, str]], answer: object) -> list[RailPing]:
    results = list(cast("tuple[net.Ping, ...]", answer)) if isinstance(answer, tuple) else []
    lost = answer if isinstance(answer, Missing) else Missing("the probe gave no answer for it")
    found = []
    for hca, peer, address in rails:
        interface = view.rail(hca).rail.interface
        one = next((p for p in results if (p.interface, p.peer) == (interface, address)), None)
        found.append(RailPing(view.name, hca, peer, one if one is not None else lost))
    return found
