"""The machines while the load runs, and after it against before: what each node told every second, its counters, its kernel log. Pure.

Every limit says where it comes from. A part that was not seen is told; what was not seen enough is ``UNKNOWN``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin
from pytest_h20.checks.soak.trend import robust_sigma
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.counters import CONGESTION, ERRORS, CounterDelta, CounterSnapshot, delta
from pytest_h20.probes.dcgm import Dcgm
from pytest_h20.probes.gpu import Gpu, Gpus
from pytest_h20.probes.kernel_log import KernelEvent, LineEntry, Stretch, explain, explain_xid
from pytest_h20.probes.script import Missing
from pytest_h20.probes.telemetry import GpuIdentity, GpuWindow, Window

TITLES = {
    "throughput.telemetry": "Every node told its state while the cell ran",
    "throughput.throttled": "No GPU was slowed down by heat or power while the cell ran",
    "throughput.gpu_apart": "No GPU stands apart from the others under load",
    "throughput.gpu_state": "The GPUs are after the load as they were before it",
    "throughput.dcgm": "DCGM counted no NVLink error and no Xid over the whole load",
    "throughput.rail_errors": "Error counters of this rail over the whole load",
    "throughput.rail_congestion": "Congestion of this rail over the whole load",
    "throughput.rail_shares": "The rails of this node carried equal shares of the load",
    "kernel_log": "What the kernel said while this gate ran",
}
"""Check (``kernel_log``: of any gate) to title."""


def say(check: str, subject: str, optional: Sequence[str] = (), evidence: Sequence[str] = (), action: str = "") -> Say:
    """The voice of one check about one subject. ``optional``: ``expect.unmeasured_ok``."""
    name = check.rpartition(".")[2]
    title = TITLES.get(check) or TITLES.get(name) or TITLES[f"throughput.{name}"]
    return Say(check, title, subject, tuple(evidence), action, tuple(optional))


def moment(seconds: float) -> str:
    """``0:07``: minutes and seconds since the start of a cell."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# ------------------------------------------------------------------------------------------------------------------ one cell
ENOUGH = 0.8
"""The part of a cell that must be seen. Below it nothing is said about the rest."""


@dataclass(frozen=True)
class CellMachines:
    """What every node told while one cell ran. ``missing``: node to why it told nothing at all. ``scale``: model seconds per second."""

    windows: Mapping[str, Window]
    missing: Mapping[str, str]
    scale: float = 1.0

    @property
    def gpus(self) -> Iterator[tuple[str, GpuWindow]]:
        """Every GPU of every node that told anything, with its node."""
        for node, window in self.windows.items():
            for gpu in window.gpus.values():
                yield node, gpu

    def unseen(self) -> Iterator[tuple[str, str, float, float | None]]:
        """Node, what was not told, and from when until when, in seconds since the start. Until None: of a node that told nothing at all."""
        for node, why in self.missing.items():
            yield node, why, 0.0, None
        for node, window in self.windows.items():
            for kind, gaps in window.gaps.items():
                words = "nothing about its GPUs" if kind == "gpu" else "nothing about the node itself"
                for start, end in gaps:
                    yield node, words, start, end

    def holes(self) -> Iterator[str]:
        """Each gap in words."""
        for node, window in self.windows.items():
            for kind, gaps in window.gaps.items():
                for start, end in gaps:
                    words = "GPUs" if kind == "gpu" else "node"
                    until = f"{moment(start * self.scale)} and {moment(end * self.scale)}"
                    yield f"{node}: nothing about its {words} between {until} of {moment(window.seconds * self.scale)}"


def reported(voice: Say, told: CellMachines) -> Verdict:
    """Every node reported, without gaps. A gap is told; a cell of which more than a fifth was not seen is not judged."""
    if not told.windows and not told.missing:
        return voice.unknown("no node was watched")
    lost = [f"{node}: {why}" for node, why in told.missing.items()]
    for node, window in told.windows.items():
        for kind in window.gaps:
            if window.seen(kind) < ENOUGH:
                notes = f" ({'; '.join(window.notes[-2:])})" if window.notes else ""
                lost += [hole + notes for hole in told.holes() if hole.startswith(f"{node}: nothing about its {_KINDS[kind]}")][:1]
    details: dict[str, JsonValue] = {node: round(min(w.seen(k) for k in w.gaps), 3) for node, w in told.windows.items()}
    action = "see that nvidia-smi answers on that node, and that the connection to it lives"
    if lost:
        return voice.unknown("; ".join(lost), action, details)
    if holes := list(told.holes()):
        return voice.warn(len(holes), "; ".join(holes), action=action, details=details)
    least = min(w.seen(k) for w in told.windows.values() for k in w.gaps)
    limit = Limit(kind="min", value=100 * ENOUGH, unit="% of the cell", origin=builtin("what was not seen is not judged"))
    return voice.judge(round(100 * least, 1), limit, details=details, of=len(told.windows))


