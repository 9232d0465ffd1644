"""Every fault turns exactly the right checks red; a healthy cluster turns none red; every check can be turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS, all_verdicts
from pytest_h20.config.expect import SwitchPort
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.script import Section
from pytest_h20.rehearsal.standin import QOS, StandInRail, gids_of, sections
from tests.unit.probes.cluster import Cluster, blog_cluster

ALL_CHECKS = {**NODE_CHECKS, **RAIL_CHECKS, **CLUSTER_CHECKS}
MISSING_TOOL = Section(127, "", "not installed\n")


def xid(code: int) -> str:
    return f"[ 5000.000001] NVRM: Xid (PCI:0000:1b:00): {code}, pid=4242, name=python3"


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Callable[[Cluster], object]
    red: dict[str, Status]
    """Exactly these checks, with the worst status of each."""
    words: str = ""
    """Must be in the reason or action of a red verdict: a person must learn the cause."""


F, U, W = Status.FAIL, Status.UNKNOWN, Status.WARN


def setter(**fields: object) -> Callable[[Cluster], None]:
    """Change fields of the second node's machine."""

    def inject(c: Cluster) -> None:
        for key, value in fields.items():
            assert hasattr(c.other.machine, key)
            setattr(c.other.machine, key, value)

    return inject


def gpu(**fields: object) -> Callable[[Cluster], None]:
    """Change fields of GPU 3 of the second node."""

    def inject(c: Cluster) -> None:
        for key, value in fields.items():
            assert hasattr(c.other.machine.gpus[3], key)
            setattr(c.other.machine.gpus[3], key, value)

    return inject


def rail(**fields: object) -> Callable[[Cluster], None]:
    """Change fields of mlx5_3 of the second node."""

    def inject(c: Cluster) -> None:
        for key, value in fields.items():
            assert hasattr(c.other.machine.rails[3], key)
            setattr(c.other.machine.rails[3], key, value)

    return inject


def expecting(inject: Callable[[Cluster], None] | None = None, **fields: object) -> Callable[[Cluster], None]:
    """Expect something more of the cluster, and change it."""

    def both(c: Cluster) -> None:
        c.expect(**fields)
        if inject:
            inject(c)

    return both


def lost(*probes: str) -> Callable[[Cluster], None]:
    """Probes that cannot answer on the second node."""
    return lambda c: c.other.machine.overrides.update(dict.fromkeys(probes, MISSING_TOOL))


def containers(**fields: object) -> Callable[[Cluster], None]:
    def inject(c: Cluster) -> None:
        for key, value in fields.items():
            setattr(c.other.containers, key, value)

    return inject


def wrong_gid(c: Cluster) -> None:
    gids = c.other.machine.rails[3].gids
    gids[3], gids[5] = gids[1], gids[3]


def lost_address(c: Cluster) -> None:
    gids = c.other.machine.rails[3].gids
    del gids[2], gids[3]


def readdressed(c: Cluster) -> None:
    c.other.machine.address = c.other.machine.rails[0].address = "10.63.65.99"


def unresolved(c: Cluster) -> None:
    c.expect(hostname_resolves=True)
    c.other.machine.overrides["image/names"] = Section(0, "hostname=node02\nresolved=\nall=\n", "")


def unnamed(c: Cluster) -> StandInRail:
    return StandInRail("mlx5_9", "xgbe9", "33.2.164.16", pci="0000:60:00.0", gids=gids_of("33.2.164.16", 99))


CABLE = "mlx5_core 0000:30:00.0: Port module event[error]: module 0, Cable error, Bus stuck (I2C or data shorted)"
EVENTS = {"environment.kernel_events": Status.FAIL}
MILD = {"environment.kernel_events": Status.WARN}


def kernel(line: str, at: float = 1200000.5) -> Callable[[Cluster], None]:
    """A line of the second node's kernel, which is up for 1209600 s."""
    return setter(kernel_lines=[f"[{at}] {line}"])


def recovery(to: str) -> str:
    return f"[1200000.5] NVRM: Xid (PCI:0000:1b:00): 154, GPU recovery action changed from 0x0 (None) to {to}"


def far(virtual: bool = False) -> Callable[[Cluster], None]:
    hints = f"iommu_groups=0\ncmdline=\nacs_bridges=24\nacs_enabled=0\nvirtual={'yes' if virtual else 'no'}\n"
    return lambda c: c.other.machine.overrides.update(
        topology=Section(0, "\tGPU0\tmlx5_3\nGPU0\t X \tSYS\nmlx5_3\tSYS\t X \n", ""), pcie_hints=Section(0, hints, "")
    )


NO_ACS = "iommu_groups=0\ncmdline=ro iommu=pt\nacs_bridges=0\nacs_enabled=0\n"
NO_QOS = "".join(f"qos\txgbe{n}\ttos\t106\n" for n in range(1, 9))


def no_rights(command: str, rc: int = 0, **told: str) -> Callable[[Cluster], None]:
    """The second node's login is not root: a probe tells only this much."""
    error = f"h20-rights\t{command}\tnot root\n" if command else ""
    return lambda c: c.other.machine.overrides.update({probe: Section(rc, text, error) for probe, text in told.items()})


