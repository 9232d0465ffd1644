"""Command line of the lab: ``python -m tests.lab setup|up|down|status|inventory|ssh``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence

from pytest_h20.core.errors import H20Error
from tests.lab import cluster
from tests.lab.places import DEFAULT_CLUSTER, LabError, cluster_dir
from tests.lab.plan import MAX_RAILS, ClusterPlan


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
    setup.add_argument("--only", choices=("packages", "engines", "model", "images"), help="this step only")
    up = sub.add_parser("up", help="bring the nodes up and wait until they are ready")
    up.add_argument("-n", dest="size", type=int, default=2, help="number of nodes (default: %(default)s)")
    up.add_argument("--rails", type=int, default=MAX_RAILS, help="rails per node, 0 to 8 (default: %(default)s)")
    up.add_argument("--net", default="10.99", help="first two numbers of the nets (default: %(default)s)")
    up.add_argument("--no-docker", action="store_true", help="sshd only")
    up.add_argument("--tmpfs", default="2G", help="memory limit of what a node writes (default: %(default)s)")
    up.add_argument("--timeout", type=float, default=90.0, help="seconds until the nodes must be ready")
    sub.add_parser("down", help="take everything down, also what a killed `up` left")
    sub.add_parser("status", help="say what is up, as JSON; exit status 3 when not every node is ready")
    sub.add_parser("inventory", help="print the inventory of this cluster (that of environments/lab.yaml, with its addresses)")
    ssh = sub.add_parser("ssh", help="run a command on a node")
    ssh.add_argument("node")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    return top


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

        return provision.setup(args.engines, args.only)
    if args.verb == "up":
        plan = ClusterPlan(args.name, args.size, args.rails, args.net, not args.no_docker, args.tmpfs)
        cluster.up(plan, args.timeout)
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

        print(inventory.render(plan), end="")
        return 0
    return subprocess.call([*cluster.ssh_command(plan, plan.node(args.node)), *args.command])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error the lab knows is one line and exit status 2."""
    args = parser().parse_args(argv)
    try:
        return dispatch(args)
    except H20Error as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
