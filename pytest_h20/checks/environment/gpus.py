"""GPUs, NVLink, driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, at_least, builtin, inventory, node_check, version_key
from pytest_h20.core.gpus import gpu_model as of_vendor
from pytest_h20.core.gpus import is_a
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.probes.facts import View
from pytest_h20.probes.gpu import Gpu, Gpus
from pytest_h20.probes.image import gpu_driver_floor
from pytest_h20.probes.script import Missing


def _offenders(gpus: Sequence[Gpu], bad: Callable[[Gpu], bool]) -> list[JsonValue]:
    return [f"GPU {g.index} ({g.bus_id})" for g in gpus if bad(g)]


def _none_of(
    say: Say, g: Gpus, value: Callable[[Gpu], object], bad: Callable[[Gpu], bool], what: str, why: str, *, wanted: bool = True
) -> Verdict:
    """No GPU may be ``bad``. A GPU whose ``value`` is unknown (None) makes the whole unknown: silence is not health."""
    silent = _offenders(g.gpus, lambda x: value(x) is None)
    wrong = _offenders(g.gpus, lambda x: value(x) is not None and bad(x))
    if not g.gpus:
        return say.unknown("nvidia-smi lists no GPU")
    if silent and not wrong:
        if not wanted:
            return say.skip(f"the driver does not tell {what}, and nothing is expected")
        return say.unknown(f"the driver does not tell {what} of {', '.join(map(str, silent))}", "update the driver; see nvidia-smi -q")
    limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin(why))
    return say.judge(len(wrong), limit, reason=f"{what}: {', '.join(map(str, wrong))}", details={"gpus": wrong})


@node_check("environment.driver", "NVIDIA driver version", "driver", "gpus", action="install the driver of the other nodes")
def driver(say: Say, view: View) -> Verdict:
    """The driver's version begins with ``expect.driver`` and is not older than ``expect.driver_min``."""
    d, g, e = view.node.driver, view.node.gpus, view.expect
    version = "" if isinstance(g, Missing) else g.driver
    if not isinstance(d, Missing):
        if version and version != d.version:
            limit = Limit(kind="equal", value=d.version, origin=builtin("kernel module and library must be of one driver"))
            return say.judge(
                version, limit, reason=f"library {version}, kernel module {d.version}", action="reboot after the driver update"
            )
        version = version or d.version
    if not version:
        fact = d if isinstance(d, Missing) else Missing("no driver version")
        return say.missing(fact, wanted=e.driver is not None or e.driver_min is not None)
    if e.driver_min is not None and version_key(version) < version_key(e.driver_min):
        return at_least(say, "driver_min", e.driver_min, version)
    if e.driver is None and e.driver_min is not None:
        return at_least(say, "driver_min", e.driver_min, version)
    return say.begins("driver", e.driver, version)


@node_check("environment.cuda", "CUDA version the driver offers", "gpus", action="install the driver of the other nodes")
def cuda(say: Say, view: View) -> Verdict:
    """The CUDA version that nvidia-smi shows begins with ``expect.cuda``."""
    g, wanted = view.node.gpus, view.expect.cuda
    g = say.need(g, wanted=wanted is not None)
    if not g.cuda and wanted is not None:
        return say.unknown("nvidia-smi does not tell it")
    return say.begins("cuda", wanted, g.cuda)