def redirecting(more: str = "", bridge: str = "0000:17:00.0") -> Callable[[Cluster], None]:
    """One bridge redirects requests; GPU 0 and mlx5_1 are below 0000:17:00.0."""

    def inject(c: Cluster) -> None:
        m = c.other.machine
        gpu, rail = "0000:1b:00.0", m.rails[1].pci
        path = "/sys/devices/pci0000:17/0000:17:00.0/"
        pci = sections(m)["pci"](())
        for address in (gpu, rail):
            pci = "".join(
                line.rpartition("\t")[0] + f"\t{path}{address}\n" if line.startswith(f"pci\t{address}") else line
                for line in pci.splitlines(keepends=True)
            )
        m.overrides["pci"] = Section(0, pci, "")
        m.overrides["pcie_hints"] = Section(0, f"iommu_groups=9\ncmdline=\nacs_bridges=24\nacs_enabled=1\nacs_at={bridge}\n{more}\n", "")

    return inject


CLASS = {"fabric.roce_class": Status.FAIL}
ON, OFF = "1 1 1 1 1 1 1 1", "0 0 0 0 0 0 0 0"


def flow(env: dict[str, str] | None = None, **fields: str) -> Callable[[Cluster], None]:
    """Flow control of every rail of both nodes, and what NCCL is told."""

    def inject(c: Cluster) -> None:
        for node in (c.head, c.other):
            node.machine.nccl_env = dict(env or {})
            for r in node.machine.rails:
                r.qos = {k: v for k, v in {**QOS, **fields}.items() if v}

    return inject


def one_network(ignore: int, announce: int, strict: int = 0) -> Callable[[Cluster], None]:
    """All rails of both nodes in 33.2.0.0/16, with these ARP settings."""

    def inject(c: Cluster) -> None:
        for node in (c.head, c.other):
            lines = []
            for r in node.machine.rails:
                r.prefix = 16
                lines.append(f"wire\t{r.interface}\n")
                for name, value in (("arp_ignore", ignore), ("arp_announce", announce), ("rp_filter", strict)):
                    lines.append(f"sysctl\t{r.interface}\t{name}\t0\t{value}\n")
            node.machine.overrides["wires"] = Section(0, "".join(lines), "")

    return inject


def optics(*lines: str) -> Callable[[Cluster], None]:
    """What ethtool says of rails of the second node."""

    def inject(c: Cluster) -> None:
        m = c.other.machine
        m.overrides["wires"] = Section(0, sections(m)["wires"](()) + "".join(f"{line}\n" for line in lines), "")

    return inject


SWITCH = {"fabric.switch_class": Status.FAIL}


def lldp(enabled: str) -> Callable[[Cluster], None]:
    """The switch port of one rail says for which priorities it has PFC, as a bit each (lldpd passes the TLV on as it came)."""
    tlvs = f"oui=00,80,C2 subtype=9 len=21 =00 oui=00,80,C2 subtype=11 len=2 =08,{enabled} oui=00,01,42 subtype=1 len=1 =01 "
    return optics("lldp\txgbe3\tleaf-2\tEthernet7", f"tlvs\txgbe3\t{tlvs}")


COPPER = {"temperature": "0 [0..0]", "rx": "0,0,0,0 [0..0]", "rx_los": "1,0,1,1"}
"""Of a passive copper cable on a sound 400G link (ConnectX-7, MFT 4.35, OSFPFL-400G-PC01): no thresholds, and flags that mean nothing."""


def mlxlink(**odd: object) -> Callable[[Cluster], None]:
    """What ``mlxlink -m -c`` says of all rails of the second node; of its third one something else. Figures of scitix/sichek#125."""
    sound = {
        "fec": ("FEC", "Standard RS-FEC - RS(544,514)"),
        "advice": ("Recommendation", "No issue was observed"),
        "temperature": ("Temperature [C]", "54 [-5..75]"),
        "rx": ("Rx Power Current [dBm]", "1.886,1.989,2.281,1.976 [-10.41..6]"),
        "module": ("Identifier", "OSFP"),
        "rx_los": ("Rx LOS [per lane]", "0,0,0,0"),
        "minutes": ("Time Since Last Clear [Min]", "348349.5"),
        "errors": ("Effective Physical Errors", "0"),
        "effective_ber": ("Effective Physical BER", "15E-255"),
        "raw_ber": ("Raw Physical BER", "2E-9"),
    }
    assert set(odd) <= set(sound)
    return optics(
        *(
            f"mlxlink\txgbe{n}\t{key}\t{odd.get(name, value) if n == 3 else value}"
            for n in range(1, 9)
            for name, (key, value) in sound.items()
        )
    )


def same_machine(c: Cluster) -> None:
    c.other.machine.hostname, c.other.machine.number = c.head.machine.hostname, c.head.machine.number


def serial_zero(c: Cluster) -> None:
    for g in (*c.head.machine.gpus, *c.other.machine.gpus):
        g.serial = "0"


