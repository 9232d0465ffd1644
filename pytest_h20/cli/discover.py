"""``python -m pytest_h20 discover HOST HOST > inventory.yaml``: look at the hosts and write an inventory for them.

What the hosts do not show (rails that are down) is left for a person: the draft is written all the same, and what it lacks is said.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h20.cli import command_parser
from pytest_h20.cli.reach import add_ssh, split_host, ssh_words
from pytest_h20.core.errors import H20Error, TransportError, UsageError
from pytest_h20.lang import say, told

if TYPE_CHECKING:
    from pytest_h20.nodes import Node
    from pytest_h20.probes.discover import Proposal
    from pytest_h20.probes.image import Versions
    from pytest_h20.probes.script import Missing


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("discover", __doc__)
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="[user@]address[:port]; the first one becomes the head; 'local' is here")
    parser.add_argument("--hosts-from-slurm", action="store_true", help="the machines of the Slurm job this is in")
    parser.add_argument("--sudo", action="store_true", help="a login that is not root: `ssh.sudo` in what is written")
    add_ssh(parser)
    parser.add_argument("--like", metavar="FILE", help="take model, engines, load, expectations and the login from this inventory")
    parser.add_argument("--name", default="discovered", help="name of the inventory")
    return parser


def _spec(host: str, index: int, options: argparse.Namespace) -> dict[str, Any]:
    user, address, port = split_host(host)
    node: dict[str, Any] = {"name": f"host{index + 1}", "address": address, "control_interface": "unknown"}
    if address == "local":
        return {**node, "address": "127.0.0.1", "transport": "local"}
    ssh = {k: v for k, v in (("user", user), ("port", port)) if v is not None}
    if ssh:
        node["ssh"] = ssh
    return node


def discover(options: argparse.Namespace) -> Proposal:
    """Ask the hosts and propose. Raises ``H20Error`` with the host in it."""
    from pytest_h20.config.inventory import parse_inventory, read_file
    from pytest_h20.probes import gpu, host, net, rdma
    from pytest_h20.probes.discover import DEFAULTS, IMAGES, MODELS, REACHED, Found, engine_images, propose
    from pytest_h20.probes.script import build, split
    from pytest_h20.run.nodes import connect_all

    like: dict[str, Any] | None = None
    if options.like:
        read = read_file(Path(options.like))
        if not isinstance(read, dict) or not {"model", "engines"} <= set(read):
            raise UsageError(f"--like={options.like}: not an inventory (it needs model and engines)")
        like = read
    nodes = [_spec(h, i, options) for i, h in enumerate(options.hosts)]
    ssh = login(like, Path(options.like or ".").parent) | ssh_words(options) | ({"sudo": True} if options.sudo else {})
    engines = {k: {"default": "default", "profiles": {"default": v}} for k, v in DEFAULTS["engines"].items()}
    asking = {"name": "discover", "kind": "lab", "ssh": ssh, "nodes": nodes, "model": DEFAULTS["model"], "engines": engines}
    asked = parse_inventory(asking, "discover")
    connected = connect_all(asked)
    probes = (host.SYSTEM, net.NETWORK, rdma.RDMA, gpu.GPUS, gpu.NVLINKS, MODELS, IMAGES, REACHED)

    def one(spec: dict[str, Any]) -> Found | TransportError:
        node = connected[spec["name"]]
        try:
            sections = split(node.run(build(probes), timeout=120.0).stdout)
        except TransportError as error:
            return error
        return Found(
            spec["address"],
            host.SYSTEM.read(sections),
            net.NETWORK.read(sections),
            rdma.RDMA.read(sections),
            gpu.GPUS.read(sections),
            gpu.NVLINKS.read(sections),
            MODELS.read(sections),
            IMAGES.read(sections),
            REACHED.read(sections),
        )

    try:
        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            answers = list(pool.map(one, nodes))
        if silent := [str(answer) for answer in answers if isinstance(answer, TransportError)]:
            raise TransportError("\n".join(silent))
        found = [answer for answer in answers if isinstance(answer, Found)]
        head = connected[nodes[0]["name"]]
        images = () if like is not None else engine_images(found).values()
        versions = ask_images(head, asked.run_dir_on_node, images) if images else {}
    finally:
        for node in connected.values():
            node.close()
    proposal = propose(found, like=like, name=options.name, ssh=ssh or None, versions=versions)
    for node, spec in zip(proposal.data["nodes"], nodes, strict=True):
        if "ssh" in spec:
            node["ssh"] = spec["ssh"]
        if "transport" in spec:
            node["transport"] = spec["transport"]
    return proposal


def login(like: Mapping[str, Any] | None, folder: Path) -> dict[str, Any]:
    """How the inventory in ``folder`` that is followed logs in: what is given on the command line goes before it."""
    ssh = (like or {}).get("ssh")
    if not isinstance(ssh, dict):
        return {}
    return ssh | {name: str((folder / Path(str(ssh[name])).expanduser()).resolve()) for name in ("key", "known_hosts") if ssh.get(name)}


def ask_images(head: Node, base: str, images: Iterable[str]) -> dict[str, Versions | Missing]:
    """What the images on a node say about themselves. Each answers in a container that is written down there before it is made, as
    those of a run are, so that ``reap`` finds what a killed discover leaves."""
    from pytest_h20.cluster import labels
    from pytest_h20.cluster.launch import started_by
    from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner, end_processes, forget
    from pytest_h20.probes.discover import image_version
    from pytest_h20.probes.script import Missing, build, split

    run = f"discover-{secrets.token_hex(4)}"
    ledger = Ledger(head, base, run, Owner.me(started_by()))
    node = LedgerNode(head, ledger, nullcontext)
    names: dict[str, str] = {image: f"h20-{run}-{number}" for number, image in enumerate(images)}
    found: dict[str, Versions | Missing] = {}
    try:
        for image, name in names.items():
            ledger.note(container=name)
            probe = image_version(image, name, {labels.OWNER: "1", labels.RUN: run})
            found[image] = probe.read(split(node.run(build((probe,)), timeout=probe.seconds + 20.0).stdout))
        # A container whose client ended before it (a deadline, a connection) is still there.
        node.run("docker rm -f -- " + " ".join(["%s"] * len(names)) + " >/dev/null 2>&1 || true", *names.values())
        entry = ledger.entry()
        if entry is not None:
            end_processes(head, base, entry)
            forget(head, base, entry)
    except TransportError as error:
        found |= {image: Missing(str(error)) for image in names if image not in found}
    finally:
        ledger.close()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: the inventory is on standard output; 2: a host or the arguments were wrong, or what is on standard output lacks
    something that an inventory needs; one line says what."""
    parser = _parser()
    options = parser.parse_args(argv)
    if bool(options.hosts) == options.hosts_from_slurm:
        parser.error("give the hosts, or --hosts-from-slurm")
    try:
        if options.hosts_from_slurm:
            from pytest_h20.run import slurm

            options.hosts = slurm.hosts()
        proposal = discover(options)
    except H20Error as error:
        print(told(f"pytest_h20 discover: {error}"), file=sys.stderr)
        return 2
    return write(proposal)


def write(proposal: Proposal) -> int:
    """The YAML on standard output, the notes on standard error, and last what must be filled in before a run can use it."""
    from pytest_h20.probes.discover import check, render

    for note in proposal.notes:
        say(f"discover: {note}", sys.stderr)
    print(render(proposal), end="")
    try:
        check(proposal)
    except UsageError as error:
        draft = UsageError(f"what was written is a draft: {error}. Fill that in; --h20-plan says when it can be used")
        print(told(f"pytest_h20 discover: {draft}"), file=sys.stderr)
        return 2
    return 0
