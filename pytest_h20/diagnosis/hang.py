"""A hang in one sentence: who waits in what, who never came, and what the kernel of its node said before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_h20.probes.hang import HungProcess, Ras

STATES = {
    "T": "is stopped (SIGSTOP or a debugger)",
    "t": "is stopped by a debugger",
    "D": "waits for a device (state D)",
    "Z": "has ended (zombie)",
}
"""States in which a process does nothing by itself."""

WAITS = ("all_reduce", "allreduce", "all_gather", "reduce_scatter", "broadcast", "synchronize", "recv", "barrier", "acquire")
"""Names in a Python stack of something that waits for other ranks."""


@dataclass(frozen=True)
class HungRank:
    """One rank as far as it is known. ``operation``, ``number``: the last collective that it has launched."""

    rank: int
    node: str = ""
    state: str = ""
    operation: str = ""
    number: int | None = None
    stack: tuple[str, ...] = ()


@dataclass(frozen=True)
class HangFacts:
    """Everything that was seen. ``unseen``: nodes and sources that told nothing, with the reason. ``kernel``: (node, words, seconds before
    the hang was noticed), newest last. ``gpus``: node to the use of each of its GPUs, %."""

    waited_for: str
    seconds: float
    ranks: tuple[HungRank, ...] = ()
    missing: tuple[int, ...] = ()
    moves: bool = False
    unseen: tuple[str, ...] = ()
    kernel: tuple[tuple[str, str, float], ...] = ()
    gpus: Mapping[str, Sequence[float]] = field(default_factory=dict)


def sentence(facts: HangFacts) -> str:
    """The hang in words; what is not known is said not to be known."""
    parts = [*_collectives(facts), *_odd_states(facts)]
    if not parts:
        parts = [_stacks(facts) or "no rank told where it is"]
    suspects = _suspects(facts)
    parts += _kernel(facts, suspects)
    if not suspects and facts.gpus:
        parts.append(_gpu_words(facts.gpus))
    if facts.unseen:
        parts.append(f"not seen: {', '.join(facts.unseen)}")
    return f"{facts.waited_for} for {facts.seconds:.0f} s: " + "; ".join(parts)


def _collectives(facts: HangFacts) -> list[str]:
    known = [r for r in facts.ranks if r.number is not None]
    parts = []
    if known:
        most = max(r.number or 0 for r in known)
        ahead = [r for r in known if r.number == most]
        behind = [r for r in known if r.number != most and r.rank not in facts.missing]
        operation = next((r.operation for r in ahead if r.operation), "")
        what = f"{_words(operation)} {most}"
        if facts.moves:
            parts.append(f"NCCL's counts still rise: {numbers([r.rank for r in ahead])} at {what}")
        elif not behind and not facts.missing:
            parts.append(f"all {len(ahead)} ranks have entered {what}, and none leaves it")
        else:
            parts.append(f"{numbers([r.rank for r in ahead])} wait{'s' if len(ahead) == 1 else ''} in {what}")
            parts += [f"{numbers([r.rank])} never entered: its last is {_words(r.operation or operation)} {r.number}" for r in behind[:4]]
            if len(behind) > 4:
                parts.append(f"{len(behind) - 4} more are behind")
    if facts.missing:
        parts.append(f"{numbers(facts.missing)} {'does' if len(facts.missing) == 1 else 'do'} not answer NCCL any more")
    return parts


def _odd_states(facts: HangFacts) -> list[str]:
    return [f"the process of {numbers([r.rank])} on {r.node} {STATES[r.state]}" for r in facts.ranks if r.state in STATES][:4]


def _stacks(facts: HangFacts) -> str:
    """By Python stacks alone: who waits for others, and who does something else."""
    waits = [r for r in facts.ranks if any(word in frame.lower() for frame in r.stack for word in WAITS)]
    others = [r for r in facts.ranks if r.stack and r not in waits]
    if not waits and not others:
        return ""
    parts = []
    if waits:
        frame = next(f for f in waits[0].stack if any(word in f.lower() for word in WAITS))
        parts.append(f"{numbers([r.rank for r in waits])} wait{'s' if len(waits) == 1 else ''} in {frame}()")
    parts += [f"{numbers([r.rank])} is in {r.stack[0]}()" for r in others[:4]]
    return "; ".join(parts)


def _suspects(facts: HangFacts) -> list[HungRank]:
    """Ranks that keep the others waiting."""
    known = [r for r in facts.ranks if r.number is not None]
    most = max((r.number or 0 for r in known), default=0)
    return [r for r in facts.ranks if r.rank in facts.missing or r.state in STATES or (r.number is not None and r.number < most)]


def _kernel(facts: HangFacts, suspects: Sequence[HungRank]) -> list[str]:
    nodes = {r.node for r in suspects if r.node}
    mine = [k for k in facts.kernel if k[0] in nodes] or list(facts.kernel)
    told = []
    for node, words, before in mine[-2:]:
        whose = "its node's" if len(nodes) == 1 and node in nodes else f"{node}'s"
        told.append(f"{whose} kernel log has {words} {before:.0f} s earlier")
    return told


def _gpu_words(gpus: Mapping[str, Sequence[float]]) -> str:
    told = ", ".join(f"{node} {_span(min(used), max(used))} %" for node, used in gpus.items() if used)
    return f"GPUs in use: {told}" if told else ""


def _span(low: float, high: float) -> str:
    return f"{low:.0f} to {high:.0f}" if f"{low:.0f}" != f"{high:.0f}" else f"{low:.0f}"


def _words(operation: str) -> str:
    return {"AllReduce": "all-reduce", "AllGather": "all-gather", "ReduceScatter": "reduce-scatter"}.get(
        operation, operation.lower() or "operation"
    )


def numbers(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 0-2, 8-15``."""
    ordered, runs = sorted(set(ranks)), list[list[int]]()
    for rank in ordered:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    words = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    return f"rank {words}" if len(ordered) == 1 else f"ranks {words}"


def ranks_of(
    processes: Mapping[str, Sequence[HungProcess]], collectives: Mapping[int, tuple[str, int]], ras: Ras | None, places: Mapping[int, str]
) -> tuple[HungRank, ...]:
    """Everything about each rank. ``processes``: of each node. ``collectives``: rank to its last one in its log. ``places``: rank to node.

    What NCCL says now is newer than what a log says, and both may be cut: the larger number is the later.
    """
    found: dict[int, HungRank] = {}
    for node, seen in processes.items():
        for p in seen:
            if p.rank is not None:
                found[p.rank] = HungRank(p.rank, node, p.state, stack=p.stack)
    everyone = set(found) | set(collectives) | (set(ras.counts) if ras else set())
    if ras is not None and ras.most is not None:
        everyone |= set(range(ras.ranks)) - set(ras.missing)
    everyone |= set(ras.missing) if ras else set()
    ranks = []
    for rank in sorted(everyone):
        one = found.get(rank, HungRank(rank))
        operation, number = collectives.get(rank, ("", None))
        if ras is not None and rank not in ras.missing and (told := ras.counts.get(rank, ras.most)) is not None:
            operation, number = ras.operation or operation, told
        ranks.append(HungRank(rank, one.node or places.get(rank, ""), one.state, operation, number, one.stack))
    return tuple(ranks)