FAULTS = [
    Fault("another operating system", setter(os="Ubuntu 22.04"), {"environment.os": F, "environment.nodes_agree": W}),
    Fault("another kernel", setter(kernel="5.4.0"), {"environment.kernel": F, "environment.nodes_agree": W}),
    Fault("rebooted", expecting(setter(uptime_s=60.0), uptime_min_hours=1.0), {"environment.uptime": F}, "rebooted"),
    Fault(
        "NUMA balancing on",
        expecting(setter(numa_balancing=1), numa_balancing=False),
        {"environment.numa_balancing": F, "environment.nodes_agree": W},
        "sysctl",
    ),
    Fault(
        "powersave",
        expecting(setter(governor="powersave"), cpu_governor="performance"),
        {"environment.governor": F, "environment.nodes_agree": W},
    ),
    Fault(
        "no cpufreq", expecting(setter(governor=""), cpu_governor="performance"), {"environment.governor": U, "environment.nodes_agree": W}
    ),
    Fault(
        "huge pages never",
        expecting(setter(thp="always madvise [never]"), transparent_hugepages=("madvise",)),
        {"environment.hugepages": F, "environment.nodes_agree": W},
    ),
    Fault("swapping", setter(swap_used_kib=4 * 2**20), {"environment.swap": F}),
    Fault("time zone", expecting(setter(utc_offset="+0000"), timezone="+0800"), {"environment.timezone": F, "environment.nodes_agree": W}),
    Fault("clock 90 s off", setter(clock_offset=90.0), {"environment.clock_skew": F, "environment.clock_to_us": F}, "chrony"),
    Fault("clock 5 s off", setter(clock_offset=5.0), {"environment.clock_skew": F}),
    Fault(
        "clock unreadable",
        lambda c: c.other.machine.overrides.update(clock=Section(0, "now=never\n", "")),
        {"environment.clock_skew": U, "environment.clock_to_us": U},
    ),
    Fault("one machine twice", same_machine, {"environment.distinct_machines": F}, "same machine"),
    Fault("one GPU in two nodes", gpu(serial="1650001000003"), {"environment.distinct_machines": F}, "GPU serial 1650001000003"),
    Fault("one HCA in two nodes", rail(guid="a288:c203:0001:0000"), {"environment.distinct_machines": F}, "HCA GUID a288:c203:0001:0000"),
    Fault("cloned system image", setter(machine_id=f"{1:032x}"), {"environment.distinct_machines": W}, "cloned system image"),
    Fault("serial number that GPUs do not tell", gpu(serial="N/A"), {}),
    Fault("serial number of zeros", serial_zero, {}),
    Fault("disk full", setter(free_kib=2**20), {"environment.run_disk": F, "environment.docker_disk": F}),
    Fault("GPU off the bus", setter(kernel_lines=[xid(79)]), {"environment.xid": F}, "power-cycle"),
    Fault(
        "reboot asked for", setter(kernel_lines=[recovery("0x2 (Node Reboot Required)")]), {"environment.xid": F}, "Node Reboot Required"
    ),
    Fault("drain asked for", setter(kernel_lines=[recovery("0x4 (Drain and Reset)")]), {"environment.xid": F}, "Drain and Reset"),
    Fault("reboot no longer asked for", setter(kernel_lines=[recovery("0x1 (GPU Reset Required)"), recovery("0x0 (None)")]), {}),
    Fault("mlx5 health", kernel("mlx5_core 0000:30:00.0: device's health compromised - reached miss count"), EVENTS, "mlxfwmanager"),
    Fault("PCIe uncorrected", kernel("pcieport 0000:17:01.0: AER: Uncorrected (Non-Fatal) error received: 0000:18:00.0"), EVENTS, "reseat"),
    Fault("platform error", kernel("{1}[Hardware Error]: event severity: fatal"), EVENTS, "ipmitool"),
    Fault("GPU lost", kernel("NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus."), EVENTS, "power-cycle"),
    Fault("soft lockup", kernel("watchdog: BUG: soft lockup - CPU#12 stuck for 23s! [kworker/12:1:4711]"), EVENTS, "reboot"),
    Fault("cable error today", kernel(CABLE), EVENTS, "reseat"),
    Fault("transmit queue stopped today", kernel("mlx5_core 0000:30:00.0 xgbe3: TX timeout detected"), EVENTS),
    Fault("cable error last week", kernel(CABLE, 600000.5), MILD),
    Fault("no cable while the driver started", kernel("mlx5_core 0000:30:00.0: Port module event: module 0, Cable unplugged", 12.5), {}),
    Fault("PCIe corrected", kernel("pcieport 0000:17:01.0: AER: Multiple Corrected error received: 0000:17:01.0"), MILD),
    Fault("out of memory", kernel("Out of memory: Killed process 2201 (python) total-vm:35829968kB"), MILD),
    Fault("application Xid", setter(kernel_lines=[xid(31)]), {"environment.xid": W}),
    Fault("unknown Xid", setter(kernel_lines=[xid(999)]), {"environment.xid": W}, "catalog"),
    Fault(
        "SXid",
        setter(kernel_lines=["[ 9.1] nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"]),
        {"environment.sxid": F},
    ),
    Fault(
        "mild SXid",
        setter(kernel_lines=["[ 9.1] nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 30"]),
        {"environment.sxid": W},
    ),
    Fault(
        "machine check",
        setter(kernel_lines=["[ 9.1] mce: [Hardware Error]: Machine check events logged"]),
        {"environment.memory_errors": F},
    ),
    Fault(
        "disk error",
        setter(kernel_lines=["[ 9.1] blk_update_request: I/O error, dev nvme0n1, sector 4096"]),
        {"environment.disk_errors": F},
    ),
    Fault(
        "dmesg forbidden",
        lost("kernel_log"),
        dict.fromkeys(
            (
                "environment.xid",
                "environment.sxid",
                "environment.memory_errors",
                "environment.disk_errors",
                "environment.kernel_events",
                "environment.kernel_log",
            ),
            U,
        ),
        "dmesg_restrict",
    ),
    Fault(
        "dmesg wrapped",
        lambda c: c.other.machine.overrides.update(kernel_log=Section(0, "source=dmesg\nfirst=86400\n", "")),
        {"environment.kernel_log": W},
    ),
    Fault(
        "old driver",
        setter(driver="470.82.01"),
        {"environment.driver": F, "environment.driver_fits_image": F, "environment.nodes_agree": F},
        "525",
    ),
    Fault("older than the minimum", expecting(driver=None, driver_min="550.54"), {"environment.driver": F}, "550.54"),
    Fault(
        "driver half updated",
        lambda c: c.other.machine.overrides.update(
            driver=Section(0, "nvrm=NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  x\nmodule=nvidia_peermem\ndmabuf=no\n", "")
        ),
        {"environment.driver": F},
        "reboot",
    ),
    Fault("CUDA of the driver", setter(cuda="12.4"), {"environment.cuda": F, "environment.nodes_agree": F}),
    Fault(
        "NCCL that is known to crash",
        setter(nccl="2.27.7"),
        {"environment.known_bad": F, "environment.nodes_agree": F},
        "NCCL_RAS_ENABLE",
    ),
    Fault("CUDA 13 image", setter(image_cuda="13.0"), {"environment.driver_fits_image": F}, "VLLM_ENABLE_CUDA_COMPATIBILITY"),
    Fault(
        "GPU lost",
        lambda c: c.other.machine.gpus.pop(),
        {"environment.gpu_count": F, "environment.nodes_agree": F, "environment.gpus_in_container": F, "fabric.presence_alike": F},
    ),
    Fault("other GPU", gpu(name="NVIDIA H100 80GB HBM3"), {"environment.gpu_model": F, "environment.nodes_agree": F}),
    Fault("a GPU whose name begins alike", gpu(name="NVIDIA H200"), {"environment.gpu_model": F, "environment.nodes_agree": F}),
    Fault("other PCI id", expecting(gpu(pci_id="2330"), gpu_pci_ids=("2329",)), {"environment.gpu_model": F}),
    Fault("less memory", gpu(memory_mib=81559), {"environment.gpu_memory": F, "environment.nodes_agree": F}),
    Fault("ECC off", gpu(ecc="Disabled"), {"environment.gpu_ecc": F, "environment.nodes_agree": F}),
    Fault("uncorrectable error", gpu(uncorrectable=1), {"environment.gpu_ecc": F}, "reset"),
    Fault("remap pending", gpu(remap_pending="Yes"), {"environment.gpu_remap": F}),
    Fault("uncorrectable errors long ago", gpu(uncorrectable_ever=3), {"environment.gpu_ecc": W}, "field diagnostic"),
    Fault("511 rows remapped", gpu(remapped=511), {"environment.gpu_remap": F}, "RMA"),
    Fault("two rows remapped", gpu(remapped=2), {}),
    Fault("reset asked for", gpu(recovery="Reset"), {"environment.gpu_remap": F}, "asks for GPU 3"),
    Fault("memory clock held down", gpu(mem_clock=1593), {"environment.gpu_clocks": F}, "-rmc"),
    Fault("remap failed", gpu(remap_failure="Yes"), {"environment.gpu_remap": F}, "replacing"),
    Fault("thermal slowdown", gpu(throttle=("hw_slowdown", "hw_thermal_slowdown")), {"environment.gpu_throttle": F}, "cooling"),
    Fault("clock lowered", gpu(app_clock=1200), {"environment.gpu_clocks": W, "environment.nodes_agree": F}),
    Fault("clock not as agreed", expecting(gpu_clock_mhz=1830), {"environment.gpu_clocks": F}),
    Fault("no persistence", expecting(gpu(persistence="Disabled"), gpu_persistence=True), {"environment.gpu_persistence": F}),
    Fault("power lowered", gpu(power_limit=300.0), {"environment.gpu_power_limit": W, "environment.nodes_agree": F}),
    Fault("power not as expected", expecting(gpu_power_limit_w=400.0), {"environment.gpu_power_limit": F}),
    Fault("hot", expecting(gpu(temperature=70), gpu_temperature_max_c=60), {"environment.gpu_temperature": F}),
    Fault("uneven", expecting(gpu(temperature=50), gpu_temperature_spread_c=10), {"environment.gpu_temperature": F}),
    Fault("left-over process", gpu(processes=((4711, "python3", 90000),), used_mib=90000), {"environment.gpu_idle": F}, "4711"),
    Fault("memory held by nobody", gpu(used_mib=40000), {"environment.gpu_idle": F}, "zombie"),
    Fault("MIG", gpu(mig="Enabled"), {"environment.gpu_mode": F}),
    Fault("exclusive mode", gpu(compute_mode="Exclusive_Process"), {"environment.gpu_mode": F}),
    Fault("NVLink down", gpu(nvlinks=("26.562 GB/s",) * 17 + ("<inactive>",)), {"environment.nvlink": F, "environment.nodes_agree": F}),
    Fault(
        "fabric manager dead",
        lambda c: c.other.machine.overrides.update(fabric_manager=Section(0, "nvswitches=4\nstate=failed\nversion=\n", "")),
        {"environment.fabric_manager": F},
    ),
    Fault("GPU not in the NVLink fabric", gpu(fabric=("In Progress", "")), {"environment.fabric_manager": F}),
    Fault("x8 link", gpu(pcie_width=8), {"environment.gpu_pcie": F}),
    Fault("nvidia-smi gone", lost("gpus"), {"environment.gpu_count": U}),
    Fault(
        "docker down",
        containers(daemon_error="Cannot connect to the Docker daemon"),
        {"environment.docker": U},
    ),
    Fault("docker old", expecting(docker_min="24.0"), {"environment.docker": F}),
    Fault("storage driver", expecting(storage_driver="devicemapper"), {"environment.docker": F}),
    Fault(
        "no container toolkit",
        lambda c: (
            containers(runtimes=("runc",))(c),
            c.other.machine.overrides.update(tools=Section(0, "tool\tdocker\t/usr/bin/docker\n", "")),
        ),
        {"environment.nvidia_runtime": F},
        "toolkit",
    ),
    Fault(
        "image absent",
        containers(no_image=True),
        {"environment.image": F},
        "docker pull",
    ),
    Fault("other image", containers(image_id="sha256:" + "b" * 64), {"environment.image_equal": F, "environment.nodes_agree": F}),
    Fault("not the expected image", expecting(image_digest="sha256:cafe"), {"environment.image": F}),
    Fault(
        "other NCCL", expecting(setter(nccl="2.27.3"), nccl_version="2.21"), {"environment.image_versions": F, "environment.nodes_agree": F}
    ),
    Fault("memlock 64 KiB", setter(memlock="64"), {"environment.memlock": F}, "--ulimit memlock=-1"),
    Fault("nofile 1024", setter(nofile=1024), {"environment.nofile": F}),
    Fault("stack 8 MiB", setter(stack=8192), {"environment.stack": F}),
    Fault("shm 64 MiB", setter(shm_kib=65536), {"environment.shm": F}, "--shm-size"),
    Fault("shm full", setter(shm_free_kib=0), {"environment.shm": F}, "full"),
    Fault("no uverbs", setter(uverbs=0), {"environment.rdma_in_container": F}),
    Fault("no libibverbs", setter(libibverbs=False), {"environment.rdma_in_container": F}, "libibverbs"),
    Fault(
        "port taken",
        lambda c: c.head.machine.listeners.update({8000: 'users:(("python3",pid=777,fd=9))'}),
        {"environment.ports": F},
        "python3 (pid 777)",
    ),
    Fault("no listing of ports", lost("listeners"), {"environment.ports": U}),
    Fault("model not there", setter(model_exists=False), {"environment.model_path": F}),
    Fault(
        "own IPC namespace",
        lambda c: c.other.machine.overrides.update(
            {"image/limits": Section(0, "memlock=unlimited\nnofile=120000\nstack=65536\nshm=134217728 134217728\nipc=ipc:[99]\n", "")}
        ),
        {"environment.ipc": F},
    ),
    Fault("address of nobody", readdressed, {"environment.engine_ip": F}, "no interface"),
    Fault("engine computes IPv6", setter(engine_address="fd00::2"), {"environment.engine_ip": F}),
    Fault("IPv6 without the variables", setter(bare_address="fd00::2"), {"environment.engine_ip": W}, "VLLM_HOST_IP"),
    Fault(
        "firewall drops",
        lambda c: setattr(c.head.machine, "unreachable", frozenset({"10.63.65.208"})),
        {"environment.reach": F},
        "random high ports",
    ),
    Fault("nobody can listen", lost("listen"), {"environment.reach": U}, "Python"),
    Fault(
        "name is loopback",
        lambda c: c.other.machine.overrides.update({"image/names": Section(0, "hostname=node02\nresolved=127.0.0.1\nall=\n", "")}),
        {"environment.hostname": W},
        "GLOO_SOCKET_IFNAME",
    ),
    Fault("name must resolve", unresolved, {"environment.hostname": F}),
    Fault(
        "proxy in the container",
        setter(image_proxies={"http_proxy": "http://proxy:3128", "no_proxy": "localhost"}),
        {"environment.proxy": F},
        "no_proxy",
    ),
    Fault("proxy on the host", setter(proxies={"https_proxy": "http://proxy:3128"}), {"environment.proxy": W}),
    Fault("firewalld", setter(firewall=("firewalld",)), {"environment.firewall": W}),
    Fault("firewalld forbidden", expecting(setter(firewall=("firewalld",)), firewall=False), {"environment.firewall": F}),
    Fault(
        "control interface down",
        lambda c: setattr(c.other.machine.rails[0], "state", "1: DOWN"),
        {"environment.control_interface": F, "fabric.presence": W},
    ),
    Fault("control MTU", expecting(mtu=1500), {"environment.control_interface": F}),
    Fault(
        "HCA gone",
        lambda c: c.other.machine.rails.pop(3),
        {
            "fabric.hcas": F,
            "fabric.port_active": U,
            "fabric.rate": U,
            "fabric.netdev": U,
            "fabric.gid_table": U,
            "fabric.gid_index": U,
            "fabric.gid_address": F,
            "fabric.mtu": U,
            "fabric.subnet": U,
            "fabric.reachable": U,
            "environment.nodes_agree": F,
            "fabric.presence_alike": F,
            "environment.rdma_in_container": Status.PASS,
        },
    ),
    Fault(
        "port that nobody named",
        lambda c: c.other.machine.rails.append(unnamed(c)),
        {"fabric.presence": F, "fabric.presence_alike": F},
        "other_hcas",
    ),
    Fault("port down", rail(state="1: DOWN", phys="3: Disabled"), {"fabric.port_active": F}, "mlxlink"),
    Fault("link polling", rail(phys="2: Polling"), {"fabric.port_active": F}),
    Fault("half rate", rail(rate="100 Gb/sec (4X EDR)"), {"fabric.rate": F, "fabric.presence": W, "environment.nodes_agree": F}),
    Fault("two lanes", rail(rate="200 Gb/sec (2X NDR)"), {"fabric.width": F}),
    Fault("old firmware", rail(firmware="20.31.1014"), {"fabric.firmware": F, "environment.nodes_agree": W}),
    Fault("firmware expected", expecting(firmware="20.40"), {"fabric.firmware": F}),
    Fault(
        "interface renamed",
        rail(interface="eth3"),
        {
            "fabric.netdev": F,
            "fabric.gid_address": F,
            "fabric.mtu": U,
            "fabric.subnet": U,
            "fabric.reachable": U,
            "environment.nodes_agree": F,
        },
    ),
    Fault("GID moved", wrong_gid, {"fabric.gid_index": F, "fabric.gid_address": F}, "gid_index: 5"),
    Fault("GID link-local only", lost_address, {"fabric.gid_index": F, "fabric.gid_table": F, "fabric.gid_address": U}, "ip addr add"),
    Fault(
        "show_gids disagrees",
        lambda c: c.other.machine.overrides.update(show_gids=Section(0, "DEV PORT INDEX\n", "")),
        {"fabric.gid_table": F},
    ),
    Fault("wrong address", rail(address="33.2.161.99"), {"fabric.gid_address": F}),
    Fault("MTU of one end", rail(mtu=1500), {"fabric.mtu": F, "environment.nodes_agree": F}),
    Fault("MTU expected", expecting(rail_mtu=9000), {"fabric.mtu": F}),
    Fault("other subnet", rail(prefix=29), {"fabric.subnet": F}),
    Fault("rail dead", lambda c: setattr(c.other.machine, "dead_rails", frozenset({"xgbe3"})), {"fabric.reachable": F}),
    Fault("path MTU", lambda c: setattr(c.other.machine, "small_path", frozenset({"xgbe3"})), {"fabric.reachable": F}, "too long"),
    Fault("no ping", lost("ping"), {"fabric.reachable": U}, "iputils"),
    Fault(
        "flapping",
        setter(kernel_lines=["[1200000.5] mlx5_core 0000:30:00.0 xgbe3: Link down", "[1200003.5] mlx5_core 0000:30:00.0 xgbe3: Link up"]),
        {"fabric.link_flaps": F},
        "cable",
    ),
    Fault(
        "NIC on x8",
        rail(pcie_width=8),
        {"fabric.pcie": F},
    ),
    Fault(
        "far from every GPU",
        expecting(
            lambda c: c.other.machine.overrides.update(topology=Section(0, "\tGPU0\tmlx5_3\nGPU0\t X \tSYS\nmlx5_3\tSYS\t X \n", "")),
            rail_distance=("PIX", "NODE"),
        ),
        {"fabric.distance": F},
    ),
    Fault("every GPU on the other socket", far(), {"fabric.distance": F}, "other socket"),
    Fault("every GPU on the other socket of a virtual machine", far(virtual=True), {"fabric.distance": W}),
    Fault("no GPUDirect", setter(modules=("nvidia",)), {"fabric.gpudirect": F, "environment.nodes_agree": F}, "nvidia_peermem"),
    Fault(
        "ACS on",
        expecting(
            lambda c: c.other.machine.overrides.update(
                pcie_hints=Section(0, "iommu_groups=9\ncmdline=\nacs_bridges=24\nacs_enabled=8\n", "")
            ),
            acs_off=True,
        ),
        {"fabric.acs": F},
    ),
    Fault(
        "ACS on, not expected",
        lambda c: c.other.machine.overrides.update(pcie_hints=Section(0, "iommu_groups=9\ncmdline=\nacs_bridges=24\nacs_enabled=8\n", "")),
        {"fabric.acs": W},
    ),
    Fault("ACS between GPU and rail", redirecting(), {"fabric.acs": F}, "0000:17:00.0"),
    Fault("ACS between GPU and rail in a virtual machine", redirecting("virtual=yes"), {"fabric.acs": W}),
    Fault("ACS between GPU and rail on purpose", expecting(redirecting(), acs_off=False), {"fabric.acs": W}),
    Fault("ACS above a disk", redirecting(bridge="0000:ff:00.0"), {"fabric.acs": W}),
    Fault(
        "PFC of one rail",
        rail(qos={**QOS, "pfc": "0 0 0 0 0 0 0 0"}),
        {"fabric.qos": F, "fabric.qos_equal": F, "fabric.roce_class": F},
        "pfc",
    ),
    Fault("PFC and ECN off on all rails alike", flow(pfc="0 0 0 0 0 0 0 0", ecn_np=OFF, ecn_rp=OFF), CLASS, "neither PFC nor ECN"),
    Fault("rails that may drop", expecting(flow(pfc="0 0 0 0 0 0 0 0"), lossless=False), {}),
    Fault("NCCL sends in another class", flow(traffic_class=""), CLASS, "traffic class 0 (NCCL's default) -> DSCP 0 -> priority 0"),
    Fault("NCCL is told the class", flow({"NCCL_IB_TC": "106"}, traffic_class=""), {}),
    Fault("NCCL is told a class that the NIC sorts elsewhere", flow({"NCCL_IB_TC": "106"}, traffic_class="", dscp2prio="5=26,"), CLASS),
    Fault("trust pcp without a service level", flow(trust="pcp"), CLASS, "priority 0"),
    Fault("trust pcp with it", flow({"NCCL_IB_SL": "3"}, trust="pcp"), {}),
    Fault("ECN alone", flow(pfc="0 0 0 0 0 0 0 0", ecn_np=ON, ecn_rp=ON), {"fabric.roce_class": W}),
    Fault("ECN asked for", expecting(flow(ecn_np=OFF, ecn_rp=ON), lossless=True), CLASS),
    Fault("ECN asked for and not told", expecting(lossless=True), {"fabric.roce_class": U}),
    Fault("several rails in one network", one_network(0, 0), {"fabric.arp": F}, "arp_ignore=1"),
    Fault("several rails in one network, each for itself", one_network(1, 2), {}),
    Fault("several rails in one network, strict filter", one_network(1, 2, 1), {"fabric.arp": W}, "rp_filter"),
    Fault("weak light", optics("module\txgbe3\tLaser rx power low alarm   (Channel 1)\tOn"), {"fabric.optics": F}, "rx power low alarm"),
    Fault("light near its limit", optics("module\txgbe3\tLaser rx power low warning (Channel 2)\tOn"), {"fabric.optics": W}),
    Fault("symbol errors", optics("stat\txgbe3\trx_pcs_symbol_err_phy\t12"), {"fabric.optics": W}, "rx_pcs_symbol_err_phy 12"),
    Fault("light as it should be", optics("module\txgbe3\tIdentifier\t0x11 (QSFP28)", "stat\txgbe3\trx_symbol_err_phy\t0"), {}),
    Fault("another FEC", optics("fec\txgbe2\tRS", "fec\txgbe4\tRS", "fec\txgbe3\tOff"), {"fabric.optics": W}, "FEC Off"),
    Fault("the switch has PFC for the class", lldp("08"), {}),
    Fault("the switch has PFC for another class", lldp("10"), SWITCH, "leaf-2 Ethernet7 has PFC on for priority 4, not for 3"),
    Fault("the switch has no PFC", lldp("00"), SWITCH, "has PFC on for priority none, not for 3"),
    Fault("the switch is said to have it", expecting(switch_ports={"*": SwitchPort(pfc=(3,), ecn=(3,))}), {}),
    Fault(
        "the switch is said to have another",
        expecting(switch_ports={"node02 *": SwitchPort(pfc=(4,))}),
        SWITCH,
        "the switch port has PFC on",
    ),
    Fault(
        "the switch is said to mark another",
        expecting(flow(ecn_np=ON, ecn_rp=ON), switch_ports={"node02 *": SwitchPort(ecn=(4,))}),
        SWITCH,
        "the switch port has ECN on for priority 4",
    ),
    Fault("the switch says otherwise than the file", expecting(lldp("00"), switch_ports={"leaf-2 *": SwitchPort(pfc=(3,))}), SWITCH),
    Fault("rails that may drop, and a switch without PFC", expecting(lldp("00"), lossless=False), {}),
    Fault("mlxlink: a sound port", mlxlink(), {}),
    Fault("mlxlink: passive copper", mlxlink(**COPPER), {}),
    Fault(
        "mlxlink: too little light",
        mlxlink(rx="1.8,-11.2,1.9,1.8 [-10.41..6]"),
        {"fabric.optics": F},
        "-11.2, its own limits are -10.41 to 6",
    ),
    Fault("mlxlink: half the light of its siblings", mlxlink(rx="1.8,-1.9,1.9,1.8 [-10.41..6]"), {"fabric.optics": W}, "receives -1.9 dBm"),
    Fault("mlxlink: too hot", mlxlink(temperature="76 [-5..75]"), {"fabric.optics": F}, "Temperature [C] 76"),
    Fault("mlxlink: FEC leaves errors", mlxlink(effective_ber="3E-10", errors=42), {"fabric.optics": F}, "after FEC 3.0e-10"),
    Fault("mlxlink: FEC left errors once", mlxlink(errors=42), {"fabric.optics": W}, "Effective Physical Errors 42 in 348350 minutes"),
    Fault("mlxlink: bit errors apart from the siblings", mlxlink(raw_ber="5E-6"), {"fabric.optics": W}, "before FEC 5e-06"),
    Fault("mlxlink: ten times the bit errors of the siblings", mlxlink(raw_ber="2E-8"), {}),
    Fault("mlxlink: bad signal", mlxlink(advice="Bad signal integrity"), {"fabric.optics": F}, "Bad signal integrity"),
    Fault("mlxlink: another opinion", mlxlink(advice="Cable is unsupported"), {"fabric.optics": W}, "Cable is unsupported"),
    Fault("mlxlink: a lane lost its light once", mlxlink(rx_los="0,1,0,0"), {"fabric.optics": W}, "Rx LOS on lane 2"),
    Fault("mlxlink: another FEC", mlxlink(fec="No FEC"), {"fabric.optics": W}, "FEC No FEC"),
    Fault(
        "no rights for mlxlink, ethtool told",
        no_rights("mlxlink -d mlx5_3 -m -c", wires="wire\txgbe3\nmodule\txgbe3\tIdentifier\t0x11\n"),
        {},
    ),
    Fault(
        "no rights for ethtool, mlxlink told",
        no_rights("ethtool -m xgbe3", wires="wire\txgbe3\nmlxlink\txgbe3\tRaw Physical BER\t2E-9\n"),
        {},
    ),
    Fault(
        "mlxlink tells nothing, nor does ethtool",
        no_rights("ethtool -m xgbe3", wires="wire\txgbe3\nmlxlink\txgbe3\t-E-\tUnsupported device\n"),
        {"fabric.optics": U},
    ),
    Fault("trust expected", expecting(qos_trust="pcp"), {"fabric.qos": F}),
    Fault("no rights for lspci", no_rights("lspci -D -vvv", pcie_hints=NO_ACS), {"fabric.acs": U}, "`lspci -D -vvv` needs root: not root"),
    Fault("no rights for lspci, ACS on purpose", expecting(no_rights("lspci -D -vvv", pcie_hints=NO_ACS), acs_off=False), {}),
    Fault("nobody's lspci", no_rights("", pcie_hints=NO_ACS), {}),
    Fault("no rights for a transceiver", no_rights("ethtool -m xgbe3", wires="wire\txgbe3\n"), {"fabric.optics": U}, "`ssh.sudo: true`"),
    Fault(
        "no alarms were read, only counters",
        no_rights("ethtool -m xgbe3", wires="wire\txgbe3\nstat\txgbe3\trx_symbol_err_phy\t0\nfec\txgbe3\tRS\n"),
        {"fabric.optics": U},
        "`ethtool -m xgbe3` needs root",
    ),
    Fault("no rights, and read all the same", no_rights("ethtool -m xgbe3", wires="wire\txgbe3\nmodule\txgbe3\tIdentifier\t0x11\n"), {}),
    Fault(
        "no rights for the NIC's classes",
        no_rights("mlnx_qos -i xgbe3", qos=NO_QOS),
        {"fabric.roce_class": U, "fabric.qos_equal": U},
        "`mlnx_qos -i xgbe3` needs",
    ),
    Fault(
        "no rights for the firewall",
        expecting(no_rights("nft list ruleset", 126, firewall="policy=\ndrops=0\n"), firewall=False),
        {"environment.firewall": U},
        "`nft list ruleset` needs root",
    ),
    Fault("no rights for a firewall that nobody forbids", no_rights("nft list ruleset", 126, firewall="policy=\ndrops=0\n"), {}),
    Fault(
        "a port taken by somebody who cannot be named",
        no_rights("ss -ltnp", listeners="listen\t0.0.0.0:22\t\nlisten\t0.0.0.0:8000\t\ntotal=3\n"),
        {"environment.ports": F},
        "an unknown process (`ss -ltnp` needs root",
    ),
    Fault(
        "node unreachable",
        lambda c: setattr(c.other, "down", "connection refused"),
        dict.fromkeys(("environment.reachable",), U) | {"*": U},
    ),
]