_KINDS = {"gpu": "GPUs", "host": "node"}

HELD = ("hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
"""Reasons that name heat or a power brake. ``sw_power_cap`` is the card at its own limit, as it is meant to be."""

SLOWDOWN, SLOWDOWN_SAMPLES = "hw_slowdown", 3
"""NVML: "may be also reported during PState or clock change". Alone it counts from the third sample on."""

_HEAT = "check cooling (fans, filters, inlet temperature) and power supplies; nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"


def throttled(voice: Say, told: CellMachines) -> Verdict:
    """No GPU reported a slowdown by heat or power brake in any second of the cell."""
    found, looked = [], 0
    for node, gpu in told.gpus:
        looked += 1
        held = {reason: count for reason, count in gpu.throttled.items() if reason in HELD}
        if not held and gpu.throttled.get(SLOWDOWN, 0) >= SLOWDOWN_SAMPLES:
            held = {SLOWDOWN: gpu.throttled[SLOWDOWN]}
        if held:
            words = ", ".join(f"{reason} in {count} of {gpu.samples} samples" for reason, count in held.items())
            found.append(f"{node} {gpu.identity}: {words}")
    if not looked:
        return voice.unknown("no GPU told anything")
    limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("a GPU that is slowed down slows all of its tensor-parallel group"))
    return voice.judge(len(found), limit, reason="; ".join(found), action=_HEAT, of=looked)


@dataclass(frozen=True)
class Apart:
    """How far one GPU may be from the median of all. ``least``: a part of that median, and ``floor`` in the quantity's own unit:
    below them no distance counts, however alike the others are. ``sign``: which side counts."""

    quantity: str
    words: str
    unit: str
    least: float
    floor: float
    sign: int
    action: str


LIMITS = (
    Apart("sm_mhz", "SM clock", "MHz", 0.12, 60.0, -1, "nvidia-smi -q -i GPU -d CLOCK,PERFORMANCE; -rgc; then swap it with another slot"),
    Apart("power_w", "power", "W", 0.35, 40.0, 0, "see what runs on it; nvidia-smi -q -i GPU -d POWER; then swap it with another slot"),
    Apart("temperature_c", "temperature", "°C", 0.0, 20.0, 1, "check the air flow of its slot, its heat sink and thermal paste"),
)
SIGMAS = 6.0
"""Distance from the median in robust standard deviations (1.4826 x MAD) from which one stands apart; of 16 normal values none does."""

FEWEST = 4
"""GPUs it takes to say which of them is the odd one."""

HOLDS = 0.25
"""A GPU with less memory in use than this part of the fullest one's does not serve the model."""


def working(told: CellMachines) -> list[tuple[str, GpuWindow]]:
    """The GPUs that hold a part of the model. One whose memory nobody tells is taken to."""
    every = list(told.gpus)
    most = max((m for _, g in every if (m := g.median("memory_mib")) is not None), default=0.0)
    return [(node, g) for node, g in every if (m := g.median("memory_mib")) is None or m >= HOLDS * most]


def odd_ones(told: CellMachines) -> list[tuple[str, GpuWindow, Apart, str]]:
    """GPUs that stand apart: node, GPU, in what, and the words for it."""
    found = []
    gpus = working(told)
    for limit in LIMITS:
        values = {(node, g.identity.index): m for node, g in gpus if (m := g.median(limit.quantity)) is not None}
        if len(values) < FEWEST:
            continue
        middle = statistics.median(values.values())
        most = max(SIGMAS * robust_sigma(values.values(), middle), limit.least * middle, limit.floor)
        for node, gpu in gpus:
            value = values.get((node, gpu.identity.index), middle)
            away = value - middle
            if abs(away) > most and (limit.sign == 0 or away * limit.sign > 0):
                words = (
                    f"{node} {gpu.identity}: {limit.words} {value:.0f} {limit.unit}, the median of {len(values)} GPUs is "
                    f"{middle:.0f} {limit.unit}, {most:.0f} {limit.unit} away from it is the most"
                )
                found.append((node, gpu, limit, words))
    return found


