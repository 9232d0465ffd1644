"""The machine: system, settings of the kernel, clock, disks, kernel log."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, cluster_check, inventory, node_check
from pytest_h20.core.verdict import Limit, Verdict
from pytest_h20.probes.clock import between
from pytest_h20.probes.facts import Facts, View
from pytest_h20.probes.identity import identity
from pytest_h20.probes.kernel_log import KernelEvent, KernelLog, explain, explain_xid, line_table
from pytest_h20.probes.script import Missing


@node_check("environment.reachable", "The node can be asked", "system", always=True, action="see that SSH to the node works")
def reachable(say: Say, view: View) -> Verdict:
    """The node answered the probes at all: everything else about it is unknown otherwise."""
    s = say.need(view.node.system)
    limit = Limit(kind="equal", value=True, origin=builtin("a node that does not answer cannot be judged"))
    return say.judge(True, limit, details={"hostname": s.hostname, "seconds": round(view.node.seconds, 2)})


@node_check("environment.os", "Operating system", "system", action="use the system image of the other nodes")
def os_name(say: Say, view: View) -> Verdict:
    """The operating system's name begins with ``expect.os``."""
    s = view.node.system
    return say.missing(s, wanted=view.expect.os is not None) if isinstance(s, Missing) else say.begins("os", view.expect.os, s.os)


@node_check("environment.kernel", "Kernel release", "system", action="boot the kernel that the other nodes run")
def kernel(say: Say, view: View) -> Verdict:
    """The kernel release begins with ``expect.kernel``."""
    s = say.need(view.node.system, wanted=view.expect.kernel is not None)
    return say.begins("kernel", view.expect.kernel, s.kernel)


@node_check("environment.uptime", "Time since boot", "system", action="find out why the node rebooted (last -x, ipmitool sel list)")
def uptime(say: Say, view: View) -> Verdict:
    """The node runs for at least ``expect.uptime_min_hours``."""
    s, wanted = view.node.system, view.expect.uptime_min_hours
    s = say.need(s, wanted=wanted is not None)
    hours = None if s.uptime_s is None else round(s.uptime_s / 3600, 2)
    if wanted is None:
        return say.unexpected("uptime_min_hours", hours)
    return say.judge(hours, Limit(kind="min", value=wanted, unit="h", origin=inventory("uptime_min_hours")))