@node_check(
    "environment.driver_fits_image",
    "The driver can run the image's CUDA",
    "driver",
    "image/image_versions",
    always=True,
    action="update the driver, take an older image, or set VLLM_ENABLE_CUDA_COMPATIBILITY=1 where the image has cuda-compat",
)
def driver_fits_image(say: Say, view: View) -> Verdict:
    """CUDA 13 images need driver R580, CUDA 12 R525 (F43, F44), unless the compat package is switched on on purpose."""
    v, d, g = say.need(view.node.image_versions), view.node.driver, view.node.gpus
    version = "" if isinstance(g, Missing) else g.driver
    version = version or ("" if isinstance(d, Missing) else d.version)
    if v.package("torch").endswith("+cpu"):
        return say.skip(f"the image holds torch {v.package('torch')}: a build without CUDA needs no driver")
    if not v.cuda:
        return say.unknown("the image does not tell its CUDA version (no torch/version.py)")
    if not version:
        return say.missing(d if isinstance(d, Missing) else Missing("no driver version"))
    floor = gpu_driver_floor(v.cuda)
    if not floor:
        return say.unknown(f"no rule for CUDA {v.cuda}")
    details: dict[str, JsonValue] = {"driver": version, "cuda": v.cuda, "floor": floor, "compat": v.compat}
    profile = view.all.profile
    compat = bool(v.compat) and profile is not None and profile.env.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"
    if version_key(version) < version_key(floor) and compat:
        return say.warn(version, f"CUDA {v.cuda} on driver {version} only through cuda-compat", details=details)
    limit = Limit(
        kind="min",
        value=int(floor),
        unit="driver branch",
        origin=Origin(kind="vendor", detail="NVIDIA CUDA compatibility table"),
    )
    return say.judge(version_key(version)[0], limit, reason=f"CUDA {v.cuda} needs R{floor}, the driver is {version}", details=details)


