"""Command line of the soft-RoCE lab: ``python -m tests.lab.vm build|up|save|down|status|inventory|link|ssh``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.core.errors import H20Error
from tests.lab.places import LabError
from tests.lab.vm import image, machines, places
from tests.lab.vm.plan import VmPlan, choose_accelerator


def parser() -> argparse.ArgumentParser:
    """The command line."""
    default = VmPlan()
    top = argparse.ArgumentParser(
        prog="python -m tests.lab.vm",
        description="Two small QEMU machines with rdma_rxe, sshd and dockerd: real verbs, no GPU. docs/lab.md",
    )
    sub = top.add_subparsers(dest="verb", required=True)
    build = sub.add_parser("build", help="make kernel and disk (once per host; root, a Debian mirror)")
    build.add_argument("--fresh", action="store_true", help="install the Debian packages anew")
    up = sub.add_parser("up", help="boot the machines and wait until they are ready")
    up.add_argument("-n", dest="size", type=int, default=default.size, help="number of machines (default: %(default)s)")
    up.add_argument("--rails", type=int, default=default.rails, help="rxe devices per machine (default: %(default)s)")
    up.add_argument("--memory", type=int, default=default.memory, help="MiB per machine (default: %(default)s)")
    up.add_argument("--mtu", type=int, default=default.mtu, help="MTU of the rails (default: %(default)s)")
    up.add_argument("--net", default=default.net, help="first two numbers of the nets (default: %(default)s)")
    up.add_argument("--restore", action="store_true", help="go on with the machines that `save` froze, as they were")
    up.add_argument("--timeout", type=float, default=240.0, help="seconds until they must be ready")
    sub.add_parser("save", help="freeze the ready machines for `up --restore`; they go down")
    sub.add_parser("down", help="take everything down, also what a killed `up` left")
    sub.add_parser("status", help="say what is up, as JSON; exit status 3 when not every machine is ready")
    sub.add_parser("inventory", help="print the inventory of these machines (that of environments/soft-roce.yaml, their addresses)")
    link = sub.add_parser("link", help="pull or plug the cable of a card, as its driver sees it")
    link.add_argument("node")
    link.add_argument("interface", help="eth0, eth1, ...")
    link.add_argument("state", choices=("on", "off"))
    ssh = sub.add_parser("ssh", help="run a command on a machine")
    ssh.add_argument("node")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    return top


def plan_of() -> VmPlan:
    """The machines that are up; raises ``LabError`` when none are."""
    plan = machines.load_plan(machines.state_file())
    if plan is None:
        raise LabError("the machines are not up; run `python -m tests.lab.vm up`")
    return plan


def start(args: argparse.Namespace) -> None:
    """``up``."""
    if args.restore:
        machines.restore(args.timeout)
        return
    accelerator = choose_accelerator(Path("/proc/cpuinfo").read_text(), os.access("/dev/kvm", os.W_OK))
    machines.up(VmPlan(args.size, args.rails, args.memory, args.mtu, args.net, accelerator), args.timeout)


def dispatch(args: argparse.Namespace) -> int:
    """Do one verb."""
    if args.verb == "build":
        image.build(args.fresh)
        return 0
    if args.verb == "up":
        start(args)
        return 0
    if args.verb == "down":
        known = machines.load_plan(machines.state_file())
        if known is not None:
            machines.down(known)
        return 0
    plan = plan_of()
    if args.verb == "status":
        found = machines.status(plan)
        told = {**dataclasses.asdict(plan), "nodes": [dataclasses.asdict(machine) for machine in found]}
        print(json.dumps({**told, "folder": str(places.run_dir())}, indent=1))
        return 0 if all(machine.ready for machine in found) else 3
    if args.verb == "save":
        machines.save(plan)
    elif args.verb == "link":
        machines.link(plan.machine(args.node), args.interface, args.state == "on")
    elif args.verb == "inventory":
        from tests.lab.vm import inventory

        print(inventory.render(plan), end="")
    else:
        return subprocess.call([*machines.ssh_command(plan.machine(args.node)), *args.command])
    return 0


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
