"""A stand-in cluster for tests of probes and checks: nodes that answer scripts from ``standin`` and run nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_h20.config.inventory import Inventory, Profile, load_inventory
from pytest_h20.core.errors import TransportError
from pytest_h20.nodes.base import CommandResult, ContainerInfo, ContainerSpec, DaemonInfo, ImageInfo
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.gather import gather
from pytest_h20.probes.script import requests
from pytest_h20.rehearsal import standin

INVENTORY = Path(__file__).parents[3] / "environments" / "h20-2node.yaml"


@dataclass
class FakeContainers:
    """One image, whose probe containers answer from the machine."""

    machine: standin.Machine
    image_id: str = "sha256:" + "a" * 64
    daemon_error: str = ""
    no_image: bool = False
    runtimes: tuple[str, ...] = ("nvidia", "runc")
    specs: list[ContainerSpec] = field(default_factory=list)

    def daemon(self) -> DaemonInfo:
        if self.daemon_error:
            raise TransportError(self.daemon_error)
        return DaemonInfo("20.10.24", "1.41", "overlay2", self.runtimes, "/var/lib/docker")

    def image(self, reference: str) -> ImageInfo | None:
        return None if self.no_image else ImageInfo(reference, self.image_id, (), 10**10, "2025-03-20T00:00:00Z")

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        self.specs.append(spec)
        text = standin.answer(self.machine, spec.argv[-1], inside=True)
        return CommandResult(self.machine.hostname, "docker run", 0, text, "", 0.0)

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        raise AssertionError("probes start nothing that stays")

    exec = exec_detached = find = inspect = logs = stop = remove = start


@dataclass
class FakeNode:
    """Answers probe scripts; everything else is an error."""

    machine: standin.Machine
    down: str = ""
    delay: float = 0.0
    asked: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.containers = FakeContainers(self.machine)

    @property
    def name(self) -> str:
        return self.machine.hostname

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        if self.down:
            raise TransportError(self.down)
        time.sleep(self.delay)
        names = [n for n, _ in requests(command)]
        assert names, f"not a probe script: {command[:80]}"
        self.asked.append(names)
        return CommandResult(self.name, command, 0, standin.answer(self.machine, command, now=time.time()), "", self.delay)

    stream = put = get = forward = None

    def close(self) -> None:
        return


@dataclass
class Cluster:
    """The write-up's cluster as stand-ins, healthy until a test changes it."""

    inventory: Inventory
    engine: str
    profile: Profile
    nodes: dict[str, FakeNode]

    @property
    def head(self) -> FakeNode:
        return next(iter(self.nodes.values()))

    @property
    def other(self) -> FakeNode:
        return list(self.nodes.values())[1]

    def expect(self, **fields: object) -> None:
        self.inventory = self.inventory.model_copy(update={"expect": self.inventory.expect.model_copy(update=fields)})

    def gather(self, record: Callable[[str, str], str] | None = None) -> Facts:
        nodes: Mapping[str, object] = self.nodes
        return gather(nodes, self.inventory, engine=self.engine, profile=self.profile, record=record)  # type: ignore[arg-type]


def blog_cluster(engine: str = "sglang", names: Sequence[str] = ("node01", "node02")) -> Cluster:
    inventory = load_inventory(INVENTORY)
    name, _, profile = inventory.engine_profile(engine)
    nodes = {n.name: FakeNode(standin.machine(inventory, n)) for n in inventory.nodes if n.name in names}
    return Cluster(inventory, name, profile, nodes)
