"""From what is found on hosts to an inventory: rails paired by subnet, GID index scored, control interface by default route.
Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_h20.config.environments import environments
from pytest_h20.config.inventory import Inventory, parse_inventory
from pytest_h20.core.errors import UsageError
from pytest_h20.engines.base import EngineName, Version
from pytest_h20.engines.flags import unknown
from pytest_h20.engines.vllm import NATIVE_SINCE
from pytest_h20.lang import labelled, local
from pytest_h20.probes.gid import best
from pytest_h20.probes.gpu import Gpus, NvLinks
from pytest_h20.probes.host import System
from pytest_h20.probes.image import VERSIONS, Versions, parse_versions
from pytest_h20.probes.net import Interface, Network
from pytest_h20.probes.rdma import RdmaFacts
from pytest_h20.probes.script import Missing, Probe, integer, rows

C = TypeVar("C")


@dataclass(frozen=True)
class ModelFound:
    """A model folder: its config's ``model_type``, how many shards lie there, its vocabulary."""

    path: str
    model_type: str
    shards: int
    vocab_size: int | None

    @property
    def r1(self) -> bool:
        """The whole DeepSeek-R1 (or V3): by config and number of shards, not by the folder's name."""
        return self.model_type == "deepseek_v3" and self.shards == 163


def _models(text: str) -> tuple[ModelFound, ...]:
    return tuple(sorted((ModelFound(r[0], r[1], integer(r[2]) or 0, integer(r[3])) for r in rows(text, "model", 4)), key=lambda m: m.path))


MODELS = Probe(
    "models",
    r"""
for d in /ssd* /nvme* /data* /mnt /models /raid* /share* /opt /home /root /srv /var/lib; do
  [ -d "$d" ] && find "$d" -maxdepth 4 -name model.safetensors.index.json 2>/dev/null
done | sort -u | while IFS= read -r f; do
  p=${f%/*}; n=0; for s in "$p"/*.safetensors; do [ -e "$s" ] && n=$((n + 1)); done
  t=`sed -n 's/.*"model_type" *: *"\([^"]*\)".*/\1/p' "$p/config.json" 2>/dev/null | head -n 1`
  v=`sed -n 's/.*"vocab_size" *: *\([0-9]*\).*/\1/p' "$p/config.json" 2>/dev/null | head -n 1`
  printf 'model\t%s\t%s\t%s\t%s\n' "$p" "$t" $n "$v"
done
true
""",
    _models,
    seconds=30,
)
"""``models``: ``model<TAB>FOLDER<TAB>MODEL_TYPE<TAB>SHARDS<TAB>VOCAB_SIZE`` per folder with a safetensors index, in the usual places."""


def _images(text: str) -> tuple[str, ...]:
    return tuple(r[0] for r in rows(text, "image", 1))


IMAGES = Probe(
    "images",
    r"""
command -v docker >/dev/null || { echo "docker is not installed" >&2; exit 127; }
docker images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -v '<none>' | while IFS= read -r i; do printf 'image\t%s\n' "$i"; done
true
""",
    _images,
    seconds=30,
)
"""``images``: ``image<TAB>REPOSITORY:TAG`` per local image."""


def _reached(text: str) -> str:
    words = text.removeprefix("ssh=").split()
    return words[2] if len(words) == 4 else ""


REACHED = Probe("reached", 'echo "ssh=$SSH_CONNECTION"', _reached)
"""``reached``: ``ssh=CLIENT PORT SERVER PORT``: the address of this host that we came in by, behind any name, jump host or NAT."""

IMAGE_VERSION = Probe(
    "image_version",
    f"""command -v docker >/dev/null || {{ echo "docker is not installed" >&2; exit 127; }}
docker run --rm --network none --name "$2" --label "$3" --label "$4" --entrypoint /bin/sh "$1" -c {shlex.quote(VERSIONS.snippet)}
""",
    parse_versions,
    seconds=100,
)
"""``image_version IMAGE NAME LABEL LABEL``: what ``probes.image.VERSIONS`` says inside the image, in a container of this name
that is gone when it has answered."""


