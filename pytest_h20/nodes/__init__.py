"""How a command reaches a node: one protocol, several ways."""

from __future__ import annotations

from pytest_h20.nodes.base import (
    CommandFailed,
    CommandResult,
    ContainerInfo,
    Containers,
    ContainerSpec,
    DaemonInfo,
    ImageInfo,
    Mount,
    Node,
    quote,
)

__all__ = [
    "CommandFailed",
    "CommandResult",
    "ContainerInfo",
    "ContainerSpec",
    "Containers",
    "DaemonInfo",
    "ImageInfo",
    "Mount",
    "Node",
    "quote",
]