@node_check("environment.gpu_count", "Number of GPUs", "gpus", action="nvidia-smi, lspci | grep -i nvidia: is a GPU lost (Xid 79)?")
def gpu_count(say: Say, view: View) -> Verdict:
    """nvidia-smi lists as many GPUs as expected."""
    g, wanted = view.node.gpus, view.expect.gpu_count
    g = say.need(g, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("gpu_count", len(g.gpus))
    return say.judge(len(g.gpus), Limit(kind="equal", value=wanted, unit="GPUs", origin=inventory("gpu_count")))


@node_check("environment.gpu_model", "GPU model", "gpus", action="use the machines the inventory names, or name these")
def gpu_model(say: Say, view: View) -> Verdict:
    """Every GPU's product is an ``expect.gpu_model`` and its PCI device id is among the accepted ones."""
    g, e = view.node.gpus, view.expect
    g = say.need(g, wanted=e.gpu_model is not None or e.gpu_pci_ids is not None)
    details: dict[str, JsonValue] = {
        "models": [*sorted({x.name for x in g.gpus})],
        "pci_ids": [*sorted({x.pci_device_id for x in g.gpus})],
    }
    known = {x.pci_device_id: of_vendor(x.pci_device_id, x.name) for x in g.gpus}
    details["vendor"] = [*sorted({f"no row for PCI id {pci}" if row is None else row.name for pci, row in known.items()})]
    if e.gpu_model is None and e.gpu_pci_ids is None:
        return say.unexpected("gpu_model", ", ".join(sorted({x.name for x in g.gpus})), details)
    if not g.gpus:
        return say.unknown("nvidia-smi lists no GPU")
    wrong = _offenders(g.gpus, lambda x: e.gpu_model is not None and not is_a(x.name, e.gpu_model))
    if e.gpu_pci_ids is not None:
        if any(not x.pci_device_id for x in g.gpus):
            return say.unknown("nvidia-smi does not tell the PCI device id", details=details)
        accepted = {i.lower().removeprefix("0x") for i in e.gpu_pci_ids}
        wrong += [w for w in _offenders(g.gpus, lambda x: x.pci_device_id not in accepted) if w not in wrong]
    limit = Limit(kind="max", value=0, unit="other GPUs", origin=inventory("gpu_model"))
    reason = f"not {e.gpu_model or e.gpu_pci_ids}: {', '.join(map(str, wrong))} ({', '.join(sorted({x.name for x in g.gpus}))})"
    return say.judge(len(wrong), limit, reason=reason, details=details)


@node_check("environment.gpu_memory", "Memory per GPU", "gpus", action="use the machines the inventory names")
def gpu_memory(say: Say, view: View) -> Verdict:
    """The smallest GPU has at least ``expect.gpu_memory_min_mib``."""
    g, wanted = view.node.gpus, view.expect.gpu_memory_min_mib
    g = say.need(g, wanted=wanted is not None)
    sizes = [x.memory_mib for x in g.gpus if x.memory_mib is not None]
    least = min(sizes) if sizes and len(sizes) == len(g.gpus) else None
    if wanted is None:
        return say.unexpected("gpu_memory_min_mib", least)
    return say.judge(least, Limit(kind="min", value=wanted, unit="MiB", origin=inventory("gpu_memory_min_mib")))


@node_check(
    "environment.gpu_ecc",
    "ECC and uncorrectable errors",
    "gpus",
    always=True,
    action="drain the node and reset the GPU (Xid 48, 95)",
)
def gpu_ecc(say: Say, view: View) -> Verdict:
    """No uncorrectable memory error since the driver was loaded, no GPU beyond NVIDIA's threshold, and ECC as expected. Errors of the
    card's earlier life are a warning."""
    g, wanted = say.need(view.node.gpus), view.expect.gpu_ecc
    if wanted is not None:
        told = _none_of(say, g, lambda x: x.ecc, lambda x: x.ecc is not wanted, "ECC mode", f"expect.gpu_ecc = {wanted}")
        if told.status.value != "pass":
            return told.model_copy(update={"action": "nvidia-smi -e 1, then reset the GPU"})
    worn = _offenders(g.gpus, lambda x: bool(x.ecc_threshold or x.unrepairable))
    if worn:
        limit = Limit(
            kind="max", value=0, unit="GPUs", origin=Origin(kind="vendor", detail="SRAM threshold exceeded, or memory unrepairable")
        )
        return say.judge(
            len(worn), limit, of=len(g.gpus), reason=f"the driver gives up on {', '.join(map(str, worn))}", action="replace the GPU"
        )
    told = _none_of(
        say,
        g,
        lambda x: x.ecc_uncorrectable if x.ecc is not False else 0,
        lambda x: bool(x.ecc_uncorrectable),
        "uncorrectable ECC errors",
        "an uncorrectable error means wrong values",
    )
    past = [f"GPU {x.index} ({x.bus_id}) {x.ecc_uncorrectable_ever}" for x in g.gpus if x.ecc_uncorrectable_ever]
    if past and told.status is Status.PASS:
        reason = f"uncorrectable errors in the card's life, none since the driver was loaded: {', '.join(past)}"
        return say.warn(len(past), reason, action="nvidia-smi -q -d ECC,ROW_REMAPPER; run a field diagnostic before you rely on it")
    return told


@node_check(
    "environment.gpu_remap",
    "Row remapping and retired pages",
    "gpus",
    always=True,
    action="drain the node and reset the GPU; a failed remap means replacing it",
)
def gpu_remap(say: Say, view: View) -> Verdict:
    """No row remap (or page retirement) is pending, none failed, spare rows are left, and the driver asks for no reset or reboot."""
    g = say.need(view.node.gpus)

    def state(x: Gpu) -> bool | None:
        known = [v for v in (x.remap_pending, x.remap_failure, x.retired_pending) if v is not None]
        return any(known) if known else None

    asked = [f"GPU {x.index} ({x.bus_id}): {x.recovery}" for x in g.gpus if x.recovery not in ("", "None")]
    if asked:
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("the driver's own recovery action"))
        return say.judge(
            len(asked), limit, of=len(g.gpus), reason=f"the driver asks for {', '.join(asked)}", action="do that, then run again"
        )
    most = view.expect.gpu_remapped_rows_max
    rows = {f"GPU {x.index} ({x.bus_id})": (x.remap_correctable or 0) + (x.remap_uncorrectable or 0) for x in g.gpus}
    worn = [f"{gpu}: {n} rows remapped" for gpu, n in rows.items() if n > most]
    worn += [f"GPU {x.index} ({x.bus_id}): {x.banks_exhausted} banks have no spare row left" for x in g.gpus if x.banks_exhausted]
    if worn:
        limit = Limit(kind="max", value=0, unit="GPUs", origin=inventory(f"gpu_remapped_rows_max = {most}"))
        reason = f"{'; '.join(worn)} (a GPU has 512 to spare, 8 in a bank; the next one that fails takes it out)"
        return say.judge(len(worn), limit, of=len(g.gpus), reason=reason, action="replace the GPU (NVIDIA's RMA policy)")
    return _none_of(say, g, state, lambda x: bool(state(x)), "row remap pending or failed", "a pending remap is not yet in effect")