def image_version(image: str, name: str, labels: Mapping[str, str]) -> Probe[Versions]:
    """Ask this image, in a container of this name and with these two labels."""
    return IMAGE_VERSION.with_args(image, name, *(f"{key}={value}" for key, value in labels.items()))


@dataclass(frozen=True)
class Found:
    """What one host told."""

    address: str
    system: System | Missing
    network: Network | Missing
    rdma: RdmaFacts | Missing
    gpus: Gpus | Missing
    nvlinks: NvLinks | Missing
    models: tuple[ModelFound, ...] | Missing = ()
    images: tuple[str, ...] | Missing = ()
    reached: str | Missing = ""


@dataclass(frozen=True)
class Candidate:
    """An active RDMA port with an IPv4 address: a rail, if the other hosts have one in its network."""

    hca: str
    port: int
    interface: str
    address: str
    network: str
    gid_index: int | None
    rate_gbps: float | None


@dataclass
class Proposal:
    """The inventory as data, and what a person should know about it (each note becomes a comment)."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def control_of(host: Found) -> tuple[str, str]:
    """(interface, IPv4 address) of the control network: the default route's; without one, the interface with the address
    that we came in by (``$SSH_CONNECTION``, else the address given).

    Raises ``UsageError`` when neither is known.
    """
    n = host.network
    if isinstance(n, Missing):
        raise UsageError(f"{host.address}: its interfaces are not known: {n}")
    if n.default_v4:
        device, source = n.default_v4
        interface = n.interface(device)
        if interface and interface.ipv4:
            return device, source or str(interface.ipv4[0].ip)
    for address in (host.reached, host.address):
        reached = n.owner(address) if isinstance(address, str) and address else None
        if reached and reached.ipv4 and isinstance(address, str):
            return reached.name, address
    have = ", ".join(i.name for i in n.interfaces)
    raise UsageError(
        f"{host.address}: no default route, and no interface has this address or the one in $SSH_CONNECTION (there are {have}); "
        "give the host as an IP"
    )


def candidates(host: Found) -> list[Candidate]:
    """Every active RDMA port whose net device has an IPv4 address, in the order of their names."""
    if isinstance(host.rdma, Missing) or isinstance(host.network, Missing):
        return []
    found = []
    for port in host.rdma.ports:
        gids = host.rdma.port_gids(port.device, port.port)
        netdev = next((g.netdev for g in gids if g.netdev), "")
        interface: Interface | None = host.network.interface(netdev)
        if port.state != "ACTIVE" or interface is None or not interface.ipv4:
            continue
        own = interface.ipv4[0]
        right = best(gids, netdev, str(own.ip))
        found.append(
            Candidate(port.device, port.port, netdev, str(own.ip), str(own.network), right.index if right else None, port.rate_gbps)
        )
    return sorted(found, key=lambda c: [(int(n or -1), text) for n, text in re.findall("([0-9]{1,9})|([^0-9]+)", c.hca)])


def left_out(host: Found) -> list[str]:
    """Why a port of this host is no candidate for a rail, one sentence each."""
    if isinstance(host.rdma, Missing):
        return [f"its RDMA devices are not known: {host.rdma}"]
    taken = {(c.hca, c.port) for c in candidates(host)}
    found = []
    for port in host.rdma.ports:
        if (port.device, port.port) in taken or isinstance(host.network, Missing):
            continue
        netdev = next((g.netdev for g in host.rdma.port_gids(port.device, port.port) if g.netdev), "")
        why = f"its state is {port.state}, not ACTIVE" if port.state != "ACTIVE" else f"its interface {netdev} has no IPv4 address"
        if port.state == "ACTIVE" and host.network.interface(netdev) is None:
            why = "no network interface belongs to it" if not netdev else f"its interface {netdev} is not there"
        found.append(f"{port.device} port {port.port}: {why}: not used as a rail")
    return found


def rails_for(rails: int, gpus: int) -> str:
    """Why so many rails are wrong for so many GPUs; empty when they serve them evenly. One rail for two or four GPUs is a design; seven
    for eight are a loss."""
    return "" if not rails or rails >= gpus or gpus % rails == 0 else f"{rails} rails for {gpus} GPUs: one is missing, or was left out"


def pair_rails(hosts: Sequence[Sequence[Candidate]]) -> tuple[list[list[Candidate]], list[list[Candidate]]]:
    """Per host: the rails, in the same order everywhere (that of the first host), and the ports without a partner.

    Two ports are one rail when they are in one network. Where several ports of a host share a network, they are paired in order.
    """
    rails: list[list[Candidate]] = [[] for _ in hosts]
    left = [list(h) for h in hosts]
    for c in list(left[0]) if left else []:
        partners = [next((x for x in mine if x.network == c.network), None) for mine in left]
        if all(p is not None for p in partners):
            for i, p in enumerate(partners):
                if p is not None:
                    rails[i].append(p)
                    left[i].remove(p)
    return rails, left


def propose(
    hosts: Sequence[Found],
    *,
    like: Mapping[str, Any] | None = None,
    name: str = "discovered",
    ssh: Mapping[str, Any] | None = None,
    versions: Mapping[str, Versions | Missing] | None = None,
) -> Proposal:
    """An inventory for these hosts, the first one as head.

    ``versions``: what the images say (:func:`image_version`), by reference.
    ``like``: sections ``model``, ``engines``, ``load``, ``gates`` are taken from this inventory data. Raises ``UsageError`` when a
    host did not tell enough.
    """
    notes: list[str] = []
    controls = [control_of(h) for h in hosts]
    everything = [candidates(h) for h in hosts]
    apart = [[c for c in mine if c.interface != control] for mine, (control, _) in zip(everything, controls, strict=True)]
    rails, left = pair_rails(apart)
    if not any(rails) and all(everything):
        # The only RDMA port is the control network's: then it carries the collectives too.
        rails, left = pair_rails(everything)
        if any(rails):
            notes.append("the rails share the control interface: no separate RDMA network was found")
    if len(hosts) > 1 and not any(rails):
        notes.append("no RDMA port of the hosts is in a common IPv4 network: rails are missing, fill them in by hand")
    nodes = []
    for i, (host, (control, address)) in enumerate(zip(hosts, controls, strict=True)):
        nodes.append(_node(host, i, control, address, rails[i] if rails else [], everything[i], notes))
        gpus = 0 if isinstance(host.gpus, Missing) else len(host.gpus.gpus)
        if why := rails_for(len(rails[i]) if rails else 0, gpus):
            notes.append(f"{nodes[-1]['name']}: {why}")
        notes += [f"{nodes[-1]['name']}: {why}" for why in left_out(host)]
        notes += [
            f"{nodes[-1]['name']}: {c.hca} ({c.interface}, {c.network}) has no partner on the other hosts: not used as a rail"
            for c in (left[i] if left else [])
        ]
    real = not any(_software_rdma(h) for h in hosts)
    data: dict[str, Any] = {
        "name": name,
        "description": "Written by `python -m pytest_h20 discover`",
        "kind": "hardware" if real else "lab",
    }
    stood_in = _stood_in(hosts)
    if stood_in and real:
        notes.append(f"not on every host: {' and '.join(stood_in)}: an acceptance needs both, and will be red until they are there")
    elif stood_in:
        data["stood_in"] = stood_in
    if ssh:
        data["ssh"] = dict(ssh)
    data["nodes"] = nodes
    template = like if like is not None else DEFAULTS
    data["model"] = dict(template["model"]) if like is not None else _model(hosts, notes)
    data["engines"] = template["engines"] if like is not None else _engines(hosts, notes, versions or {}, data["model"])
    for section in ("load", "gates", "attach", "run_dir_on_node"):
        if like is not None and section in like:
            data[section] = like[section]
    data["expect"] = {**(dict(like.get("expect") or {}) if like is not None else {}), **_expect(hosts, rails, real)}
    return Proposal(data, notes)


def _software_rdma(host: Found) -> bool:
    """Every RDMA device of it is software (no PCI address): that is a lab. A device or driver that is missing or broken is not."""
    return not isinstance(host.rdma, Missing) and bool(host.rdma.hcas) and not any(h.pci for h in host.rdma.hcas)


def _on_pcie(host: Found, rails: Sequence[Candidate]) -> bool:
    if isinstance(host.rdma, Missing):
        return False
    return bool(rails) and all((hca := host.rdma.hca(r.hca)) is not None and bool(hca.pci) for r in rails)


def _node(
    host: Found,
    index: int,
    control: str,
    address: str,
    rails: Sequence[Candidate],
    everything: Sequence[Candidate],
    notes: list[str],
) -> dict[str, Any]:
    system = host.system
    own = "" if isinstance(system, Missing) else system.hostname.split(".")[0]
    name = own if re.match(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", own) and own != "localhost" else f"node{index + 1:02d}"
    node: dict[str, Any] = {"name": name, "address": host.address, "host_ip": address, "control_interface": control}
    indices = {r.gid_index for r in rails}
    common = indices.pop() if len(indices) == 1 else None
    if common is not None:
        node["gid_index"] = common
    listed = []
    for r in rails:
        rail: dict[str, Any] = {"hca": r.hca, "interface": r.interface, "address": r.address}
        if r.port != 1:
            rail["port"] = r.port
        if common is None and r.gid_index is not None:
            rail["gid_index"] = r.gid_index
        if r.gid_index is None:
            notes.append(f"{name}: {r.hca} has no RoCE v2 GID; gid_index is missing")
        listed.append(rail)
    if listed:
        node["rails"] = listed
    used = {(r.hca, r.port) for r in rails}
    others = [
        {"hca": c.hca, "interface": c.interface, "address": c.address, **({"port": c.port} if c.port != 1 else {})}
        for c in everything
        if (c.hca, c.port) not in used
    ]
    if others:
        node["other_hcas"] = others
    return node


def _common(lists: Sequence[Sequence[C]]) -> list[C]:
    return [x for x in lists[0] if all(x in other for other in lists[1:])] if lists else []


def _model(hosts: Sequence[Found], notes: list[str]) -> dict[str, Any]:
    shared = _common([() if isinstance(h.models, Missing) else h.models for h in hosts])
    shared.sort(key=lambda m: (not m.r1, "deepseek-r1" not in m.path.lower(), len(m.path)))
    if not shared:
        notes.append("no model folder was found on all hosts: model is the write-up's, correct host_path and path")
        return dict(DEFAULTS["model"])
    chosen = shared[0]
    parent, _, folder = chosen.path.rpartition("/")
    model: dict[str, Any] = {"host_path": parent or "/", "mount": "/mnt/models", "path": f"/mnt/models/{folder}"}
    if chosen.shards:
        model["shards"] = chosen.shards
    if chosen.r1:
        model["total_bytes"] = DEFAULTS["model"]["total_bytes"]
    if chosen.vocab_size and chosen.vocab_size >= 16:
        model["vocab_size"] = chosen.vocab_size
    model["kind"] = "deepseek-r1" if chosen.r1 else "other"
    if len(shared) > 1:
        notes.append(f"other models on all hosts: {', '.join(m.path for m in shared[1:6])}")
    return model


def engine_images(hosts: Sequence[Found]) -> dict[str, str]:
    """The image of each engine that is on all hosts."""
    images = _common([() if isinstance(h.images, Missing) else h.images for h in hosts])
    found = {e: next((i for i in images if re.search(pattern, i)), None) for e, pattern in ENGINE_IMAGES.items()}
    return {engine: image for engine, image in found.items() if image}


ENGINE_IMAGES: dict[EngineName, str] = {"sglang": r"(^|/)sglang\b", "vllm": r"(^|/)vllm\b|vllm-openai"}


def _for_version(engine: EngineName, image: str, profile: dict[str, Any], told: Versions | Missing | None, notes: list[str]) -> None:
    """Flags as this version takes them; what it is, is noted."""
    version = "" if told is None or isinstance(told, Missing) else told.package(engine)
    if not version:
        why = f": {told}" if isinstance(told, Missing) else ""
        notes.append(f"{engine}: the image {image} does not say its version{why}; the flags are those of the write-up's version")
        return
    notes.append(f"{engine}: the image {image} holds {engine} {version}")
    v, flags = Version.parse(version), profile["flags"]
    if engine == "vllm" and v.at_least("0.9.0") and flags.pop("enable-reasoning", None):
        notes.append("vllm: --enable-reasoning is left out: since 0.9.0 --reasoning-parser alone is enough")
    for name in [n for n in flags if unknown(engine, v, n)]:
        del flags[name]
        notes.append(f"{engine}: --{name} is left out: {engine} {version} has no such option")
    if profile.get("mode") == "ray" and isinstance(told, Versions) and not told.package("ray") and v.at_least(NATIVE_SINCE):
        profile["mode"] = "native"
        del profile["ray_port"]
        notes.append("vllm: mode: native: there is no Ray in the image")


def _for_model(engine: str, model: Mapping[str, Any], profile: dict[str, Any], notes: list[str]) -> None:
    """The write-up's context length is that of its own model's launch; another model knows its own, which may be shorter."""
    if model.get("kind") != "deepseek-r1" and profile.pop("max_model_len", None):
        profile["flags"].pop("max-model-len", None)
        notes.append(f"{engine}: --max-model-len is left out: the engine takes the model's own")


def _engines(
    hosts: Sequence[Found], notes: list[str], versions: Mapping[str, Versions | Missing], model: Mapping[str, Any]
) -> dict[str, Any]:
    images = engine_images(hosts)
    gpus = [len(h.gpus.gpus) for h in hosts if not isinstance(h.gpus, Missing)]
    ranks = sum(gpus) if len(gpus) == len(hosts) and len(set(gpus)) == 1 and gpus[0] else 16
    engines: dict[str, Any] = {}
    for engine in ENGINE_IMAGES:
        image = images.get(engine)
        if images and not image:
            notes.append(f"no {engine} image is on all hosts: the engine is left out")
            continue
        profile = {**deepcopy(DEFAULTS["engines"][engine]), "tensor_parallel": ranks, **({"image": image} if image else {})}
        if image:
            _for_version(engine, image, profile, versions.get(image), notes)
            _for_model(engine, model, profile, notes)
        else:
            notes.append(f"no {engine} image is on all hosts: the profile names the write-up's")
        if engine == "sglang" and ranks == 16 and _write_ups(hosts):
            profile["limits"] = str(environments() / "thresholds" / "sglang-default.yaml")
        else:
            notes.append(f"{engine}: no limits are known for it here, its throughput is not judged: --h20-calibrate writes them")
        engines[engine] = {"default": "default", "profiles": {"default": profile}}
    return engines


def _write_ups(hosts: Sequence[Found]) -> bool:
    """The write-up's machines and model: its figures are limits here."""
    h20 = all(not isinstance(h.gpus, Missing) and all(re.search(r"\bH20\b", g.name) for g in h.gpus.gpus) for h in hosts)
    return h20 and any(m.r1 for m in _common([() if isinstance(h.models, Missing) else h.models for h in hosts]))