def apart(voice: Say, told: CellMachines) -> Verdict:
    """No GPU's median clock, power or temperature stands apart from the others' by a robust spread."""
    gpus = working(told)
    if not gpus:
        return voice.unknown("no GPU told anything")
    known = [limit.words for limit in LIMITS if sum(g.median(limit.quantity) is not None for _, g in gpus) >= FEWEST]
    if len(gpus) < FEWEST:
        return voice.skip(f"{len(gpus)} GPUs: it takes {FEWEST} to say which one is odd")
    if not known:
        return voice.unknown("the drivers tell neither clock nor power nor temperature")
    found = odd_ones(told)
    limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin(f"{SIGMAS:g} robust standard deviations (1.4826 x MAD), with floors"))
    reason = "; ".join(words for *_, words in found)
    action = found[0][2].action if found else ""
    apart_gpus = {(node, gpu.identity.index) for node, gpu, *_ in found}
    return voice.judge(len(apart_gpus), limit, reason=reason, action=action, details={"compared": ", ".join(known)}, of=len(gpus))


def energy_wh_per_1k(told: CellMachines, seconds: float, tokens: int) -> float | None:
    """Watt-hours of all GPUs that serve the model per 1,000 output tokens; None unless each one told its power through the cell.

    ``seconds``: the cell's own, in model time. Median power times time: the GPUs alone, without fans, processors and network.
    """
    if not told.windows or told.missing or tokens <= 0 or any(w.seen("gpu") < ENOUGH for w in told.windows.values()):
        return None
    watts = [g.median("power_w") for _, g in working(told)]
    if not watts or None in watts:
        return None
    return sum(w for w in watts if w is not None) * seconds / 3600.0 / (tokens / 1000.0)


OF_A_CELL: Mapping[str, Callable[[Say, CellMachines], Verdict]] = {
    "throughput.telemetry": reported,
    "throughput.throttled": throttled,
    "throughput.gpu_apart": apart,
}


# ------------------------------------------------------------------------------------------------------- the whole load
NOT_ASKED = Missing("DCGM was not asked")


@dataclass(frozen=True)
class Snapshot:
    """One node before or after the load."""

    counters: CounterSnapshot | Missing
    gpus: Gpus | Missing
    dcgm: Dcgm | Missing = NOT_ASKED


PER_GB = 0.01
"""Errors per 10^9 bytes. 1 GB is 8e9 bits: IEEE 802.3 lets a link have a bit error ratio of 1e-12, which is 0.008 per GB."""

NEVER = ("link_downed", "link_error_recovery", "req_cqe_error", "retry_exceeded_err", "excessive_buffer_overrun_errors")
"""Of these one is too many: a link was down, or a queue pair broke."""


def rail_delta(before: Snapshot, after: Snapshot, hca: str, port: int) -> CounterDelta | Missing:
    """What the counters of one rail did over the load."""
    if isinstance(before.counters, Missing):
        return before.counters
    if isinstance(after.counters, Missing):
        return after.counters
    found = next((d for d in delta(before.counters, after.counters) if (d.device, d.port) == (hca, port)), None)
    return found or Missing(f"{hca} port {port} has no counters")


def _gigabytes(moved: CounterDelta) -> float | None:
    return None if moved.sent is None or moved.received is None else (moved.sent + moved.received) / 1e9


def rail_errors(voice: Say, moved: CounterDelta | Missing, idle: str = "") -> Verdict:
    """Error counters rose by no more than a link may err, per gigabyte that it carried. One event alone is no rate: it is told.

    ``idle``, here and below: why this engine moves nothing over the network; "" where it must."""
    if isinstance(moved, Missing):
        return voice.missing(moved)
    carried = _gigabytes(moved)
    if moved.reset:
        return voice.unknown(f"counters went backwards: {', '.join(moved.reset)}", "see the kernel log: was the port reset?")
    looked = sum(name in moved.values for name in ERRORS)
    if not looked:
        return voice.unknown("this driver has no error counters")
    risen = moved.errors
    told = ", ".join(f"{name} +{count}" for name, count in sorted(risen.items()))
    details: dict[str, JsonValue] = {**risen, "gigabytes": None if carried is None else round(carried, 3)}
    action = "check cable, transceiver, MTU and PFC of this rail; mlxlink -d DEVICE -m -c -e"
    total = sum(risen.values())
    never = {name: count for name, count in risen.items() if name in NEVER}
    if never:
        limit = Limit(kind="max", value=0, unit="events", origin=Origin(kind="protocol", detail="a link or a queue pair broke"))
        return voice.judge(sum(never.values()), limit, reason=told, action=action, details=details)
    if total == 1:
        return voice.warn(1, f"{told}: one event is no rate", action="watch this rail", details=details)
    if idle and not total and carried is not None and carried <= 0:
        return voice.skip(idle)
    if carried is None or (total and carried <= 0):
        return voice.unknown(f"{told or 'no error'}, but this driver does not tell bytes", details=details)
    origin = Origin(kind="derived", detail="IEEE 802.3: a bit error ratio of 1e-12 is 0.008 per GB")
    limit = Limit(kind="max", value=PER_GB, unit="per GB", origin=origin)
    reason = f"{told} while the rail carried {carried:.1f} GB"
    return voice.judge(round(total / carried, 6) if carried > 0 else None, limit, reason=reason, action=action, details=details, of=looked)


