"""Active measurements of the fabric: ib_write_bw per rail and an all-reduce over all nodes (all rails at once: ``rounds.py``). They load
the rails, so they come last."""

from __future__ import annotations

import itertools
import json
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_h20.checks.fabric.pairs import Pair, measure
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import ContainerSpec, Node
from pytest_h20.probes import perf
from pytest_h20.probes.counters import COUNTERS, CounterDelta, CounterSnapshot, delta
from pytest_h20.probes.facts import Facts, RailView
from pytest_h20.probes.image import container_spec
from pytest_h20.probes.script import Missing, Probe, ProbeError, build, split

Record = Callable[[str, str], str]
FIRST_PORT = 18515


@dataclass(frozen=True)
class RailBandwidth:
    """``ib_write_bw`` from one rail to its peer rail. ``best`` of the ``rounds`` that were run; counters of both ends during them."""

    source: str
    target: str
    hca: str
    peer_hca: str
    best: perf.WriteBandwidth | Missing
    rounds: int
    source_counters: CounterDelta | Missing
    target_counters: CounterDelta | Missing
    evidence: tuple[str, ...] = ()


def command(tool: str, end: RailView, listen_port: int, peer: str = "", how: Sequence[str] = perf.BANDWIDTH) -> str:
    """One of perftest's tools at one end of a rail, sending as NCCL would: its traffic class and service level."""
    settings = end.view.node.nccl_settings
    given = [] if isinstance(settings, Missing) else [settings.number(name, 0)[0] for name in ("NCCL_IB_TC", "NCCL_IB_SL")]
    sent_as = perf.as_class(*given) if given and 0 <= given[0] < 256 and 0 <= given[1] < 16 else []
    index = end.view.spec.rail_gid_index(end.rail)
    return shlex.join(perf.perftest_argv(tool, end.rail.hca, end.rail.port, index, listen_port, peer or None, [*how, *sent_as]))


def listen_port_of(nodes: Mapping[str, Node], rail: RailView) -> int:
    """Where the peer of this rail listens for it: another port for each rail of the cluster."""
    return FIRST_PORT + rail.index + 64 * list(nodes).index(rail.view.name)


def ask_one(node: Node, probe: Probe[object], timeout: float = 90.0) -> tuple[object, str]:
    stdout = node.run(build([probe]), timeout=timeout).stdout
    return probe.read(split(stdout)), stdout


def snapshot(node: Node) -> CounterSnapshot | Missing:
    try:
        return COUNTERS.read(split(node.run(build([COUNTERS])).stdout))
    except H20Error as error:
        return Missing(str(error))


def _delta(before: CounterSnapshot | Missing, after: CounterSnapshot | Missing, hca: str, port: int) -> CounterDelta | Missing:
    if isinstance(before, Missing):
        return before
    if isinstance(after, Missing):
        return after
    return next((d for d in delta(before, after) if (d.device, d.port) == (hca, port)), Missing(f"no counters of {hca}"))