def _stood_in(hosts: Sequence[Found]) -> list[str]:
    found = []
    if any(isinstance(h.gpus, Missing) for h in hosts):
        found.append("GPU")
    if any(isinstance(h.rdma, Missing) or any(not x.pci for x in h.rdma.hcas) for h in hosts):
        found.append("RDMA")
    return found


def _expect(hosts: Sequence[Found], rails: Sequence[Sequence[Candidate]], real: bool) -> dict[str, Any]:
    """What all hosts have in common; and, in a lab, which checks may stay unmeasured because the thing is not there."""
    expect: dict[str, Any] = {}
    gpus = [h.gpus for h in hosts if not isinstance(h.gpus, Missing)]
    allowed: list[str] = []
    if len(gpus) == len(hosts) and gpus:
        for key, values in (
            ("driver", {g.driver for g in gpus}),
            ("gpu_count", {len(g.gpus) for g in gpus}),
            ("gpu_model", {x.name for g in gpus for x in g.gpus}),
        ):
            if len(values) == 1 and (value := values.pop()):
                expect[key] = value
        links = {sum(s is not None for s in speeds) for h in hosts if not isinstance(h.nvlinks, Missing) for _, speeds in h.nvlinks.links}
        if len(links) == 1 and (count := links.pop()):
            expect["nvlinks"] = count
        if not real and any(g.source == "csv" for g in gpus):
            allowed += ["environment.gpu_*"]
    elif not real:
        allowed += ["environment.gpu*", "environment.driver*", "environment.cuda", "environment.nvlink", "fabric.gpudirect"]
        allowed += ["environment.nodes_agree", "environment.distinct_machines"]
    rates = {r.rate_gbps for mine in rails for r in mine if r.rate_gbps}
    if len(rates) == 1:
        expect["rail_rate_gbps"] = rates.pop()
    if not real:
        expect |= {"memlock_unlimited": False, "gpudirect": False, "all_reduce": False}
        allowed += ["fabric.gpudirect", "environment.driver_fits_image", "fabric.ib_*", "fabric.all_reduce*"]
    if any(rails) and not all(_on_pcie(h, r) for h, r in zip(hosts, rails, strict=True)):
        # Software RDMA tells a rate that nothing carries, and all rails share the CPU: measured, hardly judged.
        expect |= dict.fromkeys(("ib_write_bw_min", "rails_together_min", "rails_apart_min"), 0.001)
    if allowed:
        expect["unmeasured_ok"] = sorted(set(allowed))
    return expect


