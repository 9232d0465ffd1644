"""``python -m pytest_h20 sudoers my-cluster.yaml``: what root must allow a login that is not root, as a file for /etc/sudoers.d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_h20.cli import command_parser
from pytest_h20.lang.comments import translated


def main(argv: Sequence[str]) -> int:
    """Print the file. Nothing is reached. Exit status 2: the inventory is wrong, or every login in it is root's."""
    from pytest_h20.config.inventory import load_inventory
    from pytest_h20.run.rights import fragment

    parser = command_parser("sudoers", __doc__)
    parser.add_argument("inventory", metavar="INVENTORY", help="its nodes, their logins, net devices and container sockets")
    inventory = load_inventory(Path(parser.parse_args(argv).inventory))
    print(translated(fragment(inventory, inventory.nodes)), end="")
    return 0