PAUSES_PER_GB = 10.0
"""Pause frames per 10^9 bytes. One stops a 200 Gbit/s port for up to 168 us (65,535 quanta of 512 bit times) and 1 GB takes 40 ms:
ten are up to 4 % of its time."""

CNPS_PER_GB = 2_500.0
"""Congestion notifications and ECN marks per 10^9 bytes: 1 % of 244,000 packets of 4,096 bytes."""

_TOLD_ONLY = ("port_xmit_wait",)
"""Counts ticks of a length that only the device knows: told, not judged."""


def rail_congestion(voice: Say, moved: CounterDelta | Missing, idle: str = "") -> Verdict:
    """Congestion notifications, ECN marks and pause frames against the bytes that were carried."""
    if isinstance(moved, Missing):
        return voice.missing(moved)
    carried = _gigabytes(moved)
    if not any(name in moved.values for name in CONGESTION):
        return voice.unknown("this driver has no congestion counters")
    if idle and carried is not None and carried <= 0:
        return voice.skip(idle)
    if carried is None or carried <= 0:
        return voice.unknown("no byte was carried, or this driver does not tell bytes")
    risen = {name: count for name, count in moved.congestion.items() if name not in _TOLD_ONLY}
    pauses = sum(count for name, count in risen.items() if "pause" in name)
    marks = sum(count for name, count in risen.items() if "pause" not in name)
    over = max(pauses / carried / PAUSES_PER_GB, marks / carried / CNPS_PER_GB)
    origin = Origin(kind="derived", detail=f"{CNPS_PER_GB:g} notifications or marks (1 % of packets), or {PAUSES_PER_GB:g} pauses, per GB")
    told = ", ".join(f"{name} +{count}" for name, count in sorted(risen.items()))
    return voice.judge(
        round(over, 4),
        Limit(kind="max", value=1.0, unit="of what is allowed", origin=origin),
        reason=f"{told} while the rail carried {carried:.1f} GB",
        action="check PFC, DSCP, ECN and buffer settings of NICs and switch ports; see whether others use the same uplinks",
        details={**moved.congestion, "gigabytes": round(carried, 3)},
        of=sum(name in moved.values for name in CONGESTION),
    )


LEAST_SHARE, MOST_SHARE = 0.5, 2.0
"""Of the median rail. NCCL's rings and trees put equal parts on every rail they use."""


def rail_shares(voice: Say, moved: Mapping[str, CounterDelta | Missing], idle: str = "", unsent: str = "") -> Verdict:
    """No rail carried much less or more than the node's others. ``unsent``: why none had to carry anything."""
    lost = {hca: d for hca, d in moved.items() if isinstance(d, Missing) or _gigabytes(d) is None}
    if lost:
        hca, why = next(iter(lost.items()))
        return voice.unknown(f"{hca}: {why if isinstance(why, Missing) else 'this driver does not tell bytes'}")
    if len(moved) < 2:
        return voice.skip(f"{len(moved)} rail: nothing to compare")
    if idle:
        return voice.skip(idle)
    carried = {hca: _gigabytes(d) or 0.0 for hca, d in moved.items() if not isinstance(d, Missing)}
    middle = statistics.median(carried.values())
    if middle <= 0 and unsent:
        return voice.skip(unsent)
    if middle <= 0:
        return voice.unknown("the rails carried nothing while the load ran", "see rdma.rail_volume and rdma.hcas_used")
    bad = [f"{hca} {gb:.1f} GB" for hca, gb in carried.items() if not LEAST_SHARE <= gb / middle <= MOST_SHARE]
    origin = builtin(f"between {LEAST_SHARE:g} and {MOST_SHARE:g} times the node's median rail")
    return voice.judge(
        len(bad),
        Limit(kind="max", value=0, unit="rails", origin=origin),
        reason=f"{', '.join(bad)}; the median rail carried {middle:.1f} GB",
        action="compare NCCL_IB_HCA with this rail; ib_write_bw between two nodes on it; look at its link rate and PCIe width",
        details={hca: round(gb, 3) for hca, gb in carried.items()},
        of=len(carried),
    )


