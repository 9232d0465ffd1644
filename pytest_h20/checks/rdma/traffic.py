"""The second and third facts of the RDMA proof: rail byte counters across a fixed request, and error counters. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_h20.checks.frame import Say
from pytest_h20.config.inventory import NodeSpec
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.engines.layout import Layout
from pytest_h20.nccl import Job
from pytest_h20.probes.counters import CONGESTION, ERRORS, CounterDelta, CounterSnapshot, ExpectedVolume, delta, expected_volume
from pytest_h20.probes.model_shape import ModelShape, has_experts, shape_of
from pytest_h20.probes.script import Missing
from pytest_h20.report.model import RailTraffic

IDLE_SHARE = 0.02
"""A rail whose counter rises by less than this share of its expected volume carried background traffic at most."""


@dataclass(frozen=True)
class Traffic:
    """Counters of every node before and after a request of known size."""

    before: Mapping[str, CounterSnapshot | Missing]
    after: Mapping[str, CounterSnapshot | Missing]
    tokens: int
    expected: ExpectedVolume | Missing
    request: str

    def of_rail(self, node: str) -> tuple[float, float]:
        """Bytes that each rail of a node must send and receive."""
        expected = self.expected
        return (0.0, 0.0) if isinstance(expected, Missing) else expected.of_rail(list(self.before).index(node))

    def deltas(self, node: str) -> tuple[CounterDelta, ...] | Missing:
        """What changed on a node, or why that is not known."""
        before, after = self.before[node], self.after[node]
        if isinstance(before, Missing):
            return before
        if isinstance(after, Missing):
            return after
        return delta(before, after)

    def rail(self, node: str, hca: str, port: int) -> CounterDelta | Missing:
        """What changed on one rail."""
        found = self.deltas(node)
        if isinstance(found, Missing):
            return found
        mine = next((d for d in found if (d.device, d.port) == (hca, port)), None)
        return mine or Missing(f"{hca} port {port} has no counters on {node}")

    def moved(self, nodes: Sequence[NodeSpec]) -> tuple[float, list[Missing]]:
        """Bytes that left these nodes over all of their rails, and what is not known of single rails."""
        total, unknown = 0.0, []
        for node in nodes:
            for rail in node.rails:
                found = self.rail(node.name, rail.hca, rail.port)
                unread = found if isinstance(found, Missing) else _unread(found)
                if isinstance(found, CounterDelta) and unread is None:
                    total += found.sent or 0
                elif unread is not None:
                    unknown.append(unread)
        return total, unknown


def _unread(found: CounterDelta) -> Missing | None:
    """Why this rail's bytes are not known, or None."""
    if found.reset:
        return Missing(f"counters went backwards: {', '.join(found.reset)}")
    return Missing("this driver has no byte counters") if found.sent is None or found.received is None else None


def plan(tokens: int, rails: int, shape: ModelShape | Missing, layout: Layout) -> ExpectedVolume | Missing:
    """The volume that ``tokens`` tokens of this model must move; missing where the model's shape is."""
    return shape if isinstance(shape, Missing) else expected_volume(tokens, rails, shape, layout)


def nothing_crosses(config: Mapping[str, Any] | Missing, layout: Layout) -> str:
    """Why no token of this model leaves its node: every copy of a model without experts is inside one. "" where some must, or may: vLLM's
    copies of a model without experts know nothing of each other (``v1/engine/core.py``, from 0.14 on), SGLang's never did."""
    shape = shape_of(config)
    if layout.nodes < 2 or isinstance(shape, Missing) or has_experts(config) is not False:
        return ""
    volume = expected_volume(1, 1, shape, layout)
    return "" if volume.bytes_per_node or volume.together else volume.derivation