def write_bandwidth(
    nodes: Mapping[str, Node],
    rail: RailView,
    *,
    to: RailView | None = None,
    rounds: int = 3,
    enough: float | None = None,
    record: Record | None = None,
) -> RailBandwidth | Missing:
    """Run ``ib_write_bw`` from this rail to its peer (or another one), ``rounds`` times, best counts (bandwidth flutters). ``enough``:
    Gbit/s after which there is no other round: a rail that holds its limit holds it."""
    peer = to or rail.peer
    if peer is None:
        return Missing("one node only: there is no other end")
    if not peer.address:
        return Missing(f"the address of {peer.subject} is not known", "give rails[].address in the inventory")
    source, target = nodes[rail.view.name], nodes[peer.view.name]
    port = listen_port_of(nodes, rail)
    before = (snapshot(source), snapshot(target))
    found: list[perf.WriteBandwidth] = []
    lost = Missing("it was not run")
    texts = []
    try:
        for _ in range(rounds):
            started, _ = ask_one(target, perf.IB_SERVER.with_args(30, command("ib_write_bw", peer, port)))
            if isinstance(started, Missing):
                lost = started
                break
            answer, text = ask_one(source, perf.IB_CLIENT.with_args(command("ib_write_bw", rail, port, peer.address)))
            texts.append(text)
            ran = answer[0] if isinstance(answer, tuple) else answer
            if isinstance(ran, Missing):
                lost = ran
            elif isinstance(ran, perf.WriteBandwidth):
                found.append(ran)
                if enough is not None and ran.average_gbps >= enough:
                    break
    except H20Error as error:
        lost = Missing(str(error))
    after = (snapshot(source), snapshot(target))
    evidence = (
        (record(f"fabric/ib_write_bw-{rail.view.name}-{rail.rail.hca}{f'-{peer.view.name}' if to else ''}.txt", "\n".join(texts)),)
        if record and texts
        else ()
    )
    return RailBandwidth(
        rail.view.name,
        peer.view.name,
        rail.rail.hca,
        peer.rail.hca,
        max(found, key=lambda w: w.average_gbps) if found else lost,
        len(texts),
        _delta(before[0], after[0], rail.rail.hca, rail.rail.port),
        _delta(before[1], after[1], peer.rail.hca, peer.rail.port),
        evidence,
    )


@dataclass(frozen=True)
class Witness:
    """The same rail measured with a third node. ``end``: which end of the slow link took part in it."""

    end: str
    third: str
    gbps: float | Missing


def witnesses(nodes: Mapping[str, Node], rail: RailView, record: Record | None = None) -> tuple[Witness, ...]:
    """Each end of a link measured with the rail of the same place on a third node; none where there are two nodes."""
    peer = rail.peer
    others = [v for v in rail.view.all.views if peer is not None and v.name not in (rail.view.name, peer.view.name)]
    third = next((v.rails[rail.index] for v in others if rail.index < len(v.rails) and not v.silence), None)
    if peer is None or third is None:
        return ()
    found = []
    for end, source, target in ((rail, rail, third), (peer, third, peer)):
        told = write_bandwidth(nodes, source, to=target, record=record)
        best = told if isinstance(told, Missing) else told.best
        found.append(Witness(end.subject, third.subject, best if isinstance(best, Missing) else best.average_gbps))
    return tuple(found)


def nccl_env(facts: Facts, node: str) -> dict[str, str]:
    """NCCL's environment of a node as the engine gets it: its rails, GID index and control interface.

    As for the engine, the profile's environment wins over what follows from the inventory, and the node's over both. NCCL's own
    lines always go to standard error: standard output holds the figures.
    """
    spec = next(n for n in facts.inventory.nodes if n.name == node)
    env = {"NCCL_SOCKET_IFNAME": spec.control_interface, "NCCL_IB_DISABLE": "0", "NCCL_DEBUG": "INFO"}
    if spec.rails:
        # "=" asks for exact names: without it mlx5_1 also takes mlx5_10 and its like.
        env["NCCL_IB_HCA"] = "=" + ",".join(r.device_port for r in spec.rails)
        indices = {spec.rail_gid_index(r) for r in spec.rails} - {None}
        if len(indices) == 1:
            env["NCCL_IB_GID_INDEX"] = str(indices.pop())
    of_profile = {key: str(value) for key, value in facts.profile.env.items()} if facts.profile is not None else {}
    return {**env, **of_profile, **spec.env, "NCCL_DEBUG_FILE": "/dev/stderr"}