REPLAYS = 8
"""PCIe replays over a load from which a link is bad (DCGM's health check: 8 a minute)."""


def gpu_state(voice: Say, before: Snapshot, after: Snapshot) -> Verdict:
    """No GPU is gone, no uncorrectable error was counted, no row was remapped, no page retired since before the load."""
    if isinstance(before.gpus, Missing):
        return voice.missing(before.gpus)
    if isinstance(after.gpus, Missing):
        return voice.missing(after.gpus)
    if before.gpus.source != "xml" or after.gpus.source != "xml":
        return voice.unknown("this nvidia-smi has no -q -x: ECC and remapped rows are not known", "update the driver")
    if not before.gpus.gpus:
        return voice.unknown("there was no GPU before the load")
    now = {g.uuid or str(g.index): g for g in after.gpus.gpus}
    bad, mild = [], []
    for old in before.gpus.gpus:
        who = GpuIdentity(old.index, old.serial, old.bus_id)
        new = now.get(old.uuid or str(old.index))
        if new is None:
            bad.append(f"{who} is gone")
            continue
        bad += [f"{who}: {text}" for text in _worse(old, new)]
        mild += [f"{who}: {text}" for text in _mild(old, new)]
    action = "drain the node and reset the GPU (nvidia-smi --gpu-reset -i GPU); replace it if it comes back (NVIDIA's RMA policy)"
    if mild and not bad:
        return voice.warn(len(mild), "; ".join(mild), action="watch it; nvidia-smi -q -d ECC,ROW_REMAPPER")
    limit = Limit(kind="max", value=0, unit="changes", origin=builtin("memory errors and PCIe trouble that came with the load"))
    return voice.judge(len(bad), limit, reason="; ".join(bad), action=action, of=len(before.gpus.gpus))


BROKEN_LINK = ("NVLink replays", "NVLink recoveries")
"""One of these is a failure to DCGM, a CRC error below 100 a second a warning (DcgmHealthWatch.cpp, DcgmGPUHardwareLimits.h)."""


def dcgm(voice: Say, before: Snapshot, after: Snapshot) -> Verdict:
    """No NVLink of a GPU had to send again or recover since before the load, no GPU has another last Xid, and the health watches that are
    on found nothing that they had not found before. DCGM is used where it is there: nothing is installed or switched on."""
    if isinstance(before.dcgm, Missing):
        return voice.skip(f"DCGM is not used: {before.dcgm}")
    if isinstance(after.dcgm, Missing):
        return voice.unknown(f"DCGM told its figures before the load, and none after it: {after.dcgm}", "systemctl status nvidia-dcgm")
    bad: list[str] = []
    mild: list[str] = []
    for index, old in before.dcgm.gpus.items():
        new = after.dcgm.gpus.get(index)
        if new is None:
            bad.append(f"GPU {index} is gone")
            continue
        for name in old.keys() & new.keys() - {"xid"}:
            if (risen := new[name] - old[name]) > 0:
                (bad if name in BROKEN_LINK else mild).append(f"GPU {index}: {name} +{risen}")
        if (xid := new.get("xid", 0)) and xid != old.get("xid", 0):
            entry = explain_xid(xid)
            (bad if entry.severity in _BAD else mild).append(f"GPU {index}: Xid {xid}: {entry.meaning}")
    health = after.dcgm.health
    if health not in ("", "Healthy") and (health, after.dcgm.incidents) != (before.dcgm.health, before.dcgm.incidents):
        (bad if health == "Failure" else mild).append(f"dcgmi health: {health}: {after.dcgm.incidents}")
    figures = sorted({name for told in before.dcgm.gpus.values() for name in told})
    details: dict[str, JsonValue] = {"figures": [*figures], "health": health or "no watch is on"}
    if mild and not bad:
        return voice.warn(len(mild), "; ".join(sorted(mild)), action="dcgmi health -c; dcgmi nvlink -e", details=details)
    limit = Limit(kind="max", value=0, unit="changes", origin=Origin(kind="vendor", detail="NVIDIA DCGM: DcgmHealthWatch.cpp"))
    action = "dcgmi nvlink -e; drain the node, reset its GPUs and NVSwitches; dcgmi diag -r 3 when it is empty"
    return voice.judge(
        len(bad), limit, of=sum(map(len, before.dcgm.gpus.values())), reason="; ".join(sorted(bad)), action=action, details=details
    )