def rail_volume(traffic: Traffic, node: str, hca: str, port: int = 1) -> Verdict:
    """The rail's byte counters rose, in each direction, by about what the engine's layout must move."""
    say = Say("rdma.rail_volume", "Bytes moved on this rail during a fixed request", f"{node} {hca}")
    if isinstance(traffic.expected, Missing):
        return say.unknown(f"what this model must move is not known: {traffic.expected}", traffic.expected.hint)
    found = traffic.rail(node, hca, port)
    unread = found if isinstance(found, Missing) else _unread(found)
    readable = "see that /sys/class/infiniband/*/ports/*/counters is readable on the node"
    if traffic.expected.chance and unread is None and isinstance(found, CounterDelta):
        sent, received = (found.sent or 0) / 1e6, (found.received or 0) / 1e6
        return say.skip(
            f"{traffic.expected.chance}: what one rail moves is chance (this one sent {sent:.1f} MB and received {received:.1f} MB); "
            "all rails together are judged by rdma.volume_together"
        )
    if traffic.expected.chance:
        return say.unknown(str(unread), readable)
    must = {way: size for way, size in zip(("sent", "received"), traffic.of_rail(node), strict=True) if size}
    if not must:
        return say.skip(f"this layout moves nothing over this rail ({traffic.expected.derivation})")
    moved = {} if isinstance(found, Missing) else {"sent": found.sent, "received": found.received}
    way = min(must, key=lambda way: (moved.get(way) or 0) / must[way])
    expected = must[way]
    origin = Origin(kind="derived", detail=traffic.expected.derivation)
    limit = Limit(kind="min", value=round(traffic.expected.least * expected / 1e6, 3), unit="MB", origin=origin)
    action = "compare NCCL_IB_HCA with this rail; look at `rdma.hcas_used` and at the rail's link state"
    if isinstance(found, Missing) or found.sent is None or found.received is None or unread is not None:
        return say.judge(None, limit, reason=str(unread), action=readable)
    least = moved[way] or 0
    verdict = say.judge(
        round(least / 1e6, 3),
        limit,
        reason=(
            "the rail stayed idle: this traffic went elsewhere" if least < IDLE_SHARE * expected else "the rail carried less than its share"
        ),
        action=action,
        expected_mb=round(expected / 1e6, 3),
        request=traffic.request,
        sent_mb=round(found.sent / 1e6, 3),
        received_mb=round(found.received / 1e6, 3),
    )
    largest = max(must.values())
    most = max(found.sent, found.received)
    if verdict.status is Status.PASS and most > traffic.expected.most * largest:
        return verdict.model_copy(
            update={
                "status": Status.WARN,
                "reason": f"the rail moved {most / largest:.1f} times the expected volume: somebody else uses it, too",
                "action": "measure again on a quiet fabric",
            }
        )
    return verdict


def volume_together(traffic: Traffic, nodes: Sequence[NodeSpec]) -> Verdict:
    """All rails together sent at least what the layout must move, where what a single one moves is chance."""
    say = Say("rdma.volume_together", "Bytes that all rails together moved during a fixed request")
    expected = traffic.expected
    if isinstance(expected, Missing):
        return say.unknown(f"what this model must move is not known: {expected}", expected.hint)
    if not expected.together:
        return say.skip("every rail is judged by itself (rdma.rail_volume)")
    limit = Limit(
        kind="min",
        value=round(expected.least * expected.together / 1e6, 3),
        unit="MB",
        origin=Origin(kind="derived", detail=f"{expected.least:g} x ({expected.derivation})"),
    )
    total, unknown = traffic.moved(nodes)
    enough = total >= expected.least * expected.together
    if unknown and not enough:
        return say.judge(None, limit, reason=f"{len(unknown)} of {sum(len(n.rails) for n in nodes)} rails could not be read: {unknown[0]}")
    idle = total < IDLE_SHARE * expected.together
    return say.judge(
        round(total / 1e6, 3),
        limit,
        of=sum(len(n.rails) for n in nodes) - len(unknown),
        reason="the rails stayed idle: this traffic went elsewhere" if idle else "the rails carried less than these tokens must move",
        action="compare NVSHMEM_HCA_LIST and NCCL_IB_HCA in the container with the rails; see that the engine took the flags of the layout",
        expected_mb=round(expected.together / 1e6, 3),
        request=traffic.request,
        why=expected.chance,
    )


def rail_errors(traffic: Traffic, node: str, hca: str, port: int = 1) -> Verdict:
    """No error counter of the rail rose during the request."""
    say = Say("rdma.rail_errors", "Error counters stood still during the request", f"{node} {hca}")
    return _risen(say, traffic.rail(node, hca, port), congestion=False)


def rail_congestion(traffic: Traffic, node: str, hca: str, port: int = 1) -> Verdict:
    """No congestion counter (CNP, ECN marks, pause frames) rose during a request of one stream."""
    say = Say("rdma.rail_congestion", "Congestion counters stood still during the request", f"{node} {hca}")
    return _risen(say, traffic.rail(node, hca, port), congestion=True)