DEFAULTS: dict[str, Any] = {
    "model": {
        "host_path": "/ssd1/models",
        "mount": "/mnt/models",
        "path": "/mnt/models/DeepSeek-R1",
        "shards": 163,
        "total_bytes": 688574839360,
        "vocab_size": 129280,
        "kind": "deepseek-r1",
    },
    "engines": {
        "sglang": {
            "image": "lmsysorg/sglang:ea52b45be1a7",
            "tensor_parallel": 16,
            "http_port": 8000,
            "dist_port": 30000,
            "flags": {"trust-remote-code": True, "host": "0.0.0.0", "reasoning-parser": "deepseek-r1", "enable-metrics": True},
            "reasoning_parser": "deepseek-r1",
        },
        "vllm": {
            "image": "vllm/vllm-openai:v0.8.2",
            "mode": "ray",
            "tensor_parallel": 16,
            "http_port": 8000,
            "ray_port": 8379,
            "flags": {
                "host": "0.0.0.0",
                "trust-remote-code": True,
                "gpu-memory-utilization": 0.90,
                "max-model-len": 16384,
                "enable-reasoning": True,
                "reasoning-parser": "deepseek_r1",
            },
            "reasoning_parser": "deepseek_r1",
            "max_model_len": 16384,
        },
    },
}
"""The write-up's model and launches: what a discovered inventory names until someone says otherwise."""


def render(proposal: Proposal) -> str:
    """The YAML text, notes first. Whether it can be used as it is, :func:`check` says."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Rails on one line each, as people write them."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def mapping(dumper: yaml.SafeDumper, data: dict[str, Any]) -> yaml.Node:
        flat = "hca" in data
        return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flat)

    Dumper.add_representer(dict, mapping)
    text = yaml.dump(proposal.data, Dumper=Dumper, sort_keys=False, width=140, allow_unicode=True)
    head = [local("Found on the hosts; look it over, above all model and engines."), *(labelled("NOTE", note) for note in proposal.notes)]
    return "".join(f"# {line}\n" for line in head) + text


def check(proposal: Proposal) -> Inventory:
    """The proposal as a checked inventory. Raises ``UsageError`` where the hosts did not show what one needs (no common rail)."""
    return parse_inventory(proposal.data, "the discovered inventory")