def all_reduce(
    nodes: Mapping[str, Node],
    facts: Facts,
    *,
    among: Collection[str] | None = None,
    port: int = 29611,
    timeout: float = 300.0,
    record: Record | None = None,
) -> perf.AllReduce | Missing:
    """An all-reduce benchmark over every GPU of every node, or of those ``among`` them.

    With ``expect.all_reduce_image`` (mpirun and all_reduce_perf in it) nccl-tests runs from the first node; else the same
    sizes run
    with torch in the engine's own image, one container per node: nothing must be installed for that.
    """
    profile = facts.profile
    views = tuple(v for v in facts.views if among is None or v.name in among)
    if profile is None:
        return Missing("no engine profile was chosen, so there is no image to run it in")
    if len(views) < 2:
        return Missing("one node only")
    gpus = {v.name: 0 if isinstance(v.node.gpus, Missing) else len(v.node.gpus.gpus) for v in views}
    if not all(gpus.values()):
        return Missing(f"GPUs of {', '.join(n for n, g in gpus.items() if not g)} are not known", "see environment.gpu_count")
    if len(set(gpus.values())) > 1:
        return Missing(f"different numbers of GPUs: {gpus}")
    head = views[0]
    run = uuid.uuid4().hex[:12]
    image = facts.inventory.expect.all_reduce_image
    if image:
        hosts = {v.spec.engine_ip: gpus[v.name] for v in views}
        argv = perf.all_reduce_perf_argv(hosts, "/tmp/all_reduce.json", nccl_env(facts, head.name))
        script = shlex.join(argv) + " >&2; r=$?; [ $r = 0 ] && cat /tmp/all_reduce.json; exit $r"
        chosen = profile.model_copy(update={"image": image})
        spec = container_spec(facts.inventory, head.spec, chosen, ["sh", "-c", script], {}, f"h20-allreduce-{run}", run)
        return _read_all_reduce(nodes[head.name], spec, timeout, record)

    def one(rank: int) -> perf.AllReduce | Missing:
        view = views[rank]
        argv = [head.spec.engine_ip, str(port), str(len(views)), str(rank), str(gpus[view.name])]
        argv = ["python3", "-c", perf.TORCH_BOOT, *argv]
        env = {**nccl_env(facts, view.name), "H20_SCRIPT": perf.TORCH_ALL_REDUCE}
        spec = container_spec(facts.inventory, view.spec, profile, argv, env, f"h20-allreduce-{view.name}-{run}", run)
        return _read_all_reduce(nodes[view.name], spec, timeout, record)

    with ThreadPoolExecutor(max_workers=len(views)) as pool:
        answers = list(pool.map(one, range(len(views))))
    return answers[0]


PAIR_TIMEOUT_S = 120.0


def pairs_of(nodes: Mapping[str, Node], facts: Facts, record: Record | None = None) -> list[Pair]:
    """The all-reduce of two nodes at a time, in rounds of disjoint pairs; none of two nodes: they are the pair that was measured."""
    names = [v.name for v in facts.views]
    if len(names) < 3:
        return []
    ports = itertools.count(29612)  # a port each: what a round left behind is not met by the next

    def one_pair(one: str, other: str) -> float | Missing:
        kept = (lambda name, text: record(name.replace("all_reduce-", f"all_reduce-{one}-{other}-"), text)) if record else None
        told = all_reduce(nodes, facts, among=(one, other), port=next(ports), timeout=PAIR_TIMEOUT_S, record=kept)
        if isinstance(told, Missing):
            return told
        return told.largest.busbw if told.largest is not None else Missing("no size was measured")

    return measure(names, one_pair)


def _read_all_reduce(node: Node, spec: ContainerSpec, timeout: float, record: Record | None) -> perf.AllReduce | Missing:
    start = time.monotonic()
    try:
        result = node.containers.run(spec, timeout=timeout)
    except H20Error as error:
        return Missing(f"the all-reduce container on {node.name}: {error}", "see `docker run` on the node")
    if record:
        head = json.dumps({"argv": list(spec.argv)[:1], "seconds": round(time.monotonic() - start, 1), "rc": result.rc})
        record(f"fabric/all_reduce-{node.name}.txt", f"{head}\n{result.stdout}\n--- standard error ---\n{result.stderr}")
    if result.rc != 0:
        tail = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no output"]
        return Missing(f"the all-reduce on {node.name} ended with {result.rc}: {tail[0][:200]}", "read the recorded output")
    try:
        return perf.parse_all_reduce(result.stdout)
    except ProbeError as error:
        return Missing(f"the all-reduce on {node.name}: {error}")
