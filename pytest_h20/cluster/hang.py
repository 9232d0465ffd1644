"""When something hangs and before anything is stopped: every process of every rank, GPUs, kernel logs, NCCL's logs and, where that is safe,
NCCL's RAS. All nodes at once, each with deadlines, and RAS last: what crashes there has cost nothing of the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from pytest_h20.cluster import regular
from pytest_h20.cluster.journal import Journal
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.errors import H20Error
from pytest_h20.diagnosis.hang import HangFacts, ranks_of, sentence
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded
from pytest_h20.probes import hang as probe
from pytest_h20.probes.kernel_log import KERNEL_LOG, Reading, explain, stretch
from pytest_h20.probes.script import Missing, build, split

STACKS_S, ASK_S, RAS_S = 120.0, 30.0, 60.0
"""Deadlines: stacks of a container, anything else of a node, RAS."""

KERNEL_S = 600.0
"""Kernel lines of so many seconds before are told."""

LOG_HEAD, LOG_TAIL = 65_536, 262_144
MOST_LOGS = 64


@dataclass(frozen=True)
class HungEngine:
    """What hangs. ``roles``: its processes; ``node_dirs``: node to its folder there; ``nccl``: version, as the image tells it; ``env``: of
    its containers; ``starting``: communicators may still be made; ``signal``: ``stack_signal`` of its profile."""

    roles: Sequence[RoleRef]
    node_dirs: Mapping[str, str]
    nccl: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    starting: bool = False
    signal: str = ""


@dataclass(frozen=True)
class Hang:
    """``sentence``: who waits in what, and who never came. ``evidence``: paths relative to the run folder."""

    sentence: str
    evidence: tuple[str, ...] = ()


@dataclass
class _Node:
    """What one node told."""

    processes: list[probe.HungProcess] = field(default_factory=list)
    collectives: dict[int, tuple[str, int]] = field(default_factory=dict)
    kernel: list[tuple[str, float]] = field(default_factory=list)
    gpus: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)


def look(
    nodes: Mapping[str, Node], engine: HungEngine, journal: Journal, waited_for: str, seconds: float, *, scale: float = 1.0, more: str = ""
) -> Hang:
    """Collect everything and say it in one sentence. Never raises for a node that does not answer: it is said. Stops nothing.

    ``waited_for``: what hangs, as the sentence begins (``no token came``). ``scale``: model seconds per second. ``more``: further evidence,
    such as the counters of the last minute.
    """
    names = list(dict.fromkeys(r.node for r in engine.roles if r.node in nodes)) or list(nodes)
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        found = dict(zip(names, pool.map(lambda name: _one(unrecorded(nodes[name]), name, engine, scale), names), strict=True))
    ras, why = _ask_ras(nodes, engine)
    unseen = [f"{name} {text}" for name, told in found.items() for text in told.unseen]
    unseen += [f"NCCL RAS ({why})"] if why else []
    kept = [journal.evidence(f"hang/{name}-{what}.txt", text) for name, told in found.items() for what, text in told.texts.items() if text]
    if ras is not None:
        kept.append(journal.evidence("hang/ras.txt", ras[1]))
    if more:
        kept.append(journal.evidence("hang/last-minute.txt", more))
    collectives = {rank: op for told in found.values() for rank, op in told.collectives.items()}
    places = {rank: name for name, told in found.items() for rank in told.collectives}
    report = ras[0] if ras is not None else None
    facts = HangFacts(
        waited_for,
        seconds,
        ranks_of({name: told.processes for name, told in found.items()}, collectives, report, places),
        report.missing if report else (),
        bool(report and report.moves),
        tuple(unseen),
        tuple(sorted(((name, words, before) for name, told in found.items() for words, before in told.kernel), key=lambda k: -k[2])),
        {name: told.gpus for name, told in found.items() if told.gpus},
    )
    words = sentence(facts)
    kept.append(journal.evidence("hang/sentence.txt", words + "\n"))
    journal.event("note", text=f"hang: {words}")
    return Hang(words, tuple(kept))


def _one(node: Node, name: str, engine: HungEngine, scale: float) -> _Node:
    told = _Node()

    def tried(what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (H20Error, OSError) as error:
            told.unseen.append(f"({what}: {str(error).splitlines()[0][:120]})")

    for number, container in enumerate(dict.fromkeys(r.container_id for r in engine.roles if r.node == name)):
        tried("stacks", partial(_stacks, node, container, number, engine.signal, told))
    tried("kernel log", lambda: _kernel(node, told, scale))
    tried("GPUs", lambda: _gpus(node, told))
    tried("NCCL logs", lambda: _logs(node, engine.node_dirs.get(name, ""), told))
    return told


def _stacks(node: Node, container: str, number: int, signal: str, told: _Node) -> None:
    done = node.containers.exec(container, probe.stacks_command(signal), timeout=STACKS_S)
    told.texts[f"stacks{number or ''}"] = done.stdout + done.stderr
    looked = probe.parse(done.stdout)
    told.processes += looked.processes
    if looked.recorder:
        told.texts["flight-recorder"] = "\n".join(looked.recorder) + "\n"
    if not looked.processes:
        told.unseen.append(f"(stacks: rc {done.rc}, {(done.stderr or done.stdout).strip()[:120] or 'no output'})")


def _kernel(node: Node, told: _Node, scale: float) -> None:
    began = time.monotonic()
    text = node.run(build([KERNEL_LOG]), timeout=ASK_S).stdout
    at = (began + time.monotonic()) / 2
    told.texts["kernel"] = text
    log = KERNEL_LOG.read(split(text))
    if isinstance(log, Missing):
        told.unseen.append(f"(kernel log: {log})")
        return
    for moment, event in stretch([Reading(at, log)], at - KERNEL_S / scale, at).events:
        if moment is not None and explain(event).severity in ("fatal", "reset", "application"):
            code = re.search(r"Xid \([^)]*\): (\d+)", event.text)
            told.kernel.append((f"Xid {code[1]}" if code else explain(event).meaning, (at - moment) * scale))


def _gpus(node: Node, told: _Node) -> None:
    text = node.run(probe.GPU_COMMAND, timeout=ASK_S).stdout
    told.texts["gpus"] = text
    for line in text.partition("== apps")[0].splitlines():
        cells = [c.strip() for c in line.split(",")]
        if len(cells) == 5 and cells[1].isdigit():
            told.gpus.append(float(cells[1]))


def _logs(node: Node, folder: str, told: _Node) -> None:
    if not folder:
        return
    for name in regular.names(node, folder, "nccl.*")[:MOST_LOGS]:
        try:
            rank = probe.rank_of(regular.read(node, f"{folder}/{name}", 0, LOG_HEAD).decode("utf-8", "replace"))
            last = probe.last_collective(regular.read(node, f"{folder}/{name}", -LOG_TAIL).decode("utf-8", "replace"))
        except FileNotFoundError:
            continue
        if rank is not None and last is not None:
            told.collectives[rank] = last


def _ask_ras(nodes: Mapping[str, Node], engine: HungEngine) -> tuple[tuple[probe.Ras, str] | None, str]:
    """((report, text), ""), or (None, why not)."""
    if not engine.roles:
        return None, "somebody else started the engine: no container of it is known"
    allowed, why = probe.may_ask(engine.nccl, engine.starting, engine.env.get("NCCL_RAS_ENABLE", "1") != "0")
    if not allowed:
        return None, why
    role = engine.roles[0]
    node = unrecorded(nodes[role.node])
    try:
        text = node.containers.exec(role.container_id, probe.ras_command(), timeout=RAS_S).stdout
        report = probe.parse(text).ras
        info = node.containers.inspect(role.container_id)
    except (H20Error, OSError) as error:
        return None, f"asked, and {str(error).splitlines()[0][:160]}"
    if info is None or not info.running:
        return None, f"{role.role} ended as it was asked: NCCL {engine.nccl} belongs into the table of this package (probes/hang.py)"
    if report is None or report.failed:
        return None, report.failed if report else "no answer"
    return (report, text), ""