@node_check("environment.numa_balancing", "Automatic NUMA balancing", "tuning", action="sysctl kernel.numa_balancing=0")
def numa_balancing(say: Say, view: View) -> Verdict:
    """``kernel.numa_balancing`` is as expected: page migration stalls the engine's host threads."""
    t, wanted = view.node.tuning, view.expect.numa_balancing
    t = say.need(t, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("numa_balancing", t.numa_balancing)
    measured = None if t.numa_balancing is None else t.numa_balancing != 0
    return say.judge(measured, Limit(kind="equal", value=wanted, origin=inventory("numa_balancing")))


@node_check("environment.governor", "CPU frequency governor", "tuning", action="cpupower frequency-set -g performance")
def governor(say: Say, view: View) -> Verdict:
    """Every core runs the expected cpufreq governor. A machine without cpufreq (firmware decides, virtual) is told so."""
    t, wanted = view.node.tuning, view.expect.cpu_governor
    t = say.need(t, wanted=wanted is not None)
    measured = ",".join(t.governors)
    if wanted is None:
        return say.unexpected("cpu_governor", measured)
    if not measured:
        return say.unknown(
            "the kernel offers no cpufreq governor", "look at the power profile in the firmware, then drop expect.cpu_governor"
        )
    return say.judge(measured, Limit(kind="equal", value=wanted, origin=inventory("cpu_governor")))


@node_check(
    "environment.hugepages",
    "Transparent huge pages",
    "tuning",
    action="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
)
def hugepages(say: Say, view: View) -> Verdict:
    """The transparent huge page setting is one of the expected ones."""
    t, wanted = view.node.tuning, view.expect.transparent_hugepages
    t = say.need(t, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("transparent_hugepages", t.thp)
    return say.judge(t.thp or None, Limit(kind="one_of", value=list(wanted), origin=inventory("transparent_hugepages")))


@node_check("environment.swap", "Swap in use", "system", action="free memory, then swapoff -a")
def swap(say: Say, view: View) -> Verdict:
    """No more swap is in use than expected: an engine that is swapped stalls every rank."""
    s, wanted = view.node.system, view.expect.swap_used_max_mib
    s = say.need(s, wanted=wanted is not None)
    used = None if s.swap_used_kib is None else s.swap_used_kib // 1024
    if wanted is None:
        return say.unexpected("swap_used_max_mib", used)
    return say.judge(used, Limit(kind="max", value=wanted, unit="MiB", origin=inventory("swap_used_max_mib")))


@node_check("environment.timezone", "Time zone", "system", action="timedatectl set-timezone ZONE")
def timezone(say: Say, view: View) -> Verdict:
    """The node's UTC offset is the expected one (it decides how its logs are read)."""
    s = say.need(view.node.system, wanted=view.expect.timezone is not None)
    return say.begins("timezone", view.expect.timezone, s.utc_offset)


@node_check("environment.clock_to_us", "Clock against ours", "clock", always=True, action="start chronyd on the node: chronyc makestep")
def clock_to_us(say: Say, view: View) -> Verdict:
    """The node's clock is near ours; half the round trip is the error of that statement."""
    c, most = say.need(view.node.clock), view.expect.clock_to_us_max_s
    details: dict[str, JsonValue] = {
        "offset_s": round(c.offset, 6),
        "error_s": round(c.error, 6),
        "synchronised": c.synchronised,
    }
    if c.error > most:
        return say.unknown(f"the round trip took {2 * c.error:.1f} s: the clock cannot be told within {most} s", details=details)
    limit = Limit(kind="max", value=most, unit="s", origin=inventory("clock_to_us_max_s"))
    reason = f"its clock is {c.offset:+.3f} s from ours, known within {c.error:.3f} s"
    return say.judge(round(max(abs(c.offset) - c.error, 0.0), 6), limit, reason=reason, details=details)


@cluster_check("environment.clock_skew", "Clocks of the nodes agree", always=True, action="start chronyd on all nodes with one server")
def clock_skew(say: Say, facts: Facts) -> Iterable[Verdict]:
    """Each node's clock against the first node's, with its own error: logs of all nodes are read side by side."""
    views = facts.views
    if len(views) < 2:
        yield say.skip("one node only")
        return
    first = views[0]
    for view in views[1:]:
        here = say.about(f"{first.name} {view.name}")
        a, b = first.node.clock, view.node.clock
        if isinstance(a, Missing) or isinstance(b, Missing):
            yield here.missing(a if isinstance(a, Missing) else b)  # type: ignore[arg-type]
            continue
        skew, error = between(b, a)
        most = view.expect.clock_skew_max_s
        details: dict[str, JsonValue] = {"skew_s": round(skew, 6), "error_s": round(error, 6)}
        if error > most:
            yield here.unknown(f"the error of the measurement is {error:.3f} s, the limit {most} s", details=details)
            continue
        limit = Limit(kind="max", value=most, unit="s", origin=inventory("clock_skew_max_s"))
        reason = f"{view.name} is {skew:+.3f} s from {first.name}, known within {error:.3f} s"
        yield here.judge(round(max(abs(skew) - error, 0.0), 6), limit, reason=reason, details=details)


_ONE_MACHINE = "two ranks of one machine are not two nodes"


@cluster_check("environment.distinct_machines", "The nodes are different machines", "system", "gpus", "rdma", always=True)
def distinct_machines(say: Say, facts: Facts) -> Iterable[Verdict]:
    """No two entries of the inventory lead to the same machine: same boot, GPU (UUID or serial number) or HCA (node GUID). The same
    machine id is red too, unless the hardware of both is known and differs: then it is a cloned system image, and a warning.
    """
    limit = Limit(kind="equal", value=0, unit="machines named twice", origin=builtin(_ONE_MACHINE))
    views = [(view, identity(view.node)) for view in facts.views]
    nameless = [view.name for view, known in views if not known.any]
    told: list[Verdict] = []
    for i, (view, known) in enumerate(views):
        for other, seen in views[:i]:
            here = say.about(f"{other.name} {view.name}")
            if same := known.same(seen):
                reason = f"{other.name} and {view.name} are the same machine: two addresses are not two machines; both have {same[0]}"
                more = f" and {len(same) - 1} more in common" if len(same) > 1 else ""
                action = "correct the inventory's addresses"
                told.append(here.judge(1, limit, reason=reason + more, action=action, details={"common": list(same)}))
            elif known.cloned(seen):
                reason = f"both have the machine id {known.machine_id}, from a cloned system image; their hardware differs"
                action = f"on {view.name}: rm /etc/machine-id; systemd-machine-id-setup; reboot"
                told.append(here.warn(known.machine_id, reason, action=action))
    if any(v.status.blocks for v in told):
        return told
    if nameless:
        reason = f"nothing identifies {', '.join(nameless)}: no boot id, machine id, GPU serial number or UUID, HCA GUID"
        return [*told, say.unknown(reason, "see that the node answers, and run as root: nvidia-smi -q, /sys/class/infiniband")]
    return [*told, say.judge(0, limit, details={"nodes": len(views)})]


@node_check("environment.run_disk", "Space for the logs of a run", "disks", always=True, action="make room on the node")
def run_disk(say: Say, view: View) -> Verdict:
    """The folder the containers write their logs to has room."""
    d = say.need(view.node.disks)
    here = d.get(view.all.inventory.run_dir_on_node)
    if here is None or here.free_kib is None:
        return say.unknown("df said nothing about it")
    limit = Limit(kind="min", value=view.expect.run_free_gib, unit="GiB", origin=inventory("run_free_gib"))
    return say.judge(round(here.free_kib / 2**20, 1), limit, details={"folder": here.path, "device": here.device})


@node_check("environment.kernel_log", "The kernel log reaches back to boot", "kernel_log")
def kernel_log(say: Say, view: View) -> Verdict:
    """The log was read, and tells everything since boot; a ring buffer that has forgotten its beginning is a warning."""
    log = say.need(view.node.kernel_log)
    if not log.complete:
        return say.warn(
            log.source,
            "the ring buffer has forgotten its beginning: older Xid and link events are not seen",
            action="keep the journal (Storage=persistent), or boot with log_buf_len=16M",
        )
    return say.judge(True, Limit(kind="equal", value=True, origin=builtin("events since boot must be known")), of=log.lines)


def _events(say: Say, log: KernelLog, events: tuple[KernelEvent, ...], origin: str) -> Verdict:
    shown: list[JsonValue] = [e.text[:240] for e in events[-20:]]
    limit = Limit(kind="max", value=0, unit="events", origin=builtin(origin))
    return say.judge(len(events), limit, reason=events[-1].text[:200] if events else "", details={"events": shown}, of=log.lines)


@node_check("environment.xid", "GPU errors (Xid) since boot", "kernel_log", always=True)
def xid(say: Say, view: View) -> Iterable[Verdict]:
    """No Xid since boot whose meaning is that the hardware or driver must be reset or serviced; others are warnings."""
    log = say.need(view.node.kernel_log)
    events = log.of("xid")
    last = {e.device: e for e in events if e.code == 154}  # what the driver wants of a GPU is what it said last
    entries = [(e, explain_xid(e.code or 0, e.text)) for e in events if e.code != 154 or e is last[e.device]]
    bad = [(e, x) for e, x in entries if x.severity in ("fatal", "reset")]
    mild = [(e, x) for e, x in entries if x.severity in ("watch", "application")]
    if bad:
        worst = next(((e, x) for e, x in bad if x.severity == "fatal"), bad[-1])
        limit = Limit(kind="max", value=0, unit="events", origin=builtin("Xid table of this package (NVIDIA's Xid catalog)"))
        reason = f"Xid {worst[1].code} on {worst[0].device}: {worst[1].meaning}"
        shown: list[JsonValue] = [e.text[:240] for e, _ in bad[-20:]]
        return [say.judge(len(bad), limit, reason=reason, action=worst[1].action, details={"events": shown}, of=log.lines)]
    if mild:
        e, x = mild[-1]
        return [say.warn(len(mild), f"Xid {x.code} on {e.device}: {x.meaning}", action=x.action)]
    return [say.judge(0, Limit(kind="max", value=0, unit="events", origin=builtin("Xid table of this package")), of=log.lines)]


@node_check("environment.sxid", "NVSwitch errors (SXid) since boot", "kernel_log", always=True)
def sxid(say: Say, view: View) -> Verdict:
    """No NVSwitch reported a fatal error since boot; non-fatal ones are a warning."""
    log = say.need(view.node.kernel_log)
    events = log.of("sxid")
    fatal = tuple(e for e in events if "non-fatal" not in e.text.lower())
    if events and not fatal:
        return say.warn(len(events), events[-1].text[:200], action="watch it; see the Fabric Manager user guide for the code")
    told = _events(say, log, fatal, "a fatal SXid takes NVLink down")
    return told.model_copy(update={"action": "reset all GPUs and NVSwitches of the board, restart nvidia-fabricmanager"}) if fatal else told


@node_check("environment.memory_errors", "Machine check and uncorrected memory errors since boot", "kernel_log", always=True)
def memory_errors(say: Say, view: View) -> Verdict:
    """The kernel reported no hardware error of CPU or memory since boot."""
    log = say.need(view.node.kernel_log)
    told = _events(say, log, log.of("mce"), "uncorrected errors corrupt results")
    return told if not log.of("mce") else told.model_copy(update={"action": "service the node: ipmitool sel list, mcelog"})


_JUDGED_APART = ("xid", "sxid", "link", "mce", "io")
"""Kinds of kernel lines that have a check of their own."""
_HEALS = ("cable", "tx_timeout")
"""What a plug that was pushed in, or a queue that was started again, ends."""
_BOOT_S = 120.0
DAY_S = 86400.0


@node_check("environment.kernel_events", "Kernel lines of sick hardware since boot", "kernel_log", "rdma", always=True)
def kernel_events(say: Say, view: View) -> Iterable[Verdict]:
    """No line since boot that names sick hardware or a broken driver: GPU off the bus, NVLink, mlx5 health, uncorrected PCIe and platform
    errors, lockups, IOMMU faults. Cable errors and stopped queues of the last day; older ones, and what was corrected, are warnings."""
    log = say.need(view.node.kernel_log)
    rows = line_table()
    kinds = [k for k in dict.fromkeys(row.kind for row in rows) if k not in _JUDGED_APART]
    told = []
    for kind in kinds:
        events = [e for e in log.of(kind) if not _at_rest(view, e)]
        if not events:
            continue
        rated = [(e, explain(e)) for e in events]
        bad = [(e, x) for e, x in rated if x.severity in ("fatal", "reset") and (kind not in _HEALS or _fresh(log, e))]
        here = say.about(f"{view.name} {kind}")
        event, entry = (bad or rated)[-1]
        where = f" ({event.device})" if event.device else ""
        lines: list[JsonValue] = [e.text[:240] for e, _ in (bad or rated)[-20:]]
        reason = f"{entry.meaning}{where}: {event.text[:160]}"
        if bad:
            limit = Limit(kind="max", value=0, unit="lines", origin=builtin(f"kernel lines of this package's table ({entry.source})"))
            told.append(here.judge(len(bad), limit, reason=reason, action=entry.action, details={"lines": lines}))
        else:
            told.append(here.warn(len(rated), reason, action=entry.action, details={"lines": lines}))
    limit = Limit(kind="max", value=0, unit="lines", origin=builtin("kernel lines of this package's table"))
    return told or [say.judge(0, limit, details={"kinds": [*kinds]}, of=len(kinds))]


def _fresh(log: KernelLog, event: KernelEvent) -> bool:
    """Of the last day, as far as stamps tell."""
    return event.when is None or log.now is None or event.when >= log.now - DAY_S


def _at_rest(view: View, event: KernelEvent) -> bool:
    """A port without a cable says so when its driver starts; it is none of ours, or it came up since."""
    if event.kind != "cable" or "unplugged" not in event.text or event.when is None or event.when > _BOOT_S:
        return False
    rdma = view.node.rdma
    if isinstance(rdma, Missing):
        return False
    ours = [p for r in view.rails if (h := rdma.hca(r.rail.hca)) and h.pci == event.device and (p := rdma.port(h.name, r.rail.port))]
    return all(p.state == "ACTIVE" for p in ours)


@node_check("environment.disk_errors", "Disk and file system errors since boot", "kernel_log", always=True)
def disk_errors(say: Say, view: View) -> Verdict:
    """The kernel reported no I/O or file system error since boot: weights are read from these disks."""
    log = say.need(view.node.kernel_log)
    told = _events(say, log, log.of("io"), "weights are read from these disks")
    return told if not log.of("io") else told.model_copy(update={"action": "smartctl -a DEVICE; check the weights fully"})
