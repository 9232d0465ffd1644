"""Outputs in every probe's own format, for a machine that is described by a few values.

For rehearsals and tests: ``sections`` gives, for a node of an inventory, what each probe would print on a machine like the
write-up's (CentOS 7.6, driver 535.216.03, 8 x H20, nine RoCE devices). ``Machine`` holds the values; change one to make a fault.
``answer`` answers a whole script as a node would.
"""

# ruff: noqa: E501 - foreign text stays on its own lines
from __future__ import annotations

import ipaddress
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from xml.sax.saxutils import escape

from pytest_h20.config.inventory import Inventory, NodeSpec
from pytest_h20.probes.dcgm import FIELDS as DCGM_FIELDS
from pytest_h20.probes.script import Section, frame, requests
from pytest_h20.rehearsal.sparse import R1_CONFIG

OK = Section(0, "", "")


@dataclass
class StandInGpu:
    """One GPU. Units as in ``probes.gpu.Gpu``; texts as nvidia-smi prints them."""

    name: str = "NVIDIA H20"
    pci_id: str = "2329"
    memory_mib: int = 97871
    used_mib: int = 4
    temperature: int = 34
    power_limit: float = 500.0
    ecc: str = "Enabled"
    persistence: str = "Enabled"
    mig: str = "Disabled"
    compute_mode: str = "Default"
    uncorrectable: int = 0
    uncorrectable_ever: int = 0
    remapped: int = 0
    recovery: str = "None"
    mem_clock: int = 2619
    remap_pending: str = "No"
    remap_failure: str = "No"
    app_clock: int = 1980
    throttle: tuple[str, ...] = ("gpu_idle",)
    pcie_width: int = 16
    pcie_gen_max: int = 5
    fabric: tuple[str, str] = ("Completed", "Success")
    nvlinks: tuple[str, ...] = ("26.562 GB/s",) * 18
    processes: tuple[tuple[int, str, int], ...] = ()
    serial: str | None = None


QOS = {"trust": "dscp", "pfc": "0 0 0 1 0 0 0 0", "tos": "106", "traffic_class": "Global tclass=106"}
"""Flow control as clusters like the write-up's have it: DSCP 26, priority 3, whatever NCCL is told."""


PERFTEST_TOOLS = ("ib_write_bw", "ib_read_bw", "ib_write_lat")


@dataclass
class StandInRail:
    """One RDMA device with its net device. ``gids``: index -> (GID, type)."""

    hca: str
    interface: str
    address: str
    prefix: int = 25
    mtu: int = 4200
    state: str = "4: ACTIVE"
    phys: str = "5: LinkUp"
    rate: str = "200 Gb/sec (4X HDR)"
    firmware: str = "20.35.3006"
    board: str = "MT_0000000223"
    pci: str = ""
    pci_device: str = "0x101b"
    pcie_width: int = 16
    numa: int = 0
    carrier_changes: int = 2
    guid: str = ""
    gids: dict[int, tuple[str, str]] = field(default_factory=dict)
    qos: dict[str, str] = field(default_factory=lambda: dict(QOS))


