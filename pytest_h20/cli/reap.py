"""``python -m pytest_h20 reap --nodes INVENTORY``: remove what dead runs left: containers, processes, folders.

A run that lives is left alone, and so is one that was kept (``--h20-keep``), unless it is named with --run or --all is given. Only
what your own runs have written down on the nodes is removed; labels of containers are not believed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.cli import command_parser
from pytest_h20.core.errors import TransportError
from pytest_h20.lang import say, told


def main(argv: Sequence[str]) -> int:
    """0: nothing that may be removed is left. 1: something could not be removed or looked at, or the run that was
    named lives. 2: wrong use."""
    parser = command_parser("reap", __doc__)
    parser.add_argument("--nodes", required=True, metavar="INVENTORY", help="inventory file of the cluster")
    parser.add_argument("--hosts-from-slurm", action="store_true", help="on the machines of the Slurm job this is in")
    parser.add_argument("--run", default="", metavar="ID", help="only this run, also when it was kept")
    parser.add_argument("--all", action="store_true", help="kept runs too")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    args = parser.parse_args(argv)

    from pytest_h20.cluster.teardown import leftovers, reap
    from pytest_h20.config.inventory import load_inventory
    from pytest_h20.nodes.scratch import sweep
    from pytest_h20.run import slurm
    from pytest_h20.run.nodes import connect_all

    inventory = load_inventory(Path(args.nodes))
    if args.hosts_from_slurm:
        inventory = slurm.with_hosts(inventory, slurm.hosts(whole=False))
    base = inventory.run_dir_on_node
    nodes = connect_all(inventory)
    try:
        asked, found = {}, False
        for name, node in nodes.items():
            try:
                found |= any(args.run in ("", item.entry.run) for item in leftovers({name: node}, base))
                asked[name] = node
            except TransportError as error:  # the others are cleaned all the same
                print(told(f"pytest_h20 reap: {name} could not be looked at: {error}"), file=sys.stderr)
        if not found and asked:
            say(f"nothing is left on {', '.join(asked)}" + (f" of run {args.run}" if args.run else ""))
        failed = reap(asked, base, say, args.run, args.all, args.dry_run) if found else 0
        return 1 if failed or len(asked) < len(nodes) else 0
    finally:
        for node in nodes.values():
            node.close()
        if not args.dry_run:
            sweep()  # last: a worker that outlived its controller leaves its sockets only now