@node_check(
    "environment.gpu_throttle",
    "Clocks are not held down",
    "gpus",
    always=True,
    action="check cooling and power (nvidia-smi -q -d PERFORMANCE,TEMPERATURE)",
)
def gpu_throttle(say: Say, view: View) -> Verdict:
    """No GPU is slowed by heat, power brake or hardware slowdown. Idle and application clocks are no such reason."""
    g = say.need(view.node.gpus)
    if g.source == "csv":
        return say.unknown("this nvidia-smi has no -q -x: throttle reasons are not known", "update the driver")
    held = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
    reasons: dict[str, JsonValue] = {str(x.index): [r for r in x.throttle if r in held] for x in g.gpus if set(x.throttle) & set(held)}
    limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("throttled before any load"))
    return say.judge(len(reasons) if g.gpus else None, limit, reason=f"throttled: {reasons}", details={"reasons": reasons})


@node_check("environment.gpu_clocks", "Application clocks", "gpus", action="nvidia-smi -rac, or nvidia-smi -ac MEM,SM as agreed")
def gpu_clocks(say: Say, view: View) -> Verdict:
    """No GPU's memory clock is held below its default: every output token reads the weights at that speed. Application clocks are the
    card's maximum, or ``expect.gpu_clock_mhz``; a lower setting caps every figure."""
    g, wanted = view.node.gpus, view.expect.gpu_clock_mhz
    g = say.need(g, wanted=wanted is not None)
    slow = _slow_memory(g.gpus)
    if slow:
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("the card's own default memory clock"))
        action = "nvidia-smi -rmc (reset locked memory clocks), nvidia-smi -rac"
        return say.judge(len(slow), limit, of=len(g.gpus), reason=f"memory clock held down: {', '.join(slow)}", action=action)
    if g.source == "csv" or any(x.app_clock is None for x in g.gpus):
        return say.missing(Missing("the driver does not tell application clocks"), wanted=wanted is not None)
    if wanted is not None:
        low = _offenders(g.gpus, lambda x: x.app_clock != wanted)
        limit = Limit(kind="max", value=0, unit="GPUs", origin=inventory(f"gpu_clock_mhz = {wanted}"))
        return say.judge(len(low), limit, of=len(g.gpus), reason=f"other clock: {', '.join(map(str, low))}")
    low = _offenders(g.gpus, lambda x: x.max_clock is not None and (x.app_clock or 0) < x.max_clock)
    if low:
        return say.warn(len(low), f"application clock below the card's maximum: {', '.join(map(str, low))}")
    return say.judge(0, Limit(kind="max", value=0, unit="GPUs", origin=builtin("the card's own maximum")), of=len(g.gpus))


def _slow_memory(gpus: Sequence[Gpu]) -> list[str]:
    """GPUs whose memory runs below its default: by setting, or while they are in P0 (an idle GPU in a lower state may do so)."""
    found = []
    for x in gpus:
        wanted = x.default_mem_clock or x.max_mem_clock
        now = [c for c in (x.app_mem_clock, x.mem_clock if x.pstate == "P0" else None) if c is not None]
        if wanted and now and min(now) < 0.99 * wanted:
            found.append(f"GPU {x.index} ({x.bus_id}) {min(now)} of {wanted} MHz")
    return found


