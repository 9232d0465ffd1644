"""How a command reaches a node. Everything above this package sees only these protocols.

A ``Node`` is a machine of the inventory. Implementations: ``ssh`` (paramiko), ``local`` (this machine), the rehearsal's
stand-in. A broken transport raises ``TransportError``: it never looks like a failed check.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pytest_h20.core.errors import H20Error


@dataclass(frozen=True)
class CommandResult:
    """What a finished command left. ``stdout``/``stderr`` are decoded as UTF-8 with replacement.

    ``evidence``: where a recording node wrote this result down ("" = it was not recorded).
    """

    node: str
    command: str
    rc: int
    stdout: str
    stderr: str
    seconds: float
    evidence: str = ""

    @property
    def ok(self) -> bool:
        """True when the exit status is 0."""
        return self.rc == 0

    def check(self) -> CommandResult:
        """Return self, or raise ``CommandFailed`` with everything a reader needs."""
        if self.rc != 0:
            raise CommandFailed(self)
        return self


class CommandFailed(H20Error):
    """A command that had to succeed did not."""

    def __init__(self, result: CommandResult) -> None:
        self.result = result
        tail = (result.stderr or result.stdout).strip().splitlines()[-5:]
        super().__init__(f"{result.node}: `{result.command}` ended with {result.rc}: " + " / ".join(tail))


def quote(command: str, *args: object) -> str:
    """Fill ``%s`` in ``command`` with shell-quoted arguments: quoting by construction, as in ``run("ls -- %s", path)``.

    Without arguments the command is taken as it is (a ``%`` needs no doubling then).
    """
    return command % tuple(shlex.quote(str(a)) for a in args) if args else command


@dataclass(frozen=True)
class Mount:
    """A host folder in a container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """What to start. ``argv`` replaces the image's own entrypoint and command: always our own ``--entrypoint``.

    ``ulimits`` maps a name to (soft, hard), -1 = unlimited. ``shm_size`` in docker's notation ("128g").
    """

    name: str
    image: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    gpus: str | None = None
    network: str = "host"
    ipc: str | None = "host"
    shm_size: str | None = None
    privileged: bool = False
    ulimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cap_add: Sequence[str] = ()
    security_opt: Sequence[str] = ()
    devices: Sequence[str] = ()
    runtime: str | None = None


@dataclass(frozen=True)
class ContainerInfo:
    """A container as the daemon describes it. ``status``: created, running, exited, dead ... ``created``: ISO 8601."""

    id: str
    name: str
    image: str
    status: str
    exit_code: int | None
    oom_killed: bool
    labels: Mapping[str, str]
    created: str

    @property
    def running(self) -> bool:
        """True while its first process lives."""
        return self.status == "running"


@dataclass(frozen=True)
class ImageInfo:
    """An image on a node. ``id`` (sha256 of its config) is equal on two nodes iff the image is; ``digests``: repo digests."""

    reference: str
    id: str
    digests: tuple[str, ...]
    size: int
    created: str


@dataclass(frozen=True)
class DaemonInfo:
    """The container daemon of a node. ``podman``: it is Podman, behind its Docker-compatible API; ``version`` is Podman's then."""

    version: str
    api_version: str
    storage_driver: str
    runtimes: tuple[str, ...]
    root_dir: str
    podman: bool = False


@runtime_checkable
class Containers(Protocol):
    """The part of a container engine we use, on one node. Containers are found by label and id, never by pattern."""

    def daemon(self) -> DaemonInfo:
        """Version and settings of the daemon. Raises ``TransportError`` when it does not answer."""

    def image(self, reference: str) -> ImageInfo | None:
        """The image, or None when the node does not have it. Never pulls."""

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        """Create and start. Raises ``H20Error`` with the daemon's own words when it refuses."""

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        """Start, wait, collect the output, remove: for questions to an image. Kills it at the deadline."""

    def exec(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0) -> CommandResult:
        """Run a command in a running container and wait for it."""

    def exec_detached(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a command in a running container and leave it running."""

    def find(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """All containers (stopped ones too) that carry every one of these labels (empty value: any value)."""

    def inspect(self, container_id: str) -> ContainerInfo | None:
        """The container, or None when it is gone."""

    def logs(self, container_id: str, tail: int | None = None) -> str:
        """What its first process printed, both streams."""

    def stop(self, container_id: str, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after ``timeout`` seconds. Gone already is fine."""

    def remove(self, container_id: str) -> None:
        """Remove it, killing it if it still runs. Gone already is fine."""


@runtime_checkable
class Node(Protocol):
    """One machine."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""

    @property
    def tunnel_only(self) -> bool:
        """True when this process must never connect to the node's addresses itself (a stand-in has none)."""

    @property
    def containers(self) -> Containers:
        """Its container engine, connected on first use."""

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """Run a shell command (``/bin/sh``), arguments quoted into ``%s``.

        The deadline is wall clock and kills the remote command. Raises ``TransportError`` / ``CommandTimeout``; an exit
        status other than 0 is a result, not an error.
        """

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """As ``run``, and ``on_line`` gets each line of both streams as it comes."""

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file on the node."""

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Read a file (or a part of it) from the node. Raises ``FileNotFoundError`` when it is not there."""

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """A local address that leads, through the node, to ``host:port`` as the node sees it.

        A transport that needs no tunnel may return ``host, port`` itself.
        """

    def close(self) -> None:
        """End the connection and every tunnel. May be called twice."""