def _risen(say: Say, found: CounterDelta | Missing, *, congestion: bool) -> Verdict:
    limit = Limit(
        kind="max",
        value=0,
        unit="events",
        origin=Origin(kind="protocol", detail="a lossless fabric drops and retries nothing (F41)"),
    )
    if isinstance(found, Missing):
        return say.judge(None, limit, reason=found.reason)
    names = CONGESTION if congestion else ERRORS
    looked = sum(name in found.values for name in names)
    if fell := [name for name in found.reset if name in names]:
        return say.judge(None, limit, reason=f"counters went backwards: {', '.join(fell)}", action="was the port or its driver reset?")
    if not looked:
        return say.judge(None, limit, reason=f"this driver has no {'congestion' if congestion else 'error'} counters")
    risen = found.congestion if congestion else found.errors
    told = ", ".join(f"{name} +{count}" for name, count in sorted(risen.items()))
    fix = (
        "check PFC, DSCP and ECN settings of NICs and switch ports for this rail"
        if congestion
        else "check cable, transceiver, MTU and GID of this rail; ib_write_bw between two nodes on it"
    )
    return say.judge(sum(risen.values()), limit, reason=told, action=fix, details={**risen}, of=looked)


def unused_hcas_quiet(traffic: Traffic, node: NodeSpec) -> Sequence[Verdict]:
    """HCAs outside the rails (the management device) do not carry the collectives."""
    say, verdicts = Say("rdma.management_hca_quiet", "The management device carries no collectives"), []
    for other in node.other_hcas:
        here = say.about(f"{node.name} {other.hca}")
        if isinstance(traffic.expected, Missing):
            verdicts.append(here.unknown(f"what one rail must move is not known: {traffic.expected}"))
            continue
        share = traffic.expected.together / max(1, len(traffic.before) * len(node.rails))
        expected = share or max(traffic.of_rail(node.name))
        found = traffic.rail(node.name, other.hca, other.port)
        limit = Limit(
            kind="max",
            value=round(traffic.expected.least * expected / 1e6, 3),
            unit="MB",
            origin=Origin(kind="derived", detail="half of what one rail must move"),
        )
        unknown = isinstance(found, Missing) or found.sent is None
        measured = None if isinstance(found, Missing) or found.sent is None else round(found.sent / 1e6, 3)
        verdicts.append(
            here.judge(
                measured,
                limit,
                reason=(found.reason if isinstance(found, Missing) else "no byte counters") if unknown else "",
                action=f"NCCL_IB_HCA must not name {other.hca}; it belongs to {other.interface}",
            )
        )
    return verdicts


def verdicts_of(traffic: Traffic, nodes: Sequence[NodeSpec]) -> list[Verdict]:
    """Every verdict about the rails of these nodes."""
    rails = [(node.name, rail.hca, rail.port) for node in nodes for rail in node.rails]
    judged = [check(traffic, *rail) for rail in rails for check in (rail_volume, rail_errors, rail_congestion)]
    return [*judged, volume_together(traffic, nodes), *(verdict for node in nodes for verdict in unused_hcas_quiet(traffic, node))]


def rails_of(traffic: Traffic, job: Job, nodes: Sequence[NodeSpec], engine: str) -> list[RailTraffic]:
    """Every rail for the report's map: bytes of the counted request, and the channels NCCL put on it."""
    records, unforeseen = [], isinstance(traffic.expected, Missing) or bool(traffic.expected.chance)
    together = volume_together(traffic, nodes)
    for node, following, before in zip(nodes, (*nodes[1:], nodes[0]), (nodes[-1], *nodes[:-1]), strict=True):
        must = (0.0, 0.0) if isinstance(traffic.expected, Missing) else traffic.of_rail(node.name)
        peer = before if must[1] and not must[0] else following  # the last stage of a pipeline sends nothing on
        for number, rail in enumerate(node.rails):
            moved = traffic.rail(node.name, rail.hca, rail.port)
            channels = [
                c for c in job.channels if c.node == node.name and c.inter_node and rail.hca in (c.hca or "").split(":")[0].split("+")
            ]
            verdict = rail_volume(traffic, node.name, rail.hca, rail.port)
            if verdict.status is Status.SKIP and together.status is not Status.SKIP:
                verdict = together
            gdr = None if not channels else all(c.gdr for c in channels)
            bad = gdr is False or not channels
            records.append(
                RailTraffic(
                    engine=engine,
                    node=node.name,
                    hca=rail.hca,
                    port=rail.port,
                    interface=rail.interface,
                    peer_node=peer.name,
                    peer_hca=peer.rails[number].hca if number < len(peer.rails) else "",
                    gb_sent=None if isinstance(moved, Missing) or moved.sent is None else moved.sent / 1e9,
                    gb_received=None if isinstance(moved, Missing) or moved.received is None else moved.received / 1e9,
                    gb_expected=None if unforeseen else max(must) / 1e9,
                    channels=len(channels),
                    gdr=gdr,
                    status=Status.FAIL if bad and verdict.status is Status.PASS else verdict.status,
                    reason=verdict.reason or ("" if not bad else "NCCL put no GDRDMA channel on it"),
                )
            )
    return records
