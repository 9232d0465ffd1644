"""``python -m pytest_h20 reap --nodes INVENTORY``: remove what a killed run left, by label and id only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """0: nothing is left. 1: something could not be removed. 2: wrong use."""
    parser = argparse.ArgumentParser(prog="python -m pytest_h20 reap", description=__doc__)
    parser.add_argument("--nodes", required=True, metavar="INVENTORY", help="inventory file of the cluster")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    args = parser.parse_args(argv)

    from pytest_h20.cluster.teardown import leftovers, reap
    from pytest_h20.connect import connect_all
    from pytest_h20.inventory import load_inventory

    nodes = connect_all(load_inventory(Path(args.nodes)))
    try:
        if not leftovers(nodes):
            print(f"nothing is left on {', '.join(nodes)}")
            return 0
        return 1 if reap(nodes, print, dry=args.dry_run) else 0
    finally:
        for node in nodes.values():
            node.close()