def worst(verdicts: list[Verdict]) -> dict[str, Status]:
    found: dict[str, Status] = {}
    for v in verdicts:
        if v.status.rank > found.get(v.check, Status.PASS).rank:
            found[v.check] = v.status
    return found


@pytest.fixture(scope="module")
def healthy() -> dict[str, Status]:
    return worst(all_verdicts(blog_cluster().gather()))


def test_a_healthy_cluster_is_green(healthy: dict[str, Status]) -> None:
    assert {c: s for c, s in healthy.items() if s.blocks} == {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_fault_turns_exactly_the_right_checks(fault: Fault, healthy: dict[str, Status]) -> None:
    cluster = blog_cluster()
    fault.inject(cluster)
    verdicts = all_verdicts(cluster.gather())
    now = worst(verdicts)
    turned = {c: s for c, s in now.items() if s.rank >= Status.WARN.rank and s != healthy.get(c)}
    wanted = {c: s for c, s in fault.red.items() if s.rank >= Status.WARN.rank}
    if "*" in wanted:
        assert turned[min(set(wanted) - {"*"})] is wanted[min(set(wanted) - {"*"})]
        assert all(s is not Status.PASS for s in turned.values())
        assert F not in turned.values()
    else:
        assert turned == wanted
    if fault.words:
        red = [v for v in verdicts if v.check in turned and v.status is turned[v.check]]
        assert any(fault.words in f"{v.reason} {v.action}" for v in red), [f"{v.reason} / {v.action}" for v in red]


def test_every_check_is_turned_by_some_fault() -> None:
    """A check that no fault can turn is decoration. Those listed here are warnings or are tested on their own."""
    turned = {c for f in FAULTS for c, s in f.red.items() if s in (F, U)}
    elsewhere = {"environment.kernel_log", "environment.nccl_in_image", "environment.nccl_left", "fabric.route", "fabric.peermem_and_nccl"}
    assert set(ALL_CHECKS) - turned - elsewhere == set()


def test_a_verdict_carries_what_a_reader_needs() -> None:
    cluster = blog_cluster()
    cluster.other.machine.rails[3].state = "1: DOWN"
    kept: dict[str, str] = {}
    facts = cluster.gather(record=lambda name, text: kept.setdefault(name, text) and f"evidence/{name}")
    red = next(v for v in all_verdicts(facts) if v.check == "fabric.port_active" and v.status is F)
    assert red.subject == "node02 mlx5_3"
    assert (red.measured, red.limit and red.limit.value) == ("DOWN", "ACTIVE")
    assert red.evidence == ("evidence/probes/node02/rdma.txt",)
    assert "1: DOWN" in kept["probes/node02/rdma.txt"]
    assert red.action


def distinct(cluster: Cluster) -> list[tuple[Status, str, str]]:
    return [(v.status, v.subject, v.reason) for v in CLUSTER_CHECKS["environment.distinct_machines"](cluster.gather())]


def test_a_node_that_nothing_identifies_may_be_any_machine() -> None:
    cluster = blog_cluster()
    for probe in ("gpus", "rdma"):
        cluster.other.machine.overrides[probe] = MISSING_TOOL
    assert [status for status, *_ in distinct(cluster)] == [Status.PASS], "its boot id and machine id tell it apart"
    cluster.other.machine.overrides["system"] = Section(0, "kernel=4.19.0\nhostname=node02\n", "")
    assert [(status, "nothing identifies node02" in why) for status, _, why in distinct(cluster)] == [(U, True)]


def test_one_machine_id_without_hardware_that_differs_is_one_machine() -> None:
    cluster = blog_cluster()
    cluster.other.machine.machine_id = f"{1:032x}"
    for probe in ("gpus", "rdma"):
        cluster.other.machine.overrides[probe] = MISSING_TOOL
    assert [(s, who) for s, who, _ in distinct(cluster)] == [(F, "node01 node02")]


def test_unmeasured_ok_turns_unknown_into_skip_and_nothing_else() -> None:
    cluster = blog_cluster()
    cluster.other.machine.overrides["kernel_log"] = MISSING_TOOL
    cluster.other.machine.gpus[0].uncorrectable = 1
    cluster.expect(unmeasured_ok=("environment.*",))
    now = worst(all_verdicts(cluster.gather()))
    assert now["environment.xid"] is Status.SKIP
    assert now["environment.gpu_ecc"] is F
