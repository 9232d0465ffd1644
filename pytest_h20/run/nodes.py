"""From the inventory to connected nodes: which transport, with which settings, and the wrapper that keeps the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.config.inventory import Inventory, NodeSpec, Ssh
from pytest_h20.nodes import Node

if TYPE_CHECKING:
    from pytest_h20.nodes.ssh_config import SshSettings

Sink = Callable[[str, bytes], str]


def connect_all(inventory: Inventory, sink: Sink | None = None) -> dict[str, Node]:
    """Every node of the inventory by name. Connections open on first use; nothing is reached here."""
    return {spec.name: connect_one(inventory, spec, sink) for spec in inventory.nodes}


def refuse_unusable_settings(inventory: Inventory) -> None:
    """Raises ``UsageError`` when the settings of a node can never connect; nothing is reached."""
    from pytest_h20.nodes.connect import refuse_unusable

    for spec in inventory.nodes:
        if spec.transport == "ssh":
            refuse_unusable(spec.name, ssh_settings(spec.address, inventory.ssh_of(spec)))


def connect_one(inventory: Inventory, spec: NodeSpec, sink: Sink | None = None) -> Node:
    """One node, its traffic recorded into ``sink`` when given."""
    from pytest_h20.nodes.recording import RecordingNode

    node = _bare(inventory, spec)
    return RecordingNode(node, sink) if sink is not None else node


def _bare(inventory: Inventory, spec: NodeSpec) -> Node:
    settings = inventory.ssh_of(spec)
    if spec.transport == "local":
        from pytest_h20.nodes.local import LocalNode

        return LocalNode(spec.name, docker_socket=settings.docker_socket, sudo=settings.sudo)
    from pytest_h20.nodes.ssh import SshNode

    return SshNode(spec.name, ssh_settings(spec.address, settings))


def ssh_settings(host: str, settings: Ssh) -> SshSettings:
    """The inventory's words as the transport's."""
    from pytest_h20.nodes.ssh_config import SshSettings, jump_of

    alike = SshSettings(
        host=host,
        known_hosts=settings.known_hosts,
        host_key_checking=settings.host_key_checking,
        use_agent=settings.use_agent,
        use_ssh_config=settings.use_config,
        connect_timeout=settings.connect_timeout,
        keepalive_s=settings.keepalive,
        key_file=settings.key,
    )
    jump = jump_of(settings.jump, alike, "ssh.jump", key_file=settings.key) if settings.jump else None
    return replace(alike, port=settings.port, user=settings.user, jump=jump, docker_socket=settings.docker_socket, sudo=settings.sudo)
