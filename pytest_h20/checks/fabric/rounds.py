"""The wires as the engine will use them: GPU memory, all rails of a node at once, in rounds that do not grow with the cluster.

In a round every other node sends through all of its rails to the next node; in the next one the others do. A pair that is slow beside the
others is measured again by itself, and where GPU memory is slow, so is host memory: what that tells apart is said by ``blame.py``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from typing import TypeVar

from pytest_h20.checks.fabric.measure import Record, ask_one, command, listen_port_of, nccl_env, snapshot
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import Node
from pytest_h20.probes import perf
from pytest_h20.probes.counters import CounterDelta, CounterSnapshot, delta
from pytest_h20.probes.facts import Facts, RailView, View
from pytest_h20.probes.image import container_spec
from pytest_h20.probes.rdma import pci_distance
from pytest_h20.probes.script import Missing, Probe

T = TypeVar("T")

ORDER = ("PIX", "PXB", "PHB", "NODE", "SYS")
"""Distances of a NIC to a GPU, nearest first."""
TOOLS = {"write": "ib_write_bw", "read": "ib_read_bw"}
SERVE_S = 60
"""A server that nobody asks ends after so many seconds."""
TORCH_PORT = 29711
TORCH_S = 240.0
"""The whole container of the pairs, image start and ``import torch`` included."""


@dataclass(frozen=True)
class Flow:
    """One rail towards its peer while all rails of its node did the same. Gbit/s. ``gpu``, ``peer_gpu``: whose memory at either end, by
    nvidia-smi's number (None: host memory). ``alone``: the pair again by itself; None: it was not slow beside the others."""

    node: str
    hca: str
    peer: str
    peer_hca: str
    verb: str
    gpu: int | None
    peer_gpu: int | None
    at_once: float | Missing
    alone: float | Missing | None = None

    @property
    def best(self) -> float | Missing:
        """What the pair can do: by itself, where that was measured."""
        found = [x for x in (self.at_once, self.alone) if isinstance(x, float)]
        return max(found) if found else self.at_once


@dataclass(frozen=True)
class Lag:
    """Half of a round trip of 8 bytes through one rail, microseconds. Host memory: see ``perf.on_gpu``."""

    node: str
    hca: str
    typical_us: float | Missing


@dataclass(frozen=True)
class Wired:
    """What all rails did at once. ``tool``: perftest or torch. ``no_gpu``: why it was not GPU memory; empty when it was. ``host``: the same
    with host memory, where GPU memory fell short. ``counters``: of each node's ports over all rounds."""

    tool: str
    no_gpu: str
    flows: tuple[Flow, ...]
    lags: tuple[Lag, ...] = ()
    host: tuple[Flow, ...] = ()
    counters: Mapping[str, tuple[CounterDelta, ...] | Missing] | None = None
    evidence: tuple[str, ...] = ()


def gpu_of(view: View) -> dict[str, int]:
    """HCA to the GPU that sends through it: the nearest, each GPU once as long as there are enough; by place where nothing tells."""
    node = view.node
    gpus = 0 if isinstance(node.gpus, Missing) else len(node.gpus.gpus)
    if not gpus:
        return {}

    def far(rail: RailView, gpu: int) -> int:
        told = "" if isinstance(node.topology, Missing) else node.topology.get((rail.rail.hca, f"GPU{gpu}"), "")
        if told not in ORDER and not isinstance(node.pci, Missing) and not isinstance(node.rdma, Missing):
            hca = node.rdma.hca(rail.rail.hca)
            mine = node.pci.get(hca.pci) if hca is not None else None
            cards = sorted((d for d in node.pci.values() if d.gpu), key=lambda d: d.address)
            told = pci_distance(mine, cards[gpu]) if mine is not None and len(cards) == gpus else ""
        return ORDER.index(told) if told in ORDER else len(ORDER)

    wishes = sorted((far(rail, gpu), abs(gpu - rail.index), rail.index, gpu, rail.rail.hca) for rail in view.rails for gpu in range(gpus))
    found: dict[str, int] = {}
    for again in (False, True):  # more rails than GPUs: the rest shares
        for _, _, _, gpu, hca in wishes:
            if hca not in found and (again or gpu not in found.values()):
                found[hca] = gpu
    return found


def floor_of(rail: RailView) -> float | None:
    """What a rail must reach, Gbit/s: the expected part of its line rate."""
    return None if rail.rate_gbps is None else rail.rate_gbps * rail.view.expect.ib_write_bw_min