@dataclass
class Machine:
    """One stand-in machine. ``overrides``: probe name -> section, instead of what would be made (``image/NAME`` inside the image).

    ``write_gbps``: what each rail sends. Parts of it: ``gpu_share`` of an HCA with GPU memory, ``beside_share`` when several rails send at
    once, ``rail_share`` of an HCA always. ``latency_us``: of an HCA, else 1.9. ``nvlink_replays``: of a GPU by index, as DCGM counts."""

    hostname: str
    number: int
    address: str
    control: str
    rails: list[StandInRail]
    machine_id: str = ""
    os: str = "CentOS Linux release 7.6 (Final)"
    kernel: str = "4.19.0-1.0.0.9"
    driver: str = "535.216.03"
    cuda: str = "12.2"
    modules: tuple[str, ...] = ("nvidia", "nvidia_uvm", "nvidia_peermem")
    utc_offset: str = "+0800"
    governor: str = "performance"
    thp: str = "always [madvise] never"
    numa_balancing: int = 0
    swap_used_kib: int = 0
    uptime_s: float = 1209600.0
    gpus: list[StandInGpu] = field(default_factory=lambda: [StandInGpu() for _ in range(8)])
    kernel_lines: list[str] = field(default_factory=list)
    kernel_first: float = 0.0
    nvlink_replays: dict[int, int] = field(default_factory=dict)
    listeners: dict[int, str] = field(default_factory=lambda: {22: 'users:(("sshd",pid=1201,fd=3))'})
    proxies: dict[str, str] = field(default_factory=dict)
    image_proxies: dict[str, str] = field(default_factory=dict)
    free_kib: int = 2 * 2**30
    model_exists: bool = True
    packages: dict[str, str] = field(default_factory=lambda: {"sglang": "0.4.4.post3", "torch": "2.5.1"})
    image_cuda: str = "12.4"
    nccl: str = "2.21.5"
    memlock: str = "unlimited"
    nofile: int = 120000
    stack: int = 65536
    shm_kib: int = 128 * 2**20
    shm_free_kib: int | None = None
    nccl_left: tuple[str, ...] = ()
    uverbs: int = 9
    libibverbs: bool = True
    engine_address: str = ""
    bare_address: str = ""
    firewall: tuple[str, ...] = ()
    clock_offset: float = 0.0
    unreachable: frozenset[str] = frozenset()
    dead_rails: frozenset[str] = frozenset()
    small_path: frozenset[str] = frozenset()
    write_gbps: float = 196.0
    write_to: dict[str, float] = field(default_factory=dict)
    perftest_cuda: bool = True
    gpu_share: dict[str, float] = field(default_factory=dict)
    beside_share: float = 1.0
    rail_share: dict[str, float] = field(default_factory=dict)
    latency_us: dict[str, float] = field(default_factory=dict)
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    nccl_env: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Section] = field(default_factory=dict)


def gids_of(address: str, number: int) -> dict[int, tuple[str, str]]:
    """The four slots as mlx5 lays them out: 0, 1 link-local (v1, v2), 2, 3 IPv4 (v1, v2)."""
    a, b, c, d = (int(x) for x in address.split("."))
    local = f"fe80:0000:0000:0000:a288:c2ff:fe{number % 256:02x}:{c:02x}{d:02x}"
    mapped = f"0000:0000:0000:0000:0000:ffff:{a:02x}{b:02x}:{c:02x}{d:02x}"
    return {0: (local, "IB/RoCE v1"), 1: (local, "RoCE v2"), 2: (mapped, "IB/RoCE v1"), 3: (mapped, "RoCE v2")}


