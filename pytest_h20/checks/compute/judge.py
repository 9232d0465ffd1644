"""Gate ``compute``: pure judgement of what the burn of every node said.

Each figure is held against the vendor's (``core/gpus.py``), by a part of it that a sound GPU reaches with room to spare, and against the
median of its siblings, which needs no table: that is ``compute.apart``. Nothing measured is ``UNKNOWN``.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pytest_h20.checks.compute.facts import Burned, NodeBurn
from pytest_h20.checks.frame import Say, builtin, silence
from pytest_h20.core.gpus import GPUS, GpuModel
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.facts import Facts, View
from pytest_h20.probes.gpu import Gpu
from pytest_h20.probes.script import Missing

TITLES = {
    "compute.ran": "The burn ran on every GPU of this node",
    "compute.exact": "The same computation gives the same bits, every time and on every GPU",
    "compute.memory": "GPU memory gives back what was written",
    "compute.hbm": "Bandwidth of GPU memory",
    "compute.gemm_bf16": "Matrix products in BF16",
    "compute.gemm_fp8": "Matrix products in FP8",
    "compute.gemm_fp32": "Matrix products in FP32",
    "compute.host_link": "Bandwidth between host and GPU, each way",
    "compute.nvlink": "Bandwidth from GPU to GPU, each way",
    "compute.all_reduce": "All-reduce over the GPUs of this node",
    "compute.clocks": "No GPU was slowed down by heat or a power brake while it was burned",
    "compute.power": "Power of the GPUs while they were burned",
    "compute.apart": "No GPU stands apart from its siblings",
}


@dataclass(frozen=True)
class BurnFigure:
    """What a check measures: the least of these figures over all GPUs. ``share``: of the vendor's figure, at least."""

    names: tuple[str, ...]
    unit: str
    vendor: Callable[[GpuModel], float]
    share: float
    why: str
    likely: str
    action: str


_LOCKED = "nvidia-smi -q -d CLOCK,PERFORMANCE,POWER of that GPU: a locked clock, a power cap or heat; else change the GPU"
FIGURES = {
    "compute.hbm": BurnFigure(
        ("hbm",),
        "GB/s",
        lambda gpu: gpu.hbm,
        0.8,
        "two H100 reach 0.90",
        "likeliest is the GPU: its own memory is slow, and no link took part",
        "nvidia-smi -q -d ECC,ROW_REMAPPER,CLOCK of that GPU; reset it, then change it",
    ),
    "compute.gemm_bf16": BurnFigure(
        ("gemm_bf16",),
        "TFLOP/s",
        lambda gpu: gpu.bf16,
        0.6,
        "two H100 at their power cap reach 0.70",
        "likeliest is the GPU or its cooling: nothing but its cores took part",
        _LOCKED,
    ),
    "compute.gemm_fp8": BurnFigure(
        ("gemm_fp8",),
        "TFLOP/s",
        lambda gpu: gpu.fp8,
        0.5,
        "two H100 at their power cap reach 0.65",
        "likeliest is the GPU or its cooling: nothing but its cores took part",
        _LOCKED,
    ),
    "compute.gemm_fp32": BurnFigure(("gemm_fp32",), "TFLOP/s", lambda gpu: 0.0, 0.0, "", "likeliest is the GPU or its cooling", _LOCKED),
    "compute.host_link": BurnFigure(
        ("h2d", "d2h"),
        "GB/s",
        lambda gpu: gpu.pcie,
        0.6,
        "two H100 reach 0.87 of PCIe 5.0 x16",
        "likeliest is PCIe: the GPU's own memory is measured apart from it",
        "lspci -vv (LnkSta against LnkCap) of the GPU and of every bridge above it while it is busy; reseat it; check the riser",
    ),
}
"""Check to what it measures. ``gemm_fp32`` is recorded, and judged where a limits file has a floor (``h20-skus.yaml``)."""

NVLINK_SHARE, NVLINK_WHY = 0.7, "two H100 reach 0.86"
RING_SHARE, RING_WHY = 0.5, "of one direction of NVLink as bus bandwidth; two H100 without NVLS reach 0.67"