def wired(nodes: Mapping[str, Node], facts: Facts, *, record: Record | None = None) -> Wired | Missing:
    """All rounds. Missing where no rail has a peer, or nothing can send."""
    rails = [r for view in facts.views if view.name in nodes for r in view.rails if r.peer is not None and r.peer.view.name in nodes]
    if not rails:
        return Missing("no rail has a peer: one node only" if len(facts.views) < 2 else "the inventory names no rails")
    return _Rounds(nodes, facts, rails, record).run()


@dataclass
class _Rounds:
    nodes: Mapping[str, Node]
    facts: Facts
    rails: Sequence[RailView]
    record: Record | None
    tools: dict[str, dict[str, frozenset[str]] | Missing] = field(default_factory=dict)
    gpus: dict[str, dict[str, int]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def run(self) -> Wired | Missing:
        """GPU memory by perftest, else by torch; else host memory."""
        names = {end.name for rail in self.rails for end in rail.ends}
        views = [view for view in self.facts.views if view.name in names]
        self.gpus = {view.name: gpu_of(view) for view in views}
        self.tools = self._each({view.name: _tools for view in views})
        without = next((Missing(f"{name}: {t.reason}", t.hint) for name, t in self.tools.items() if isinstance(t, Missing)), None)
        before = self._each({view.name: snapshot for view in views})
        flows: list[Flow] = []
        no_gpu = self._no_gpu(views)
        no_cuda = without.reason if without else "" if no_gpu else self._no_cuda(views)
        tool = "perftest" if no_gpu or not no_cuda else "torch"
        if not no_gpu and tool == "perftest":
            flows = self._flows(gpu=True)
        elif not no_gpu:
            flows = self._by_torch()
            if lost := next((f.at_once for f in flows if isinstance(f.at_once, Missing)), None):
                no_gpu = f"{no_cuda}; with torch: {lost.reason}"
                flows = []
        if not flows and without is not None:
            return Missing(f"{no_gpu or no_cuda}", without.hint)
        if not flows:
            tool, flows = "perftest", self._flows(gpu=False)
        host: list[Flow] = []
        if any(self._short(flow) for flow in flows) and tool == "perftest":
            flows = self._alone(flows)
            host = [] if no_gpu else self._flows(gpu=False, verbs=("write",))
        lags = [] if without is not None else self._lags()
        after = self._each({view.name: snapshot for view in views})
        counters = {view.name: _moved(before[view.name], after[view.name]) for view in views}
        return Wired(tool, no_gpu, tuple(flows), tuple(lags), tuple(host), counters, tuple(self.kept))

    # ------------------------------------------------------------------------------------------------ whether GPU memory can be
    def _no_gpu(self, views: Sequence[View]) -> str:
        for view in views:
            driver = view.node.driver
            if not self.gpus[view.name]:
                return f"the GPUs of {view.name} are not known"
            if isinstance(driver, Missing):
                return f"{view.name}: {driver.reason}"
            if not driver.peermem and not (driver.open_kernel and driver.dmabuf_kernel):
                return f"neither nvidia_peermem nor dma-buf on {view.name}"
        return ""

    def _no_cuda(self, views: Sequence[View]) -> str:
        for view in views:
            wanted = {option.partition("=")[0] for option in self._memory(view.rails[0])}
            known = self.tools[view.name]
            if isinstance(known, dict) and not wanted <= known.get("ib_write_bw", frozenset()):
                return f"perftest on {view.name} was built without {' '.join(sorted(wanted))}"
        return ""

    def _memory(self, end: RailView) -> list[str]:
        driver = end.view.node.driver
        return perf.on_gpu(self.gpus[end.view.name][end.rail.hca], dmabuf=isinstance(driver, Missing) or not driver.peermem)

    # ----------------------------------------------------------------------------------------------------------------- rounds
    def _turns(self) -> Iterator[list[RailView]]:
        """The rails of every other node, then those of the others."""
        names = list(dict.fromkeys(rail.view.name for rail in self.rails))
        for first in (0, 1):
            yield [rail for rail in self.rails if rail.view.name in names[first::2]]

    def _flows(self, gpu: bool, verbs: Sequence[str] = ("write", "read")) -> list[Flow]:
        """Writes, then reads."""
        found: list[Flow] = []
        for verb in verbs:
            for turn, rails in enumerate(self._turns()):
                ran = self._bandwidth(verb, rails, gpu, f"{verb}-{'gpu' if gpu else 'host'}-{turn}")
                found += [self._flow(rail, verb, gpu, x) for rail, x in zip(rails, ran, strict=True)]
        return found

    def _flow(self, rail: RailView, verb: str, gpu: bool, ran: float | Missing) -> Flow:
        peer = rail.peer or rail
        mine, theirs = (self.gpus[end.view.name].get(end.rail.hca) if gpu else None for end in (rail, peer))
        return Flow(rail.view.name, rail.rail.hca, peer.view.name, peer.rail.hca, verb, mine, theirs, ran)

    def _short(self, flow: Flow) -> bool:
        floor = floor_of(self.facts.of(flow.node).rail(flow.hca))
        return isinstance(flow.at_once, float) and floor is not None and flow.at_once < floor

    def _alone(self, flows: Sequence[Flow]) -> list[Flow]:
        """Those that were slow beside the others, again: no node takes part in two of them at once."""
        found = list(flows)
        left = [i for i, flow in enumerate(flows) if self._short(flow)]
        turn = 0
        while left:
            now: list[int] = []
            busy: set[str] = set()
            for i in left:
                flow = flows[i]
                if flow.verb == flows[left[0]].verb and not busy & {flow.node, flow.peer}:
                    now.append(i)
                    busy |= {flow.node, flow.peer}
            verb, gpu = flows[now[0]].verb, flows[now[0]].gpu is not None
            ran = self._bandwidth(verb, [self.facts.of(flows[i].node).rail(flows[i].hca) for i in now], gpu, f"{verb}-alone-{turn}")
            for i, x in zip(now, ran, strict=True):
                found[i] = replace(flows[i], alone=x)
            left = [i for i in left if i not in now]
            turn += 1
        return found

    def _bandwidth(self, verb: str, rails: Sequence[RailView], gpu: bool, name: str) -> list[float | Missing]:
        """Gbit/s of these rails, all at the same time."""
        ran = self._perftest(TOOLS[verb], rails, name, lambda end: [*(self._memory(end) if gpu else ()), *perf.BANDWIDTH])
        return [x.average_gbps if isinstance(x, perf.WriteBandwidth) else _lost(x) for x in ran]

    def _lags(self) -> list[Lag]:
        """Latency of every rail; a few bytes do not disturb each other."""
        found: list[Lag] = []
        for turn, rails in enumerate(self._turns()):
            ran = self._perftest("ib_write_lat", rails, f"latency-{turn}", lambda _: list(perf.LATENCY))
            for rail, x in zip(rails, ran, strict=True):
                found.append(Lag(rail.view.name, rail.rail.hca, x.typical_us if isinstance(x, perf.Latency) else _lost(x)))
        return found

    def _perftest(self, tool: str, rails: Sequence[RailView], name: str, how: Callable[[RailView], list[str]]) -> list[perf.PerfRun]:
        """The servers of all peers, then all clients; in the order of the rails."""
        servers: dict[str, list[str]] = {}
        clients: dict[str, list[str]] = {}
        places: list[tuple[str, str, int] | Missing] = []
        for rail in rails:
            peer, source = rail.peer or rail, rail.view.name
            if not peer.address:
                places.append(Missing(f"the address of {peer.subject} is not known", "give rails[].address in the inventory"))
                continue
            port = listen_port_of(self.nodes, rail)
            servers.setdefault(peer.view.name, []).append(command(tool, peer, port, how=how(peer)))
            here = clients.setdefault(source, [])
            places.append((peer.view.name, source, len(here)))
            here.append(command(tool, rail, port, peer.address, how(rail)))
        started = self._each({n: partial(_ask, probe=perf.IB_SERVER.with_args(SERVE_S, *lines)) for n, lines in servers.items()})
        asked = self._each({n: partial(_ask, probe=perf.IB_CLIENT.with_args(*lines)) for n, lines in clients.items()})
        for node, (_, text) in asked.items():
            if self.record and text:
                self.kept.append(self.record(f"fabric/rounds-{name}-{node}.txt", text))
        found: list[perf.PerfRun] = []
        for place in places:
            if isinstance(place, Missing):
                found.append(place)
                continue
            server, answer = started[place[0]][0], asked[place[1]][0]
            ran = answer[place[2]] if isinstance(answer, tuple) and len(answer) > place[2] else answer
            found.append(server if isinstance(server, Missing) else _run(ran))
        return found

    # ------------------------------------------------------------------------------------------------------------------ torch
    def _by_torch(self) -> list[Flow]:
        """Two containers of the engine's image per pair of nodes, a process per rail in each. NCCL writes only."""
        found: list[Flow] = []
        for rails in self._turns():
            for source in dict.fromkeys(rail.view.name for rail in rails):
                found += self._pair([rail for rail in rails if rail.view.name == source])
        return found

    def _pair(self, rails: Sequence[RailView]) -> list[Flow]:
        head, peer = rails[0].view, (rails[0].peer or rails[0]).view
        run = uuid.uuid4().hex[:12]
        ends = {head.name: [*rails], peer.name: [rail.peer or rail for rail in rails]}
        port = TORCH_PORT + 64 * list(self.nodes).index(head.name)

        def one(node: Node, rank: int, view: View) -> str | Missing:
            if self.facts.profile is None:
                return Missing("no engine profile was chosen, so there is no image to run it in")
            specs = []
            for end in ends[view.name]:
                index = view.spec.rail_gid_index(end.rail)
                specs.append(f"{self.gpus[view.name][end.rail.hca]},{end.rail.device_port},{'' if index is None else index}")
            argv = ["python3", "-c", perf.TORCH_BOOT, head.spec.engine_ip, str(port), str(rank), "nccl", *specs]
            env = {**nccl_env(self.facts, view.name), "H20_SCRIPT": pair_source()}
            spec = container_spec(self.facts.inventory, view.spec, self.facts.profile, argv, env, f"h20-pairs-{view.name}-{run}", run)
            try:
                result = node.containers.run(spec, timeout=TORCH_S)
            except H20Error as error:
                return Missing(f"the container of the pairs on {node.name}: {error}", "see `docker run` of the engine's image on the node")
            if self.record:
                self.kept.append(
                    self.record(f"fabric/pairs-{view.name}-{rank}.txt", f"{result.stdout}\n--- standard error ---\n{result.stderr}")
                )
            if result.rc != 0:
                tail = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no output"]
                return Missing(f"the pairs on {node.name} ended with {result.rc}: {tail[0][:200]}", "read the recorded output")
            return result.stdout

        told = self._each({view.name: partial(one, rank=rank, view=view) for rank, view in enumerate((head, peer))})
        lost = next((t for t in told.values() if isinstance(t, Missing)), None)
        gbps = parse_pairs(str(told[peer.name])) if lost is None else {}
        silent = lost or Missing("it printed no figure of this pair", "read the recorded output")
        return [self._flow(rail, "write", True, gbps.get(i, silent)) for i, rail in enumerate(rails)]

    def _each(self, asked: Mapping[str, Callable[[Node], T]]) -> dict[str, T]:
        """Every node its question, at the same time."""
        with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
            return dict(zip(asked, pool.map(lambda name: asked[name](self.nodes[name]), asked), strict=True))


def pair_source() -> str:
    """The script as it is sent."""
    return resources.files("pytest_h20.checks.fabric").joinpath("pair_agent.py").read_text(encoding="utf-8")


def parse_pairs(text: str) -> dict[int, float]:
    """Pair to Gbit/s; NCCL's own lines stand between ours."""
    found: dict[int, float] = {}
    for line in text.splitlines():
        if not line.startswith('{"pair"'):
            continue
        try:
            told = json.loads(line)
            pair, gbps = told["pair"], float(told["gbps"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(pair, int) and 0 < gbps < 1e6:
            found[pair] = gbps
    return found


def _tools(node: Node) -> dict[str, frozenset[str]] | Missing:
    answer, _ = _ask(node, perf.PERFTEST)
    return answer if isinstance(answer, (dict, Missing)) else Missing("perftest did not tell its options")


def _ask(node: Node, probe: Probe[object]) -> tuple[object, str]:
    try:
        return ask_one(node, probe)
    except H20Error as error:
        return Missing(str(error)), ""


def _run(ran: object) -> perf.PerfRun:
    return ran if isinstance(ran, (perf.WriteBandwidth, perf.Latency, Missing)) else Missing("no answer came")


def _lost(ran: perf.PerfRun) -> Missing:
    return ran if isinstance(ran, Missing) else Missing("another figure came than was asked for")


def _moved(before: CounterSnapshot | Missing, after: CounterSnapshot | Missing) -> tuple[CounterDelta, ...] | Missing:
    if isinstance(before, Missing):
        return before
    return after if isinstance(after, Missing) else delta(before, after)