@node_check("environment.gpu_persistence", "Persistence mode", "gpus", action="nvidia-smi -pm 1, or start nvidia-persistenced")
def gpu_persistence(say: Say, view: View) -> Verdict:
    """Persistence mode is as expected: without it every first use of a GPU costs seconds."""
    g, wanted = view.node.gpus, view.expect.gpu_persistence
    g = say.need(g, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("gpu_persistence", [x.persistence for x in g.gpus])
    return _none_of(
        say,
        g,
        lambda x: x.persistence,
        lambda x: x.persistence is not wanted,
        f"persistence not {wanted}",
        "expect.gpu_persistence",
    )


@node_check("environment.gpu_power_limit", "Power limit", "gpus", action="nvidia-smi -pl WATT")
def gpu_power_limit(say: Say, view: View) -> Verdict:
    """The power limit is ``expect.gpu_power_limit_w``; without an expectation, a limit below the card's own default is a
    warning: a cap is often meant, decoding may never reach it, and the load says whether it did (``throughput.gpu_clocks``)."""
    g, wanted = view.node.gpus, view.expect.gpu_power_limit_w
    g = say.need(g, wanted=wanted is not None)
    limits = [x.power_limit for x in g.gpus]
    if not limits or any(p is None for p in limits):
        return say.missing(Missing("the driver does not tell power limits"), wanted=wanted is not None)
    least = min(p for p in limits if p is not None)
    details: dict[str, JsonValue] = {"limits_w": list(limits)}
    if wanted is not None:
        limit = Limit(kind="within", value=wanted, tolerance=0.01, unit="W", origin=inventory("gpu_power_limit_w"))
        far = max((p for p in limits if p is not None), key=lambda p: abs(p - wanted))
        return say.judge(far, limit, details=details)
    low = _offenders(g.gpus, lambda x: (x.power_limit or 0) < (x.power_limit_default or 0) - 1)
    if low:
        return say.warn(least, f"power limit below the card's default: {', '.join(map(str, low))}", details=details)
    return say.judge(0, Limit(kind="max", value=0, unit="GPUs", origin=builtin("the card's own default limit")), details=details)


@node_check("environment.gpu_temperature", "GPU temperature", "gpus", action="check fans and air flow of the node")
def gpu_temperature(say: Say, view: View) -> list[Verdict]:
    """The hottest GPU, and the difference between the hottest and the coldest, are within the expectations."""
    g, e = view.node.gpus, view.expect
    g = say.need(g, wanted=e.gpu_temperature_max_c is not None or e.gpu_temperature_spread_c is not None)
    known = [x.temperature for x in g.gpus if x.temperature is not None]
    details: dict[str, JsonValue] = {"celsius": [x.temperature for x in g.gpus]}
    hottest = max(known) if known and len(known) == len(g.gpus) else None
    told = []
    if e.gpu_temperature_max_c is not None:
        limit = Limit(kind="max", value=e.gpu_temperature_max_c, unit="C", origin=inventory("gpu_temperature_max_c"))
        told.append(say.judge(hottest, limit, details=details))
    if e.gpu_temperature_spread_c is not None:
        spread = None if hottest is None else hottest - min(known)
        limit = Limit(kind="max", value=e.gpu_temperature_spread_c, unit="C", origin=inventory("gpu_temperature_spread_c"))
        told.append(say.about(f"{view.name} spread").judge(spread, limit, details=details))
    return told or [say.unexpected("gpu_temperature_max_c", hottest, details)]


@node_check(
    "environment.gpu_idle",
    "The GPUs are free",
    "gpus",
    "gpu_owners",
    always=True,
    action="stop the owner of these processes, or choose another node; nothing was ended for you",
)
def gpu_idle(say: Say, view: View) -> Verdict:
    """No process is on the GPUs and their memory is free (F54, F55). The owner is named; nothing is ended."""
    if view.all.inventory.attach is not None:
        return say.skip("attached: the engine that is tested is on the GPUs")
    g = say.need(view.node.gpus)
    owners = view.node.gpu_owners
    names = {} if isinstance(owners, Missing) else owners
    lines: list[JsonValue] = []
    for x in g.gpus:
        for p in x.processes:
            o = names.get(p.pid)
            who = f"{o.user}: {o.command}" + (f" in container {o.container}" if o.container else "") if o else p.name
            lines.append(f"GPU {x.index}: pid {p.pid} ({who}), {p.memory_mib if p.memory_mib is not None else '?'} MiB")
    used = [x.memory_used_mib for x in g.gpus]
    if not used or any(u is None for u in used):
        return say.unknown("the driver does not tell the memory in use")
    most = max(u for u in used if u is not None)
    limit = Limit(kind="max", value=view.expect.gpu_idle_max_mib, unit="MiB", origin=inventory("gpu_idle_max_mib"))
    if lines:
        limit = Limit(kind="max", value=0, unit="processes", origin=builtin("the engine takes 90 % of the memory and must be alone"))
        return say.judge(len(lines), limit, reason="; ".join(map(str, lines[:4])), details={"processes": lines})
    return say.judge(
        most,
        limit,
        reason="memory is in use and no process is seen: another container or a zombie holds it",
        details={"used_mib": list(used)},
    )


@node_check("environment.gpu_mode", "MIG and compute mode", "gpus", always=True, action="nvidia-smi -mig 0; nvidia-smi -c 0")
def gpu_mode(say: Say, view: View) -> Verdict:
    """MIG is off and the compute mode lets several processes in (vLLM and SGLang use more than one per GPU)."""
    g = say.need(view.node.gpus)
    if g.source == "csv":
        return say.unknown("this nvidia-smi has no -q -x: modes are not known", "update the driver")
    return _none_of(
        say,
        g,
        lambda x: x.compute_mode or None,
        lambda x: x.mig is True or x.compute_mode != "Default",
        "MIG on, or compute mode not Default",
        "tensor parallelism needs whole GPUs",
    )


@node_check(
    "environment.nvlink",
    "NVLinks",
    "nvlinks",
    action="restart nvidia-fabricmanager; reset the board's GPUs; look for Xid 74 and SXid",
)
def nvlink(say: Say, view: View) -> Verdict:
    """Every GPU has the expected number of active links; without an expectation as many as the vendor says, or none inactive."""
    n, wanted = view.node.nvlinks, view.expect.nvlinks
    n = say.need(n, wanted=wanted is not None)
    active = {g: sum(s is not None for s in speeds) for g, speeds in n.links}
    details: dict[str, JsonValue] = {"active": {str(g): c for g, c in active.items()}}
    down: list[JsonValue] = [f"GPU {g} link {i}" for g, speeds in n.links for i, s in enumerate(speeds) if s is None]
    if wanted is not None:
        least = min(active.values(), default=None)
        limit = Limit(kind="min", value=wanted, unit="links", origin=inventory("nvlinks"))
        return say.judge(least, limit, reason=f"fewest links: {least}; down: {down[:8]}", details=details)
    g = view.node.gpus
    rows = [] if isinstance(g, Missing) else [of_vendor(x.pci_device_id, x.name) for x in g.gpus]
    row = rows[0] if rows and len({x.name if x else "" for x in rows}) == 1 else None
    if row is not None and row.nvlinks and active:
        limit = Limit(kind="min", value=row.nvlinks, unit="links", origin=Origin(kind="vendor", detail=row.source))
        least = min(active.values())
        return say.judge(least, limit, reason=f"fewest links: {least}; down: {down[:8]}", details=details, of=len(active))
    if not any(speeds for _, speeds in n.links):
        return say.skip("nvidia-smi shows no NVLink on this machine, and none is expected", details=details)
    limit = Limit(kind="max", value=0, unit="links down", origin=builtin("a link that exists must be up"))
    return say.judge(len(down), limit, reason=f"down: {down[:8]}", details=details)


@node_check(
    "environment.fabric_manager",
    "Fabric manager and NVLink fabric",
    "fabric_manager",
    "gpus",
    action="systemctl restart nvidia-fabricmanager; its version must equal the driver's",
)
def fabric_manager(say: Say, view: View) -> Verdict:
    """On a machine with NVSwitches fabric manager is active, of the driver's version, and every GPU has joined the fabric
    (F33)."""
    f, g, wanted = view.node.fabric_manager, view.node.gpus, view.expect.fabric_manager
    states = [] if isinstance(g, Missing) else [(x.index, x.fabric_state, x.fabric_status) for x in g.gpus if x.fabric_state]
    unjoined: list[JsonValue] = [f"GPU {i}: {s}/{t}" for i, s, t in states if s != "Completed" or t not in ("Success", "")]
    if isinstance(f, Missing):
        return say.missing(f, wanted=wanted is True)
    needed = wanted is True or (wanted is None and f.nvswitches > 0)
    details: dict[str, JsonValue] = {"nvswitches": f.nvswitches, "state": f.state, "version": f.version, "gpus": unjoined}
    if not needed:
        return say.skip("no NVSwitch on this machine, and fabric manager is not expected", f.state, details)
    if unjoined:
        limit = Limit(kind="max", value=0, unit="GPUs", origin=builtin("every GPU must have joined the NVLink fabric"))
        return say.judge(len(unjoined), limit, reason="; ".join(map(str, unjoined[:8])), details=details)
    driver_version = "" if isinstance(g, Missing) else g.driver
    if f.state == "active" and f.version and driver_version and f.version != driver_version:
        limit = Limit(kind="equal", value=driver_version, origin=builtin("fabric manager must be of the driver's version"))
        return say.judge(f.version, limit, reason=f"fabric manager {f.version}, driver {driver_version}", details=details)
    origin = inventory("fabric_manager") if wanted else builtin("the machine has NVSwitches")
    return say.judge(f.state, Limit(kind="equal", value="active", origin=origin), details=details)


@node_check(
    "environment.gpu_pcie",
    "PCIe links of the GPUs",
    "gpus",
    "pci",
    action="reseat the GPU; check the slot and the riser; lspci -vv shows LnkSta",
)
def gpu_pcie(say: Say, view: View) -> Verdict:
    """Every GPU has all of its PCIe lanes, and a link capable of the expected generation. An idle GPU lowers its speed: that
    is no fault."""
    g, e = view.node.gpus, view.expect
    wanted = e.gpu_pcie_gen is not None or e.gpu_pcie_width is not None
    g = say.need(g, wanted=wanted)
    if not g.gpus or any(x.pcie_width is None or (x.pcie_width_max is None and e.gpu_pcie_width is None) for x in g.gpus):
        return say.missing(Missing("the driver does not tell PCIe widths"), wanted=wanted)
    narrow = _offenders(g.gpus, lambda x: (x.pcie_width or 0) < (e.gpu_pcie_width or x.pcie_width_max or 0))
    slow = _offenders(g.gpus, lambda x: e.gpu_pcie_gen is not None and (x.pcie_gen_max or 0) < e.gpu_pcie_gen)
    slow += _offenders(g.gpus, lambda x: x.pstate == "P0" and (x.pcie_gen or 0) < min(x.pcie_gen_max or 0, e.gpu_pcie_gen or 99))
    wrong = list(dict.fromkeys([*narrow, *slow]))
    origin = inventory("gpu_pcie_gen/gpu_pcie_width") if wanted else builtin("the card's own maximum width")
    details: dict[str, JsonValue] = {"gen": [x.pcie_gen for x in g.gpus], "width": [x.pcie_width for x in g.gpus]}
    return say.judge(len(wrong), Limit(kind="max", value=0, unit="GPUs", origin=origin), reason=f"degraded link: {wrong}", details=details)