def machine(inventory: Inventory, node: NodeSpec) -> Machine:
    """A healthy machine as this node of the inventory must be: its interfaces, addresses and HCAs."""
    number = [n.name for n in inventory.nodes].index(node.name) + 1
    rails = []
    known = [(h.hca, h.interface, h.address or node.engine_ip) for h in node.other_hcas]
    known += [(r.hca, r.interface, r.address or f"33.2.{160 + i}.{14 + number}") for i, r in enumerate(node.rails)]
    for i, (hca, interface, address) in enumerate(known):
        rail = StandInRail(hca, interface, address, pci=f"0000:{0x18 + 8 * i:02x}:00.0", numa=i // 5)
        rail.gids = gids_of(address, number * 16 + i)
        wanted = next((node.rail_gid_index(r) for r in node.rails if r.hca == hca), 3)
        if wanted is not None and wanted != 3:
            rail.gids = {0: rail.gids[1], wanted: rail.gids[3]} if wanted else {0: rail.gids[3]}
        rails.append(rail)
    own = Machine(node.name, number, node.engine_ip, node.control_interface, rails)
    own.engine_address, own.bare_address = node.engine_ip, node.engine_ip
    own.uverbs = len(rails)
    return own


def _xml(m: Machine) -> str:
    parts = [
        '<?xml version="1.0" ?>\n<nvidia_smi_log>\n',
        f"<driver_version>{m.driver}</driver_version>\n<cuda_version>{m.cuda}</cuda_version>\n",
        f"<attached_gpus>{len(m.gpus)}</attached_gpus>\n",
    ]
    for i, g in enumerate(m.gpus):
        reasons = "".join(
            f"<clocks_event_reason_{r}>{'Active' if r in g.throttle else 'Not Active'}</clocks_event_reason_{r}>"
            for r in (
                "gpu_idle",
                "sw_power_cap",
                "hw_slowdown",
                "hw_thermal_slowdown",
                "hw_power_brake_slowdown",
                "sw_thermal_slowdown",
            )
        )
        processes = "".join(
            f"<process_info><pid>{p}</pid><type>C</type><process_name>{escape(n)}</process_name>"
            f"<used_memory>{u} MiB</used_memory></process_info>"
            for p, n, u in g.processes
        )
        parts.append(
            f'<gpu id="00000000:{0x1B + 8 * i:02X}:00.0">\n<product_name>{escape(g.name)}</product_name>\n'
            f"<persistence_mode>{g.persistence}</persistence_mode>\n<mig_mode><current_mig>{g.mig}</current_mig></mig_mode>\n"
            f"<serial>{f'165{m.number:04d}{i:06d}' if g.serial is None else g.serial}</serial><uuid>GPU-{m.number:08x}-0000-0000-0000-{i:012x}</uuid>\n"
            f"<vbios_version>96.00.99.00.01</vbios_version>\n<pci><pci_device_id>0x{g.pci_id.upper()}10DE</pci_device_id>"
            f"<pci_bus_id>00000000:{0x1B + 8 * i:02X}:00.0</pci_bus_id><pci_gpu_link_info><pcie_gen>"
            f"<max_link_gen>{g.pcie_gen_max}</max_link_gen><current_link_gen>{g.pcie_gen_max}</current_link_gen></pcie_gen><link_widths>"
            f"<max_link_width>16x</max_link_width><current_link_width>{g.pcie_width}x</current_link_width></link_widths>"
            "</pci_gpu_link_info><replay_counter>0</replay_counter></pci>\n<performance_state>P0</performance_state>\n"
            f"<clocks_event_reasons>{reasons}</clocks_event_reasons>\n"
            f"<fb_memory_usage><total>{g.memory_mib} MiB</total><reserved>551 MiB</reserved><used>{g.used_mib} MiB</used>"
            f"<free>{g.memory_mib - g.used_mib} MiB</free></fb_memory_usage>\n<compute_mode>{g.compute_mode}</compute_mode>\n"
            f"<ecc_mode><current_ecc>{g.ecc}</current_ecc></ecc_mode>\n<ecc_errors><volatile><sram_correctable>0</sram_correctable>"
            f"<sram_uncorrectable>0</sram_uncorrectable><dram_correctable>0</dram_correctable>"
            f"<dram_uncorrectable>{g.uncorrectable}</dram_uncorrectable></volatile><aggregate>"
            f"<dram_uncorrectable>{g.uncorrectable_ever}</dram_uncorrectable><sram_threshold_exceeded>No</sram_threshold_exceeded></aggregate>"
            f"<unrepairable_memory>No</unrepairable_memory></ecc_errors>\n"
            f"<gpu_recovery_action>{g.recovery}</gpu_recovery_action>\n"
            f"<remapped_rows><remapped_row_corr>0</remapped_row_corr><remapped_row_unc>{g.remapped}</remapped_row_unc>"
            f"<remapped_row_pending>{g.remap_pending}</remapped_row_pending>"
            f"<remapped_row_failure>{g.remap_failure}</remapped_row_failure>"
            f"<row_remapper_histogram><row_remapper_histogram_none>0 bank(s)</row_remapper_histogram_none></row_remapper_histogram></remapped_rows>\n"
            f"<temperature><gpu_temp>{g.temperature} C</gpu_temp></temperature>\n"
            f"<gpu_power_readings><power_draw>76.10 W</power_draw><current_power_limit>{g.power_limit:.2f} W</current_power_limit>"
            f"<default_power_limit>500.00 W</default_power_limit></gpu_power_readings>\n"
            f"<clocks><sm_clock>345 MHz</sm_clock><mem_clock>{g.mem_clock} MHz</mem_clock></clocks>\n"
            f"<applications_clocks><graphics_clock>{g.app_clock} MHz</graphics_clock><mem_clock>2619 MHz</mem_clock></applications_clocks>"
            f"<default_applications_clocks><mem_clock>2619 MHz</mem_clock></default_applications_clocks>\n"
            "<max_clocks><graphics_clock>1980 MHz</graphics_clock><mem_clock>2619 MHz</mem_clock></max_clocks>\n"
            f"<fabric><state>{g.fabric[0]}</state><status>{g.fabric[1]}</status></fabric>\n<processes>{processes}</processes>\n</gpu>\n"
        )
    return "".join([*parts, "</nvidia_smi_log>\n"])


def _tab(*rows: tuple[object, ...]) -> str:
    return "".join("\t".join(map(str, r)) + "\n" for r in rows)


def _topology(m: Machine) -> str:
    topology = "\t".join(["", *(f"GPU{i}" for i in range(len(m.gpus))), *(r.hca for r in m.rails), "CPU Affinity"]) + "\n"
    for i in range(len(m.gpus)):
        near = ["PIX" if j == i + 1 else "NODE" if abs(j - i) < 4 else "SYS" for j in range(len(m.rails))]
        topology += "\t".join([f"GPU{i}", *(" X " if j == i else "NV18" for j in range(len(m.gpus))), *near, "0-47"]) + "\n"
    for j, r in enumerate(m.rails):
        near = ["PIX" if j == i + 1 else "NODE" if abs(j - i) < 4 else "SYS" for i in range(len(m.gpus))]
        topology += "\t".join([r.hca, *near, *(" X " if k == j else "SYS" for k in range(len(m.rails))), ""]) + "\n"
    return topology


def _network(m: Machine) -> str:
    links: list[tuple[object, ...]] = [("lo", 65536, "unknown", 1, 0, "", "00:00:00:00:00:00")]
    addresses = [("lo", "127.0.0.1/8"), ("lo", "::1/128")]
    for r in m.rails:
        links.append((r.interface, r.mtu, "up" if "ACTIVE" in r.state else "down", int("ACTIVE" in r.state), r.carrier_changes, 200000, ""))
        addresses.append((r.interface, f"{r.address}/{r.prefix}"))
    if m.control not in {r.interface for r in m.rails}:
        links.append((m.control, 1500, "up", 1, 2, 25000, ""))
        addresses.append((m.control, f"{m.address}/24"))
    return _tab(*(("link", *x) for x in links)) + _tab(*(("addr", *x) for x in addresses)) + _tab(("default", 4, m.control, m.address))


def _gids(m: Machine) -> list[tuple[StandInRail, int, str, str]]:
    return [(r, i, g, t) for r in m.rails for i, (g, t) in r.gids.items()]


def _limits(memlock: str, nofile: int, stack: int, shm: int, free: int | None = None) -> str:
    left = shm if free is None else free
    return f"memlock={memlock}\nnofile={nofile}\nstack={stack}\nshm={shm} {left}\nipc=ipc:[4026531839]\n"


def _disks(m: Machine, paths: tuple[str, ...]) -> str:
    missing = 0 if m.model_exists else 1
    return _tab(
        *(
            ("disk", p, 1 - (missing if i == 0 else 0), 1 - (missing if i == 0 else 0), "/dev/nvme0n1", "xfs", 4 * 2**30, m.free_kib)
            for i, p in enumerate(paths)
        )
    )


def _proxies(values: Mapping[str, str]) -> str:
    return "".join(f"proxy {k}={v}\n" for k, v in values.items())


def _show_gids(m: Machine, _: tuple[str, ...]) -> str:
    text = "DEV\tPORT\tINDEX\tGID\t\t\t\t\tIPv4  \t\tVER\tDEV\n---\t----\t-----\t---\t\t\t\t\t------------  \t---\t---\n"
    for r, i, g, t in _gids(m):
        v4 = str(ipaddress.IPv6Address(g).ipv4_mapped or "")
        text += f"{r.hca}\t1\t{i}\t{g}\t{v4 + '  ' if v4 else ''}\t{'v2' if t.endswith('v2') else 'v1'}\t{r.interface}\n"
    return text + f"n_gids_found={len(_gids(m))}\n"


def _listen(m: Machine, ports: tuple[str, ...]) -> str:
    rows: list[tuple[object, ...]] = []
    for i, p in enumerate(ports[1:]):
        rows.append(("busy", p, "[Errno 98] Address already in use") if int(p) in m.listeners else ("bound", p, int(p) or 40000 + i))
    return _tab(*rows) + f"pid={20000 + m.number}\n"


def _written(m: Machine) -> str:
    seconds = Counter(x[1:].split(".")[0].strip() for x in m.kernel_lines if x.startswith("["))
    return " ".join(f"{second}:{lines}" for second, lines in seconds.items())


def _connect(m: Machine, args: tuple[str, ...]) -> str:
    targets = [(args[i], args[i + 1]) for i in range(0, len(args) - 1, 2)]
    return _tab(*(("connect", a, p, "timeout" if a in m.unreachable else "ok", "0.41") for a, p in targets))


def _ping(m: Machine, args: tuple[str, ...]) -> str:
    rows: list[tuple[object, ...]] = []
    for i in range(0, len(args) - 2, 3):
        interface, peer, size = args[i : i + 3]
        big = interface in m.small_path and int(size) > 1472
        lost = interface in m.dead_rails or big
        words = "ping: local error: message too long, mtu=1500" if big else ""
        rows.append(("ping", interface, peer, size, 3, 0 if lost else 3, "" if lost else "0.061", interface, words))
    return _tab(*rows)


def _ib_client(m: Machine, lines: tuple[str, ...]) -> str:
    return "".join(f"run\t{i}\tjson\n{json.dumps(_perftest(m, line.split(), len(lines) > 1))}\n" for i, line in enumerate(lines))


def _perftest(m: Machine, words: list[str], beside: bool) -> dict[str, object]:
    hca = words[words.index("-d") + 1] if "-d" in words else ""
    gpu = next((int(w.partition("=")[2]) for w in words if w.startswith("--use_cuda=")), None)
    info = {"Device": hca, "GID_index": 3, **({} if gpu is None else {"cuda_device": gpu})}
    if words[0] == "ib_write_lat":
        us = m.latency_us.get(hca, 1.9)
        times = {"t_min": us - 0.1, "t_max": us + 4, "t_typical": us, "t_avg": us, "t_stdev": 0.1, "percentile_99": us + 0.5}
        return {"test_info": {"test": "RDMA_Write_Latency_Test", **info}, "results": {"MsgSize": 8, "n_iterations": 1000, **times}}
    gbps = min(m.write_gbps, m.write_to.get(words[-1], m.write_gbps)) * m.rail_share.get(hca, 1.0) * (m.beside_share if beside else 1.0)
    gbps = round(gbps * (1.0 if gpu is None else m.gpu_share.get(hca, 1.0)), 2)
    figures = {"MsgSize": 65536, "n_iterations": 1000, "BW_peak": gbps, "BW_average": gbps, "MsgRate": 0.37}
    return {"test_info": {"test": "RDMA_Write_BW_Test", **info}, "results": figures}


def _counters(m: Machine, _: tuple[str, ...]) -> str:
    names = (
        "port_xmit_data",
        "port_rcv_data",
        "symbol_error",
        "link_downed",
        "port_xmit_discards",
        "port_rcv_errors",
        "out_of_sequence",
        "packet_seq_err",
        "local_ack_timeout_err",
        "np_cnp_sent",
        "rp_cnp_handled",
        "roce_adp_retrans",
        "rx_prio3_pause",
        "tx_prio3_pause",
        *(f"{way}_prio{i}_bytes" for way in ("rx", "tx") for i in range(8)),
    )
    return _tab(("at", m.uptime_s), *(("counter", r.hca, 1, n, m.counters.get((r.hca, n), 0)) for r in m.rails for n in names))


def _pci(m: Machine) -> str:
    return _tab(
        *(
            (
                "pci",
                f"0000:{0x1B + 8 * i:02x}:00.0",
                "0x10de",
                f"0x{g.pci_id}",
                "0x030200",
                "nvidia",
                i // 4,
                "32.0 GT/s PCIe",
                "32.0 GT/s PCIe",
                g.pcie_width,
                16,
                f"/sys/devices/pci0000:{0x17 + 8 * i:02x}/0000:{0x1B + 8 * i:02x}:00.0",
            )
            for i, g in enumerate(m.gpus)
        ),
        *(
            (
                "pci",
                r.pci,
                "0x15b3",
                r.pci_device,
                "0x020000",
                "mlx5_core",
                r.numa,
                "16.0 GT/s PCIe",
                "16.0 GT/s PCIe",
                r.pcie_width,
                16,
                f"/sys/devices/pci0000:17/{r.pci}",
            )
            for r in m.rails
        ),
    )


def _rdma(m: Machine) -> str:
    return (
        _tab(
            *(
                ("hca", r.hca, r.firmware, r.board, "MT4123", r.guid or f"a288:c203:{m.number:04x}:{i:04x}", r.pci, r.numa)
                for i, r in enumerate(m.rails)
            )
        )
        + _tab(*(("port", r.hca, 1, r.state, r.phys, "Ethernet", r.rate) for r in m.rails))
        + _tab(*(("gid", r.hca, 1, i, g, t, r.interface) for r, i, g, t in _gids(m)))
    )


def sections(m: Machine) -> dict[str, Callable[[tuple[str, ...]], str]]:
    """Probe name -> what it prints for its arguments. Names with ``image/`` are the same probes inside the container."""
    return {
        "system": lambda _: (
            f"os={m.os}\nkernel={m.kernel}\narch=x86_64\nhostname={m.hostname}\nmachine_id={m.machine_id or f'{m.number:032x}'}\n"
            f"boot_id=00000000-0000-4000-8000-{m.number:012x}\nuptime_s={m.uptime_s}\ncpus=192\nmemory_kib=2113433600\n"
            f"swap_kib=8388604\nswap_free_kib={8388604 - m.swap_used_kib}\nutc_offset={m.utc_offset}\ntimezone=CST\n"
            "cmdline=BOOT_IMAGE=/vmlinuz-4.19.0-1.0.0.9 root=/dev/sda3 ro iommu=pt\n"
        ),
        "tuning": lambda _: f"numa_balancing={m.numa_balancing}\nthp={m.thp}\ngovernor={m.governor}\nswappiness=10\n",
        "limits": lambda _: _limits("64", 655350, 8192, 1056716800),
        "nccl_shm": lambda _: "root=1\n" + _tab(*(("file", name, 35653120, 40 + i) for i, name in enumerate(m.nccl_left))),
        "names": lambda _: f"hostname={m.hostname}\nresolved={m.address}\n",
        "proxies": lambda _: _proxies(m.proxies),
        "disks": partial(_disks, m),
        "tools": lambda _: (
            _tab(*(("tool", n, f"/usr/bin/{n}") for n in ("docker", "ib_write_bw", "ibdev2netdev", "show_gids", "mlnx_qos", "ss", "ping")))
            + _tab(("tool", "nvidia-container-runtime", "/usr/bin/nvidia-container-runtime"))
            + _tab(("version", "nvidia-container-runtime", "NVIDIA Container Runtime version 1.0.2-dev"))
        ),
        "gpus": lambda _: _xml(m),
        "nvlinks": lambda _: "".join(
            f"GPU {i}: {g.name} (UUID: GPU-{m.number:08x}-0000-0000-0000-{i:012x})\n"
            + "".join(f"\t Link {k}: {s}\n" for k, s in enumerate(g.nvlinks))
            for i, g in enumerate(m.gpus)
        ),
        "gpu_owners": lambda _: _tab(
            *(("owner", p, "root", "3f2a9c1e77b0", f"{n} -m sglang.launch_server") for g in m.gpus for p, n, _ in g.processes)
        ),
        "driver": lambda _: (
            f"nvrm=NVRM version: NVIDIA UNIX x86_64 Kernel Module  {m.driver}  Fri Sep 20 00:00:00 UTC 2024\n"
            + "".join(f"module={x}\n" for x in m.modules)
            + "dmabuf=no\n"
        ),
        "fabric_manager": lambda _: f"nvswitches=4\nstate=active\nversion=Fabric Manager version is : {m.driver}\n",
        "topology": lambda _: _topology(m),
        "kernel_log": lambda _: (
            f"source=dmesg\nfirst={m.kernel_first:.6f}\nnow={m.uptime_s}\nwritten={_written(m)}\nmatched={len(m.kernel_lines)}\n"
            + "".join(f"> {x}\n" for x in m.kernel_lines)
        ),
        "dcgm": lambda _: (
            f"#Entity  {'  '.join(f'F{number}' for number in DCGM_FIELDS.values())}\nID\n"
            + "".join(
                f"GPU {i}  {'  '.join(str(m.nvlink_replays.get(i, 0) if n == 'NVLink replays' else 0) for n in DCGM_FIELDS)}\n"
                for i in range(len(m.gpus))
            )
            + "--- health\nError: Health watches not enabled. Please enable watches. \n"
        ),
        "rdma": lambda _: _rdma(m),
        "ibdev2netdev": lambda _: "".join(
            f"{r.hca} port 1 ==> {r.interface} ({'Up' if 'ACTIVE' in r.state else 'Down'})\n" for r in m.rails
        ),
        "show_gids": partial(_show_gids, m),
        "qos": lambda _: _tab(*(("qos", r.interface, k, v) for r in m.rails for k, v in r.qos.items())),
        "pcie_hints": lambda _: "iommu_groups=0\ncmdline=ro iommu=pt\nacs_bridges=24\nacs_enabled=0\n",
        "pci": lambda _: _pci(m),
        "wires": lambda _: _tab(
            *(("wire", r.interface) for r in m.rails),
            *(("sysctl", r.interface, name, 0, 0) for r in m.rails for name in ("arp_ignore", "arp_announce", "rp_filter")),
        ),
        "image/nccl_settings": lambda _: _tab(*(("nccl", "environment", k, v) for k, v in m.nccl_env.items())),
        "network": lambda _: _network(m),
        "firewall": lambda _: "".join(f"service={s}\n" for s in m.firewall) + f"policy=ACCEPT\ndrops={3 if m.firewall else 0}\n",
        "listeners": lambda _: _tab(*(("listen", f"0.0.0.0:{p}", o) for p, o in m.listeners.items())) + f"total={len(m.listeners) + 1}\n",
        "listen": partial(_listen, m),
        "stop_listen": lambda a: f"stopped={a[0] if a else ''}\n",
        "connect": partial(_connect, m),
        "ping": partial(_ping, m),
        "counters": partial(_counters, m),
        "ib_server": lambda lines: "".join(f"pid={21000 + 100 * m.number + i}\n" for i in range(len(lines) - 1)),
        "perftest": lambda _: _tab(
            *(("perftest", tool, "--use_cuda --use_cuda_bus_id --use_cuda_dmabuf " if m.perftest_cuda else "") for tool in PERFTEST_TOOLS)
        ),
        "ib_client": partial(_ib_client, m),
        "image/image_versions": lambda _: (
            f"python=3.12.3\ncuda={m.image_cuda}\nnccl={m.nccl}\n" + _tab(*(("package", n, v) for n, v in m.packages.items()))
        ),
        "image/image_devices": lambda _: f"gpus={len(m.gpus)}\nuverbs={m.uverbs}\nrdma_cm=1\nlibibverbs={int(m.libibverbs)}\n",
        "image/limits": lambda _: _limits(m.memlock, m.nofile, m.stack, m.shm_kib, m.shm_free_kib),
        "image/names": lambda _: f"hostname={m.hostname}\nresolved={m.address}\n",
        "image/proxies": lambda _: _proxies(m.image_proxies),
        "image/model_folder": lambda a: (
            f"path={a[0] if a else ''}\nexists={int(m.model_exists)}\nconfig={int(m.model_exists)}\nshards=163\ndevice=/dev/nvme0n1\n"
            + (f"config_json={json.dumps(R1_CONFIG)}\n" if m.model_exists else "config_json=\n")
        ),
        "image/engine_address": lambda _: _tab(
            *(
                ("ip", rule, "with", m.engine_address, "VLLM_HOST_IP" if rule == "vllm" else "SGLANG_HOST_IP")
                for rule in ("vllm", "sglang", "sglang-0.5.3")
            ),
            *(("ip", rule, "without", m.bare_address, "route to 8.8.8.8") for rule in ("vllm", "sglang", "sglang-0.5.3")),
        ),
    }


def answer(m: Machine, script: str, *, now: float = 0.0, inside: bool = False) -> str:
    """What a node (``inside``: a container on it) prints when it runs a probe script. A probe it does not know ends with 127.

    ``now``: our time of day when it is asked; the machine's clock is ``clock_offset`` seconds ahead of it.
    """
    known = sections(m)
    found: dict[str, Section] = {}
    for name, arguments in requests(script):
        key = f"image/{name}" if inside else name
        if key in m.overrides:
            found[name] = m.overrides[key]
        elif name == "clock":
            found[name] = Section(0, f"sync=yes\nnow={now + m.clock_offset:.9f}\n", "")
        elif key in known:
            found[name] = Section(0, known[key](arguments), "")
        else:
            found[name] = Section(127, "", f"{name}: not in this stand-in")
    return frame(found)
