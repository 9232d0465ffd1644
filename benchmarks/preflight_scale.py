"""Preflight of 2, 16 and 128 stand-in nodes: ``python -m benchmarks.preflight_scale [--delay 0.2] [--slow 1.0]``.

Every round trip to a node takes ``--delay`` seconds, to one node ``--slow``. Wall time of gathering must be bounded by the slowest
node: it is printed beside the sum over all nodes and beside the slowest node's own round trips.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_h20.checks import all_verdicts
from pytest_h20.config.inventory import Engine, Inventory, Model, NodeSpec, Profile, Rail
from pytest_h20.core.verdict import Status
from pytest_h20.nodes.base import CommandResult, ContainerSpec, DaemonInfo, ImageInfo
from pytest_h20.probes.gather import gather
from pytest_h20.rehearsal import standin


@dataclass
class _Containers:
    node: _Node

    def daemon(self) -> DaemonInfo:
        self.node.wait()
        return DaemonInfo("26.1.0", "1.45", "overlay2", ("nvidia",), "/var/lib/docker")

    def image(self, reference: str) -> ImageInfo:
        self.node.wait()
        return ImageInfo(reference, "sha256:" + "a" * 64, (), 10**10, "2025-03-20T00:00:00Z")

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        self.node.wait()
        return CommandResult(self.node.name, "docker run", 0, standin.answer(self.node.machine, spec.argv[-1], inside=True), "", 0.0)


@dataclass
class _Node:
    machine: standin.Machine
    delay: float
    trips: int = 0
    containers: _Containers = field(init=False)

    def __post_init__(self) -> None:
        self.containers = _Containers(self)

    @property
    def name(self) -> str:
        return self.machine.hostname

    def wait(self) -> None:
        self.trips += 1
        time.sleep(self.delay)

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        self.wait()
        return CommandResult(self.name, command, 0, standin.answer(self.machine, command, now=time.time()), "", self.delay)


def _inventory(count: int) -> Inventory:
    nodes = tuple(
        NodeSpec(
            name=f"node{i + 1:03d}",
            address=f"10.63.{i // 200}.{i % 200 + 1}",
            control_interface="xgbe0",
            gid_index=3,
            rails=tuple(Rail(hca=f"mlx5_{r}", interface=f"xgbe{r}", address=f"33.{r}.{i // 200}.{i % 200 + 1}") for r in range(1, 9)),
        )
        for i in range(count)
    )
    model = Model(host_path="/ssd1/models", mount="/mnt/models", path="/mnt/models/DeepSeek-R1", shards=163)
    engines = {"sglang": Engine(default="default", profiles={"default": Profile(image="sglang", dist_port=30000)})}
    return Inventory(name=f"scale-{count}", nodes=nodes, model=model, engines=engines)


def measure(count: int, delay: float, slow: float) -> tuple[float, float, float, int]:
    """Wall seconds, sum of all nodes' waiting, waiting of the slowest node, red verdicts."""
    inventory = _inventory(count)
    engine, _, profile = inventory.engine_profile("sglang")
    nodes = {}
    for i, spec in enumerate(inventory.nodes):
        machine = standin.machine(inventory, spec)
        for rail in machine.rails:
            rail.prefix = 8
        nodes[spec.name] = _Node(machine, slow if i == count - 1 else delay)
    start = time.perf_counter()
    facts = gather(nodes, inventory, engine=engine, profile=profile)  # type: ignore[arg-type]
    wall = time.perf_counter() - start
    waits = [n.trips * n.delay for n in nodes.values()]
    red = sum(v.status in (Status.FAIL, Status.UNKNOWN) for v in all_verdicts(facts))
    return wall, sum(waits), max(waits), red


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row per size; exit status 1 when wall time grows linearly or a healthy cluster is red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds of a round trip (default 0.2)")
    parser.add_argument("--slow", type=float, default=1.0, help="seconds of a round trip to one node (default 1)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 16, 128])
    options = parser.parse_args(argv)
    print(f"{'nodes':>6} {'wall s':>8} {'all nodes in turn s':>20} {'slowest node s':>15} {'red':>4}")
    rows = []
    for count in options.nodes:
        wall, together, slowest, red = measure(count, options.delay, options.slow)
        rows.append((count, wall, red))
        print(f"{count:>6} {wall:>8.2f} {together:>20.2f} {slowest:>15.2f} {red:>4}")
    growth, nodes = rows[-1][1] / rows[0][1], rows[-1][0] / rows[0][0]
    print(f"{nodes:g} times the nodes take {growth:.2f} times as long")
    return int(any(red for _, _, red in rows) or growth >= nodes)


if __name__ == "__main__":
    sys.exit(main())