def _rise(old: int | None, new: int | None) -> int:
    return 0 if old is None or new is None else new - old


_COUNTS = (
    ("uncorrectable memory errors", "ecc_uncorrectable"),
    ("rows remapped for uncorrectable errors", "remap_uncorrectable"),
    ("retired pages", "retired_pages"),
)
_FLAGS = (
    ("a row remap is pending", "remap_pending"),
    ("a row remap failed", "remap_failure"),
    ("a page retirement is pending", "retired_pending"),
)


def _worse(old: Gpu, new: Gpu) -> Iterator[str]:
    for words, name in _COUNTS:
        if (risen := _rise(getattr(old, name), getattr(new, name))) > 0:
            yield f"{words} +{risen}"
    for words, name in _FLAGS:
        if getattr(new, name) and not getattr(old, name):
            yield words
    if (replays := _rise(old.pcie_replays, new.pcie_replays)) >= REPLAYS:
        yield f"PCIe replays +{replays}"


def _mild(old: Gpu, new: Gpu) -> Iterator[str]:
    if (rows := _rise(old.remap_correctable, new.remap_correctable)) > 0:
        yield f"rows remapped for correctable errors +{rows}"
    if 0 < (replays := _rise(old.pcie_replays, new.pcie_replays)) < REPLAYS:
        yield f"PCIe replays +{replays}"


# ------------------------------------------------------------------------------------------------------------- kernel log
@dataclass(frozen=True)
class Said:
    """A line of the kernel, with the cell it fell into (empty: none) and the time since that cell's or the gate's start, s."""

    event: KernelEvent
    cell: str = ""
    after_s: float | None = None

    def words(self) -> str:
        """What it means and when."""
        entry = explain(self.event)
        when = "" if self.after_s is None else f" at {moment(self.after_s)} of {self.cell or 'this gate'}"
        return f"{entry.meaning}{when}"


def kernel_said(voice: Say, said: Sequence[Said], seen: Stretch, ours: Sequence[str] = ()) -> Verdict:
    """Nothing in the kernel log of a gate's time that names sick hardware, a broken driver or a process that was ended.

    ``seen``: what of that time was looked at. A log that holds no line of it was looked at all the same: its readings are counted then.
    ``ours``: interfaces of the inventory; a link of another one that goes down is told only.
    """
    rated = [(explain(s.event), s) for s in said if not _foreign(s.event, ours)]
    bad = sorted(((e, s) for e, s in rated if e.severity in _BAD), key=lambda pair: _BAD.index(pair[0].severity))
    mild = [(e, s) for e, s in rated if e.severity == "watch"] + [(explain(s.event), s) for s in said if _foreign(s.event, ours)]
    details: dict[str, JsonValue] = {"written": seen.written, "readings": seen.readings}
    if bad or mild or seen.unseen:
        details["lines"] = [s.event.text[:240] for _, s in (bad + mild)[:20]]
    looked_at = max(seen.written, len(said))
    limit = Limit(kind="max", value=0, unit="lines", origin=_TABLES)
    if bad:
        return voice.judge(len(bad), limit, of=looked_at, reason=_in_words(bad), action=bad[0][0].action, details=details)
    if seen.unseen:
        action = "keep the journal (Storage=persistent), or boot with log_buf_len=16M; log in as root"
        return voice.unknown("; ".join(seen.unseen), action, details)
    if mild:
        return voice.warn(len(mild), _in_words(mild), action=mild[0][0].action, details=details)
    return voice.judge(0, limit, of=looked_at or seen.readings, what="line or reading of the log", details=details)


_BAD = ("fatal", "reset", "application")
_TABLES = builtin("kernel lines of this package's tables (Xid: NVIDIA's catalog)")


def _in_words(found: Sequence[tuple[LineEntry, Said]], most: int = 4) -> str:
    words = list(dict.fromkeys(said.words() for _, said in found))
    return "; ".join(words[:most]) + (f"; and {len(words) - most} more" if len(words) > most else "")


def _foreign(event: KernelEvent, ours: Sequence[str]) -> bool:
    return event.kind == "link" and not event.code and bool(ours) and event.device not in ours