SIBLINGS = {
    "hbm": 0.9,
    "hbm_read": 0.9,
    "hbm_write": 0.9,
    "gemm_bf16": 0.85,
    "gemm_fp8": 0.85,
    "gemm_fp32": 0.85,
    "h2d": 0.75,
    "d2h": 0.75,
    "h2d_all": 0.6,
    "d2h_all": 0.6,
}
"""The part of the siblings' median that each GPU must reach. Two sound H100 differ by 1 % in memory and matrices, by 15 % in host
links measured for a tenth of a second; the last two depend on which GPUs share a switch as well."""

PAIR_SIBLINGS = 0.85

HELD = {0x40: "hw_thermal_slowdown", 0x80: "hw_power_brake_slowdown", 0x20: "sw_thermal_slowdown"}
"""NVML's bits of reasons that name heat or a power brake (nvml.h, nvmlClocksEventReason…). 0x4 is the card at its own power limit, as a
burn means it to be."""


class BurnJudge:
    """The verdicts about all nodes of one engine."""

    def __init__(self, burned: Burned, facts: Facts) -> None:
        self.burned, self.facts = burned, facts

    def say(self, check: str, node: str) -> Say:
        """What makes the verdicts of one check about one node, or ``cluster``."""
        view = next((v for v in self.facts.views if v.name == node), None)
        expect = view.expect if view is not None else self.facts.inventory.expect
        kept = tuple(path for name, path in sorted(self.burned.evidence.items()) if node in (name, "cluster"))
        return Say(check, TITLES[check], node, kept, "", expect.unmeasured_ok)

    def check(self, check: str, node: str) -> Verdict:
        """One check of one node, by id."""
        say, view = self.say(check, node), self.facts.of(node)
        if why := silence([view]):
            return say.skip(why)
        burn = self.burned.nodes.get(node, Missing("the node was not asked"))
        if isinstance(burn, Missing):
            return say.missing(burn)
        if check == "compute.ran":
            return self._ran(say, view, burn)
        if not burn.gpus:
            return say.unknown("the burn ran on no GPU (told by compute.ran)")
        if check in FIGURES:
            return self._figure(say, view, burn, check)
        verdict: Verdict = getattr(self, "_" + check.split(".", 1)[1])(say, view, burn)
        return verdict

    # ------------------------------------------------------------------------------------------------------------- it ran
    def _ran(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """On as many GPUs as the driver lists, and to its end."""
        action = "run the engine's image by hand with the inventory's options: python3 -c 'import torch; print(torch.cuda.device_count())'"
        listed = gpus_of(view)
        details: dict[str, JsonValue] = {"how": burn.how, "torch": burn.torch, "seconds": burn.seconds, "lost": {**burn.lost}}
        if not burn.gpus:
            why = f"torch {burn.torch} in the image sees none" if burn.how else "it said nothing"
            return say.unknown(f"the burn ran on no GPU: {why}", action, details)
        if not burn.done:
            last = f"; lost: {burn.lost}" if burn.lost else ""
            return say.unknown(f"the burn on {burn.gpus} GPUs broke off{last}", "see the recorded output and the kernel log", details)
        lost = {part: why for part, why in burn.lost.items() if part not in burn.absent and part != "busy"}
        if lost:
            return say.unknown("; ".join(f"{part} could not be measured: {why}" for part, why in lost.items()), details=details)
        wanted = len(listed) or view.expect.gpu_count
        if not wanted:
            return say.unknown("how many GPUs the node has is not known: see environment.gpu_count", details=details)
        limit = Limit(kind="min", value=wanted, unit="GPUs", origin=builtin("as many as the driver lists on the node"))
        measured = sum(gpu in burn.exact and gpu in burn.figures.get("hbm", {}) for gpu in range(burn.gpus))
        return say.judge(measured, limit, reason=f"torch sees {burn.gpus} in the container", action=action, details=details, of=burn.gpus)

    # ---------------------------------------------------------------------------------------------------------------- bits
    def _exact(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """Every repeat equals the first, and the first is what most GPUs of this kind have."""
        repeats = sum(exact.repeats for exact in burn.exact.values())
        wrong = [
            f"{self.name(view, burn, gpu)}: {exact.wrong} of {exact.repeats} repeats differ"
            for gpu, exact in burn.exact.items()
            if exact.wrong
        ]
        common = self._common_digest(view)
        wrong += [
            f"{self.name(view, burn, gpu)}: its result is none that its siblings have"
            for gpu, exact in burn.exact.items()
            if not exact.wrong and common and exact.digest != common
        ]
        silent = [self.name(view, burn, gpu) for gpu in range(burn.gpus) if gpu not in burn.exact or not burn.exact[gpu].repeats]
        if silent and not wrong:
            return say.unknown(f"nothing was repeated on {', '.join(silent)}")
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("a GPU that errs in silence answers wrongly in silence"))
        return say.judge(
            len(wrong),
            limit,
            reason=blamed("likeliest is the GPU: its own cores and memory alone took part", wrong),
            action="take the GPU out: dcgmi diag -r 4, then change it",
            details={"repeats": repeats, "digests": {str(gpu): e.digest for gpu, e in burn.exact.items()}},
            of=len(burn.exact),
        )

    def _common_digest(self, view: View) -> str:
        """What most GPUs of this model have, with the same torch; "" where there is no majority."""
        mine = self.burned.nodes[view.name]
        found: Counter[str] = Counter()
        for other in self.facts.views:
            burn = self.burned.nodes.get(other.name)
            if isinstance(burn, NodeBurn) and isinstance(mine, NodeBurn) and burn.torch == mine.torch and model_of(other) == model_of(view):
                found.update(e.digest for e in burn.exact.values() if not e.wrong)
        digest, count = next(iter(found.most_common(1)), ("", 0))
        return digest if count * 2 > found.total() and count > 1 else ""

    def _memory(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """Two patterns over nearly all memory."""
        wrong = [f"{self.name(view, burn, gpu)}: {p.wrong} words of {p.gib} GiB" for gpu, p in burn.memory.items() if p.wrong]
        silent = [self.name(view, burn, gpu) for gpu in range(burn.gpus) if gpu not in burn.memory or not burn.memory[gpu].gib]
        if silent and not wrong:
            return say.unknown(f"nothing was written on {', '.join(silent)}: is its memory in use?")
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("memory keeps what is written"))
        reason = blamed("likeliest is the GPU: its own memory", wrong)
        action = "nvidia-smi -q -d ECC,ROW_REMAPPER; take the GPU out and change it"
        details: dict[str, JsonValue] = {"gib": {str(gpu): p.gib for gpu, p in burn.memory.items()}}
        return say.judge(len(wrong), limit, reason=reason, action=action, details=details, of=len(burn.memory))

    # ------------------------------------------------------------------------------------------------------------- figures
    def _figure(self, say: Say, view: View, burn: NodeBurn, check: str) -> Verdict:
        """The least figure of all GPUs against its part of the vendor's."""
        of = FIGURES[check]
        values = {(gpu, name): value for name in of.names for gpu, value in burn.figures.get(name, {}).items()}
        absent = [burn.lost[name] for name in of.names if name in burn.absent]
        if absent and not values:
            return say.skip(absent[0])
        silent = sorted({gpu for gpu in range(burn.gpus) for name in of.names if (gpu, name) not in values})
        if silent:
            return say.unknown(f"not measured on {', '.join(self.name(view, burn, gpu) for gpu in silent)}")
        (gpu, name), least = min(values.items(), key=lambda item: item[1])
        details: dict[str, JsonValue] = {n: {str(g): round(v, 1) for (g, m), v in values.items() if m == n} for n in of.names}
        limit, why = floor(model_of(view), of.vendor, of.share, of.why, of.unit)
        if limit is None:
            return say.skip(why, round(least, 1), details).model_copy(update={"unit": of.unit, "looked_at": len(values)})
        part = f" ({WORDS[name]})" if len(of.names) > 1 else ""
        reason = blamed(of.likely, [f"{self.name(view, burn, gpu)}{part} reaches {least:.1f} {of.unit}"])
        return say.judge(round(least, 1), limit, reason=reason, action=of.action, details=details, of=len(values))

    def _nvlink(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """The slowest of all ordered pairs, against one direction of the vendor's NVLink and against the other pairs."""
        wanted = burn.gpus * (burn.gpus - 1)
        if not wanted:
            return say.skip("one GPU: there is no pair")
        if len(burn.pairs) < wanted:
            return say.unknown(f"{len(burn.pairs)} of {wanted} pairs were measured")
        (source, target), least = min(burn.pairs.items(), key=lambda item: item[1])
        middle = statistics.median(burn.pairs.values())
        details: dict[str, JsonValue] = {
            "median": round(middle, 1),
            "pairs": {f"{a}-{b}": round(value, 1) for (a, b), value in burn.pairs.items()},
        }
        limit, why = floor(model_of(view), lambda gpu: gpu.nvlink, NVLINK_SHARE, NVLINK_WHY, "GB/s")
        if limit is None and wanted > 2:
            value = round(PAIR_SIBLINGS * middle, 1)
            detail = f"{PAIR_SIBLINGS:g} x the median of {wanted} pairs, {middle:.1f} GB/s ({why})"
            limit = Limit(kind="min", value=value, unit="GB/s", origin=Origin(kind="derived", detail=detail))
        elif limit is not None and wanted > 2 and PAIR_SIBLINGS * middle > float(str(limit.value)):
            detail = f"{PAIR_SIBLINGS:g} x the median of {wanted} pairs, {middle:.1f} GB/s"
            value = round(PAIR_SIBLINGS * middle, 1)
            limit = Limit(kind="min", value=value, unit="GB/s", origin=Origin(kind="derived", detail=detail))
        if limit is None:
            return say.skip(why, round(least, 1), details).model_copy(update={"unit": "GB/s", "looked_at": wanted})
        slow = [pair for pair, value in burn.pairs.items() if value < float(str(limit.value))]
        pair = f"{self.name(view, burn, source)} to {self.name(view, burn, target)}"
        peer = "; CUDA allows no direct access between them" if (source, target) in burn.no_peer else ""
        told = f"{pair}: {least:.1f} GB/s, the median of {wanted} pairs is {middle:.1f}{peer}"
        reason = blamed(of_pairs(slow, lambda gpu: self.name(view, burn, gpu)), [told])
        action = "nvidia-smi nvlink -s and -e of both GPUs; systemctl status nvidia-fabricmanager; dmesg for Xid 74 and SXid"
        return say.judge(round(least, 1), limit, reason=reason, action=action, details=details, of=wanted)

    def _all_reduce(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """Bus bandwidth of 256 MiB over NVLink, and right sums."""
        if burn.gpus < 2:
            return say.skip("one GPU: there is nothing to reduce")
        found = burn.all_reduce
        if found is None or found.ranks < burn.gpus:
            return say.unknown("it was not measured on all GPUs" if found else "it was not measured")
        details: dict[str, JsonValue] = {"ranks": found.ranks, "nccl": found.nccl, "wrong": found.wrong}
        if found.wrong:
            limit = Limit(kind="max", value=0, unit="wrong values", origin=builtin("sums of ones are exact"))
            reason = "likeliest is NVLink or a GPU: no network card takes part inside a node"
            return say.judge(found.wrong, limit, reason=reason, details=details, of=found.ranks)
        limit_, why = floor(model_of(view), lambda gpu: gpu.nvlink, RING_SHARE, RING_WHY, "GB/s")
        if limit_ is None:
            told = say.skip(why, round(found.busbw, 1), details)
            return told.model_copy(update={"unit": "GB/s", "looked_at": found.ranks})
        slow = min(burn.pairs.values(), default=0.0) < NVLINK_SHARE * (statistics.median(burn.pairs.values()) if burn.pairs else 0.0)
        reason = (
            "likeliest is one NVLink: compute.nvlink names the pair" if slow else "likeliest is NCCL's way, not a link: every pair is alike"
        )
        action = "NCCL_DEBUG=INFO: channels must be P2P, not SHM; nvidia-smi topo -m must show NV#"
        return say.judge(round(found.busbw, 1), limit_, reason=reason, action=action, details=details, of=found.ranks)

    # ------------------------------------------------------------------------------------------------------ heat and power
    def _clocks(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """No reason that names heat or a brake, in any sample of the matrix products."""
        silent = [self.name(view, burn, gpu) for gpu in range(burn.gpus) if gpu not in burn.busy or not burn.busy[gpu].samples]
        found = []
        for gpu, busy in burn.busy.items():
            held = [word for bit, word in HELD.items() if busy.reasons & bit]
            if held:
                found.append(f"{self.name(view, burn, gpu)}: {', '.join(held)} at {busy.temperature_c or 0:.0f} C")
        if silent and not found:
            why = burn.lost.get("busy", "nvidia-smi told nothing")
            return say.unknown(f"{why}: {', '.join(silent)}", "NVIDIA_DRIVER_CAPABILITIES of the image must have utility", self._heat(burn))
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("a GPU that is slowed down slows all of its tensor-parallel group"))
        action = "check fans, filters, inlet temperature and power supplies; nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"
        reason = blamed("likeliest is cooling or power of the machine, not the GPU", found)
        return say.judge(len(found), limit, reason=reason, action=action, details=self._heat(burn), of=len(burn.busy))

    def _heat(self, burn: NodeBurn) -> dict[str, JsonValue]:
        return {str(gpu): {"sm_mhz": b.sm_mhz, "power_w": b.power_w, "temperature_c": b.temperature_c} for gpu, b in burn.busy.items()}

    def _power(self, say: Say, view: View, burn: NodeBurn) -> Verdict:
        """The least of the GPUs' highest power: recorded, a limits file may judge it."""
        known = [b.power_w for b in burn.busy.values() if b.power_w]
        if not known:
            return say.skip("nvidia-smi told no power while the GPUs were busy")
        limit = Limit(kind="info", unit="W", origin=builtin("recorded: what a GPU draws depends on its limit and on the data"))
        return say.judge(round(min(known)), limit, details=self._heat(burn), of=len(known))

    # ------------------------------------------------------------------------------------------------------------ siblings
    def apart(self) -> list[Verdict]:
        """Every GPU against the median of all GPUs of its model on all nodes, figure by figure."""
        say = self.say("compute.apart", "cluster")
        if why := silence(self.facts.views):
            return [say.skip(why)]
        lost = [f"{view.name}: {burn}" for view in self.facts.views if isinstance(burn := self.burned.nodes.get(view.name), Missing)]
        if lost:
            return [say.unknown("; ".join(lost))]
        found, compared = [], 0
        details: dict[str, JsonValue] = {}
        for model, members in self._models().items():
            for figure, least in SIBLINGS.items():
                values = [(view, burn, gpu, value) for view, burn in members for gpu, value in burn.figures.get(figure, {}).items()]
                if len(values) < 2:
                    continue
                middle = statistics.median(value for *_, value in values)
                compared += len(values)
                details[f"{model} {figure}"] = round(middle, 1)
                for view, burn, gpu, value in values:
                    if value < least * middle:
                        words = f"{view.name} {self.name(view, burn, gpu)}: {WORDS[figure]} {value:.1f}, the median is {middle:.1f}"
                        found.append((value / middle, f"{words} ({100 * value / middle:.0f} %): {LIKELY[figure]}"))
        if not compared:
            return [say.skip("no GPU has a sibling to be compared with: one GPU of each model")]
        limit = Limit(kind="max", value=0, unit="figures", origin=builtin("GPUs of one model are alike; the slowest sets the pace of all"))
        reason = "; ".join(words for _, words in sorted(found)[:4])
        action = "swap the GPU with a sibling: what moves with it is the GPU, what stays is the slot"
        return [say.judge(len(found), limit, reason=reason, action=action, details=details, of=compared)]

    def _models(self) -> Mapping[str, list[tuple[View, NodeBurn]]]:
        found: dict[str, list[tuple[View, NodeBurn]]] = {}
        for view in self.facts.views:
            burn = self.burned.nodes.get(view.name)
            if isinstance(burn, NodeBurn):
                found.setdefault(model_of(view) or "GPU", []).append((view, burn))
        return found

    def all(self) -> Iterator[Verdict]:
        """Every verdict of the gate."""
        for view in self.facts.views:
            for check in OF_A_NODE:
                yield self.check(check, view.name)
        yield from self.apart()

    def name(self, view: View, burn: NodeBurn, gpu: int) -> str:
        """``GPU 3 (slot 0000:33:00.0)``: as the node's own nvidia-smi has it."""
        listed = gpus_of(view)
        uuid = burn.uuids.get(gpu)
        known = next((g for g in listed if uuid and g.uuid == uuid), None)
        if known is None and len(listed) == burn.gpus and 0 <= gpu < len(listed):
            known = listed[gpu]
        return f"GPU {known.index} (slot {known.pci_address})" if known is not None else f"GPU {gpu}"


OF_A_NODE = tuple(check for check in TITLES if check != "compute.apart")

WORDS = {
    "hbm": "GPU memory",
    "hbm_read": "reading GPU memory",
    "hbm_write": "writing GPU memory",
    "gemm_bf16": "BF16 products",
    "gemm_fp8": "FP8 products",
    "gemm_fp32": "FP32 products",
    "h2d": "host to GPU",
    "d2h": "GPU to host",
    "h2d_all": "host to GPU, all GPUs at once",
    "d2h_all": "GPU to host, all GPUs at once",
}
_SHARED = "likeliest is a PCIe switch or root port that it shares, where alone it is not slow"
_CORES = "likeliest is the GPU or its cooling"
LIKELY = {
    **dict.fromkeys(("hbm", "hbm_read", "hbm_write"), "likeliest is the GPU"),
    **dict.fromkeys(("gemm_bf16", "gemm_fp8", "gemm_fp32"), _CORES),
    **dict.fromkeys(("h2d", "d2h"), "likeliest is PCIe of its slot"),
    **dict.fromkeys(("h2d_all", "d2h_all"), _SHARED),
}


def blamed(likely: str, found: list[str]) -> str:
    """The parts, and in one sentence which part of the machine is likeliest."""
    return f"{'; '.join(found)}: {likely}" if found else ""


def of_pairs(slow: list[tuple[int, int]], name: Callable[[int], str]) -> str:
    """Which part is likeliest when these pairs are slow."""
    count = Counter(gpu for pair in slow for gpu in set(pair))
    if len(slow) > 2:
        gpu, times = count.most_common(1)[0]
        if times == len(slow):
            return f"likeliest are the NVLinks of {name(gpu)}: all {times} slow pairs have it in common"
        return f"likeliest is NVSwitch or fabric manager: {len(slow)} pairs with no GPU in common are slow"
    return "likeliest is the link between these two, not a GPU: both are fast to the others"


def gpus_of(view: View) -> tuple[Gpu, ...]:
    """What nvidia-smi lists on the node; none where it is not known."""
    return () if isinstance(view.node.gpus, Missing) else view.node.gpus.gpus


def model_of(view: View) -> str:
    """``10de:2329``, of a node whose GPUs are all of one model; else ""."""
    ids = {gpu.pci_device_id for gpu in gpus_of(view)}
    return f"10de:{ids.pop()}" if len(ids) == 1 and "" not in ids else ""


def floor(model: str, vendor: Callable[[GpuModel], float], share: float, why: str, unit: str) -> tuple[Limit | None, str]:
    """The part of the vendor's figure that is the floor, or why there is none."""
    known = GPUS.get(model)
    if known is None:
        return None, f"recorded only: no vendor figure is known of GPU {model or 'of an unknown model'}; give one in a limits file (skus:)"
    figure = vendor(known)
    if not figure:
        return None, f"recorded only: {known.name} has no vendor figure here; a limits file may judge it"
    detail = f"{share:g} x {figure:g} {unit} ({why}); {known.source}"
    return Limit(kind="min", value=round(share * figure, 1), unit=unit, origin=Origin(kind="vendor", detail=detail)), ""
