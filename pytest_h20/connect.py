"""From the inventory to connected nodes: which transport, with which settings, and the wrapper that keeps the evidence."""

from __future__ import annotations

from collections.abc import Callable

from pytest_h20.inventory import Inventory, NodeSpec
from pytest_h20.transport import Node

Sink = Callable[[str, bytes], str]


def connect_all(inventory: Inventory, sink: Sink | None = None) -> dict[str, Node]:
    """Every node of the inventory by name. Connections open on first use; nothing is reached here."""
    return {spec.name: connect_one(inventory, spec, sink) for spec in inventory.nodes}


def connect_one(inventory: Inventory, spec: NodeSpec, sink: Sink | None = None) -> Node:
    """One node, its traffic recorded into ``sink`` when given."""
    from pytest_h20.transport.connect import connect, local
    from pytest_h20.transport.recording import RecordingNode

    settings = inventory.ssh_of(spec)
    node: Node = local(spec.name, docker_socket=settings.docker_socket) if spec.transport == "local" else connect(spec, settings)
    return RecordingNode(node, sink) if sink is not None else node
