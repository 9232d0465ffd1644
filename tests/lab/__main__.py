"""Command line of the lab: ``python -m tests.lab setup|up|down|status|inventory|ssh``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.core.errors import H20Error
from tests.lab import cluster
from tests.lab.gpu import build, machine, pack
from tests.lab.node import PATH
from tests.lab.places import DEFAULT_CLUSTER, MODEL_NAME, LabError, cluster_dir, lab_dir
from tests.lab.plan import LOGINS, MAX_RAILS, ClusterPlan


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Stand-in nodes in network namespaces: real sshd, dockerd and engines; no GPU, no RDMA. docs/lab.md",
    )
    top.add_argument("--name", default=DEFAULT_CLUSTER, help="which cluster, when there are several (default: %(default)s)")
    sub = top.add_subparsers(dest="verb", required=True)
    setup = sub.add_parser("setup", help="install what the lab needs, make model and image (once per machine)")
    setup.add_argument("--with", dest="engines", action="append", default=[], metavar="ENGINE", help="another engine: sglang")
    setup.add_argument("--gpus", action="store_true", help="what a GPU lab needs, for this machine's own Python and torch")
    setup.add_argument("--only", choices=("packages", "engines", "model", "images"), help="this step only")
    up = sub.add_parser("up", help="bring the nodes up and wait until they are ready")
    up.add_argument("-n", dest="size", type=int, default=2, help="number of nodes (default: %(default)s)")
    up.add_argument("--gpus", type=int, nargs="?", const=-1, default=0, help="real GPUs, shared out evenly (default: all of this machine)")
    up.add_argument("--rails", type=int, help="rails per node, 0 to 8 (default: 8; with --gpus 1)")
    up.add_argument("--net", default="10.99", help="first two numbers of the nets (default: %(default)s)")
    up.add_argument("--login", choices=LOGINS, default="root", help="who logs in: " + "; ".join(f"{k}: {v}" for k, v in LOGINS.items()))
    up.add_argument("--no-docker", action="store_true", help="sshd only")
    up.add_argument("--tmpfs", default="2G", help="memory limit of what a node writes (default: %(default)s)")
    up.add_argument("--timeout", type=float, default=90.0, help="seconds until the nodes must be ready")
    packing = sub.add_parser("pack", help="prepare a GPU lab for a machine without a network")
    packing.add_argument("--gpus", type=Path, required=True, metavar="DIR", help="where the parts go")
    packing.add_argument(
        "--engine", dest="engines", action="append", default=[], metavar="ENGINE", help="vllm or sglang, repeatable (default: vllm)"
    )
    packing.add_argument("--part-size", type=size, default=size("60M"), help="bytes at most of each part: 60M, 1G (default: 60M)")
    packing.add_argument("--python", default="3.12", help="version of that machine's Python, the one with torch (default: %(default)s)")
    packing.add_argument("--have", type=Path, help="its `pip freeze`: what it names is not packed, unless a version is pinned")
    packing.add_argument("--chip", type=int, default=90, help="compute capability of its GPUs, without the dot (default: %(default)s)")
    unpacking = sub.add_parser("unpack", help="fill the lab's folder from the parts that `pack` made")
    unpacking.add_argument("folder", type=Path)
    sub.add_parser("down", help="take everything down, also what a killed `up` left")
    sub.add_parser("status", help="say what is up, as JSON; exit status 3 when not every node is ready")
    inventory = sub.add_parser("inventory", help="print the inventory of this cluster: environments/lab.yaml or gpu-lab.yaml, filled in")
    inventory.add_argument("--model", default=MODEL_NAME, help="of a GPU lab: which model it serves (default: %(default)s)")
    ssh = sub.add_parser("ssh", help="run a command on a node")
    ssh.add_argument("node")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    return top


def size(text: str) -> int:
    """Bytes of a number with K, M or G behind it, or without."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give 60M, 1G or a number of bytes")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def plan_of(name: str) -> ClusterPlan:
    """The cluster that is up; raises ``LabError`` when it is not."""
    plan = cluster.load_plan(cluster_dir(name) / "cluster.json")
    if plan is None:
        raise LabError(f"cluster {name!r} is not up; run `python -m tests.lab up`")
    return plan


def dispatch(args: argparse.Namespace) -> int:
    """Do one verb."""
    if args.verb == "setup":
        from tests.lab import provision

        if args.gpus:
            return provision.setup_gpus(args.engines, args.only)
        return provision.setup(args.engines, args.only)
    if args.verb == "up":
        gpus = len(machine.gpu_indices(machine.device_names())) if args.gpus < 0 else args.gpus
        if args.gpus < 0 and not gpus:
            raise LabError("--gpus: no NVIDIA GPU in /dev; without the option GPUs are stood in")
        rails = args.rails if args.rails is not None else 1 if gpus else MAX_RAILS
        plan = ClusterPlan(args.name, args.size, rails, args.net, not args.no_docker, args.tmpfs, gpus, args.login)
        if gpus:
            build.borrow()
            build.make_images()
        cluster.up(plan, args.timeout)
        return 0
    if args.verb == "pack":
        try:
            have = pack.names(args.have.read_text()) if args.have else frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(f"--have={args.have}: {error}; give what `pip freeze` prints on that machine") from None
        pack.pack(args.gpus, args.part_size, pack.Target(args.python, args.chip, have), pack.engines_of(args.engines))
        return 0
    if args.verb == "unpack":
        pack.unpack(args.folder)
        return 0
    if args.verb == "down":
        known = cluster.load_plan(cluster_dir(args.name) / "cluster.json")
        if known is not None:
            cluster.down(known)
        return 0
    plan = plan_of(args.name)
    if args.verb == "status":
        nodes = cluster.status(plan)
        print(json.dumps({**dataclasses.asdict(plan), "nodes": [dataclasses.asdict(node) for node in nodes]}, indent=1))
        return 0 if all(node.alive and node.ready for node in nodes) else 3
    if args.verb == "inventory":
        from tests.lab import inventory
        from tests.lab.gpu import inventory as gpu_inventory

        print(gpu_inventory.render(plan, args.model) if plan.gpus else inventory.render(plan), end="")
        return 0
    return subprocess.call([*cluster.ssh_command(plan, plan.node(args.node)), *args.command])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error the lab knows is one line and exit status 2."""
    args = parser().parse_args(argv)
    os.environ["PATH"] = f"{lab_dir()}/bin:{PATH}:{os.environ.get('PATH', '')}"  # programs of a GPU lab's own, see gpu/build.py
    try:
        return dispatch(args)
    except H20Error as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
