"""Logins that are not root: who they are, which commands root must allow them, and what the nodes say to that."""

from __future__ import annotations

from pytest_h20.config.inventory import Inventory, NodeSpec
from pytest_h20.core.errors import UsageError
from pytest_h20.probes.rights import Granted, Right, rights, sudoers
from pytest_h20.run.nodes import ssh_settings


def login(inventory: Inventory, spec: NodeSpec) -> str:
    """As whom commands run on a node: the inventory's ``user``, else ``~/.ssh/config``'s, else our own."""
    from pytest_h20.nodes.ssh_config import own_name, resolve

    if spec.transport == "local":
        return own_name()
    return resolve(spec.name, ssh_settings(spec.address, inventory.ssh_of(spec))).user


def needed(inventory: Inventory, specs: tuple[NodeSpec, ...]) -> tuple[Right, ...]:
    """The commands that need root on these nodes, each once."""
    found: dict[tuple[str, ...], Right] = {}
    for socket in dict.fromkeys(inventory.ssh_of(spec).docker_socket for spec in specs):
        interfaces = [name for spec in specs for name in (*(r.interface for r in spec.rails), *(h.interface for h in spec.other_hcas))]
        hcas = [name for spec in specs for name in (*(r.hca for r in spec.rails), *(h.hca for h in spec.other_hcas))]
        found |= {right.argv: right for right in rights(interfaces, hcas, socket)}
    return tuple(found.values())


def fragment(inventory: Inventory, specs: tuple[NodeSpec, ...]) -> str:
    """What root must allow the logins of these nodes: one file for all of them. Raises ``UsageError`` where all of them are root's."""
    users = [user for spec in specs if (user := login(inventory, spec)) != "root"]
    if not users:
        raise UsageError(f"{inventory.name}: every node is logged in to as root, who needs no leave; give `user` in the inventory's ssh")
    return sudoers(users, needed(inventory, specs))


def in_words(told: Granted, asked: bool) -> str:
    """What a login may do, for the plan. ``asked``: ``ssh.sudo`` of the node."""
    if told.root:
        return "reached"
    if not asked:
        return (
            f"reached as {told.user}, which is not root: the kernel log, ACS, firewall rules and transceivers could not be measured, and "
            f"containers need the daemon's group; set `ssh.sudo` to have them read with `sudo -n`"
        )
    of = len(told.allowed) + len(told.refused)
    ran = f"`sudo -n` runs {len(told.allowed)} of the {of} commands below that are installed there"
    refused = "".join(f"; NOT `{command}` ({why})" for command, why in told.refused.items())
    return f"reached as {told.user}, which is not root: {ran}{refused}"
