"""The kernel's lines within a stretch of time: what each one means, which are old, and what could not be seen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.probes import kernel_log
from pytest_h20.probes.kernel_log import KernelLog, Reading, explain, line_table, parse_kernel_log, stretch, xid_table
from pytest_h20.probes.script import build, split

SICK = {
    # kind: lines as drivers and kernels print them
    "gpu_lost": ("NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.", "NVRM: GPU 0000:1b:00.0: RmInitAdapter failed! (0x26:0xffff:1482)"),
    "nvlink": (
        "NVRM: knvlinkDiscoverPostRxDetLinks_GH100: Getting peer0's postRxDetLinkMask failed!: NVLink error",
        "nvidia-nvswitch0: SOE init error",
    ),
    "nic": (
        "mlx5_core 0000:5e:00.0: device's health compromised - reached miss count",
        "mlx5_core 0000:5e:00.0: print_health_info:431:(pid 0): Health issue observed, firmware internal error, severity(3) ERROR:",
        "mlx5_core 0000:5e:00.0: assert_var[0] 0x00000001",
        "mlx5_core 0000:5e:00.0: synd 0x7: irisc not responding",
        "mlx5_core 0000:5e:00.0: wait_func:1144:(pid 3141): QUERY_VPORT_COUNTER(0x770) timeout. Will cause a leak of a command resource",
    ),
    "tx_timeout": (
        "mlx5_core 0000:5e:00.0 xgbe3: TX timeout detected",
        "NETDEV WATCHDOG: xgbe3 (mlx5_core): transmit queue 12 timed out",
    ),
    "cable": (
        "mlx5_core 0000:5e:00.0: Port module event[error]: module 0, Cable error, Bus stuck (I2C or data shorted)",
        "mlx5_core 0000:5e:00.0: Port module event: module 1, Cable unplugged",
    ),
    "pcie": (
        "pcieport 0000:17:01.0: AER: Multiple Corrected error received: 0000:17:01.0",
        "pcieport 0000:17:01.0: AER: Uncorrected (Non-Fatal) error received: 0000:18:00.0",
        "nvidia 0000:1b:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
        "nvidia 0000:1b:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)",
        "pcieport 0000:17:01.0: DPC: containment event, status:0x1f01 source:0x0000",
        "pcieport 0000:17:01.0: pciehp: Slot(5): Link Down",
    ),
    "apei": (
        "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 1",
        "{1}[Hardware Error]: event severity: fatal",
        "{1}[Hardware Error]: It has been corrected by h/w and requires no further action: event severity: corrected",
        "Memory failure: 0x5a2f31: recovery action for dirty LRU page: Recovered",
        "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0",
    ),
    "mce": ("mce: [Hardware Error]: Machine check events logged", "EDAC MC1: 1 UE memory read error on any memory"),
    "cpu_heat": ("mce: CPU12: Package temperature above threshold, cpu clock throttled (total events = 3)",),
    "oom": (
        "python invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0",
        "Out of memory: Killed process 2201 (python) total-vm:35829968kB",
        "Memory cgroup out of memory: Killed process 2201 (python) total-vm:35829968kB",
    ),
    "lockup": (
        "watchdog: BUG: soft lockup - CPU#12 stuck for 23s! [kworker/12:1:4711]",
        "rcu: INFO: rcu_sched self-detected stall on CPU; rcu_sched detected stalls on CPUs/tasks",
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008",
    ),
    "hung": ("INFO: task python3:4711 blocked for more than 120 seconds.",),
    "segfault": ("python3[4711]: segfault at 8 ip 00007f3b sp 00007ffd error 4 in libnccl.so.2[7f3b+1000]",),
    "iommu": ("DMAR: [DMA Read] Request device [1b:00.0] fault addr 0x1 [fault reason 06] PTE Read access is not set: fault",),
    "io": ("blk_update_request: I/O error, dev nvme0n1, sector 4096", "nvme nvme0: I/O 12 QID 3 timeout, aborting"),
    "memory": ("kswapd0: page allocation failure: order:4, mode:0x40cc0(GFP_KERNEL|__GFP_COMP)",),
    "xid": ("NVRM: Xid (PCI:0000:1b:00): 31, pid=4711, name=python3, Ch 00000008", "NVRM: Xid (PCI:0000:1b:00): 145, RLW_REMAP Nonfatal"),
    "sxid": ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",),
    "link": ("mlx5_core 0000:30:00.0 xgbe3: Link down",),
}

WELL = (
    "pcieport 0000:17:01.0: AER: enabled with IRQ 33",
    "GHES: APEI firmware first mode is enabled by APEI bit and WHEA _OSC.",
    "nvidia-nvlink: Nvlink Core is being initialized, major device number 238",
    "nvidia-nvswitch0: open (major=237)",
    "mlx5_core 0000:30:00.0: firmware version: 20.35.3006",
    "mlx5_core 0000:30:00.0: Port module event: module 0, Cable plugged",
    "mce: CPU12: Package temperature/speed normal",
    "EXT4-fs (sda3): mounted filesystem with ordered data mode",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.216.03",
    "NVRM: Persistence mode is deprecated and will be removed in a future release. Please use nvidia-persistenced instead.",
    "NVRM: gpuClearFbhubPoisonIntrForBug2924523_GA100: FBHUB Interrupt detected. Clearing it.",
    "DMAR: IOMMU enabled",
    "docker0: port 1(veth12ab) entered forwarding state",
    "iommu: Default domain type: Passthrough",
)


def log(*lines: str, now: float, first: float = 0.0, matched: int | None = None, written: str = "") -> KernelLog:
    body = "".join(f"> {line}\n" for line in lines)
    head = f"source=dmesg\nfirst={first}\nnow={now}\nwritten={written}\nmatched={len(lines) if matched is None else matched}\n"
    return parse_kernel_log(head + body)


@pytest.mark.parametrize(("kind", "line"), [(k, line) for k, lines in SICK.items() for line in lines])
def test_a_sick_line_is_known_and_told_what_to_do(kind: str, line: str) -> None:
    (event,) = log(f"[ 12.5] {line}", now=20.0).events
    assert (event.kind, event.when) == (kind, 12.5)
    entry = explain(event)
    assert entry.kind == kind
    assert entry.meaning
    assert entry.action
    assert entry.severity != "info"


@pytest.mark.parametrize("line", WELL)
def test_lines_of_a_healthy_boot_are_not_taken_for_sick(line: str) -> None:
    assert log(f"[ 12.5] {line}", now=20.0).events == ()


@pytest.mark.skipif(shutil.which("grep") is None, reason="no grep here")
@pytest.mark.parametrize("wanted", [True, False])
def test_grep_on_the_node_lets_the_same_lines_through(wanted: bool) -> None:
    lines = [line for lines in SICK.values() for line in lines] if wanted else list(WELL)
    text = "".join(f"[ 12.5] {line}\n" for line in lines)
    pattern = kernel_log.KERNEL_LOG.snippet.partition("grep -aiE '")[2].partition("'`")[0]
    done = subprocess.run(["grep", "-aiE", pattern], input=text, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == (text.splitlines() if wanted else [])


def test_tables_are_whole() -> None:
    assert {row.severity for row in line_table()} <= {"fatal", "reset", "watch", "application", "info"}
    assert all(row.meaning and row.action and row.source for row in line_table())
    assert xid_table()[79].bucket == "RESTART_BM"
    assert explain(log("[ 1.0] NVRM: Xid (PCI:0000:1b:00): 31, pid=1", now=2.0).events[0]).meaning.endswith("(NVIDIA: RESTART_APP)")


# ---------------------------------------------------------------------------------------------------------------- stretches
XID = "[{}] NVRM: Xid (PCI:0000:1b:00): 31, pid=4711, name=python3"
BOOT = 1_000.0  # our clock at the node's boot


def reading(at: float, *lines: str, first: float = 0.0) -> Reading:
    return Reading(BOOT + at, log(*lines, now=at, first=first))


def test_how_many_lines_were_written_in_the_stretch() -> None:
    """Of any kind: to say of how many a pass is made. What two readings hold counts once; after a boot seconds are others."""
    one, two = (Reading(BOOT + at, log(now=at, written=w)) for at, w in ((100.0, "3:9 99:1"), (200.0, "3:9 99:1 150:4 170:2 199:3")))
    seen = stretch([one, two], BOOT + 120.0, BOOT + 180.0)
    assert (seen.written, seen.readings) == (6, 1)
    assert stretch([one, two], BOOT + 0.0, BOOT + 180.0).written == 16
    again = Reading(BOOT + 300.0, log(now=30.0, written="3:9"))
    assert stretch([one, two, again], BOOT + 0.0, BOOT + 280.0).written == 16 + 3 + 9


@pytest.mark.skipif(shutil.which("grep") is None, reason="no grep here")
def test_the_seconds_are_counted_on_the_node(tmp_path: Path) -> None:
    text = "[    3.000001] a\n[    3.9] b\n[   12.5] c\nno stamp\n[12000.000000] d\n"
    (tmp_path / "dmesg").write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    (tmp_path / "dmesg").chmod(0o755)
    script = build([kernel_log.KERNEL_LOG])
    done = subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    told = kernel_log.KERNEL_LOG.read(split(done.stdout))
    assert isinstance(told, KernelLog)
    assert told.written == {3: 2, 12: 1, 12000: 1}


def test_a_line_of_the_stretch_is_found_once_with_its_moment() -> None:
    seen = stretch([reading(100.0), reading(200.0, XID.format("150.0")), reading(300.0, XID.format("150.0"))], BOOT + 120.0, BOOT + 180.0)
    assert [at for at, _ in seen.events] == [BOOT + 150.0]
    assert seen.unseen == ()


def test_the_same_line_of_yesterday_is_old() -> None:
    seen = stretch([reading(100.0, XID.format("50.0")), reading(200.0, XID.format("50.0"))], BOOT + 120.0, BOOT + 180.0)
    assert (seen.events, seen.unseen) == ((), ())


def test_a_ring_buffer_that_wrapped_hides_a_part_of_the_stretch() -> None:
    seen = stretch([reading(100.0), reading(400.0, first=300.0)], BOOT + 120.0, BOOT + 380.0)
    assert seen.events == ()
    assert seen.unseen == ("could not see between 0:00 min and 3:00 min: the ring buffer had forgotten it by the next reading",)


def test_a_ring_buffer_that_wrapped_before_the_stretch_hides_nothing() -> None:
    seen = stretch([reading(100.0, first=90.0), reading(400.0, first=110.0)], BOOT + 120.0, BOOT + 380.0)
    assert seen.unseen == ()


def test_more_lines_than_are_sent_are_not_all_seen() -> None:
    many = Reading(BOOT + 400.0, log(XID.format("350.0"), now=400.0, matched=5000))
    assert "could not see between 0:00 min and 3:50 min" in stretch([reading(100.0), many], BOOT + 120.0, BOOT + 380.0).unseen[0]


def test_nothing_was_read_after_the_stretch() -> None:
    assert "was not read after" in stretch([reading(100.0)], BOOT + 120.0, BOOT + 180.0).unseen[0]
    assert "was not read after" in stretch([reading(150.0)], BOOT + 120.0, BOOT + 180.0).unseen[0]
    assert stretch([], 0.0, 1.0).unseen == ("the kernel log was never read with its uptime",)


def test_a_node_that_booted_again_is_told() -> None:
    again = Reading(BOOT + 400.0, log(now=30.0))
    assert "the node booted at 4:10 min" in stretch([reading(100.0), again], BOOT + 120.0, BOOT + 380.0).unseen[0]


def test_lines_without_stamps_are_new_when_the_reading_before_did_not_have_them() -> None:
    bare = "NVRM: Xid (PCI:0000:1b:00): 31, pid=4711"
    before = Reading(1.0, parse_kernel_log(f"source=dmesg\nfirst=\nnow=100\nmatched=1\n> {bare}\n"))
    after = Reading(61.0, parse_kernel_log(f"source=dmesg\nfirst=\nnow=160\nmatched=2\n> {bare}\n> {bare}\n"))
    seen = stretch([before, after], 10.0, 50.0)
    assert [(at, e.code) for at, e in seen.events] == [(None, 31)]
    assert seen.unseen == ()
    assert "no time stamps" in stretch([after], 10.0, 50.0).unseen[0]


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5)), max_size=5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_whatever_was_read_a_stretch_is_told(readings: list[tuple[float, float, float]], start: float, length: float) -> None:
    found = [Reading(at, log(XID.format("1.0"), now=now, first=first)) for at, now, first in readings]
    seen = stretch(found, start, start + length)
    assert seen.unseen or any(r.at >= start + length for r in found)
