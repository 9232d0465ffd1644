"""Judges what all rails did at once: GPU memory per pair, the sum against single ones, the odd one out. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from pytest_h20.checks.fabric.blame import of_pair, of_together
from pytest_h20.checks.fabric.rounds import Flow, Wired, floor_of
from pytest_h20.checks.frame import Say, builtin, inventory, silence
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.facts import Facts, RailView
from pytest_h20.probes.script import Missing

TITLES = {
    "fabric.gpu_write_bw": "ib_write_bw from GPU memory to GPU memory",
    "fabric.gpu_read_bw": "ib_read_bw from GPU memory to GPU memory",
    "fabric.rails_together": "All rails at once carry what they carry one by one",
    "fabric.rails_apart": "No rail stands apart from the others",
}
ACTIONS = {
    "fabric.gpu_write_bw": "nvidia-smi topo -m; lsmod | grep peermem; ACS off on the bridges; ib_write_bw --use_cuda=N by hand",
    "fabric.gpu_read_bw": "as for fabric.gpu_write_bw, with ib_read_bw",
    "fabric.rails_together": "ethtool -S for pauses, lspci -tv for what the NICs share; the switch's ports, uplinks and PFC watchdog",
    "fabric.rails_apart": "compare cable, switch port, PCIe slot and firmware of this rail with its neighbours'",
}
LAG_TIMES = 2.0
"""Latency of a rail against the median: one switch more on the way about doubles it."""

WITH_CUDA = "a perftest with CUDA on every node (that of the OFED, or its own configure with CUDA_H_PATH), or torch in the engine's image"


def judge_wired(facts: Facts, found: Wired | Missing, singles: Mapping[str, float]) -> list[Verdict]:
    """Everything about all rails at once. ``singles``: ``ib_write_bw`` of each rail alone, Gbit/s, by subject, as far as measured."""
    e = facts.inventory.expect
    kept = () if isinstance(found, Missing) else found.evidence
    says = {check: Say(check, title, "cluster", kept, ACTIONS[check], e.unmeasured_ok) for check, title in TITLES.items()}
    if any(view.expect.ib_write_bw is False for view in facts.views):
        return [say.skip("expect.ib_write_bw is false: not run") for say in says.values()]
    if len(facts.views) < 2:
        return [say.skip("one node only") for say in says.values()]
    if why := silence(facts.views):
        return [say.skip(why) for say in says.values()]
    wanted = any(view.expect.ib_write_bw for view in facts.views)
    if isinstance(found, Missing):
        return [say.missing(found, wanted=wanted) for say in says.values()]
    verdicts = []
    for verb in ("write", "read"):
        say = says[f"fabric.gpu_{verb}_bw"]
        flows = [f for f in found.flows if f.verb == verb]
        if found.no_gpu:
            lost = Missing(f"GPU memory not measured: {found.no_gpu}", WITH_CUDA)
            verdicts.append(say.missing(lost, wanted=wanted and any(v.expect.gpudirect is not False for v in facts.views)))
        elif not flows:
            verdicts.append(say.skip("NCCL only writes, and no perftest with CUDA was there: reads were not measured"))
        else:
            verdicts += [_pair(say, facts, flow, found, singles) for flow in flows]
    nodes = list(dict.fromkeys(flow.node for flow in found.flows))
    verdicts += [_together(says["fabric.rails_together"], facts, node, found, singles) for node in nodes]
    return [*verdicts, _apart(says["fabric.rails_apart"], facts, found)]


def _rail(facts: Facts, flow: Flow) -> RailView:
    return facts.of(flow.node).rail(flow.hca)


def _figure(x: float | Missing | None) -> JsonValue:
    return round(x, 2) if isinstance(x, float) else None if x is None else x.reason


def _pair(say: Say, facts: Facts, flow: Flow, found: Wired, singles: Mapping[str, float]) -> Verdict:
    """One GPU through its NIC to the GPU of the peer, against the same part of the line rate as host memory."""
    rail = _rail(facts, flow)
    say = say.about(f"{flow.node} {flow.hca} GPU{flow.gpu} -> {flow.peer} {flow.peer_hca} GPU{flow.peer_gpu}")
    floor, best, line, share = floor_of(rail), flow.best, rail.rate_gbps, rail.view.expect.ib_write_bw_min
    details: dict[str, JsonValue] = {
        "tool": found.tool,
        "at_once": _figure(flow.at_once),
        "alone": _figure(flow.alone),
        "line_rate_gbps": line,
    }
    if isinstance(best, Missing):
        return say.unknown(best.reason, best.hint, details)
    if floor is None:
        return say.unknown("the line rate is not known", "give rails[].rate_gbps", details)
    single = singles.get(rail.subject)
    if best < floor and single is not None and single < floor:
        return say.skip(
            f"it reaches {best:.1f} Gbit/s, and host memory no more: the wire itself is slow (fabric.ib_write_bw)", best, details
        )
    host = next((f.at_once for f in found.host if (f.node, f.hca) == (flow.node, flow.hca) and isinstance(f.at_once, float)), None)
    origin = Origin(kind="derived", detail=f"{share:g} x line rate {line:g} Gbit/s (expect.ib_write_bw_min)")
    limit = Limit(kind="min", value=round(floor, 3), unit="Gbit/s", origin=origin)
    return say.judge(round(best, 3), limit, reason=of_pair(rail, flow, single, host), details=details)


def _together(say: Say, facts: Facts, node: str, found: Wired, singles: Mapping[str, float]) -> Verdict:
    """The sum of what all rails of a node write at once, against the sum of what each writes alone."""
    flows = [f for f in found.flows if f.verb == "write" and f.node == node]
    memory = "host memory" if found.no_gpu else "GPU memory"
    say = say.about(f"{node} -> {flows[0].peer}" if flows else node)
    if len(flows) < 2:
        return say.skip("one rail: nothing runs beside it")
    alone: dict[str, float] = {}
    for flow in flows:
        known = [x for x in (singles.get(f"{flow.node} {flow.hca}"), flow.alone) if isinstance(x, float)]
        least = floor_of(_rail(facts, flow))
        if known or least is not None:
            alone[flow.hca] = max(known) if known else least or 0.0
    details: dict[str, JsonValue] = {
        "memory": memory,
        "at_once": {f.hca: _figure(f.at_once) for f in flows},
        "alone": {hca: round(x, 2) for hca, x in alone.items()},
    }
    lost = [f"{f.hca}: {f.at_once.reason}" for f in flows if isinstance(f.at_once, Missing)]
    if lost:
        return say.unknown(f"{len(lost)} of {len(flows)} rails sent nothing: {'; '.join(lost[:3])}", details=details)
    if len(alone) < len(flows):
        return say.unknown(f"neither a single figure nor the line rate is known of {', '.join(f.hca for f in flows if f.hca not in alone)}")
    share = facts.of(node).expect.rails_together_min
    total = sum(f.at_once for f in flows if isinstance(f.at_once, float))
    by = "ib_write_bw alone" if all(f"{f.node} {f.hca}" in singles for f in flows) else "what a single rail must reach"
    origin = Origin(kind="derived", detail=f"{share:g} x the sum of {len(flows)} single rails, {sum(alone.values()):.0f} Gbit/s ({by})")
    limit = Limit(kind="min", value=round(share * sum(alone.values()), 3), unit="Gbit/s", origin=origin)
    kept = {hca: share * x for hca, x in alone.items()}
    return say.judge(round(total, 3), limit, reason=of_together(facts, flows, kept, found), details=details, of=len(flows))


def _apart(say: Say, facts: Facts, found: Wired) -> Verdict:
    """Every rail that holds its own limit against the median of all, by part of its line rate; and its latency, but for that of software
    RDMA in a lab: whose turn it is on the CPU is no fault of a wire, and perftest's clock often gives no figure there."""
    share = min(view.expect.rails_apart_min for view in facts.views)
    odd: list[str] = []
    compared = 0
    details: dict[str, JsonValue] = {}
    for verb in ("write", "read"):
        parts: dict[str, float] = {}
        for flow in found.flows:
            rail = _rail(facts, flow)
            floor, x = floor_of(rail), flow.at_once
            if flow.verb == verb and isinstance(x, float) and floor is not None and x >= floor and rail.rate_gbps:
                parts[f"{flow.node} {flow.hca}"] = x / rail.rate_gbps
        if len(parts) < 3:
            continue
        middle = statistics.median(parts.values())
        compared += len(parts)
        details[verb] = {name: round(x, 3) for name, x in parts.items()}
        odd += [
            f"{n} {verb}s {100 * x:.0f} % of its line rate, the median is {100 * middle:.0f} %"
            for n, x in parts.items()
            if x < share * middle
        ]
    lags = {f"{lag.node} {lag.hca}": lag.typical_us for lag in found.lags if isinstance(lag.typical_us, float)}
    lost = [f"{lag.node} {lag.hca}: {lag.typical_us.reason}" for lag in found.lags if isinstance(lag.typical_us, Missing)]
    details["latency_us"] = {**lags}
    slow = [rail.subject for view in facts.views for rail in view.rails if rail.software and facts.inventory.kind != "hardware"]
    if slow:
        details["latency"] = f"not judged: {', '.join(slow)} are software RDMA, whose latency is the CPU's"
        lags, lost = {}, []
    if len(lags) >= 3:
        middle = statistics.median(lags.values())
        compared += len(lags)
        odd += [f"{n} takes {x:.1f} us, the median is {middle:.1f} us" for n, x in lags.items() if x > LAG_TIMES * middle]
    if not compared and not lost:
        why = "; the latency of software RDMA is the CPU's" if slow else ""
        return say.skip(f"fewer than three rails hold their limits: there is no median{why}", details=details)
    if lost and not odd:
        return say.unknown(
            f"the latency of {len(lost)} rails could not be measured: {lost[0]}", "ib_write_lat by hand on both ends", details
        )
    limit = Limit(
        kind="max", value=0, unit="rails", origin=inventory("rails_apart_min") if share != 0.9 else builtin("alike rails work alike")
    )
    return say.judge(len(odd), limit, reason="; ".join(odd[:4]), details=details, of=compared, what="figure of a rail")


def short_words(verdicts: Sequence[Verdict]) -> list[str]:
    """What was said about rails that fall short together."""
    return [v.reason for v in verdicts if v.check == "fabric.rails_together" and v.status.blocks]
